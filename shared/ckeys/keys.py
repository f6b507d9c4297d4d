"""`ckeys keys`: the calls for keys over HTTP, with the key agreement that keeps a value out of the platform's log."""

from __future__ import annotations

import http.client
import json
import os
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlencode, urlsplit
from urllib.request import HTTPRedirectHandler, ProxyHandler, Request, build_opener

import click

from ckeys.reach import visible

TIMEOUT_SECONDS, NO_CONTENT = 30, 204
_LOCALLY = 'locally: eval "$(ckeys env)"'
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class _NoRedirect(HTTPRedirectHandler):
    """A redirect is an error: following one would hand the operator's secret to whoever is named there."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        """Follow none."""


class Api:
    """The management calls of one deployment, as one operator."""

    def __init__(self, url: str | None) -> None:
        if not url:
            raise click.ClickException(f"Set CKEYS_URL to where the API is, or give --url; {_LOCALLY}.")
        self._token = os.environ.get("CKEYS_TOKEN")  # among the arguments it would show in the list of processes
        if not self._token:
            raise click.ClickException(f"Set CKEYS_TOKEN to the operator's secret key; {_LOCALLY}.")
        parts = urlsplit(url)
        if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOOPBACK):
            raise click.ClickException("CKEYS_URL must begin with https://, or with http:// and a loopback address.")
        self._base = url.rstrip("/")
        proxies = [ProxyHandler({})] if parts.hostname in _LOOPBACK else []
        self._opener = build_opener(_NoRedirect, *proxies)

    def call(self, method: str, path: str, body: Any = None, *, expects: int = 200, has: str = "key_id") -> Any:
        """The answer to a call, None where it is empty.

        Raises ClickException with what the problem document says, and for an answer that this API would not give:
        a status that is not `expects`, or an object without the member `has`.
        """
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        request = Request(self._base + path, data, headers, method=method)  # noqa: S310 - the scheme was checked
        try:
            with self._opener.open(request, timeout=TIMEOUT_SECONDS) as reply:
                status, text = reply.status, reply.read()
        except HTTPError as error:
            with error:
                raise click.ClickException(_explained(error.code, error.read())) from None
        except (URLError, OSError, ValueError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or type(error).__name__
            raise click.ClickException(f"{self._base} does not answer as expected: {reason}.") from None
        answer = _object(text)
        if status != expects or (text and has not in answer) or (not text and status != NO_CONTENT):
            raise click.ClickException(
                f"{self._base} does not answer as expected: status {status} without {has}. Is CKEYS_URL this API's?"
            )
        return answer if text else None


def _object(text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text or b"{}")
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {}


def _explained(status: int, body: bytes) -> str:
    problem = _object(body)
    if "code" not in problem or "detail" not in problem:
        return f"The answer has status {status} and is no problem document. Is CKEYS_URL this API's?"
    blockers = [f"{item['code']} {item['resource']}" for item in problem.get("blockers", ())]
    return visible(f"{problem['code']}: {problem['detail']}{' ' if blockers else ''}{', '.join(blockers)}")


class OneTimeKey:
    """A key pair for one call: `public` goes out as `reveal_to`, the private half never leaves this process."""

    def __init__(self) -> None:
        from joserfc.jwk import ECKey

        self._pair = ECKey.generate_key("P-256")
        self.public = self._pair.as_dict(private=False)

    def opened(self, answer: dict[str, Any]) -> dict[str, Any]:
        """The answer with `value` in the place of `value_jwe`."""
        from joserfc import jwe

        sealed = answer.pop("value_jwe", None)
        if sealed is None:
            return answer
        plaintext = jwe.decrypt_compact(sealed, self._pair, algorithms=["ECDH-ES", "A256GCM"]).plaintext
        return {**answer, "value": (plaintext or b"").decode()}


def _where(command: Any) -> Any:
    for option in (
        click.option("--url", envvar="CKEYS_URL", help="Where the API is [CKEYS_URL]."),
        click.option("--gateway", default="default", show_default=True, help="Gateway of the key."),
    ):
        command = option(command)
    return command


_quiet = click.option("-q", "--quiet", is_flag=True, help="Print the value alone.")


def _value(file: Any) -> str:
    """A value from a file, never from an argument, which would show in the list of processes."""
    text: bytes = file.read()
    return text.decode("utf-8", "surrogateescape").removesuffix("\n")


def _path(gateway: str, *parts: str) -> str:
    return "/".join(["/v1/gateways", *(quote(part, safe="") for part in (gateway, *parts))])


def _print(answer: Any) -> None:
    click.echo(visible(json.dumps(answer, ensure_ascii=False, indent=2)))


def _print_value(answer: dict[str, Any], *, quiet: bool) -> None:
    if not quiet:
        _print(answer)
    elif answer.get("value"):
        click.echo(visible(str(answer["value"])))
    else:
        raise click.ClickException("The answer has no value to print; without -q it is shown whole.")


@click.group()
def keys() -> None:
    """Consumer keys over HTTP; CKEYS_URL and CKEYS_TOKEN say where and as whom. Answers are JSON."""


@keys.command()
@click.argument("name")
@click.option("--generation", type=click.Choice(["System", "Custom", "KMS"]), default="System", show_default=True)
@click.option("--description", default="", help="At most 200 characters.")
@click.option("--value-file", type=click.File("rb"), help="Custom: a file that holds the value, - for standard input.")
@click.option("--credential", metavar="NAME:VERSION", help="KMS: the SSM secret whose content is the value.")
@click.option("--disabled", is_flag=True, help="Create it disabled.")
@_quiet
@_where
def create(
    name: str, generation: str, description: str, value_file: Any, credential: str | None, disabled: bool,
    url: str | None, gateway: str, quiet: bool,
) -> None:  # fmt: skip
    """Create a key. A System value is shown this once."""
    if quiet and generation != "System":
        raise click.UsageError("-q prints the value that is made, and one is made for System keys only.")
    body: dict[str, Any] = {"name": name, "generation": generation, "description": description}
    if disabled:
        body["status"] = "Disable"
    if value_file is not None:
        body["value"] = _value(value_file)
    if credential is not None:
        secret, _, version = credential.partition(":")
        body["credential"] = {"name": secret, "version": version}
    pair = OneTimeKey()
    if generation == "System":
        body["reveal_to"] = pair.public
    answer = Api(url).call("POST", _path(gateway, "keys"), body, expects=201)
    _print_value(pair.opened(answer), quiet=quiet)


@keys.command()
@click.argument("key_id")
@click.option("--reason", default="", help="Kept in the audit log.")
@_quiet
@_where
def reveal(key_id: str, reason: str, url: str | None, gateway: str, quiet: bool) -> None:
    """Show the value of a System or Custom key once more."""
    pair = OneTimeKey()
    body = {"reason": reason, "reveal_to": pair.public}
    _print_value(pair.opened(Api(url).call("POST", _path(gateway, "keys", key_id, "reveal"), body)), quiet=quiet)


@keys.command("list")
@click.option("--keyword", help="Part of the name.")
@click.option("--status", type=click.Choice(["Enable", "Disable"]))
@click.option("--generation", type=click.Choice(["System", "Custom", "KMS"]))
@click.option("--consumer", "consumer_id", help="Only keys bound to this consumer, by its id.")
@click.option("--bound/--unbound", default=None, help="Only keys with, or without, a consumer.")
@click.option("--limit", type=click.IntRange(1, 100), default=20, show_default=True, help="Keys per page.")
@click.option("--cursor", help="`next_cursor` of the page before.")
@_where
def list_keys(url: str | None, gateway: str, bound: bool | None, **filters: Any) -> None:
    """List a page of keys, newest first."""
    given = {**filters, "bound": None if bound is None else str(bound).lower()}
    query = urlencode({name: value for name, value in given.items() if value is not None})
    _print(Api(url).call("GET", f"{_path(gateway, 'keys')}?{query}", has="items"))


@keys.command()
@click.argument("key_id")
@_where
def get(key_id: str, url: str | None, gateway: str) -> None:
    """Show a key, with its consumer and its sync state."""
    _print(Api(url).call("GET", _path(gateway, "keys", key_id)))


@keys.command()
@click.argument("key_id")
@click.argument("consumer_id")
@_where
def bind(key_id: str, consumer_id: str, url: str | None, gateway: str) -> None:
    """Bind a key to a consumer."""
    _print(Api(url).call("PUT", _path(gateway, "keys", key_id, "consumer"), {"consumer_id": consumer_id}))


@keys.command()
@click.argument("key_id")
@_where
def unbind(key_id: str, url: str | None, gateway: str) -> None:
    """Take a key from its consumer."""
    _print(Api(url).call("DELETE", _path(gateway, "keys", key_id, "consumer")))


@keys.command()
@click.argument("key_id")
@_where
def enable(key_id: str, url: str | None, gateway: str) -> None:
    """Let a key be accepted."""
    _print(Api(url).call("POST", _path(gateway, "keys", key_id, "enable")))


@keys.command()
@click.argument("key_id")
@_where
def disable(key_id: str, url: str | None, gateway: str) -> None:
    """Refuse a key from now on."""
    _print(Api(url).call("POST", _path(gateway, "keys", key_id, "disable")))


@keys.command()
@click.argument("key_id")
@click.option("--dry-run", is_flag=True, help="Only show what is in the way.")
@_where
def delete(key_id: str, dry_run: bool, url: str | None, gateway: str) -> None:
    """Delete a key that is disabled and bound to nothing."""
    path = _path(gateway, "keys", key_id)
    if dry_run:
        _print(Api(url).call("DELETE", f"{path}?dry_run=true", has="deletable"))
    else:
        Api(url).call("DELETE", path, expects=NO_CONTENT)


@keys.command()
@click.option("--value-file", type=click.File("rb"), default="-", help="File that holds the value [standard input].")
@_where
def verify(value_file: Any, url: str | None, gateway: str) -> None:
    """Say whether a value is good, whose it is, and why not."""
    _print(Api(url).call("POST", _path(gateway, "verify"), {"key": _value(value_file)}, has="valid"))
