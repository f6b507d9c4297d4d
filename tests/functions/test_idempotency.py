"""Idempotency-Key on every POST: a repeated request has one effect and one answer, given without a secret."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import pytest

from ckeys.deployment import Deployment
from tencent_emulator.pytest_plugin import TestClock
from tests.cloud_api.test_answers import Cloud
from tests.conftest import Answer, Api
from tests.functions.helpers import STRONG, as_operator, nothing_changes, problem, sql, ssm
from tests.functions.test_create_key import LONG


class Post(NamedTuple):
    """A POST, another body or path for the same Idempotency-Key, and the name of a secret in the first answer."""

    function: str
    path: str
    body: Any
    other_path: str
    other_body: Any
    secret: str | None


CASES = [
    "create_system", "create_custom", "create_kms", "create_consumer", "create_group", "enable", "disable", "reveal",
]  # fmt: skip


def post(api: Api, case: str) -> Post:
    system: dict[str, Any] = {"name": "first", "generation": "System"}
    if case == "create_system":
        return Post("create_key", "/keys", system, "/keys", {**system, "name": "second"}, "value")
    if case == "create_custom":
        body = {**system, "generation": "Custom", "value": LONG}
        return Post("create_key", "/keys", body, "/keys", {**body, "value": LONG[1:]}, None)
    if case == "create_kms":
        api.put_credential("cred", "content-Zq7x9Lk3")
        body = {**system, "generation": "KMS", "credential": {"name": "cred", "version": "v1"}}
        return Post("create_key", "/keys", body, "/keys", {**body, "description": "x"}, None)
    if case == "create_consumer":
        return Post("create_consumer", "/consumers", {"name": "app"}, "/consumers", {"name": "other"}, None)
    if case == "create_group":
        return Post("create_group", "/groups", {"name": "team"}, "/groups", {"name": "other"}, None)
    key = api.create_key("key", status="Enable" if case == "disable" else "Disable")
    other = api.create_key("other")
    path, other_path = f"/keys/{key['key_id']}/{case}", f"/keys/{other['key_id']}/{case}"
    if case == "reveal":
        return Post("reveal_key", path, {"reason": "one"}, other_path, {"reason": "two"}, "value")
    return Post(f"{case}_key", path, None, other_path, None, None)


def send(api: Api, given: Post, key: str = "k-1", **changed: Any) -> Answer:
    path, body = changed.get("path", given.path), changed.get("body", given.body)
    return api(given.function, "POST", path, body, headers={"idempotency-key": key})


@pytest.mark.parametrize("case", CASES)
def test_the_same_request_again_has_one_effect_and_replays_the_answer_without_its_secret(api: Api, case: str) -> None:
    given = post(api, case)
    first = send(api, given)
    assert first.status in (200, 201), first.body
    assert "Idempotency-Replayed" not in first.headers
    with nothing_changes(api.deployment):
        again = send(api, given)
    assert (again.status, again.headers["Idempotency-Replayed"]) == (first.status, "true")
    if given.secret:
        secret = first.body.pop(given.secret)
        assert again.body.pop(given.secret, None) is None
        assert secret not in str(again)
    assert again.body == first.body


@pytest.mark.parametrize("case", CASES)
def test_the_same_key_with_another_request_is_refused(api: Api, case: str) -> None:
    given = post(api, case)
    send(api, given)
    with nothing_changes(api.deployment):
        other = send(api, given, path=given.other_path, body=given.other_body)
        problem(other, 422, "IdempotencyKeyReused")
        problem(api("create_consumer", "POST", "/consumers", {"name": "else"}, headers={"idempotency-key": "k-1"}),
                422, "IdempotencyKeyReused")  # fmt: skip


@pytest.mark.parametrize("case", ["create_system", "create_consumer"])
def test_another_key_is_another_request(api: Api, case: str) -> None:
    given = post(api, case)
    send(api, given)
    problem(send(api, given, "k-2"), 409, "NameInUse")


def test_operators_have_keys_of_their_own(api: Api) -> None:
    colleague = as_operator(api, "editor")
    given = post(api, "create_consumer")
    send(api, given)
    answer = send(colleague, given, body={"name": "theirs"})
    assert (answer.status, answer.body["name"]) == (201, "theirs")
    assert "Idempotency-Replayed" not in answer.headers


def test_a_refused_attempt_is_not_stored(api: Api) -> None:
    given = Post("create_key", "/keys", {"name": "key", "generation": "KMS",
                 "credential": {"name": "cred", "version": "v1"}}, "", None, None)  # fmt: skip
    problem(send(api, given), 422, "CredentialNotFound")
    problem(send(api, given, body={"name": "1"}), 400, "InvalidParameter")
    api.put_credential("cred", "content-Zq7x9Lk3")
    answer = send(api, given)
    assert answer.status == 201
    assert "Idempotency-Replayed" not in answer.headers


@pytest.mark.parametrize("case", ["create_system", "create_custom"])
def test_an_attempt_that_failed_in_an_outage_is_not_stored(api: Api, case: str) -> None:
    given = post(api, case)
    with api.deployment.cloud.outage("kms"):
        problem(send(api, given), 503, "DependencyUnavailable")
    answer = send(api, given)
    assert answer.status == 201
    assert "Idempotency-Replayed" not in answer.headers


def test_a_reveal_that_failed_in_an_outage_is_not_stored_so_that_the_value_still_comes(
    api: Api, clock: TestClock
) -> None:
    key = api.create_key()
    clock.shift(901)  # the data key is no longer in memory
    given = Post("reveal_key", f"/keys/{key['key_id']}/reveal", {}, "", None, None)
    with nothing_changes(api.deployment), api.deployment.cloud.outage("kms"):
        problem(send(api, given), 503, "DependencyUnavailable")
    assert send(api, given).body["value"] == key["value"]


def test_a_replay_needs_nothing_but_the_database(api: Api, clock: TestClock) -> None:
    created, revealed = post(api, "create_kms"), post(api, "reveal")
    first, second = send(api, created, "k-1"), send(api, revealed, "k-2")
    clock.shift(901)
    ssm(api, "DisableSecret", "cred")
    cloud = api.deployment.cloud
    with cloud.outage("ssm"), cloud.outage("kms"), cloud.outage("cos"):
        again = send(api, created, "k-1")
        assert (again.status, again.body) == (201, first.body)
        assert send(api, revealed, "k-2").status == second.status == 200


def test_an_answer_is_replayed_for_24_hours_and_then_forgotten(api: Api, clock: TestClock) -> None:
    given = post(api, "create_consumer")
    send(api, given)
    clock.shift(86_400)
    assert send(api, given).headers["Idempotency-Replayed"] == "true"
    clock.shift(1)
    problem(send(api, given), 409, "NameInUse")
    assert send(api, given, body={"name": "other"}).status == 201
    clock.shift(86_401)
    api.tick()
    assert not sql(api.deployment, "SELECT * FROM idempotency")


def test_an_answer_is_replayed_as_it_was_even_if_things_changed_since(api: Api) -> None:
    given = post(api, "enable")
    key_path = given.path.rpartition("/")[0]
    first = send(api, given)
    api("disable_key", "POST", f"{key_path}/disable")
    assert send(api, given).body == first.body
    assert api("get_key", "GET", key_path).body["status"] == "Disable"


@pytest.mark.parametrize("case", ["create_system", "create_consumer"])
def test_64_requests_at_once_with_one_key_make_one_row_and_get_one_answer(api: Api, case: str) -> None:
    given = post(api, case)
    with ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(lambda _: send(api, given), range(64)))
    values = [answer.body.pop("value") for answer in answers if "value" in answer.body]
    assert len(values) == (case == "create_system")  # the first answer alone has it
    assert {answer.status for answer in answers} == {201}
    assert all(answer.body == answers[0].body for answer in answers)
    table, path = ("consumer_keys", "keys") if case == "create_system" else ("consumers", "consumers")
    assert len(sql(api.deployment, f"SELECT * FROM {table}")) == 1
    assert len(sql(api.deployment, "SELECT * FROM idempotency")) == 1
    assert api(f"list_{path}", "GET", f"/{path}").body["total_count"] == 1


def test_the_value_of_a_new_key_whose_answer_was_lost_is_recovered_by_reveal(api: Api) -> None:
    lost = send(api, post(api, "create_system")).body
    again = send(api, post(api, "create_system"))
    assert "value" not in again.body
    revealed = api("reveal_key", "POST", f"/keys/{again.body['key_id']}/reveal", {})
    assert revealed.body["value"] == lost["value"]


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "é", "a\x00", ["a", "b"], 5])
def test_a_malformed_idempotency_key_is_refused(api: Api, key: Any) -> None:
    with nothing_changes(api.deployment):
        answer = api("create_consumer", "POST", "/consumers", {"name": "app"}, headers={"idempotency-key": key})
    problem(answer, 400, "InvalidParameter", "Idempotency-Key")


def test_stored_answers_hold_no_value(api: Api) -> None:
    values = []
    for number, case in enumerate(("create_system", "reveal")):
        answer = send(api, post(api, case), f"k-{number}")
        values.append(answer.body["value"])
    rows = sql(api.deployment, "SELECT * FROM idempotency")
    assert len(rows) == 2
    assert not any(value in str(rows) for value in values)


def test_what_is_kept_of_a_request_cannot_be_tried_by_guessing_its_value(
    make_deployment: Callable[..., Deployment],
) -> None:
    """It is keyed by the root secret, as lookup digests are: a custom value may have few bits."""
    kept = []
    for name in ("one", "two"):
        deployment = make_deployment()
        api = Api(deployment, deployment.operator[1])
        sent = {"name": "key", "generation": "Custom", "value": f"custom-{STRONG}"}
        assert api("create_key", "POST", "/keys", sent, headers={"idempotency-key": name}).status == 201
        cloud = Cloud(api)
        fields = {"GatewayId": "default", "Name": "other", "SecretType": "ApiKey", "ResourceType": "Consumer",
                  "GenerateType": "Custom", "SecretValue": f"other-{STRONG}"}  # fmt: skip
        assert "Result" in cloud.send(cloud.event("cngw", "CreateSecretKey", fields, idempotency_key=f"{name}-again"))
        kept.append({row["fingerprint"] for row in sql(deployment, "SELECT fingerprint FROM idempotency")})
    assert [len(each) for each in kept] == [2, 2]
    assert not kept[0] & kept[1]
