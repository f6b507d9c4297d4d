"""Who may call what: default deny, decided per function, and never by the path, the Host or the event's shape."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ckeys.deployment import Deployment
from tests.conftest import Answer, Api
from tests.functions.helpers import STRONG, as_operator, kms_key, nothing_changes, problem, sql

READ = {
    "list_keys", "get_key", "list_consumers", "get_consumer", "list_groups", "get_group", "get_status", "list_audit",
    "verify",
}  # fmt: skip
WRITE = {
    "create_key", "update_key", "enable_key", "disable_key", "delete_key", "bind_consumer", "unbind_consumer",
    "create_consumer", "update_consumer", "delete_consumer", "create_group", "update_group", "delete_group",
    "add_to_group", "remove_from_group",
}  # fmt: skip
MAY = {
    "verifier": {"verify"},
    "viewer": READ,
    "editor": READ | WRITE,
    "revealer": {"reveal_key"},
    "admin": READ | WRITE | {"reveal_key", "sync_credentials"},
}
# DESIGN gives /verify to "any role", and the revealer "reveal alone": both hold if the revealer may verify too.
MAY["revealer"] |= {"verify"}
FUNCTIONS = sorted(MAY["admin"])
_number = count()


class Call(NamedTuple):
    """One call that succeeds for whoever may make it."""

    function: str
    method: str
    path: str
    body: Any = None

    def by(self, api: Api, **more: Any) -> Answer:
        return api(
            "validate_key" if self.function == "verify" else self.function, self.method, self.path, self.body, **more
        )


def call(admin: Api, function: str) -> Call:
    """The call, with new resources to work on: those that it names."""
    number = next(_number)

    def key(**fields: Any) -> str:
        return f"/keys/{admin.create_key(f'key-{number}', **fields)['key_id']}"

    def consumer_id() -> str:
        return str(admin.create_consumer(f"app-{number}")["consumer_id"])

    def consumer() -> str:
        return f"/consumers/{consumer_id()}"

    def group() -> str:
        return f"/groups/{admin.create_group(f'group-{number}')['group_id']}"

    new, edit = {"name": f"new-{number}"}, {"description": "x"}
    calls: dict[str, Callable[[], tuple[Any, ...]]] = {
        "create_key": lambda: ("POST", "/keys", new | {"generation": "System"}),
        "list_keys": lambda: ("GET", "/keys"),
        "get_key": lambda: ("GET", key()),
        "update_key": lambda: ("PATCH", key(), edit),
        "enable_key": lambda: ("POST", key(status="Disable") + "/enable"),
        "disable_key": lambda: ("POST", key() + "/disable"),
        "delete_key": lambda: ("DELETE", key(status="Disable")),
        "reveal_key": lambda: ("POST", key() + "/reveal", {}),
        "bind_consumer": lambda: ("PUT", key() + "/consumer", {"consumer_id": consumer_id()}),
        "unbind_consumer": lambda: ("DELETE", key() + "/consumer"),
        "create_consumer": lambda: ("POST", "/consumers", new),
        "list_consumers": lambda: ("GET", "/consumers"),
        "get_consumer": lambda: ("GET", consumer()),
        "update_consumer": lambda: ("PATCH", consumer(), edit),
        "delete_consumer": lambda: ("DELETE", consumer()),
        "create_group": lambda: ("POST", "/groups", new),
        "list_groups": lambda: ("GET", "/groups"),
        "get_group": lambda: ("GET", group()),
        "update_group": lambda: ("PATCH", group(), edit),
        "delete_group": lambda: ("DELETE", group()),
        "add_to_group": lambda: ("PUT", group() + consumer()),
        "remove_from_group": lambda: ("DELETE", group() + consumer()),
        "get_status": lambda: ("GET", "/v1/status"),
        "list_audit": lambda: ("GET", "/audit"),
        "verify": lambda: ("POST", "/verify", {"key": admin.create_key(f"key-{number}")["value"]}),
        "sync_credentials": lambda: ("POST", "/v1/sync"),
    }
    return Call(function, *calls[function]())


def test_every_function_that_needs_an_operator_is_covered_here(deployment: Deployment) -> None:
    functions = {item.name for item in deployment.template.functions}
    assert functions - {"front_door", "validate_key", "cloud_api"} | {"verify"} == set(FUNCTIONS)


def no_credentials(secret_id: str, secret: str, value: str) -> list[dict[str, Any]]:
    """Headers that show nobody to be an operator, made from what an operator and a consumer present."""
    tokens = ["", " ", "wrong", f" {secret}", f"{secret} ", f"{secret}x", secret[:-1], secret.swapcase(), "é", "\ud800"]
    tokens += [f"{secret}, Bearer {secret}", "x" * 100_000, secret_id, value]
    return [
        *({"authorization": f"Bearer {token}"} for token in tokens),
        {}, {"authorization": ""}, {"authorization": "Bearer"}, {"authorization": f"Basic {secret}"},
        {"authorization": secret}, {"authorization": [f"Bearer {secret}"] * 2}, {"authorization": None},
        {"authorization": 5}, {"x-api-key": secret}, {"x-authorization": f"Bearer {secret}"},
        {"authorization": f"TC3-HMAC-SHA256 Credential={secret_id}/x, Signature=0"},
    ]  # fmt: skip


def test_without_a_valid_credential_nothing_is_told_and_nothing_changes(api: Api, subtests: pytest.Subtests) -> None:
    value = api.bound_key("presented")["value"]
    presented = no_credentials(api.deployment.operator[0], api.token, value)
    for function in FUNCTIONS:
        given = call(api, function)
        with subtests.test(function=function), nothing_changes(api.deployment):
            for headers in presented:
                answer = given.by(api, token=None, headers=headers)
                problem(answer, 401, "Unauthenticated")
                assert answer.headers["WWW-Authenticate"].startswith("Bearer")
                assert api.token not in str(answer)


@pytest.mark.parametrize("role", sorted(MAY))
def test_a_role_may_call_its_functions_and_no_other(api: Api, role: str) -> None:
    operator = as_operator(api, role)
    for function in FUNCTIONS:
        given = call(api, function)
        if function in MAY[role]:
            assert given.by(operator).status in (200, 201, 204), function
        else:
            with nothing_changes(api.deployment):
                problem(given.by(operator), 403, "Forbidden")


@pytest.mark.parametrize("role", ["admin", "editor", "viewer"])
def test_an_operator_of_another_gateway_sees_this_one_as_not_there(
    make_deployment: Callable[..., Deployment], role: str
) -> None:
    deployment = make_deployment(GATEWAYS="default=One,other=Two")
    api = Api(deployment, deployment.operator[1])
    stranger = as_operator(api, role, ("other",))
    if "sync_credentials" in MAY[role]:  # which works for every gateway at once
        everywhere = call(api, "sync_credentials")
        with nothing_changes(deployment):
            problem(everywhere.by(stranger), 403, "Forbidden")
    for function in sorted(MAY[role] - {"get_status", "sync_credentials"}):
        given = call(api, function)
        with nothing_changes(deployment):
            refused = given.by(stranger)
        problem(refused, 404, "GatewayNotFound")
        path = given.path if given.path.startswith("/v1/") else f"/v1/gateways/undeclared{given.path}"
        undeclared = given._replace(path=path).by(stranger)
        del refused.body["request_id"], undeclared.body["request_id"]
        assert refused == undeclared
    assert stranger("list_keys", "GET", "/v1/gateways/other/keys").status == 200
    shown = stranger("get_status", "GET", "/v1/status").body
    assert [gateway["gateway_id"] for gateway in shown["gateways"]] == ["other"]


def test_keys_of_a_gateway_that_is_no_longer_declared_are_counted_in_the_status(
    make_deployment: Callable[..., Deployment], tmp_path: Path
) -> None:
    for gateways in ("left,other", "other"):
        deployment = make_deployment(tmp_path / "home", GATEWAYS=gateways, durable=True)
        api = Api(deployment, deployment.operator[1])
        if gateways == "left,other":
            new = {"name": "key", "generation": "System"}
            for gateway in ("left", "other"):
                assert api("create_key", "POST", f"/v1/gateways/{gateway}/keys", new).status == 201
            assert api("get_status", "GET", "/v1/status").body["undeclared"] == []
            deployment.close()
    assert api("get_status", "GET", "/v1/status").body["undeclared"] == [{"gateway_id": "left", "keys": 1}]
    stranger = as_operator(api, "viewer", ("other",))
    assert stranger("get_status", "GET", "/v1/status").body["undeclared"] == []


def test_an_operator_of_another_gateway_is_told_of_no_key_that_fails(
    make_deployment: Callable[..., Deployment],
) -> None:
    deployment = make_deployment(GATEWAYS="default=One,other=Two")
    api = Api(deployment, deployment.operator[1])
    stranger, key = as_operator(api, "viewer", ("other",)), kms_key(api, "failing", f"content-{STRONG}")
    sql(deployment, "UPDATE consumer_keys SET sync_failures = 5, sync_next_at = 0 WHERE key_id = :id", id=key["key_id"])
    deployment.cloud.fail_next("ssm", "GetSecretValue", "InternalError", times=50, only="failing")
    assert api.tick()["quarantined_keys"] == [key["key_id"]]
    assert key["key_id"] in str(api("get_status", "GET", "/v1/status").body)
    shown = stranger("get_status", "GET", "/v1/status").body
    assert shown["last_sync"]["quarantined"] == 1
    assert key["key_id"] not in str(shown)


def test_an_operator_may_be_restricted_to_several_gateways(make_deployment: Callable[..., Deployment]) -> None:
    deployment = make_deployment(GATEWAYS="a,b,c")
    operator = as_operator(Api(deployment, deployment.operator[1]), "viewer", ("a", "c"))
    statuses = [operator("list_keys", "GET", f"/v1/gateways/{name}/keys").status for name in ("a", "b", "c")]
    assert statuses == [200, 404, 200]


def test_a_disabled_operator_may_nothing_at_once_and_verify_nothing_after_the_next_tick(api: Api) -> None:
    secret_id, secret = api.deployment.add_operator("leaver", "admin")
    leaver = Api(api.deployment, secret)
    assert leaver("list_keys", "GET", "/keys").status == 200
    sql(api.deployment, "UPDATE operators SET status = 'Disable' WHERE secret_id = :id", id=secret_id)
    for function in sorted(set(FUNCTIONS) - {"verify"}):
        given = call(api, function)
        with nothing_changes(api.deployment):
            problem(given.by(leaver), 401, "Unauthenticated")
    api.tick()
    problem(leaver("validate_key", "POST", "/verify", {"key": "kT7vQ2xM"}), 401, "Unauthenticated")


def test_a_consumer_key_is_no_operator_and_an_operators_secret_is_no_consumer_key(api: Api) -> None:
    key = api.bound_key()
    secrets = [api.token, *(api.deployment.add_operator(role, role)[1] for role in MAY)]
    for secret in secrets:
        assert api.validate(secret).status == 401
        assert api.verify(secret)["code"] == "UnknownKey"
    bearer = Api(api.deployment, key["value"])
    for function in FUNCTIONS:
        problem(call(api, function).by(bearer), 401, "Unauthenticated")


# Direct invocation


def test_a_direct_invocation_is_trusted_and_answers_with_the_same_body(api: Api) -> None:
    invoke = api.deployment.call
    key = invoke("create_key", {"gateway_id": "default", "name": "direct", "generation": "System"})
    consumer = invoke("create_consumer", {"gateway_id": "default", "name": "app"})
    ids = {"gateway_id": "default", "key_id": key["key_id"]}
    invoke("bind_consumer", {**ids, "consumer_id": consumer["consumer_id"]})
    assert invoke("get_key", ids) == api("get_key", "GET", f"/keys/{key['key_id']}").body
    verdict = invoke("validate_key", {"gateway_id": "default", "key": key["value"]})
    assert (verdict["valid"], verdict["key_id"]) == (True, key["key_id"])
    assert verdict.keys() == api.verify(key["value"]).keys()
    assert invoke("list_keys", {"gateway_id": "default", "status": "Enable", "limit": 1})["total_count"] == 1
    assert invoke("get_status", {})["revision"] > 0
    refused = invoke("get_key", {**ids, "key_id": "secret-00000000000000"})
    assert (refused["status"], refused["code"]) == (404, "KeyNotFound")
    refused = invoke("create_key", {"gateway_id": "default", "name": "x", "generation": "System", "extra": 1})
    assert {error["field"] for error in refused["errors"]} == {"name", "extra"}
    assert invoke("get_key", {"key_id": key["key_id"]})["errors"][0]["field"] == "gateway_id"


def hostile_events() -> Iterator[dict[str, Any]]:
    fields = {"gateway_id": "default", "name": "hostile", "generation": "System"}
    http = {"httpMethod": "POST", "path": "/v1/gateways/default/keys", "headers": {}, "queryString": {}, "body": ""}
    yield {**http, **fields}
    yield {**http, "Type": "Timer", "TriggerName": "every-minute", **fields}
    for mark, value in http.items():
        for given in (value, None):
            yield {mark: given, **fields}
            yield {mark: given, "Type": "Timer", "TriggerName": "every-minute", **fields}
    for mark in ("requestContext", "queryStringParameters"):
        yield {mark: {}, **fields}
    yield {**http, "body": '{"name": "hostile", "generation": "System"}', "requestContext": {"identity": "admin"}}
    yield {**http, "pathParameters": {"gateway_id": "default"}, **fields}
    yield {**http, "headers": [["authorization", "Bearer x"]], **fields}
    yield {**http, "headers": None, "queryString": fields}
    yield {**http, "isBase64Encoded": True, "body": "eyJuYW1lIjoiaG9zdGlsZSJ9"}
    yield {**http, "path": None, **fields}
    yield {**http, "httpMethod": ["POST"], **fields}


@pytest.mark.parametrize("function", ["create_key", "sync_credentials", "reveal_key", "get_status", "validate_key"])
def test_an_event_with_any_mark_of_http_never_passes_as_direct_or_as_a_timer(api: Api, function: str) -> None:
    with nothing_changes(api.deployment):
        for event in hostile_events():
            answer = api.deployment.call(function, event)
            assert answer["statusCode"] in (400, 401, 404, 405), (event, answer)


@pytest.mark.parametrize("event", [None, [], "text", 5, True])
def test_what_is_no_event_is_refused(api: Api, event: Any) -> None:
    with nothing_changes(api.deployment):
        for function in ("create_key", "sync_credentials", "validate_key", "front_door"):
            assert api.deployment.call(function, event)["statusCode"] == 400


# Paths and headers


def test_host_forwarding_and_connection_headers_change_no_decision(api: Api) -> None:
    key = api.bound_key()
    viewer = as_operator(api, "viewer")
    for headers in (
        {"host": "x/v1/gateways/default/validate?"}, {"host": "x#"}, {"x-forwarded-for": "127.0.0.1"},
        {"x-forwarded-host": "admin"}, {"x-forwarded-uri": "/v1/status"}, {"x-original-url": "/v1/status"},
        {"x-http-method-override": "GET"}, {"connection": "authorization"}, {"forwarded": "for=127.0.0.1"},
        {"x-consumer-id": "consumer-00000000000000", "x-key-id": "x", "x-scf-remote-addr": "127.0.0.1"},
    ):  # fmt: skip
        create = {"name": "denied", "generation": "System"}
        assert viewer("create_key", "POST", "/keys", create, headers=headers).status == 403
        assert viewer("list_keys", "GET", "/keys", headers=headers).status == 200
        assert viewer("list_keys", "GET", "/keys", headers=headers, token=None).status == 401
        answer = api.validate(key["value"], **headers)
        assert (answer.status, answer.headers["X-Key-Id"]) == (200, key["key_id"])
        assert api.validate("kT7vQ2xM", **headers).status == 401


def test_another_path_or_method_never_reaches_the_function(api: Api, subtests: pytest.Subtests) -> None:
    for function in sorted(set(FUNCTIONS) - {"verify", "sync_credentials"}):
        with subtests.test(function=function):
            given = call(api, function)
            path = given.path if given.path.startswith("/v1/") else f"/v1/gateways/default{given.path}"
            with nothing_changes(api.deployment):
                for other in (
                    f"{path}/", f"/v1/..{path}", f"{path};x", f"{path}%2f", path.replace("/v1/", "/v1//"),
                    f"{path}/..", path.upper(),
                    f"{path}?x", "/v1/gateways/default/validate",
                ):  # fmt: skip
                    answer = given._replace(path="/v1/" if not other.startswith("/v1/") else other).by(api)
                    assert answer.status in (404, 405), other
                allowed = ["GET", "HEAD"] if given.method == "GET" else [given.method]
                for method in sorted({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"} - set(allowed)):
                    answer = given._replace(method=method).by(api)
                    assert (answer.status, answer.headers.get("Allow")) == (405, ", ".join(allowed))
