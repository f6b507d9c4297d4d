"""`ckeys keys`: create and reveal over HTTP, with the key agreement that keeps a value out of the platform's log."""

from __future__ import annotations

import http.client
import json
import os
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlsplit
from urllib.request import HTTPRedirectHandler, ProxyHandler, Request, build_opener

import click

from ckeys.reach import visible

TIMEOUT_SECONDS = 30
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class _NoRedirect(HTTPRedirectHandler):
    """A redirect is an error: following one would hand the operator's secret to whoever is named there."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        """Follow none."""


class Api:
    """The management calls of one deployment, as one operator."""

    def __init__(self, url: str, token: str) -> None:
        parts = urlsplit(url)
        if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOOPBACK):
            raise click.ClickException("CKEYS_URL must begin with https://, or with http:// and a loopback address.")
        self._base, self._token = url.rstrip("/"), token
        proxies = [ProxyHandler({})] if parts.hostname in _LOOPBACK else []
        self._opener = build_opener(_NoRedirect, *proxies)

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The answer to a POST. Raises ClickException with what the problem document says."""
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        request = Request(self._base + path, json.dumps(body).encode(), headers)  # noqa: S310 - the scheme was checked
        try:
            with self._opener.open(request, timeout=TIMEOUT_SECONDS) as reply:
                return dict(json.load(reply))
        except HTTPError as error:
            with error:
                raise click.ClickException(_explained(error.code, error.read())) from None
        except (URLError, OSError, ValueError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or type(error).__name__
            raise click.ClickException(f"{self._base} does not answer as expected: {reason}.") from None


def _explained(status: int, body: bytes) -> str:
    try:
        problem = json.loads(body)
        return visible(f"{problem['code']}: {problem['detail']}")
    except (ValueError, KeyError, TypeError):
        return f"The answer has status {status} and is no problem document."


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


def _shared(command: Any) -> Any:
    for option in (
        click.option("--url", envvar="CKEYS_URL", required=True, help="Where the API is [CKEYS_URL]."),
        click.option("--gateway", default="default", show_default=True, help="Gateway of the key."),
        click.option("-q", "--quiet", is_flag=True, help="Print the value alone."),
    ):
        command = option(command)
    return command


def _token() -> str:
    """From the environment only: a secret among the arguments would show in the list of processes."""
    token = os.environ.get("CKEYS_TOKEN")
    if not token:
        raise click.ClickException('Set CKEYS_TOKEN to the operator\'s secret key; locally: eval "$(ckeys env)".')
    return token


def _print(answer: dict[str, Any], *, quiet: bool) -> None:
    click.echo(visible(str(answer.get("value", "")) if quiet else json.dumps(answer, ensure_ascii=False, indent=2)))


@click.group()
def keys() -> None:
    """Create and reveal keys over HTTP; CKEYS_URL and CKEYS_TOKEN say where and as whom."""


@keys.command()
@click.argument("name")
@click.option("--generation", type=click.Choice(["System", "Custom", "KMS"]), default="System", show_default=True)
@click.option("--description", default="", help="At most 200 characters.")
@click.option("--value-file", type=click.File("rb"), help="Custom: a file that holds the value, - for standard input.")
@click.option("--credential", metavar="NAME:VERSION", help="KMS: the SSM secret whose content is the value.")
@click.option("--disabled", is_flag=True, help="Create it disabled.")
@_shared
def create(
    name: str, generation: str, description: str, value_file: Any, credential: str | None, disabled: bool,
    url: str, gateway: str, quiet: bool,
) -> None:  # fmt: skip
    """Create a key. A System value is shown this once."""
    body: dict[str, Any] = {"name": name, "generation": generation, "description": description}
    if disabled:
        body["status"] = "Disable"
    if value_file is not None:
        body["value"] = value_file.read().decode("utf-8", "surrogateescape").removesuffix("\n")
    if credential is not None:
        secret, _, version = credential.partition(":")
        body["credential"] = {"name": secret, "version": version}
    pair = OneTimeKey()
    if generation == "System":
        body["reveal_to"] = pair.public
    answer = Api(url, _token()).post(f"/v1/gateways/{quote(gateway, safe='')}/keys", body)
    _print(pair.opened(answer), quiet=quiet)


@keys.command()
@click.argument("key_id")
@click.option("--reason", default="", help="Kept in the audit log.")
@_shared
def reveal(key_id: str, reason: str, url: str, gateway: str, quiet: bool) -> None:
    """Show the value of a System or Custom key once more."""
    pair = OneTimeKey()
    path = f"/v1/gateways/{quote(gateway, safe='')}/keys/{quote(key_id, safe='')}/reveal"
    answer = Api(url, _token()).post(path, {"reason": reason, "reveal_to": pair.public})
    _print(pair.opened(answer), quiet=quiet)
