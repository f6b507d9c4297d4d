"""One Function URL for every route: what it reaches by SCF Invoke, what it never reaches, and what it passes on."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ckeys.deployment import Deployment
from tests.conftest import GATEWAY, Api
from tests.functions.helpers import as_operator, nothing_changes

FILLED = {
    "gateway_id": "default", "key_id": "secret-00000000000000", "consumer_id": "consumer-00000000000000", "rest": "a/b",
}  # fmt: skip


def event(method: str, path: str, token: str | None = None, body: Any = None, **headers: str) -> dict[str, Any]:
    bearer = {} if token is None else {"authorization": f"Bearer {token}"}
    text = "" if body is None else json.dumps(body)
    return {"httpMethod": method, "path": path, "headers": {**bearer, **headers}, "queryString": {}, "body": text}


class Reached(list[str]):
    """The functions that SCF ran since the last look."""

    def __init__(self, deployment: Deployment) -> None:
        super().__init__()
        for name, run in list(deployment.cloud.functions.items()):
            deployment.cloud.functions[name] = self._noting(name, run)

    def _noting(self, name: str, run: Any) -> Any:
        def noted(given: dict[str, Any]) -> object:
            self.append(name)
            return run(given)

        return noted

    def take(self) -> list[str]:
        taken = list(self)
        self.clear()
        return taken


def same(answer: dict[str, Any]) -> tuple[Any, ...]:
    """An answer without what differs between two calls."""
    body = json.loads(answer["body"]) if answer["body"] else {}
    body.pop("request_id", None)
    body.get("Response", {}).pop("RequestId", None)
    return answer["statusCode"], answer["headers"], body


def test_every_route_reaches_its_own_function_and_the_answer_is_identical(api: Api) -> None:
    deployment, reached = api.deployment, Reached(api.deployment)
    for function in deployment.template.functions:
        for route in function.routes:
            method = "GET" if route.method == "ANY" else route.method
            path = route.path
            for name, value in FILLED.items():
                path = path.replace(f"{{{name}}}", value)
            for token in (None, "wrong", api.token):
                given = event(method, path, token)
                through = deployment.call("front_door", given)
                assert reached.take() == [function.name]
                if function.name not in ("create_key", "create_consumer", "get_status"):
                    assert same(through) == same(deployment.call(function.name, given))
                assert through["statusCode"] != 503


def test_the_main_path_works_through_the_front_door_alone(api: Api) -> None:
    def door(method: str, path: str, body: Any = None, token: str = api.token) -> Any:
        answer = api.deployment.call("front_door", event(method, GATEWAY + path, token, body))
        assert answer["statusCode"] < 300, answer
        return answer["headers"] if path == "/validate" else json.loads(answer["body"] or "null")

    key = door("POST", "/keys", {"name": "密钥", "generation": "System"})
    consumer = door("POST", "/consumers", {"name": "应用"})
    door("PUT", f"/keys/{key['key_id']}/consumer", {"consumer_id": consumer["consumer_id"]})
    assert door("GET", "/validate", token=key["value"])["X-Key-Id"] == key["key_id"]
    door("POST", f"/keys/{key['key_id']}/disable")
    door("DELETE", f"/keys/{key['key_id']}/consumer")
    assert door("DELETE", f"/keys/{key['key_id']}") is None


def test_validate_takes_any_method_and_any_path_below_it(api: Api, subtests: pytest.Subtests) -> None:
    reached = Reached(api.deployment)
    key = api.bound_key()
    for method in ("GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "PROPFIND"):
        for below in ("", "/", "/a", "/a/b//c", "/..", "/%2e%2e/keys", "/v1/status", "/a\nb", "//"):
            with subtests.test(method=method, below=below):
                reached.take()
                answer = api.deployment.call("front_door", event(method, f"{GATEWAY}/validate{below}", key["value"]))
                assert (answer["statusCode"], reached.take()) == (200, ["validate_key"])


@pytest.mark.parametrize(
    "path",
    [
        "", "//", "/.", "/v1", "/v2/status", "/v1/gateways/default", "/v1/gateways/default/nothing",
        "//v1/gateways/default/keys", "/v1//gateways/default/keys", "/v1/gateways/default//keys", "/v1/gateways//keys",
        "/v1/gateways/default/keys/", "/V1/gateways/default/keys", "/v1/gateways/default/Keys",
        "v1/gateways/default/keys",
        "/v1/gateways/default/keys;x=1", "/v1/gateways/default/%6beys", "/v1/gateways/default/./keys",
        "/v1/gateways/default/%2e/keys", "/v1/gateways/x/../default/keys", "/v1/gateways/x/%2e%2e/default/keys",
        "/v1/gateways%2fdefault/keys", "/v1/gateways/default%2fkeys", "/v1/gateways/default/keys?x", "/v1/status#x",
        "/v1/gateways/default/keys\n", "/v1/gateways/default/keys\x00", "/v1/status/", "/v1/%73tatus", "/v1/status/..",
        "http://host/v1/status", "/v1/gateways/default/keys\\", "/v1/gateways/default/validatex",
        "/v1/gateways/default/verify/",
        "/v1/gateways/default/keys/secret-0/reveal/..", "/v1/gateways/default/ｋeys",
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_path_that_no_route_has_exactly_reaches_no_function(api: Api, path: str, method: str) -> None:
    reached = Reached(api.deployment)
    answer = api.deployment.call("front_door", event(method, path, api.token, {"name": "x", "generation": "System"}))
    assert (answer["statusCode"], json.loads(answer["body"])["code"], reached.take()) == (404, "RouteNotFound", [])
    assert answer["headers"]["Content-Type"] == "application/problem+json"


def test_tricks_behind_an_id_never_reach_reveal(api: Api) -> None:
    reached = Reached(api.deployment)
    key = api.create_key()
    at = f"{GATEWAY}/keys/{key['key_id']}"
    with nothing_changes(api.deployment):
        for path in (
            f"{at}/enable/../reveal", f"{at}%2freveal", f"{at}/%72eveal", f"{at}/reveal;", f"{at}//reveal",
            f"{at}/Reveal",
            f"{at}/reveal/", f"{at}/./reveal", f"{at};/reveal", f"{GATEWAY}/keys/../keys/{key['key_id']}/reveal",
        ):  # fmt: skip
            answer = api.deployment.call("front_door", event("POST", path, api.token, {}))
            assert answer["statusCode"] in (404, 405), path
            assert key["value"] not in answer["body"]
            assert set(reached.take()) <= {"reveal_key"}, path


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("PUT", "/v1/status", "GET, HEAD"),
        ("GET", f"{GATEWAY}/verify", "POST"),
        ("DELETE", f"{GATEWAY}/keys", "GET, HEAD, POST"),
        ("POST", f"{GATEWAY}/keys/secret-0", "DELETE, GET, HEAD, PATCH"),
        ("GET", f"{GATEWAY}/keys/secret-0/reveal", "POST"),
        ("POST", f"{GATEWAY}/keys/secret-0/consumer", "DELETE, PUT"),
        ("PROPFIND", f"{GATEWAY}/consumers", "GET, HEAD, POST"),
    ],
)  # fmt: skip
def test_a_wrong_method_is_a_405_that_names_the_right_ones(api: Api, method: str, path: str, allow: str) -> None:
    reached = Reached(api.deployment)
    answer = api.deployment.call("front_door", event(method, path, api.token))
    assert (answer["statusCode"], answer["headers"]["Allow"], reached.take()) == (405, allow, [])


def failing(given: dict[str, Any]) -> object:
    raise RuntimeError("secret text of a function")


@pytest.mark.parametrize("kind", ["failing", "missing", "outage", "refused", "throttled"])
def test_a_function_that_cannot_be_reached_is_a_503_problem(api: Api, kind: str) -> None:
    cloud, given = api.deployment.cloud, event("GET", "/v1/status", api.token)
    if kind == "failing":
        cloud.functions["get_status"] = failing
    elif kind == "missing":
        del cloud.functions["get_status"]
    elif kind == "outage":
        cloud.drop_next("scf", "Invoke")
    else:
        code = "UnauthorizedOperation" if kind == "refused" else "RequestLimitExceeded"
        cloud.fail_next("scf", "Invoke", code)
    answer = api.deployment.call("front_door", given)
    assert (answer["statusCode"], json.loads(answer["body"])["code"]) == (503, "DependencyUnavailable")
    assert int(answer["headers"]["Retry-After"]) > 0
    assert "secret text" not in str(answer)


@pytest.mark.parametrize("result", [None, "text", [], {}, {"statusCode": "200"}, {"body": "x"}])
def test_a_function_that_answers_nonsense_is_a_5xx_problem(api: Api, result: object) -> None:
    api.deployment.cloud.functions["get_status"] = lambda given: result
    answer = api.deployment.call("front_door", event("GET", "/v1/status", api.token))
    assert answer["statusCode"] in (500, 503)
    assert json.loads(answer["body"])["status"] == answer["statusCode"]


def test_a_call_is_made_once_even_if_its_answer_is_lost(api: Api) -> None:
    reached = Reached(api.deployment)
    api.deployment.cloud.drop_next("scf", "Invoke", when="after")
    body = {"name": "key", "generation": "System"}
    answer = api.deployment.call("front_door", event("POST", f"{GATEWAY}/keys", api.token, body))
    assert (answer["statusCode"], reached.take()) == (503, ["create_key"])
    assert "not known" in json.loads(answer["body"])["detail"]
    assert api("list_keys", "GET", "/keys").body["total_count"] == 1


def test_the_operators_credential_and_conditions_are_passed_on(api: Api) -> None:
    key = api.create_key()
    viewer = as_operator(api, "viewer")
    path = f"{GATEWAY}/keys/{key['key_id']}"

    def status(method: str, token: str | None, body: Any = None, at: str = path, **headers: str) -> int:
        answer = api.deployment.call("front_door", event(method, at, token, body, **headers))
        return int(answer["statusCode"])

    assert status("GET", viewer.token) == 200
    assert status("PATCH", viewer.token, {"description": "x"}) == 403
    assert status("GET", None) == 401
    assert status("PATCH", api.token, {"description": "x"}, **{"if-match": '"1"'}) == 412
    consumers = f"{GATEWAY}/consumers"
    assert status("POST", api.token, {"name": "app"}, consumers, **{"idempotency-key": "k"}) == 201
    assert status("POST", api.token, {"name": "app"}, consumers, **{"idempotency-key": "k"}) == 201
    assert status("POST", api.token, {"name": "other"}, consumers, **{"idempotency-key": "k"}) == 422


@pytest.mark.parametrize(
    "direct",
    [{"gateway_id": "default", "name": "ab", "generation": "System"}, {"Type": "Timer", "TriggerName": "x"}, {}],
)
def test_the_front_door_takes_no_direct_invocation_and_no_timer(api: Api, direct: dict[str, Any]) -> None:
    reached = Reached(api.deployment)
    assert api.deployment.call("front_door", direct)["status"] == 400
    assert reached.take() == []


def test_head_answers_like_get_for_whoever_may_get(api: Api) -> None:
    for path in ("/v1/status", f"{GATEWAY}/keys", f"{GATEWAY}/consumers"):
        for token, status in ((api.token, 200), ("wrong", 401), (None, 401)):
            answers = [api.deployment.call("front_door", event(method, path, token)) for method in ("HEAD", "GET")]
            assert [answer["statusCode"] for answer in answers] == [status, status]
