"""Calls signed with TC3-HMAC-SHA256: accepted like bearer calls, good for five minutes, and for one change each."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from ckeys.deployment import Deployment
from consumer_keys import operators
from tencent_emulator.pytest_plugin import TestClock
from tests.conftest import GATEWAY, Answer, Api
from tests.functions.helpers import database_down, nothing_changes, problem, sql
from tests.tc3_signer import signed_event

KEYS = f"{GATEWAY}/keys"


def send(deployment: Deployment, function: str, event: dict[str, Any]) -> Answer:
    reply = deployment.call(function, event)
    return Answer(reply["statusCode"], json.loads(reply["body"]) if reply["body"] else None, reply["headers"])


def signed(api: Api, function: str, method: str, path: str, body: Any = None, **options: Any) -> Answer:
    pair = options.pop("pair", api.deployment.operator)
    return send(api.deployment, function, signed_event(pair, method, path, body, **options))


def test_a_signed_call_does_what_a_bearer_call_does(api: Api) -> None:
    created = signed(api, "create_key", "POST", KEYS, {"name": "签名-key", "generation": "System"})
    assert created.status == 201
    path = f"{KEYS}/{created.body['key_id']}"
    assert signed(api, "get_key", "GET", path).body == api("get_key", "GET", path).body
    assert signed(api, "update_key", "PATCH", path, {"description": "说明 a+b"}).body["description"] == "说明 a+b"
    query = {"keyword": "签名", "status": "Enable", "limit": "1"}
    assert signed(api, "list_keys", "GET", KEYS, query=query).body["total_count"] == 1
    assert signed(api, "disable_key", "POST", f"{path}/disable").status == 200
    assert signed(api, "delete_key", "DELETE", path, query={"dry_run": "true"}).body == {
        "deletable": True, "blockers": [],
    }  # fmt: skip
    assert signed(api, "delete_key", "DELETE", path).status == 204
    actors = sql(api.deployment, "SELECT DISTINCT actor FROM audit WHERE action LIKE 'key.%'")
    assert [row["actor"] for row in actors] == [api.deployment.operator[0]]


def test_a_signed_call_passes_the_front_door(api: Api) -> None:
    event = signed_event(api.deployment.operator, "POST", KEYS, {"name": "through", "generation": "System"})
    assert send(api.deployment, "front_door", event).status == 201


def test_what_the_signature_does_not_cover_is_refused(api: Api) -> None:
    key = api.create_key()
    other = api.create_key("other")
    event = signed_event(api.deployment.operator, "POST", f"{KEYS}/{key['key_id']}/disable")
    listing = signed_event(api.deployment.operator, "GET", KEYS, query={"limit": "1"})
    with nothing_changes(api.deployment):
        for function, changed in (
            ("disable_key", {**event, "path": f"{KEYS}/{other['key_id']}/disable"}),
            ("delete_key", {**event, "httpMethod": "DELETE", "path": f"{KEYS}/{key['key_id']}"}),
            ("disable_key", {**event, "body": "{}"}),
            ("disable_key", {**event, "headers": {**event["headers"], "host": "elsewhere.example.com"}}),
            ("list_keys", {**listing, "queryString": {"limit": "2"}}),
            ("list_keys", {**listing, "queryString": {}}),
            ("list_keys", {**listing, "body": "\udfff"}),
        ):
            refused = problem(send(api.deployment, function, changed), 401, "Unauthenticated")
            assert api.token not in str(refused)


def test_the_clock_window_is_five_minutes_and_the_answer_says_so(api: Api, clock: TestClock) -> None:
    for offset, status in ((-300, 200), (300, 200), (-301, 401), (301, 401)):
        answer = signed(api, "list_keys", "GET", KEYS, at=clock.now() + offset)
        assert answer.status == status, offset
    assert "5 minutes" in answer.body["detail"]


def test_a_captured_change_cannot_be_sent_again(api: Api, clock: TestClock) -> None:
    key = api.create_key(status="Disable")
    path = f"{KEYS}/{key['key_id']}"
    enable = signed_event(api.deployment.operator, "POST", f"{path}/enable")
    assert send(api.deployment, "enable_key", enable).status == 200
    assert send(api.deployment, "enable_key", enable).status == 200, "twice in the same second signs alike"
    assert signed(api, "disable_key", "POST", f"{path}/disable").status == 200
    for seconds in (3, 60, 200):
        clock.shift(seconds)
        with nothing_changes(api.deployment):
            problem(send(api.deployment, "enable_key", enable), 401, "SignatureReused")
    assert api("get_key", "GET", path).body["status"] == "Disable"
    clock.shift(60)
    problem(send(api.deployment, "enable_key", enable), 401, "Unauthenticated")


def test_a_signature_that_is_ahead_of_time_is_remembered_for_as_long_as_it_is_good(api: Api, clock: TestClock) -> None:
    path = f"{KEYS}/{api.create_key()['key_id']}"
    ahead = signed_event(api.deployment.operator, "POST", f"{path}/disable", at=clock.now() + 299)
    assert send(api.deployment, "disable_key", ahead).status == 200
    for _ in range(9):
        clock.shift(66)
        assert signed(api, "update_key", "PATCH", path, {"description": str(clock.now())}).status == 200
        assert send(api.deployment, "disable_key", ahead).body["code"] == "SignatureReused"
    assert len(sql(api.deployment, "SELECT * FROM signatures")) == 10


def test_used_signatures_do_not_pile_up(api: Api, clock: TestClock) -> None:
    path = f"{KEYS}/{api.create_key()['key_id']}"
    for number in range(5):
        assert signed(api, "update_key", "PATCH", path, {"description": str(number)}).status == 200
        clock.shift(601)
        api.tick()
        assert not sql(api.deployment, "SELECT * FROM signatures")


def test_a_repeated_signed_request_with_an_idempotency_key_gets_its_answer_again(api: Api, clock: TestClock) -> None:
    body = {"name": "once", "generation": "System"}
    event = signed_event(api.deployment.operator, "POST", KEYS, body, idempotency_key="k1", sign=("idempotency-key",))
    first = send(api.deployment, "create_key", event)
    clock.shift(10)
    again = send(api.deployment, "create_key", event)
    assert (again.status, again.body["key_id"]) == (201, first.body["key_id"])
    assert "value" in first.body
    assert "value" not in again.body


def test_reading_may_be_repeated_within_the_window(api: Api, clock: TestClock) -> None:
    event = signed_event(api.deployment.operator, "GET", KEYS)
    for _ in range(5):
        assert send(api.deployment, "list_keys", event).status == 200
        clock.shift(60)


def test_unknown_ids_wrong_secrets_and_disabled_operators_are_told_apart_by_nothing(api: Api) -> None:
    secret_id, secret_key = api.deployment.add_operator("leaver", "admin")
    sql(api.deployment, "UPDATE operators SET status = 'Disable' WHERE secret_id = :id", id=secret_id)
    known = api.deployment.operator[0]
    answers = []
    for pair in ((secret_id, secret_key), (known, "x" * 40), ("operator-00000000000000", api.token), (known, "")):
        answer = signed(api, "list_keys", "GET", KEYS, pair=pair)
        del answer.body["request_id"]
        answers.append(answer)
    assert answers[0].status == 401
    assert answers.count(answers[0]) == len(answers)


def test_kms_unwraps_the_operators_data_key_once_in_fifteen_minutes(api: Api, clock: TestClock) -> None:
    from consumer_keys import wiring

    wiring.close()  # the instance that sealed the secret still has its data key
    api.deployment.cloud.clear_calls()
    seen = []
    for seconds in (0, 1, 899, 1, 300):
        clock.shift(seconds)
        assert signed(api, "list_keys", "GET", KEYS).status == 200
        seen.append(sum(call.action == "Decrypt" for call in api.deployment.cloud.calls))
    assert seen == [1, 1, 2, 2, 2]


def test_verify_refuses_signatures_and_says_what_to_send_instead(api: Api) -> None:
    answer = signed(api, "validate_key", "POST", f"{GATEWAY}/verify", {"key": "kT7vQ2xM"})
    assert "Bearer" in problem(answer, 401, "Unauthenticated")["detail"]


def test_without_the_database_a_signed_call_is_503(api: Api) -> None:
    with database_down(api.deployment):
        problem(signed(api, "list_keys", "GET", KEYS), 503, "DependencyUnavailable")


@pytest.mark.parametrize("service", ["ssm", "cngw", "tse", "consumer-keys"])
def test_a_signature_for_another_service_is_refused(api: Api, service: str) -> None:
    problem(signed(api, "list_keys", "GET", KEYS, service=service), 401, "Unauthenticated")
    assert signed(api, "list_keys", "GET", KEYS, service=operators.SIGNED_SERVICE).status == 200


def refusals(api: Api, clock: TestClock) -> list[tuple[str, dict[str, Any]]]:
    """(reason, event): every way in which an operator is not recognised, for a change of a key."""
    operator, key = api.deployment.operator, api.create_key(status="Disable")
    path = f"{KEYS}/{key['key_id']}/disable"
    leaver = api.deployment.add_operator("leaver", "admin")
    sql(api.deployment, "UPDATE operators SET status = 'Disable' WHERE secret_id = :id", id=leaver[0])

    def signed_by(pair: tuple[str, str], **options: Any) -> dict[str, Any]:
        return signed_event(pair, "POST", path, **options)

    def saying(authorization: Any) -> dict[str, Any]:
        headers = {} if authorization is None else {"authorization": authorization}
        return {**signed_by(operator), "headers": headers}

    plain = signed_by(operator)
    unstamped = {name: value for name, value in plain["headers"].items() if name != "x-tc-timestamp"}
    used = signed_event(operator, "POST", path.replace("disable", "enable"))
    assert send(api.deployment, "enable_key", used).status == 200
    clock.shift(3)
    return [
        ("Missing", saying(None)),
        ("Malformed", saying("Basic eDp5")),
        ("Malformed", saying("TC3-HMAC-SHA256 Credential=canary")),
        ("Malformed", {**plain, "headers": unstamped}),
        ("Malformed", saying([f"Bearer {api.token}", "Bearer canary"])),
        ("Expired", signed_by(operator, at=clock.now() - 301)),
        ("Expired", signed_by(operator, at=clock.now() + 301)),
        ("ForeignService", signed_by(operator, service="canary")),
        ("UnsignedPayload", signed_by(operator, x_tc_content_sha256="UNSIGNED-PAYLOAD")),
        ("Token", signed_by(operator, x_tc_token="canary")),
        ("UnknownId", signed_by(("operator-canary", api.token))),
        ("Disabled", signed_by(leaver)),
        ("Mismatch", signed_by((operator[0], "canary"))),
        ("Mismatch", {**plain, "path": path.replace("disable", "enable")}),
        ("UnknownSecret", saying("Bearer canary")),
        ("Disabled", saying(f"Bearer {leaver[1]}")),
        ("Replayed", used),
    ]


def logged_by(function: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """The one line of a request that a function has logged since the last look."""
    out = capsys.readouterr().out
    assert "canary" not in out, "nothing that the sender chose"
    lines = [json.loads(line) for line in out.splitlines()]
    [line] = [line for line in lines if line["event"] == "request" and line["function"] == function]
    found: dict[str, Any] = line
    return found


def test_the_log_says_why_an_operator_was_not_recognised_and_the_answer_does_not(
    api: Api, clock: TestClock, capsys: pytest.CaptureFixture[str]
) -> None:
    for reason, event in refusals(api, clock):
        capsys.readouterr()
        with nothing_changes(api.deployment):
            answer = send(api.deployment, "front_door", event)
        line = logged_by(event["path"].rpartition("/")[2] + "_key", capsys)
        assert (line["reason"], line["status"], line["code"]) == (reason, 401, answer.body["code"]), reason
        assert answer.status == 401
        assert answer.body.keys() == {"type", "title", "status", "code", "detail", "request_id"}
        assert not {"UnknownId", "UnknownSecret", "Disabled", "Mismatch"} & set(answer.body.values())
    assert send(api.deployment, "front_door", signed_event(api.deployment.operator, "GET", KEYS)).status == 200
    assert "reason" not in logged_by("list_keys", capsys)


def test_the_reason_is_logged_for_a_source_that_failed_too_often_too(
    make_deployment: Callable[..., Deployment], clock: TestClock, capsys: pytest.CaptureFixture[str]
) -> None:
    deployment = make_deployment(AUTH_FAILURES_PER_MINUTE="1")
    event = signed_event((deployment.operator[0], "canary"), "GET", KEYS, at=clock.now())
    assert [send(deployment, "front_door", event).status for _ in range(2)] == [401, 429]
    capsys.readouterr()
    problem(send(deployment, "front_door", event), 429, "TooManyFailures")
    assert logged_by("list_keys", capsys)["reason"] == "Mismatch"
