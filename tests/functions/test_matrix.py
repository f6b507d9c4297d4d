"""Every function of template.yaml by every kind of caller, by bearer and by signature, through every entrance.

The calls are made from the template alone, with ids that do not exist and no input: who may not call is refused before
that is looked at, so 401, 403 and GatewayNotFound are the refusals, and anything else means that the caller was let in.
"""

from __future__ import annotations

import http.client
import io
import json
import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from ckeys.deployment import ROOT, Deployment
from ckeys.front import Front
from ckeys.template import load_template
from consumer_keys import operator_admin
from tests.conftest import Api
from tests.functions.helpers import nothing_changes
from tests.functions.test_access import MAY
from tests.tc3_signer import signed_headers

TEMPLATE = load_template(ROOT / "template.yaml")
# Judged by tests of their own: forward auth acts on the presented key, and the front door decides nothing.
APART = {"front_door", "cloud_api", "console"}
FILLED = {
    "key_id": "secret-00000000000000", "consumer_id": "consumer-00000000000000", "group_id": "cg-00000000000000",
}  # fmt: skip
HOST = "keys.example.com"
HOSTS = ("x/v1/gateways/default/validate?", "x#", "127.0.0.1", "localhost", "admin", "a.example.com:80@b", "/v1/status")


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


def routes(gateway: str = "default") -> list[Route]:
    found = []
    for function in TEMPLATE.functions:
        for route in function.routes:
            name = "verify" if route.path.endswith("/verify") else function.name
            if name in APART or name == "validate_key":
                continue
            path = route.path.replace("{gateway_id}", gateway)
            for field, value in FILLED.items():
                path = path.replace(f"{{{field}}}", value)
            assert "{" not in path, path
            found.append(Route(name, function.name, route.method, path))
    return found


ROUTES = routes()


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    rates = {"AUTH_FAILURES_PER_MINUTE": "1000000", "REVEALS_PER_MINUTE": "100000", "SNAPSHOT_POLL_SECONDS": "0"}
    environ = {**os.environ, **rates, "GATEWAYS": "default=One,other=Two"}
    with Deployment(tmp_path_factory.mktemp("matrix") / "home", durable=False, environ=environ) as made:
        yield made


@pytest.fixture(scope="module")
def credentials(deployment: Deployment) -> list[Credential]:
    app = deployment.services
    key = Api(deployment, deployment.operator[1]).bound_key("presented")
    found = [Credential(f"role {role}", deployment.add_operator(role, role), role) for role in MAY]
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

    def __call__(self, route: Route, headers: dict[str, str]) -> tuple[int, Any]:
        """(status, body)."""
        if self.name == "http":
            return self._http(route, headers)
        event = {
            "httpMethod": route.method, "path": route.path, "headers": headers, "queryString": {}, "body": "",
        }  # fmt: skip
        answer = self.deployment.call("front_door" if self.name == "front_door" else route.handler, event)
        return answer["statusCode"], json.loads(answer["body"] or "null")

    def _http(self, route: Route, headers: dict[str, str]) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        connection.putrequest(route.method, route.path, skip_host=True, skip_accept_encoding=True)
        for name, value in {"host": HOST, **headers, "content-length": "0"}.items():
            connection.putheader(name, value)
        connection.endheaders()
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        return answer.status, json.loads(text or "null")


@pytest.fixture(scope="module")
def entrances(deployment: Deployment) -> Iterator[list[Entrance]]:
    with Front(deployment.template, deployment.handlers, log=io.StringIO()) as front:
        yield [Entrance(name, deployment, front.server_port) for name in ("handler", "front_door", "http")]


def bearer(credential: Credential, route: Route) -> dict[str, str]:
    return {"host": HOST, "authorization": f"Bearer {credential.pair[1]}"}


def signature(credential: Credential, route: Route) -> dict[str, str]:
    return signed_headers(credential.pair, route.method, route.path, host=HOST)


FORMS: dict[str, Callable[[Credential, Route], dict[str, str]]] = {"bearer": bearer, "signature": signature}


def decision(status: int, body: Any) -> str:
    code = body.get("code") if isinstance(body, dict) else None
    if code in ("Unauthenticated", "Forbidden", "GatewayNotFound"):
        return str(code)
    assert code not in ("InternalError", "DependencyUnavailable", "RouteNotFound", "MethodNotAllowed"), body
    assert status < 500
    return "let in"


