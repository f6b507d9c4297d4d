"""Revealing a value: audited before the value leaves, limited per operator, and switched off where nobody needs it."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from ckeys.deployment import Deployment
from consumer_keys import wiring
from tencent_emulator.pytest_plugin import TestClock
from tests.conftest import Answer, Api
from tests.functions.helpers import as_operator, database_down, nothing_changes, problem, sql

PER_MINUTE, PER_DAY = 5, 12


@pytest.fixture
def limited(make_deployment: Callable[..., Deployment]) -> Api:
    deployment = make_deployment(REVEALS_PER_MINUTE=str(PER_MINUTE), REVEALS_PER_DAY=str(PER_DAY))
    return Api(deployment, deployment.operator[1])


def reveal(api: Api, key: dict[str, Any], **body: Any) -> Answer:
    return api("reveal_key", "POST", f"/keys/{key['key_id']}/reveal", body)


def test_a_reveal_has_its_audit_row_with_the_reason_and_is_not_to_be_stored(api: Api) -> None:
    key = api.create_key()
    answer = reveal(api, key, reason="the application lost it")
    assert (answer.body["value"], answer.headers["Cache-Control"]) == (key["value"], "no-store")
    (row,) = sql(api.deployment, "SELECT * FROM audit WHERE action = 'key.reveal'")
    assert (row["actor"], row["target"]) == (api.deployment.operator[0], key["key_id"])
    assert json.loads(row["after"]) == {"reason": "the application lost it"}


@pytest.mark.parametrize("table", ["audit", "reveals"])
def test_no_row_no_value(api: Api, table: str, capsys: pytest.CaptureFixture[str]) -> None:
    key = api.create_key()
    with nothing_changes(api.deployment):
        sql(api.deployment, f"ALTER TABLE {table} RENAME TO aside")
        answer = reveal(api, key)
        sql(api.deployment, f"ALTER TABLE aside RENAME TO {table}")
    problem(answer, 503, "DependencyUnavailable")
    assert key["value"] not in str(answer) + capsys.readouterr().out
    assert reveal(api, key).body["value"] == key["value"]


def test_no_database_no_value(api: Api) -> None:
    key = api.create_key()
    with database_down(api.deployment):
        problem(reveal(api, key), 503, "DependencyUnavailable")


def test_an_operator_is_given_so_many_values_in_a_minute_and_in_a_day(limited: Api, clock: TestClock) -> None:
    key = limited.create_key()
    assert [reveal(limited, key).status for _ in range(PER_MINUTE)] == [200] * PER_MINUTE
    refused = reveal(limited, key)
    problem(refused, 429, "RevealLimitExceeded")
    assert refused.headers["Retry-After"] == "60"
    assert key["value"] not in str(refused)
    clock.shift(59.9)
    problem(reveal(limited, key), 429, "RevealLimitExceeded")
    clock.shift(0.1)
    assert [reveal(limited, key).status for _ in range(PER_MINUTE)] == [200] * PER_MINUTE
    clock.shift(60)
    assert [reveal(limited, key).status for _ in range(3)] == [200, 200, 429]
    clock.shift(60)
    refused = reveal(limited, key)
    assert int(refused.headers["Retry-After"]) == 86_400 - 180
    clock.shift(86_400 - 180)
    assert reveal(limited, key).status == 200


def test_by_default_an_operator_is_given_five_values_in_a_minute_and_fifty_in_a_day(
    make_deployment: Callable[..., Deployment], clock: TestClock
) -> None:
    deployment = make_deployment(REVEALS_PER_MINUTE="", REVEALS_PER_DAY="")  # an empty setting is an unset one
    assert not {"REVEALS_PER_MINUTE", "REVEALS_PER_DAY"} & deployment.environment.keys()
    api = Api(deployment, deployment.operator[1])
    key = api.create_key()
    for _ in range(10):
        assert [reveal(api, key).status for _ in range(5)] == [200] * 5
        refused = reveal(api, key)
        problem(refused, 429, "RevealLimitExceeded")
        clock.shift(60)
    refused = reveal(api, key)
    problem(refused, 429, "RevealLimitExceeded")
    assert int(refused.headers["Retry-After"]) == 86_400 - 600
    clock.shift(86_400 - 600)
    assert reveal(api, key).status == 200


def test_each_operator_has_limits_of_their_own_and_they_hold_across_instances(limited: Api) -> None:
    key = limited.create_key()
    other = as_operator(limited, "revealer")
    for _ in range(PER_MINUTE):
        assert reveal(limited, key).status == 200
        wiring.close()  # the next call finds a fresh instance
    assert reveal(limited, key).status == 429
    assert reveal(other, key).status == 200


def test_many_reveals_at_once_stay_within_the_limit(limited: Api) -> None:
    key = limited.create_key()
    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(lambda _: reveal(limited, key).status, range(24)))
    assert (statuses.count(200), statuses.count(429)) == (PER_MINUTE, 24 - PER_MINUTE)
    assert len(sql(limited.deployment, "SELECT * FROM audit WHERE action = 'key.reveal'")) == PER_MINUTE


def test_refused_and_repeated_reveals_do_not_count(limited: Api) -> None:
    key = limited.create_key()
    path = f"/keys/{key['key_id']}/reveal"
    for _ in range(PER_MINUTE * 2):
        assert limited("reveal_key", "POST", "/keys/secret-00000000000000/reveal", {}).status == 404
        assert limited("reveal_key", "POST", path, {}, headers={"idempotency-key": "k"}).status == 200
    assert reveal(limited, key).status == 200


def test_counts_are_kept_for_a_day_only(limited: Api, clock: TestClock) -> None:
    key = limited.create_key()
    for _ in range(4):
        assert reveal(limited, key).status == 200
        clock.shift(86_400)
    assert len(sql(limited.deployment, "SELECT * FROM reveals")) == 1


def test_revealing_can_be_switched_off(make_deployment: Callable[..., Deployment]) -> None:
    deployment = make_deployment(REVEAL_ENABLED="false")
    api = Api(deployment, deployment.operator[1])
    key = api.create_key()
    with nothing_changes(deployment):
        problem(reveal(api, key), 403, "RevealDisabled")
        direct = deployment.call("reveal_key", {"gateway_id": "default", "key_id": key["key_id"]})
        assert direct["code"] == "RevealDisabled"
