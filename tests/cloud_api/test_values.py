"""The vendor's action that shows a value: cloud_api hands it on to reveal_key, which alone may decrypt values."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from ckeys.deployment import Deployment
from consumer_keys.cloud_api.actions import ACTIONS
from tencent_emulator.pytest_plugin import TestClock
from tests.cloud_api.clients import VERSIONS, full
from tests.cloud_api.test_answers import PAGE, UUID, Cloud
from tests.conftest import Api
from tests.functions.helpers import as_operator, nothing_changes, sql
from tests.functions.test_front_door import Reached

VALUE = full("DescribeSecretKeyValue")
DIRECT = {"Action": VALUE, "Version": VERSIONS["cngw"], "GatewayId": "default"}


@pytest.fixture
def cloud(api: Api) -> Cloud:
    return Cloud(api)


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """The lines of requests that were logged since the last look."""
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return [line for line in found if line["event"] == "request"]


def last_audit(api: Api) -> dict[str, Any]:
    return sql(api.deployment, "SELECT * FROM audit ORDER BY sequence DESC LIMIT 1")[0]


def test_only_that_action_leaves_the_function_and_what_comes_back_is_the_answer(cloud: Cloud, api: Api) -> None:
    key, reached = cloud.key(), Reached(api.deployment)
    for name in ACTIONS:
        for service in VERSIONS:
            cloud.send(cloud.event(service, name, {"GatewayId": "default", "Nonsense": 1}))
            assert reached.take() == (["reveal_key"] if name == "DescribeSecretKeyValue" else []), name
    exchanged: list[Any] = []
    run = api.deployment.cloud.functions["reveal_key"]

    def kept(given: dict[str, Any]) -> object:
        exchanged.extend([given, run(given)])
        return exchanged[-1]

    api.deployment.cloud.functions["reveal_key"] = kept
    for function in ("cloud_api", "front_door"):
        event = cloud.event("tse", "DescribeSecretKeyValue", {"GatewayId": "default", "SecretKeyId": key})
        answer = api.deployment.call(function, event)
        assert exchanged[-2:] == [event, answer], "the whole event and the whole answer, unchanged"
        assert answer["body"].count("ck_") == 1


def test_the_clients_request_id_finds_the_line_of_the_function_that_served_it_and_its_audit_row(
    cloud: Cloud, api: Api, capsys: pytest.CaptureFixture[str]
) -> None:
    key = cloud.key()
    for fields, code, action in (
        ({"SecretKeyId": key}, None, "key.reveal"),
        ({"SecretKeyId": "secret-00000000000000"}, "ResourceNotFound.ResourceNotFound", "key.reveal_denied"),
    ):
        capsys.readouterr()
        content = cloud.send(cloud.event("cngw", "DescribeSecretKeyValue", {"GatewayId": "default", **fields}))
        logged = {line["function"]: line for line in lines(capsys)}
        assert logged.keys() == {"cloud_api", "reveal_key"}
        assert {(line["action"], line["status"], line["kind"]) for line in logged.values()} == {(VALUE, 200, "http")}
        assert (logged["reveal_key"].get("code"), logged["cloud_api"].get("code")) == (code, None)
        assert logged["reveal_key"]["request_id"] == content["RequestId"] == last_audit(api)["request_id"]
        assert last_audit(api)["action"] == action


def test_a_direct_invocation_is_handed_on_as_one(cloud: Cloud, api: Api) -> None:
    key = cloud.key()
    for function in ("cloud_api", "reveal_key"):
        answer = api.deployment.call(function, {**DIRECT, "SecretKeyId": key})
        assert answer["Response"]["Result"].startswith("ck_")
        row = last_audit(api)
        assert (row["action"], row["actor"], row["target"]) == ("key.reveal", "function-invoke", key)


def test_rest_and_the_cloud_api_share_an_operators_limit(make_deployment: Callable[..., Deployment]) -> None:
    deployment = make_deployment(REVEALS_PER_MINUTE="2")
    cloud = Cloud(Api(deployment, deployment.operator[1]))
    key = cloud.key()
    assert cloud.api("reveal_key", "POST", f"/keys/{key}/reveal", {}).status == 200
    assert cloud("DescribeSecretKeyValue", SecretKeyId=key)
    assert cloud.refused("DescribeSecretKeyValue", SecretKeyId=key)[0] == "RequestLimitExceeded"


def test_a_deployment_without_revealing_has_none_here_either(make_deployment: Callable[..., Deployment]) -> None:
    deployment = make_deployment(REVEAL_ENABLED="false")
    cloud = Cloud(Api(deployment, deployment.operator[1]))
    assert cloud.refused("DescribeSecretKeyValue", SecretKeyId=cloud.key())[0] == "UnsupportedOperation"


# The function behind does not answer


def failing(given: dict[str, Any]) -> object:
    raise RuntimeError("secret text of a function")


@pytest.mark.parametrize("kind", ["failing", "missing", "outage", "refused", "throttled"])
@pytest.mark.parametrize("direct", [False, True])
def test_a_function_behind_that_does_not_answer_is_an_error_in_the_envelope(
    cloud: Cloud, api: Api, kind: str, direct: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    key, emulated = cloud.key(), api.deployment.cloud
    if kind == "failing":
        emulated.functions["reveal_key"] = failing
    elif kind == "missing":
        del emulated.functions["reveal_key"]
    elif kind == "outage":
        emulated.drop_next("scf", "Invoke")
    else:
        code = "UnauthorizedOperation" if kind == "refused" else "RequestLimitExceeded"
        emulated.fail_next("scf", "Invoke", code)
    with nothing_changes(api.deployment):
        if direct:
            content = api.deployment.call("cloud_api", {**DIRECT, "SecretKeyId": key})["Response"]
            code, message = content["Error"]["Code"], content["Error"]["Message"]
            assert len(content["RequestId"]) == 36
        else:
            code, message = cloud.refused("DescribeSecretKeyValue", SecretKeyId=key)
    assert (code, "not known" in message, "secret text" in message) == ("FailedOperation", True, False)
    out = capsys.readouterr().out
    assert "secret text" not in out
    assert json.loads(out.splitlines()[-1])["code"] == "FailedOperation"
    assert "cloud_failure" in out


@pytest.mark.parametrize(
    "result", [None, "text", [], {}, {"statusCode": 404, "body": "{}"}, {"statusCode": "200"}, {"status": 400}]
)
@pytest.mark.parametrize("direct", [False, True])
def test_an_answer_that_no_client_would_understand_becomes_an_error_that_each_does(
    cloud: Cloud, api: Api, result: object, direct: bool
) -> None:
    """As a function of an older release would answer: it knows nothing of the action."""
    api.deployment.cloud.functions["reveal_key"] = lambda given: result
    if direct:
        content = api.deployment.call("cloud_api", {**DIRECT, "SecretKeyId": "secret-00000000000000"})["Response"]
        assert content["Error"]["Code"] == "InternalError"
    else:
        assert cloud.refused("DescribeSecretKeyValue", SecretKeyId="secret-00000000000000")[0] == "InternalError"


def test_a_call_is_made_once_even_if_its_answer_is_lost(cloud: Cloud, api: Api) -> None:
    key, reached = cloud.key(), Reached(api.deployment)
    api.deployment.cloud.drop_next("scf", "Invoke", when="after")
    event = cloud.event("cngw", "DescribeSecretKeyValue", {"GatewayId": "default", "SecretKeyId": key})
    assert (cloud.error(event)[0], reached.take()) == ("FailedOperation", ["reveal_key"])
    assert last_audit(api)["action"] == "key.reveal", "it was revealed, and that is on record"


# Who serves what


def test_the_revealing_function_serves_no_other_action(cloud: Cloud, api: Api) -> None:
    key = cloud.key()
    for name in ACTIONS:
        if name == "DescribeSecretKeyValue":
            continue
        for service in VERSIONS:
            event = cloud.event(service, name, {"GatewayId": "default", "SecretKeyId": key, **PAGE})
            with nothing_changes(api.deployment):
                answer = api.deployment.call("reveal_key", event)
                assert (answer["statusCode"], json.loads(answer["body"])["code"]) == (404, "RouteNotFound")
        with nothing_changes(api.deployment):
            direct = {**DIRECT, "Action": full(name), "SecretKeyId": key, "gateway_id": "default", "key_id": key}
            assert api.deployment.call("reveal_key", direct)["code"] == "InvalidParameter"


def test_without_the_function_behind_no_spelling_of_the_action_gives_a_value(
    cloud: Cloud, api: Api, capsys: pytest.CaptureFixture[str]
) -> None:
    """cloud_api could not show it: it neither has the permission nor serves the action itself."""
    key = cloud.key()
    value = cloud("DescribeSecretKeyValue", SecretKeyId=key)
    del api.deployment.cloud.functions["reveal_key"]
    fields = {"GatewayId": "default", "SecretKeyId": key}
    api.deployment.cloud.clear_calls()
    for name in (
        VALUE.lower(), VALUE.upper(), f" {VALUE}", f"{VALUE} ", f"{VALUE}\n", "DescribeSecretKeyValue", f"{VALUE},x",
        "DescribeSecretKeyCloudNativeAPIGatewayValue", "CloudNativeAPIGatewayDescribeSecretKeyValue", f"{VALUE}\x00",
        "DescribeCloudNativeAPIGatewayCloudNativeAPIGatewaySecretKeyValue",
    ):  # fmt: skip
        event = cloud.event("cngw", "DescribeSecretKey", fields)
        event["headers"]["x-tc-action"] = name
        assert cloud.error(event)[0] == "InvalidAction", name
        assert api.deployment.call("cloud_api", {**DIRECT, **fields, "Action": name})["Response"]["Error"]
    twice = cloud.event("cngw", "DescribeSecretKey", fields)
    twice["headers"]["x-tc-action"] = [VALUE, full("DescribeSecretKey")]
    assert cloud.error(twice)[0] == "MissingParameter"
    both = cloud.event("cngw", "DescribeSecretKey", {**fields, "Action": VALUE})
    assert cloud.error(both)[0] == "UnknownParameter"
    odd = cloud.event("cngw", "DescribeSecretKeyValue", fields)
    odd["headers"]["X-Tc-ACTION"] = odd["headers"].pop("x-tc-action")
    assert cloud.error(odd)[0] == "FailedOperation", "the name of a header has no case"
    timer = {"Type": "Timer", "TriggerName": "x", **DIRECT, **fields}
    assert (
        api.deployment.call("cloud_api", timer)["Response"]["Error"]["Code"] == "InvalidParameterValue.BadRequestFormat"
    )
    assert not [call for call in api.deployment.cloud.calls if call.action == "Decrypt"]
    assert value not in capsys.readouterr().out


@pytest.mark.parametrize("function", ["cloud_api", "reveal_key", "front_door"])
def test_whichever_way_it_comes_only_the_signature_says_whose_request_it_is(
    cloud: Cloud, api: Api, function: str
) -> None:
    key = cloud.key()
    fields = {"GatewayId": "default", "SecretKeyId": key}
    revealer = as_operator(api, "revealer")
    viewer = Cloud(api, api.deployment.add_operator("cloud-viewer", "viewer"))

    def code(event: dict[str, Any]) -> str:
        answer = api.deployment.call(function, event)
        assert "ck_" not in answer["body"]
        return str(json.loads(answer["body"])["Response"]["Error"]["Code"])

    with nothing_changes(api.deployment):
        event = cloud.event("cngw", "DescribeSecretKeyValue", fields)
        for text in (None, f"Bearer {revealer.token}", f"Bearer {api.token}", "SKIP"):
            headers = {name: given for name, given in event["headers"].items() if name != "authorization"}
            headers |= {} if text is None else {"authorization": text}
            assert code({**event, "headers": headers}) == "AuthFailure.InvalidAuthorization"
        wrong = Cloud(api, (cloud.pair[0], "wrong")).event("cngw", "DescribeSecretKeyValue", fields)
        assert code(wrong) == "AuthFailure.SignatureFailure"
        assert code({**event, "body": event["body"].replace(key, "secret-1")}) == "AuthFailure.SignatureFailure"
        assert (
            code(cloud.event("cngw", "DescribeSecretKeyValue", fields, service="ckeys"))
            == "AuthFailure.InvalidAuthorization"
        )
        assert code(viewer.event("tse", "DescribeSecretKeyValue", fields)) == "UnauthorizedOperation.CamNoAuth"
    row = last_audit(api)
    assert (row["action"], row["actor"], row["target"]) == ("key.reveal_denied", viewer.pair[0], key)


def test_a_signature_counts_once_for_changes_and_values_together(clock: TestClock, cloud: Cloud, api: Api) -> None:
    """The clients do not sign the action: what was captured of one must not serve the other."""
    key = cloud.key()
    fields = {"GatewayId": "default", "SecretKeyId": key}
    shown = cloud.event("tse", "DescribeSecretKeyValue", fields)
    assert cloud.send(shown)["Result"].startswith("ck_")
    cloud("ModifySecretKeyStatus", SecretKeyId=key, Status="Disable")
    clock.shift(3)
    for action, functions in (
        ("DescribeSecretKeyValue", ("cloud_api", "reveal_key", "front_door")),
        ("DeleteSecretKey", ("cloud_api", "front_door")),
    ):
        again = {**shown, "headers": {**shown["headers"], "x-tc-action": full(action)}}
        for function in functions:
            with nothing_changes(api.deployment):
                answer = json.loads(api.deployment.call(function, again)["body"])["Response"]
            assert answer["Error"]["Code"] == "AuthFailure.SignatureExpire"


@pytest.mark.parametrize("captured", ["DescribeSecretKey", "DescribeSecretKeyList"])
def test_a_captured_look_shows_no_value_and_changes_nothing_later(
    clock: TestClock, cloud: Cloud, api: Api, captured: str
) -> None:
    """A signature of the clients covers the fields, not the action: those of a look are those of a reveal."""
    fields = {"GatewayId": "default", "SecretKeyId": cloud.key()}
    page = {"GatewayId": "default", "Limit": 20, "Offset": 0}
    look = cloud.event("cngw", captured, fields if captured == "DescribeSecretKey" else page)
    assert "Result" in cloud.send(look)
    assert "Result" in cloud.send(look), "twice in the same second signs alike"
    clock.shift(3)
    for action in (captured, "DescribeSecretKeyValue", "DeleteSecretKey", "DescribeConsumerList"):
        again = {**look, "headers": {**look["headers"], "x-tc-action": full(action)}}
        for function in ("cloud_api", "front_door"):
            with nothing_changes(api.deployment):
                answer = json.loads(api.deployment.call(function, again)["body"])["Response"]
            parsed = action in (captured, "DescribeConsumerList") or captured == "DescribeSecretKey"
            assert "Result" not in answer
            assert not parsed or answer["Error"]["Code"] in ("AuthFailure.SignatureExpire", "UnknownParameter")
    assert "Result" in cloud.send(cloud.event("cngw", captured, fields if captured == "DescribeSecretKey" else page))


def test_a_rest_call_is_served_by_rest_whatever_action_its_headers_name(cloud: Cloud, api: Api) -> None:
    key = cloud.key()
    for name in ("x", full("DescribeSecretKey"), full("CreateSecretKey")):
        answer = api("reveal_key", "POST", f"/keys/{key}/reveal", {}, headers={"x-tc-action": name})
        assert (answer.status, answer.body["key_id"]) == (200, key)


def test_a_request_without_any_id_from_the_platform_is_answered_with_one(cloud: Cloud, api: Api) -> None:
    from ckeys.events import make_context

    del api.deployment.cloud.functions["reveal_key"]
    template = api.deployment.template
    context = {**make_context(template.function("cloud_api"), namespace=template.namespace), "request_id": ""}
    answer = api.deployment.handlers["cloud_api"](dict(DIRECT), context)
    assert re.fullmatch(UUID, answer["Response"]["RequestId"])
