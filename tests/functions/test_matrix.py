"""Every function of template.yaml by every kind of caller, by bearer and by signature, through every entrance.

The calls are made from the template alone, with ids that do not exist and no input: who may not call is refused before
that is looked at, so 401, 403 and GatewayNotFound are the refusals, and anything else means that the caller was let in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ckeys.deployment import ROOT, Deployment
from ckeys.template import load_template
from tests.functions.callers import (
    FILLED,
    FORWARDED,
    HOST,
    HOSTS,
    Credential,
    Entrance,
    Route,
    callers,
    every_entrance,
    tricks,
    two_gateways,
)
from tests.functions.helpers import nothing_changes
from tests.functions.test_access import MAY
from tests.tc3_signer import signed_headers

TEMPLATE = load_template(ROOT / "template.yaml")
# Judged elsewhere: the front door decides nothing (test_front_door), and cloud_api decides by the action that a request
# names, not by a route of its own (tests/cloud_api/test_matrix). Forward auth acts on the presented key (below).
APART = {"front_door", "cloud_api"}


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
# The timer's function has no route, but its handler takes HTTP events, as that of any function does.
SYNC = Route("sync_credentials", "sync_credentials", "POST", "/v1/sync")


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with two_gateways(tmp_path_factory.mktemp("matrix") / "home") as made:
        yield made


@pytest.fixture(scope="module")
def credentials(deployment: Deployment) -> list[Credential]:
    return callers(deployment, MAY)


@pytest.fixture(scope="module")
def entrances(deployment: Deployment) -> Iterator[list[Entrance]]:
    with every_entrance(deployment) as opened:
        yield opened


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
    if route == SYNC and credential.gateways is not None:
        return "Forbidden"  # a run is about every gateway, and so is its report
    elsewhere = credential.gateways is not None and "/gateways/" in route.path
    return "GatewayNotFound" if elsewhere else "let in"


def test_the_table_of_roles_speaks_of_every_function_of_the_template() -> None:
    assert {route.function for route in [*ROUTES, SYNC]} == frozenset().union(*MAY.values())
    assert {function.name for function in TEMPLATE.functions} - {route.handler for route in [*ROUTES, SYNC]} == APART


@pytest.mark.parametrize("route", [*ROUTES, SYNC], ids=lambda route: route.function)
def test_who_may_call_a_function_and_who_may_not(
    route: Route, deployment: Deployment, credentials: list[Credential], entrances: list[Entrance]
) -> None:
    with nothing_changes(deployment):
        for entrance in entrances[:1] if route == SYNC else entrances:
            assert decision(*entrance(route, {"host": HOST})) == "Unauthenticated", entrance.name
            for form, headers_of in list(FORMS.items())[: 1 if route == SYNC else None]:
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
                more = {"host": host, "x-forwarded-host": host, **FORWARDED}
                assert decision(*entrance(route, more)) == "Unauthenticated"
                for credential in credentials:
                    if credential.kind in ("role viewer", "role revealer", "consumer key", "admin of other"):
                        headers = {**bearer(credential, route), **more}
                        assert decision(*entrance(route, headers)) == expected(credential, route, "bearer"), host


def test_the_timers_function_decides_alike_at_every_path_and_no_path_leads_to_it(
    deployment: Deployment, credentials: list[Credential], entrances: list[Entrance]
) -> None:
    handler, *others = entrances
    with nothing_changes(deployment):
        for host, path in zip(HOSTS, ("/", "/v1/status", *(route.path for route in ROUTES)), strict=False):
            moved, more = SYNC._replace(path=path), {"host": host, "x-forwarded-host": host, **FORWARDED}
            assert decision(*handler(moved, more)) == "Unauthenticated"
            for credential in credentials:
                if credential.role != "admin":
                    headers = {**bearer(credential, moved), **more}
                    assert decision(*handler(moved, headers)) == expected(credential, SYNC, "bearer"), path
        (admin,) = [credential for credential in credentials if credential.kind == "role admin"]
        for entrance in others:
            assert entrance(SYNC, bearer(admin, SYNC))[1]["code"] == "RouteNotFound"


def test_the_timers_function_lets_nobody_in_by_signature_as_its_role_opens_no_operators_secret(
    deployment: Deployment, credentials: list[Credential], entrances: list[Entrance]
) -> None:
    with nothing_changes(deployment):
        for credential in credentials:
            status, body = entrances[0](SYNC, signature(credential, SYNC))
            nobody = credential.kind in ("disabled", "unknown id", "consumer key")
            wanted = (401, "Unauthenticated") if nobody else (503, "DependencyUnavailable")
            assert (status, body["code"]) == wanted, credential.kind


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
