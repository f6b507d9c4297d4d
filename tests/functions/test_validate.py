"""Verdicts at the gateway: who is let in, how a refusal looks, and what keeps answering when the cloud does not."""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import sha256
from typing import Any

import pytest

from ckeys.deployment import Deployment
from consumer_keys import validate_wiring
from tencent_emulator.pytest_plugin import TestClock
from tests.conftest import Answer, Api
from tests.functions.helpers import (
    POINTER,
    STRONG,
    as_operator,
    code_of,
    database_down,
    kms_key,
    objects,
    pointer,
    problem,
    put_object,
    signed,
)
from tests.functions.test_create_key import LONG

MakeApi = Callable[..., Api]


@pytest.fixture
def make_api(make_deployment: Callable[..., Deployment]) -> MakeApi:
    def make(**settings: str) -> Api:
        deployment = make_deployment(**settings)
        return Api(deployment, deployment.operator[1])

    return make


def present(api: Api, path: str = "/validate", method: str = "GET", query: Any = None, **headers: Any) -> Answer:
    """Forward auth with exactly these headers."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return api("validate_key", method, path, headers=given, query=query, token=None)


def disable(api: Api, key: dict[str, Any]) -> None:
    assert api("disable_key", "POST", f"/keys/{key['key_id']}/disable").status == 200


def cold_start() -> None:
    """The next validation runs in a new instance."""
    validate_wiring.close()


# Verdicts


def prepare_refusals(api: Api) -> dict[str, str]:
    """A value for every way to be refused."""
    unbound = api.create_key("unbound")
    disabled = api.bound_key("disabled", status="Disable")
    stopped = api.create_key("stopped")
    consumer = api.create_consumer("stopped")
    api.bind(stopped, consumer)
    api("update_consumer", "PATCH", f"/consumers/{consumer['consumer_id']}", {"status": "Disable"})
    return {
        "UnknownKey": STRONG + "unknown", "KeyUnbound": unbound["value"], "KeyDisabled": disabled["value"],
        "ConsumerDisabled": stopped["value"], "MalformedKey": "ck_" + "x" * 38, "MissingKey": "",
    }  # fmt: skip


def test_verify_names_the_reason_and_the_holder(api: Api) -> None:
    good = api.bound_key("good")
    verdict = api.verify(good["value"])
    consumer = api("get_key", "GET", f"/keys/{good['key_id']}").body["consumer"]
    snapshot = verdict.pop("snapshot")
    assert verdict == {
        "valid": True, "code": "Valid", "key_id": good["key_id"], "key_name": "good",
        "consumer_id": consumer["consumer_id"],
        "consumer_name": consumer["name"],
        "consumer_groups": [],
    }  # fmt: skip
    assert snapshot["version"] > 0
    assert snapshot["revision"] == api("get_status", "GET", "/v1/status").body["revision"]
    assert 0 <= snapshot["age_seconds"] < 60
    for code, value in prepare_refusals(api).items():
        verdict = api.verify(value)
        assert (verdict["code"], verdict["valid"]) == (code, False)
        assert (verdict["key_id"] is not None) == (code in ("KeyUnbound", "KeyDisabled", "ConsumerDisabled"))


@pytest.mark.parametrize(
    "value", [STRONG[:7], LONG + "x", "with space", "a,b,c,d,e", "密钥密钥密钥", "\x00" * 9, "\ud800" * 9]
)
def test_verify_judges_any_text_and_never_fails_on_it(api: Api, value: str) -> None:
    assert code_of(api, value) == "MalformedKey"


@pytest.mark.parametrize(
    "body", [{}, {"key": None}, {"key": 5}, {"key": ["x"]}, {"key": "x", "gateway_id": "x"}, {"Key": "x"}, "[]"]
)
def test_a_bad_body_of_verify_is_a_400(api: Api, body: Any) -> None:
    assert api("validate_key", "POST", "/verify", body).status == 400


def test_every_refusal_looks_the_same_byte_for_byte(api: Api) -> None:
    refusals = prepare_refusals(api)
    values = [
        *refusals.values(),
        LONG + "x",
        "x",
        "a,b",
        "密钥密钥密钥",
        "Zq7 x9Lk3",
        sha256(LONG.encode()).hexdigest(),
    ]
    answers = [api.validate(value) for value in values]
    answers += [
        present(api), present(api, x_api_key=""), present(api, x_api_key=["a" * 9, "b" * 9]), present(api, x_api_key=5),
        present(api, "/v1/gateways/nope/validate", x_api_key=STRONG), present(api, x_api_key={"a": 1}),
    ]  # fmt: skip
    bodies = set()
    for answer in answers:
        problem(answer, 401, "KeyRefused")
        answer.body.pop("request_id")
        bodies.add(json.dumps(answer.body))
    assert len(bodies) == 1
    assert len({json.dumps(answer.headers) for answer in answers}) == 1
    assert not any(name.startswith(("X-Key", "X-Consumer")) for name in answers[0].headers)


def test_the_digest_of_a_key_is_not_a_key(api: Api) -> None:
    api.bound_key()
    for name in json.loads(objects(api.deployment)["consumer-keys/" + pointer(api.deployment)["overlay"]["name"]])[
        "keys"
    ]:
        assert {api.validate(name).status, api.validate(name.upper()).status} == {401}


def test_keys_that_share_their_first_characters_are_told_apart(api: Api) -> None:
    first = api.bound_key("first", generation="Custom", value=LONG[:40] + "A")
    second = api.bound_key("second", generation="Custom", value=LONG[:40] + "B")
    assert api.validate(LONG[:40] + "A").headers["X-Key-Id"] == first["key_id"]
    assert api.validate(LONG[:40] + "B").headers["X-Key-Id"] == second["key_id"]
    assert api.validate(LONG[:40]).status == 401
    assert api.validate(LONG[:40] + "a").status == 401


# Headers


def test_identity_headers_are_always_there_and_percent_encoded(api: Api) -> None:
    key = api.create_key("密钥-1")
    consumer = api.create_consumer("应用")
    api.bind(key, consumer)
    answer = api.validate(key["value"], **{"x-consumer-id": "spoofed", "X-Key-Name": "spoofed"})
    assert (answer.status, answer.body) == (200, None)
    assert {name: value for name, value in answer.headers.items() if name.startswith("X-")} == {
        "X-Consumer-Id": consumer["consumer_id"], "X-Consumer-Name": "%E5%BA%94%E7%94%A8",
        "X-Key-Id": key["key_id"], "X-Key-Name": "%E5%AF%86%E9%92%A5-1", "X-Consumer-Groups": "",
    }  # fmt: skip


def test_every_source_and_spelling_of_the_key_is_understood(api: Api) -> None:
    value = api.bound_key()["value"]
    for headers in (
        {"authorization": f"Bearer {value}"}, {"Authorization": f"bearer {value}"},
        {"AUTHORIZATION": f"BEARER {value}"},
        {"x-api-key": value}, {"X-Api-Key": value}, {"api-key": value}, {"apikey": value}, {"ApiKey": value},
        {"x-api-key": value, "authorization": f"Bearer {value}"}, {"x-api-key": [value, value]},
        {"x-api-key": value, "X-Api-Key": value}, {"x-api-key": value, "authorization": "Basic dXNlcjpwYXNz"},
        {"x-api-key": value, "apikey": ""}, {"x-api-key": value, "connection": "x-api-key"},
    ):  # fmt: skip
        assert api("validate_key", "GET", "/validate", headers=headers, token=None).status == 200, headers


def test_every_doubtful_presentation_is_refused(api: Api) -> None:
    value, other = api.bound_key("one")["value"], api.bound_key("two")["value"]
    for headers in (
        {}, {"authorization": value}, {"authorization": f"Bearer  {value}"}, {"authorization": f"Bearer\t{value}"},
        {"authorization": f"Token {value}"}, {"authorization": f"Bearer {value} "},
        {"authorization": f"Bearer {value},"},
        {"authorization": f"Bearer {value}, Bearer {value}"}, {"authorization": f"Bearer {value}\n"},
        {"x-api-key": f"{value},{value}"}, {"x-api-key": f"{value}, {other}"}, {"x-api-key": [value, other]},
        {"x-api-key": value, "apikey": other}, {"x-api-key": value, "authorization": f"Bearer {other}"},
        {"x-api-key": value, "X-API-KEY": other}, {"x_api_key": value}, {"x-api-key ": value}, {" x-api-key": value},
        {"x-api-key": value + "\x00"}, {"x-api-key": "\ufeff" + value}, {"x-api-key": value + "\u00a0"},
        {"x-api-key": value.replace(value[5], chr(ord(value[5]) + 0xFEE0))}, {"x-api-key": value + "\udc80"},
        {"x-api-key": 5}, {"x-api-key": True}, {"x-api-key": {"value": value}}, {"x-api-key": [value, None, 5]},
        {"x-api-key": value.swapcase()}, {"x-api-key": value[:-1]}, {"x-api-key": value + value[-1]},
        {"x-api-key": LONG + "x"},
        {"cookie": f"apikey={value}"}, {"x-key": value},
    ):  # fmt: skip
        assert api("validate_key", "GET", "/validate", headers=headers, token=None).status == 401, headers


def test_a_value_of_256_bytes_is_judged_and_oversized_headers_are_refused(api: Api) -> None:
    api.bound_key(generation="Custom", value=LONG)
    assert present(api, x_api_key=LONG).status == 200
    assert present(api, x_api_key="x" * (1 << 20)).status in (401, 431)
    problem(present(api, x_api_key=LONG, x_other="x" * 20_000), 431, "HeadersTooLarge")


@pytest.mark.parametrize(("switch", "status"), [("true", 200), ("false", 401)])
def test_a_key_in_the_query_counts_only_when_switched_on(make_api: MakeApi, switch: str, status: int) -> None:
    api = make_api(KEY_IN_QUERY=switch)
    value, other = api.bound_key("one")["value"], api.bound_key("two")["value"]
    assert present(api, query={"apikey": value}).status == status
    assert present(api, query={"apikey": value}, x_api_key=value).status == 200
    assert present(api, query={"apikey": other}, x_api_key=value).status == (401 if switch == "true" else 200)
    assert present(api, query={"apikey": [value, other]}).status == 401
    assert present(api, query={"api_key": value, "ApiKey": value}).status == 401


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "PROPFIND", "get"])
def test_any_method_and_any_path_below_validate_is_judged_by_the_key_alone(api: Api, method: str) -> None:
    value = api.bound_key()["value"]
    for below in ("", "/", "/chat/completions", "/../verify", "/%2e%2e", "//x", "/verify"):
        assert present(api, f"/validate{below}", method, x_api_key=value).status == 200, below
        assert present(api, f"/validate{below}", method).status == 401, below


@pytest.mark.parametrize(
    "path", ["/v1/gateways/default", "/validatex", "/verify/x", "/v1/status", "/v1/gateways//validat", "/Verify"]
)
def test_another_path_is_a_404(api: Api, path: str) -> None:
    problem(present(api, path, "POST"), 404, "RouteNotFound")


def test_verify_takes_post_only(api: Api) -> None:
    answer = api("validate_key", "GET", "/verify")
    problem(answer, 405, "MethodNotAllowed")
    assert answer.headers["Allow"] == "POST"


# The database, KMS and SSM


def test_validation_and_verify_need_no_database(api: Api) -> None:
    key, secret = api.bound_key(), as_operator(api, "viewer").token
    cold_start()
    with database_down(api.deployment):
        problem(api("list_keys", "GET", "/keys"), 503, "DependencyUnavailable")
        assert api.validate(key["value"]).status == 200
        for token, status in ((secret, 200), (api.token, 200), ("wrong", 401), (None, 401)):
            assert api("validate_key", "POST", "/verify", {"key": key["value"]}, token=token).status == status


def test_a_warm_instance_needs_neither_kms_nor_ssm_nor_database(api: Api, clock: TestClock) -> None:
    key = api.bound_key()
    assert api.validate(key["value"]).status == 200
    with api.deployment.cloud.outage("kms"), api.deployment.cloud.outage("ssm"), database_down(api.deployment):
        for _ in range(5):
            clock.shift(600)
            assert api.validate(key["value"]).status == 200
            assert api.validate(STRONG).status == 401


def test_an_outage_of_cos_is_bridged_until_the_snapshot_is_too_old_and_ends_by_itself(
    api: Api, clock: TestClock
) -> None:
    key = api.bound_key()
    assert api.validate(key["value"]).status == 200
    with api.deployment.cloud.outage("cos"):
        clock.shift(3600)
        assert (api.validate(key["value"]).status, api.validate(STRONG).status) == (200, 401)
        clock.shift(1)
        for value in (key["value"], STRONG, ""):
            answer = api.validate(value)
            problem(answer, 503, "SnapshotUnavailable")
            assert int(answer.headers["Retry-After"]) > 0
        assert api("validate_key", "POST", "/verify", {"key": key["value"]}).status == 503
    api.tick()
    assert (api.validate(key["value"]).status, api.validate(STRONG).status) == (200, 401)


@pytest.mark.parametrize("limit", ["60", "86400"])
def test_the_age_limit_is_a_setting_and_counts_without_ticks_too(
    make_api: MakeApi, clock: TestClock, limit: str
) -> None:
    api = make_api(SNAPSHOT_MAX_AGE_SECONDS=limit)
    key = api.bound_key()
    clock.shift(int(limit))
    assert api.validate(key["value"]).status == 200
    clock.shift(1)
    assert (api.validate(key["value"]).status, api.validate(STRONG).status) == (503, 503)
    clock.shift(-3600)  # a clock that jumps back makes nothing young again
    assert api.validate(key["value"]).status == 503
    clock.shift(3600)
    api.tick()
    assert api.validate(key["value"]).status == 200


def test_ticks_keep_an_idle_deployment_fresh(api: Api, clock: TestClock) -> None:
    key = api.bound_key()
    for _ in range(10):
        clock.shift(3000)
        api.tick()
        assert api.validate(key["value"]).status == 200


@pytest.mark.parametrize("missing", ["pointer", "base", "cos", "ssm"])
def test_a_cold_instance_without_a_usable_snapshot_answers_503_and_recovers(api: Api, missing: str) -> None:
    key = api.bound_key()
    before = objects(api.deployment)
    cold_start()
    name = {"pointer": POINTER, "base": f"consumer-keys/{pointer(api.deployment)['base']['name']}"}.get(missing)
    if name is None:
        with api.deployment.cloud.outage(missing):
            answers = [api.validate(key["value"]), api.validate(STRONG), api.validate("")]
    else:
        put_object(api.deployment, name, b"")
        answers = [api.validate(key["value"]), api.validate(STRONG), api.validate("")]
        put_object(api.deployment, name, before[name])
    assert {answer.status for answer in answers} == {503}
    cold_start()
    assert api.validate(key["value"]).status == 200


# A hostile or damaged bucket


def pointers(api: Api, old: bytes) -> dict[str, bytes]:
    good = objects(api.deployment)[POINTER]
    manifest, key = json.loads(good)["manifest"], api.deployment.services.root.manifest_key
    later = {**manifest, "version": manifest["version"] + 5}
    now = manifest["created_at_ms"]
    forged = {"name": manifest["base"]["name"], "size": 10, "sha256": "0" * 64, "entries": 1}
    return {
        "empty": b"", "garbage": b"\x00\xff" * 100, "json": b"{}", "cut": good[:-1], "longer": good + b" ",
        "huge": b'{"mac":"' + b"0" * 100_000, "unsigned": json.dumps({"manifest": later}).encode(),
        "foreign": signed(later, b"x" * 32), "old": old, "version zero": signed({**manifest, "version": 0}, key),
        "future": signed({**later, "created_at_ms": now + 301_000}, key),
        "environment": signed({**later, "environment": "other"}, key), "schema": signed({**later, "schema": 99}, key),
        "missing overlay": signed({**later, "overlay": {**manifest["overlay"], "name": "overlay-nope.json"}}, key),
        "wrong hash": signed({**later, "overlay": {**manifest["overlay"], "sha256": "0" * 64}}, key),
        "wrong size": signed({**later, "overlay": {**manifest["overlay"], "size": 1}}, key),
        "wrong count": signed({**later, "overlay": {**manifest["overlay"], "entries": 99}}, key),
        "wrong base": signed({**later, "base": forged}, key),
        "huge base": signed({**later, "base": {**forged, "size": 1 << 40}}, key),
        "swapped parts": signed({**later, "base": manifest["overlay"], "overlay": manifest["base"]}, key),
        "no version": signed({name: value for name, value in manifest.items() if name != "version"}, key),
        "version text": signed({**manifest, "version": "9"}, key),
    }  # fmt: skip


def test_a_damaged_replayed_or_foreign_pointer_leaves_the_last_good_snapshot_in_force(api: Api) -> None:
    key, revoked = api.bound_key("key"), api.bound_key("revoked")
    old = objects(api.deployment)[POINTER]
    disable(api, revoked)
    good = objects(api.deployment)[POINTER]
    assert (api.validate(key["value"]).status, api.validate(revoked["value"]).status) == (200, 401)
    version = api.verify(key["value"])["snapshot"]["version"]
    for name, data in pointers(api, old).items():
        put_object(api.deployment, POINTER, data)
        assert (api.validate(key["value"]).status, api.validate(revoked["value"]).status) == (200, 401), name
        assert api.verify(key["value"])["snapshot"]["version"] == version, name
    put_object(api.deployment, POINTER, good)
    disable(api, key)
    assert api.validate(key["value"]).status == 401


def test_no_flipped_bit_of_a_pointer_is_accepted(api: Api) -> None:
    key = api.bound_key()
    api.validate(key["value"])
    good = objects(api.deployment)[POINTER]
    for position in range(0, len(good), 7):
        damaged = bytearray(good)
        damaged[position] ^= 1 << (position % 8)
        put_object(api.deployment, POINTER, bytes(damaged))
        cold_start()
        assert api.validate(key["value"]).status == 503, position
    put_object(api.deployment, POINTER, good)
    cold_start()
    assert api.validate(key["value"]).status == 200


@pytest.mark.parametrize("damage", [b"", b"{}", b"not json"])
def test_a_damaged_overlay_leaves_the_last_good_snapshot_in_force(api: Api, damage: bytes) -> None:
    first, second = api.bound_key("first"), api.bound_key("second")
    assert api.validate(first["value"]).status == 200
    disable(api, second)
    name = "consumer-keys/" + pointer(api.deployment)["overlay"]["name"]
    whole = objects(api.deployment)[name]
    put_object(api.deployment, name, damage or whole[:-1] + b"]")
    assert (api.validate(first["value"]).status, api.validate(second["value"]).status) == (200, 200)
    put_object(api.deployment, name, whole)
    assert (api.validate(first["value"]).status, api.validate(second["value"]).status) == (200, 401)


@pytest.mark.parametrize("fault", ["drop", "truncate", "status", "denied", "slow down"])
def test_a_failing_read_of_the_bucket_leaves_the_last_good_snapshot_in_force(api: Api, fault: str) -> None:
    first, second = api.bound_key("first"), api.bound_key("second")
    assert api.validate(first["value"]).status == 200
    disable(api, second)
    cloud = api.deployment.cloud
    for action, times in (("GetObject", 4),):
        if fault == "drop":
            cloud.drop_next("cos", action, times=times)
        elif fault == "truncate":
            cloud.truncate_next("cos", action, times=times)
        elif fault == "status":
            cloud.status_next("cos", action, 502, times=times)
        else:
            cloud.fail_next("cos", action, "AccessDenied" if fault == "denied" else "SlowDown", times=times)
    assert api.validate(first["value"]).status == 200
    cloud.clear_faults()
    assert (api.validate(first["value"]).status, api.validate(second["value"]).status) == (200, 401)


# How fast a change is seen


def test_the_pointer_is_read_once_per_interval_while_keys_are_good(make_api: MakeApi, clock: TestClock) -> None:
    api = make_api(SNAPSHOT_POLL_SECONDS="10")
    key = api.bound_key()
    api.validate(key["value"])
    api.deployment.cloud.clear_calls()
    for _ in range(99):
        clock.shift(0.1)
        assert api.validate(key["value"]).status == 200
    assert [call.service for call in api.deployment.cloud.calls] == []
    clock.shift(0.2)
    api.validate(key["value"])
    assert [call.service for call in api.deployment.cloud.calls] == ["cos"]


def test_unknown_keys_cause_at_most_a_burst_and_then_one_look_a_second(make_api: MakeApi, clock: TestClock) -> None:
    api = make_api(SNAPSHOT_POLL_SECONDS="3600")
    api.bound_key()
    api.validate(STRONG)
    api.deployment.cloud.clear_calls()
    for _ in range(200):
        assert api.validate(STRONG).status == 401
    burst = len(api.deployment.cloud.calls)
    assert burst <= 10
    for _ in range(200):
        clock.shift(0.1)
        api.validate(STRONG)
    assert len(api.deployment.cloud.calls) - burst <= 21


def test_a_new_key_works_at_once_and_a_disabled_one_is_refused_within_the_interval(
    make_api: MakeApi, clock: TestClock
) -> None:
    api = make_api(SNAPSHOT_POLL_SECONDS="10")
    first = api.bound_key("first")
    assert api.validate(first["value"]).status == 200
    second = api.bound_key("second")
    assert api.validate(second["value"]).status == 200
    disable(api, first)
    clock.shift(10)
    assert api.validate(first["value"]).status == 401
    api("enable_key", "POST", f"/keys/{first['key_id']}/enable")
    assert api.validate(first["value"]).status == 200


def test_a_new_kms_content_works_at_once_after_the_tick(make_api: MakeApi) -> None:
    api = make_api(SNAPSHOT_POLL_SECONDS="10")
    api.validate(STRONG)
    kms_key(api, "cred", "content-Zq7x9Lk3")
    assert api.validate("content-Zq7x9Lk3").status == 200


def test_a_new_operator_may_verify_at_once(make_api: MakeApi) -> None:
    api = make_api(SNAPSHOT_POLL_SECONDS="10")
    key = api.bound_key()
    api.validate(key["value"])
    verifier = as_operator(api, "verifier")
    assert verifier.verify(key["value"])["valid"] is True


def test_nothing_is_left_on_the_disk_of_the_instance(api: Api) -> None:
    key = api.bound_key()
    api.validate(key["value"])
    folder = api.deployment.home / "validator"
    assert [path for path in folder.rglob("*") if path.is_file()] == []
