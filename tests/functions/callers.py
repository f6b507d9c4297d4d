"""Who may stand before a function, and the ways to it: what the matrices of REST and of the cloud API share."""

from __future__ import annotations

import http.client
import io
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from ckeys.deployment import Deployment
from ckeys.front import Front
from consumer_keys import operator_admin
from tests.conftest import Api
from tests.prepared import environment

HOST = "keys.example.com"
HOSTS = ("x/v1/gateways/default/validate?", "x#", "127.0.0.1", "localhost", "admin", "a.example.com:80@b", "/v1/status")
# What proxies add, and what some servers on the way believe.
FORWARDED = {"x-original-url": "/v1/status", "x-forwarded-uri": "/"}
# Ids that nothing has.
FILLED = {
    "key_id": "secret-00000000000000", "consumer_id": "consumer-00000000000000", "group_id": "cg-00000000000000",
}  # fmt: skip


class Route(NamedTuple):
    """One call of a function; `function` is what the table of roles calls it."""

    function: str
    handler: str
    method: str
    path: str


class Credential(NamedTuple):
    """Who calls: `role` is that of the operator, or None for somebody who is none."""

    kind: str
    pair: tuple[str, str]
    role: str | None = None
    gateways: tuple[str, ...] | None = None


@contextmanager
def two_gateways(home: Path) -> Iterator[Deployment]:
    """A deployment for a module's tests, with the gateways `default` and `other` and no limit in the way."""
    with Deployment(home, durable=False, environ=environment({"GATEWAYS": "default=One,other=Two"})) as made:
        yield made


def callers(deployment: Deployment, roles: Iterable[str]) -> list[Credential]:
    """An operator of each role, two of another gateway, and everybody who is no operator or no longer."""
    app = deployment.services
    key = Api(deployment, deployment.operator[1]).bound_key("presented")
    found = [Credential(f"role {role}", deployment.add_operator(role, role), role) for role in roles]
    for role in ("admin", "viewer"):
        pair = deployment.add_operator(f"{role} of other", role, ("other",))
        found.append(Credential(f"{role} of other", pair, role, ("other",)))
    leaver, former = deployment.add_operator("leaver", "admin"), deployment.add_operator("former", "admin")
    operator_admin.set_status(app, "leaver", "Disable")
    operator_admin.rotate(app, "former", 0)
    return [
        *found,
        Credential("disabled", leaver), Credential("rotated away", former),
        Credential("wrong secret", (deployment.operator[0], "x" * 40)),
        Credential("unknown id", ("operator-00000000000000", "y" * 40)),
        Credential("consumer key", (key["key_id"], key["value"])),
        Credential("consumer key for an operator's secret", (deployment.operator[0], key["value"])),
    ]  # fmt: skip


class Entrance:
    """A way to a function: its handler, the front door, or the local HTTP server."""

    def __init__(self, name: str, deployment: Deployment, port: int) -> None:
        self.name, self.deployment, self.port = name, deployment, port

    def __call__(self, route: Route, headers: dict[str, str], body: str = "") -> tuple[int, Any]:
        """(status, body)."""
        if self.name == "http":
            return self._http(route, headers, body)
        event = {
            "httpMethod": route.method, "path": route.path, "headers": headers, "queryString": {}, "body": body,
        }  # fmt: skip
        answer = self.deployment.call("front_door" if self.name == "front_door" else route.handler, event)
        return answer["statusCode"], json.loads(answer["body"] or "null")

    def _http(self, route: Route, headers: dict[str, str], body: str) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        connection.putrequest(route.method, route.path, skip_host=True, skip_accept_encoding=True)
        sent = body.encode()
        for name, value in {"host": HOST, **headers, "content-length": str(len(sent))}.items():
            connection.putheader(name, value)
        connection.endheaders(sent)
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        return answer.status, json.loads(text or "null")


@contextmanager
def every_entrance(deployment: Deployment) -> Iterator[list[Entrance]]:
    """The handlers, the front door and local HTTP, in this order."""
    with Front(deployment.template, deployment.handlers, log=io.StringIO()) as front:
        yield [Entrance(name, deployment, front.server_port) for name in ("handler", "front_door", "http")]


def tricks(path: str) -> list[str]:
    """Other spellings that some server on the way might take for the same path, or for another one."""
    head, _, last = path.rpartition("/")
    found = [
        f"/{path}", path.replace("/gateways", "//gateways"), f"{head}//{last}", f"{path}/", f"{path}//", f"{path}/.",
        f"{path}/..", f"{head}/./{last}", f"{head}/x/../{last}", f"{head}/%2e/{last}", f"{head}/%2e%2e/{last}",
        f"{path}/%2e%2e/{last}", f"{head}%2f{last}", f"{head}%2F{last}", f"{head}%5c{last}", f"{head}/{last};x",
        f"{head};x=1/{last}", f"{path}%3b", f"{path}%00", f"{path}%20", f"{path}%0a", f"{path}%23", f"{path}%3f",
        path.upper(), path.replace("/v1/", "/V1/"), f"{head}/{last.capitalize()}",
        f"{head}/%{ord(last[0]):02x}{last[1:]}", f"/v1/status/..{path}", f"/v1/gateways/default/validate/..{path}",
        path.replace("default", "default%2f..%2fother"), path.replace("default", "%64efault"),
        path.replace("default", "DEFAULT"),
    ]  # fmt: skip
    return [spelling for spelling in found if spelling != path]
