"""The timer under pressure: many credentials, every kind of failure, quotas, overtaken runs, clocks that jump."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ckeys.deployment import Deployment
from consumer_keys import follow, sync
from consumer_keys.keytext import lookup_digest
from consumer_keys.operators import system_caller
from consumer_keys.secret import Secret
from consumer_keys.store.change import Change
from tencent_emulator.pytest_plugin import TestClock
from tests.conftest import Api
from tests.functions.helpers import change_content, kms_key, sql

# An account has at most 1,000 secrets of ten versions each (the emulator enforces it, as SSM does), and one of them is
# the root secret: 9,990 credentials are the most that keys can ever follow. A sample on the servers: the calls, not the
# statements, are what this is about.
SECRETS = 999
MANY = {"sqlite": SECRETS * 10, "postgresql": 1_200, "mariadb": 1_200}
SOME = {"sqlite": 200, "postgresql": 32, "mariadb": 32}
QUOTA = 300  # GetSecretValue, requests per second (tests/emulator/test_limits.py)
KINDS = (
    "disabled", "deleted", "throttled", "dropped", "bad gateway", "internal", "forbidden", "unusable",
)  # fmt: skip
GONE = {"disabled": "CredentialDisabled", "deleted": "CredentialNotFound"}


def content(number: int, version: int = 0) -> str:
    return f"content-{number:05d}-{version:03d}-Zq7x"


def many_kms_keys(api: Api, count: int) -> None:
    """KMS keys on credentials of their own, bound to one consumer, written as one change and due at the next run."""
    consumer = api.create_consumer("many")["consumer_id"]
    secrets = min(count, SECRETS)
    services = api.deployment.services
    now = services.now_ms()

    def insert(db: Change) -> None:
        for number in range(count):
            key_id = f"secret-{number:014x}"
            db.insert_key(
                {
                    "key_id": key_id, "gateway_id": "default", "name": f"key-{number}", "description": "",
                    "type": "ApiKey", "generation": "KMS", "status": "Enable", "masked_value": "****",
                    "consumer_id": consumer, "credential_name": f"cred-{number % secrets}",
                    "credential_version": f"v{number // secrets + 1}",
                    "sync_status": "Success", "sync_checked_at": now, "sync_next_at": now + 1,
                }
            )  # fmt: skip
            db.add_value(key_id, services.roots(db).lookup("default", Secret(content(number).encode())))
            db.audit("key.create", "default", key_id, None)

    for number in range(count):
        name, version = f"cred-{number % secrets}", f"v{number // secrets + 1}"
        action = "CreateSecret" if number < secrets else "PutSecretValue"
        api.deployment.cloud.call("ssm", action, SecretName=name, VersionId=version, SecretString=content(number))
    services.store.change(system_caller("test", ""), now, insert)
    assert api.tick()["publish_error"] is None


def paced(clock: TestClock, seconds: float = 290.0, random: Callable[[], float] = lambda: 1.0) -> follow.Pace:
    """The run's time is the clock's: a sleep moves it on."""
    return follow.Pace(seconds, clock.now, clock.shift, random)


def run(api: Api, clock: TestClock, seconds: float = 290.0) -> dict[str, Any]:
    return sync.run(api.deployment.services, "request", paced(clock, seconds))


def throttled(api: Api) -> int:
    return sum(call.code == "RequestLimitExceeded" for call in api.deployment.cloud.calls)


def valid(api: Api, value: str) -> bool:
    return api.validate(value).status == 200


# Every kind of failure


def fail(api: Api, kind: str, name: str) -> None:
    cloud = api.deployment.cloud
    if kind in ("disabled", "deleted"):
        cloud.call("ssm", "DisableSecret", SecretName=name)
        if kind == "deleted":
            cloud.call("ssm", "DeleteSecret", SecretName=name, RecoveryWindowInDays=0)
    elif kind == "throttled":
        cloud.fail_next("ssm", "GetSecretValue", "RequestLimitExceeded", times=99, only=name)
    elif kind == "dropped":
        cloud.drop_next("ssm", "GetSecretValue", times=99, only=name)
    elif kind == "bad gateway":
        cloud.status_next("ssm", "GetSecretValue", 502, times=99, only=name)
    elif kind == "internal":
        cloud.fail_next("ssm", "GetSecretValue", "InternalError", times=99, only=name)
    elif kind == "forbidden":
        cloud.fail_next("ssm", "GetSecretValue", "UnauthorizedOperation", times=99, only=name)
    else:
        change_content(api, name, "not a key value")


def heal(api: Api, kind: str, name: str, value: str) -> None:
    cloud = api.deployment.cloud
    if kind == "disabled":
        cloud.call("ssm", "EnableSecret", SecretName=name)
    if kind == "deleted":
        api.put_credential(name, value)


@pytest.mark.long
def test_each_of_many_credentials_fails_in_each_of_8_ways_while_the_others_stay_current(
    api: Api, clock: TestClock, database: str
) -> None:
    """In each of 16 ticks half of them fail, each way an eighth; the contents of all others are new in each tick."""
    count = SOME[database]
    many_kms_keys(api, count)
    services = api.deployment.services
    seen: set[tuple[int, str]] = set()
    for turn in range(1, 17):
        failing = {n: KINDS[(n + turn) % 16] for n in range(count) if (n + turn) % 16 < 8}
        for number in range(count):
            if number in failing:
                fail(api, failing[number], f"cred-{number}")
            else:
                change_content(api, f"cred-{number}", content(number, turn))
        clock.shift(1_300)  # longer than any quarantine, longer than the overlap
        report = run(api, clock)
        seen |= set(failing.items())
        current = services.store.snapshot(lambda db: {digest for digest, record in db.all_keys() if not record.ends_at})
        for number in set(range(count)) - set(failing):
            digest = lookup_digest(services.root.lookup_key, "default", content(number, turn).encode())
            assert digest in current, (turn, number)
        gone = sum(kind in GONE for kind in failing.values())
        assert (report["lease"], report["polled"], report["deferred"]) == ("held", count, 0)
        assert report["ending"] + report["failed"] == gone
        assert report["unknown"] == len(failing) - gone
        assert report["retries"] <= 0.1 * report["calls"]
        api.deployment.cloud.clear_faults()
        for number, kind in failing.items():
            heal(api, kind, f"cred-{number}", content(number, turn))
            change_content(api, f"cred-{number}", content(number, turn))
        clock.shift(1_300)
        report = run(api, clock)
        assert (report["polled"], report["changed"], report["errors"]) == (count, len(failing), {})
    assert len(seen) == count * 8


# Quotas, back-off, fairness


@pytest.mark.long
def test_many_credentials_at_the_published_quota_are_followed_without_one_throttled_call(
    make_deployment: Callable[..., Deployment], clock: TestClock, database: str
) -> None:
    deployment, many = make_deployment(SSM_REQUESTS_PER_SECOND=str(QUOTA)), MANY[database]
    api = Api(deployment, deployment.operator[1])
    many_kms_keys(api, many)
    deployment.cloud.throttle("ssm", "GetSecretValue", QUOTA)
    deployment.cloud.clear_calls()
    started = clock.now()
    clock.shift(60)
    report = run(api, clock)
    assert (report["polled"], report["deferred"], report["throttled"], throttled(api)) == (many, 0, 0, 0)
    assert report["unchanged"] == many
    assert clock.now() - started - 60 >= many / QUOTA - 1


def test_above_the_quota_a_run_slows_down_and_loses_nothing(
    make_deployment: Callable[..., Deployment], clock: TestClock
) -> None:
    """The guard of the test above: the emulator does enforce the quota, and the run does see it."""
    deployment = make_deployment(SSM_REQUESTS_PER_SECOND="200")
    api = Api(deployment, deployment.operator[1])
    many_kms_keys(api, 100)
    deployment.cloud.throttle("ssm", "GetSecretValue", 20)
    deployment.cloud.clear_calls()
    clock.shift(60)
    report = run(api, clock)
    assert report["throttled"] == throttled(api) > 0
    assert report["retries"] <= 0.1 * report["calls"]
    assert report["throttled"] < 0.2 * report["calls"]
    assert (report["polled"], report["failed"], report["ending"]) == (100, 0, 0)
    assert all(valid(api, content(number)) for number in range(0, 100, 10))


def test_back_off_has_full_jitter_and_ends_with_the_first_success(api: Api, clock: TestClock) -> None:
    many_kms_keys(api, 8)
    api.deployment.cloud.fail_next("ssm", "GetSecretValue", "InternalError", times=6)
    clock.shift(60)
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        clock.shift(seconds)

    pace = paced(clock)._replace(sleep=sleep)
    sync.run(api.deployment.services, "request", pace)
    assert waits[:6] == pytest.approx([0.2, 0.4, 0.8, 1.6, 3.2, 6.4], rel=0.01)
    assert len([wait for wait in waits if wait > 0.01]) == 6
    clock.shift(60)
    api.deployment.cloud.fail_next("ssm", "GetSecretValue", "InternalError", times=6)
    waits.clear()
    sync.run(api.deployment.services, "request", pace._replace(random=lambda: 0.5))
    assert waits[:6] == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2], rel=0.01)


def test_a_run_stops_in_time_and_the_next_ones_go_on_where_it_stopped(
    make_deployment: Callable[..., Deployment], clock: TestClock
) -> None:
    deployment = make_deployment(SSM_REQUESTS_PER_SECOND="10")
    api = Api(deployment, deployment.operator[1])
    many_kms_keys(api, 100)
    for number in range(100):
        change_content(api, f"cred-{number}", content(number, 1))
    clock.shift(60)
    changed = 0
    for _ in range(4):
        started = clock.now()
        report = run(api, clock, seconds=3.0)
        assert clock.now() - started <= 3.001
        assert report["polled"] in (30, 31)
        assert report["polled"] + report["deferred"] == 100
        # Those seen already are due again as well, but come after those that are not.
        changed += report["changed"]
        assert report["changed"] == min(report["polled"], 100 - changed + report["changed"])
        assert report["publish_error"] is None
        clock.shift(60 - (clock.now() - started))
    assert changed == 100
    assert [valid(api, content(number, 1)) for number in range(0, 100, 9)] == [True] * 12


# Overtaken runs


def test_a_run_that_outlives_its_lease_writes_nothing_more_and_says_so(api: Api, clock: TestClock) -> None:
    for number in range(2):
        kms_key(api, f"cred-{number}", content(number))
        clock.shift(1)  # the one seen longest ago comes first
    for number in range(2):
        change_content(api, f"cred-{number}", content(number, 1))
    looks = iter(range(1000))

    def monotonic() -> float:
        if next(looks) == 9:  # in the middle of its polling it is frozen, and the next run takes over
            change_content(api, "cred-1", content(1, 2))
            clock.shift(120)
            assert api.tick()["lease"] == "held"
        return 0.0

    report = sync.run(api.deployment.services, "request", paced(clock)._replace(monotonic=monotonic))
    assert report["lease"] == "lost"
    shown = api("get_status", "GET", "/v1/status").body["last_sync"]
    assert (shown["lease"], shown["started_at"] > report["started_at"]) == ("held", True)
    assert [valid(api, content(1, version)) for version in (0, 1, 2)] == [True, False, True]
    assert valid(api, content(0, 1))


def test_repeated_and_late_events_work_from_what_is_there_now(api: Api, clock: TestClock) -> None:
    kms_key(api, "cred-0", content(0))
    event = {"Type": "Timer", "TriggerName": "x", "Time": "2027-01-15T08:00:00Z", "Message": ""}
    for version in (1, 2):
        change_content(api, "cred-0", content(0, version))
        clock.shift(3600)
        reports = [api.deployment.call("sync_credentials", event) for _ in range(3)]
        assert [report["changed"] for report in reports] == [1, 0, 0]
        assert valid(api, content(0, version))


def test_a_run_that_died_does_not_keep_the_next_ones_from_publishing(api: Api, clock: TestClock) -> None:
    services = api.deployment.services
    token = services.store.housekeeping(
        "lease-claim", lambda db: db.claim_lease("sync", "a run that is killed", services.now_ms(), sync.LEASE_MS)
    )
    assert token is not None
    key = api.bound_key()
    with api.deployment.cloud.outage("cos"):
        api("disable_key", "POST", f"/keys/{key['key_id']}/disable")
    report = api.tick()
    assert (report["lease"], report["publish_error"]) == ("busy", None)
    assert not valid(api, key["value"])
    clock.shift(60)
    assert api.tick()["lease"] == "held"


# An SSM that has lost everything


@pytest.mark.long
def test_an_ssm_that_finds_nothing_drops_nothing_and_the_guard_stops_the_publication(
    api: Api, clock: TestClock
) -> None:
    many_kms_keys(api, 40)
    assert valid(api, content(0))  # validation has its root secret
    assert api("get_status", "GET", "/v1/status").status == 200  # and so has this function
    api.deployment.cloud.fail_next("ssm", "GetSecretValue", "ResourceNotFound", times=10_000)
    for minute in range(12):
        clock.shift(60)
        report = run(api, clock)
        assert report["publish_error"] == "the snapshot would lose 40 of 40 values"
        assert (report["ending"], report["failed"]) == ((40, 0) if minute < 5 else (0, 40))
        assert all(valid(api, content(number)) for number in range(0, 40, 8)), minute
    shown = api("get_status", "GET", "/v1/status").body["last_sync"]
    assert shown["errors"] == {"CredentialNotFound": 40}
    api.deployment.cloud.clear_faults()
    clock.shift(60)
    report = run(api, clock)
    assert (report["publish_error"], report["failed"], report["changed"]) == (None, 0, 40)
    assert all(valid(api, content(number)) for number in range(0, 40, 8))


# Clocks that jump


@pytest.mark.parametrize("jump", [3_600, 86_400])
def test_ends_noted_under_a_clock_that_was_ahead_are_shortened(api: Api, clock: TestClock, jump: float) -> None:
    kms_key(api, "cred-0", content(0))
    kms_key(api, "cred-1", content(1))
    api.tick()
    change_content(api, "cred-0", content(0, 1))
    api.deployment.cloud.call("ssm", "DisableSecret", SecretName="cred-1")
    clock.shift(jump)
    assert api.tick()["seconds_since_last_run"] == jump
    clock.shift(60 - jump)
    assert api.tick()["clock"] == "behind"  # of the run before it, which was ahead
    clock.shift(60)
    report = api.tick()
    assert (report["clock"], report["ends_corrected"]) == ("ok", 2)
    assert [valid(api, value) for value in (content(0), content(0, 1), content(1))] == [True, True, True]
    clock.shift(300)
    api.tick()
    assert [valid(api, value) for value in (content(0), content(0, 1), content(1))] == [False, True, False]


def test_a_clock_that_is_behind_ends_nothing_before_its_time(api: Api, clock: TestClock) -> None:
    kms_key(api, "cred-0", content(0))
    kms_key(api, "cred-1", content(1))
    api.tick()
    assert valid(api, content(0))
    change_content(api, "cred-0", content(0, 1))
    api.deployment.cloud.call("ssm", "DisableSecret", SecretName="cred-1")
    clock.shift(-86_400)
    report = api.tick()
    assert (report["clock"], report["changed"], report["ending"]) == ("behind", 1, 1)
    clock.shift(86_460)
    assert [valid(api, value) for value in (content(0), content(0, 1), content(1))] == [True, True, True]
    api.tick()
    clock.shift(299)
    assert [valid(api, value) for value in (content(0), content(0, 1), content(1))] == [True, True, True]
    clock.shift(1)
    assert [valid(api, value) for value in (content(0), content(0, 1), content(1))] == [False, True, False]


@pytest.mark.parametrize("jump", [3_600, 86_400])
def test_keys_polled_under_a_clock_that_was_ahead_are_polled_again_at_once(
    api: Api, clock: TestClock, jump: float
) -> None:
    kms_key(api, "cred-0", content(0))
    clock.shift(jump)
    api.tick()
    clock.shift(60 - jump)
    change_content(api, "cred-0", content(0, 1))
    assert api.tick()["changed"] == 1
    assert valid(api, content(0, 1))
    assert sql(api.deployment, "SELECT sync_next_at FROM consumer_keys")[0]["sync_next_at"] < (clock.now() + 60) * 1000