def expected(credential: Credential | None, route: Route, form: str) -> str:
    if credential is None or credential.role is None or (route.function == "verify" and form == "signature"):
        return "Unauthenticated"
    if route.function not in MAY[credential.role]:
        return "Forbidden"
    elsewhere = credential.gateways is not None and "/gateways/" in route.path
    return "GatewayNotFound" if elsewhere else "let in"


def test_the_table_of_roles_speaks_of_every_function_of_the_template() -> None:
    assert {route.function for route in ROUTES} | {"sync_credentials"} == frozenset().union(*MAY.values())


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.function)
def test_who_may_call_a_function_and_who_may_not(
    route: Route, deployment: Deployment, credentials: list[Credential], entrances: list[Entrance]
) -> None:
    with nothing_changes(deployment):
        for entrance in entrances:
            assert decision(*entrance(route, {"host": HOST})) == "Unauthenticated", entrance.name
            for form, headers_of in FORMS.items():
                for credential in credentials:
                    found = decision(*entrance(route, headers_of(credential, route)))
                    assert found == expected(credential, route, form), (entrance.name, form, credential.kind)


@pytest.mark.parametrize("route", [route for route in ROUTES if "/gateways/" in route.path], ids=lambda r: r.function)
def test_who_is_let_in_is_decided_by_the_function_and_never_by_the_host(
    route: Route, deployment: Deployment, credentials: list[Credential], entrances: list[Entrance]
) -> None:
    with nothing_changes(deployment):
        for entrance in entrances:
            for host in HOSTS:
                more = {"host": host, "x-forwarded-host": host, "x-original-url": "/v1/status", "x-forwarded-uri": "/"}
                assert decision(*entrance(route, more)) == "Unauthenticated"
                for credential in credentials:
                    if credential.kind in ("role viewer", "role revealer", "consumer key", "admin of other"):
                        headers = {**bearer(credential, route), **more}
                        assert decision(*entrance(route, headers)) == expected(credential, route, "bearer"), host


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


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.function)
def test_another_spelling_of_a_path_lets_nobody_in_who_was_not(
    route: Route, deployment: Deployment, credentials: list[Credential], entrances: list[Entrance]
) -> None:
    """The path may only choose a function; whoever is not let in by that function stays out."""
    (admin,) = [credential for credential in credentials if credential.kind == "role admin"]
    (viewer,) = [credential for credential in credentials if credential.kind == "role viewer"]
    (stranger,) = [credential for credential in credentials if credential.kind == "viewer of other"]
    with nothing_changes(deployment):
        for entrance in entrances:
            for path in tricks(route.path):
                spelled = route._replace(path=path)
                status, body = entrance(spelled, {"host": HOST})
                assert status in (400, 401, 404, 405), (entrance.name, path)
                if "%64" not in path:  # an escaped letter of an id is the id; nothing else has a second spelling
                    status, body = entrance(spelled, bearer(admin, route))
                    judged = body.get("code") == "KeyRefused"  # by forward auth, which takes every path below its own
                    assert status in (400, 404, 405) or judged, (entrance.name, path)
                    if path in (route.path.upper(), route.path.replace("/v1/", "/V1/")):
                        assert body["code"] == "RouteNotFound"
                for credential in (viewer, stranger):
                    status, body = entrance(spelled, bearer(credential, route))
                    assert status < 500, (entrance.name, path)
                    if route.function not in MAY["viewer"]:
                        assert status in (400, 401, 403, 404, 405), (entrance.name, path, body)
                    if credential is stranger and "/gateways/" in route.path:
                        assert status >= 400, (entrance.name, path)


def test_an_operators_credential_is_no_consumer_key_in_any_form(
    deployment: Deployment, credentials: list[Credential], entrances: list[Entrance]
) -> None:
    for entrance in entrances:
        for gateway in ("default", "other"):
            path = f"/v1/gateways/{gateway}/validate"
            route = Route("validate", "validate_key", "GET", path)
            for credential in [*credentials, Credential("first", deployment.operator, "admin")]:
                if credential.kind == "consumer key":
                    continue
                for name in ("x-api-key", "api-key", "apikey"):
                    for text in credential.pair:
                        assert (
                            entrance(route, {"host": HOST, name: text})[0] == 401 or "consumer key" in credential.kind
                        )
                if "consumer key" not in credential.kind:
                    assert entrance(route, bearer(credential, route))[0] == 401
                assert entrance(route, signature(credential, route))[0] == 401
    (key,) = [credential for credential in credentials if credential.kind == "consumer key"]
    route = Route("validate", "validate_key", "GET", "/v1/gateways/default/validate")
    assert entrances[0](route, bearer(key, route))[0] == 200, "the key itself is good"
