"""The timer: what becomes of a key when its credential changes, goes away or cannot be read; and what it publishes."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from ckeys.deployment import BUCKET, Deployment
from tencent_emulator.pytest_plugin import TestClock
from tests.conftest import Api
from tests.functions.helpers import (
    POINTER,
    change_content,
    code_of,
    database_down,
    kms_key,
    nothing_changes,
    objects,
    pointer,
    problem,
    put_object,
    sql,
    ssm,
)

OLD, NEW, NEWER = "content-Zq7x9Lk3", "content-Vw4t2Np8", "content-Hd5s6Rj1"


@pytest.fixture
def api(deployment: Deployment) -> Api:
    """Calls as the first operator; the instances that are asked in an outage ran before and hold the root secret."""
    made = Api(deployment, deployment.operator[1])
    made.tick()
    made("get_key", "GET", "/keys/secret-00000000000000")
    return made


@pytest.fixture
def key(api: Api, clock: TestClock) -> Any:
    """A bound KMS key on the credential `cred`, whose content is OLD; validation is warm."""
    created = kms_key(api, "cred", OLD)
    assert api.validate(OLD).status == 200
    return created


def tick(api: Api, clock: TestClock, seconds: float = 60) -> dict[str, Any]:
    """The timer's next run, a minute later."""
    clock.shift(seconds)
    report = api.tick()
    assert report["lease"] == "held"
    return report


def shown(api: Api, key: dict[str, Any]) -> dict[str, Any]:
    """`sync` as GET /keys/{id} shows it."""
    sync: dict[str, Any] = api("get_key", "GET", f"/keys/{key['key_id']}").body["sync"]
    return sync


def valid(api: Api, *values: str) -> list[bool]:
    return [api.validate(value).status == 200 for value in values]


def reads(api: Api) -> int:
    """How many times SSM was asked for a value since the last look."""
    count = sum(call.action == "GetSecretValue" for call in api.deployment.cloud.calls)
    api.deployment.cloud.clear_calls()
    return count


def status(api: Api) -> dict[str, Any]:
    body: dict[str, Any] = api("get_status", "GET", "/v1/status").body
    return body


# Changes of the content


def test_new_content_is_valid_after_one_tick_and_the_former_for_exactly_300_seconds_more(
    api: Api, clock: TestClock, key: Any
) -> None:
    change_content(api, "cred", NEW)
    assert valid(api, OLD, NEW) == [True, False]
    report = tick(api, clock)
    assert (report["polled"], report["changed"], report["failed"]) == (1, 1, 0)
    assert valid(api, OLD, NEW) == [True, True]
    clock.shift(299.999)
    assert valid(api, OLD, NEW) == [True, True]
    clock.shift(0.001)
    assert valid(api, OLD, NEW) == [False, True]
    tick(api, clock)
    assert valid(api, OLD, NEW) == [False, True]
    assert code_of(api, OLD) in ("KeyEnded", "UnknownKey")
    assert api.validate(NEW).headers["X-Key-Id"] == key["key_id"]


def test_the_overlap_ends_by_itself_without_any_tick(api: Api, clock: TestClock, key: Any) -> None:
    change_content(api, "cred", NEW)
    tick(api, clock)
    clock.shift(300)
    assert valid(api, OLD, NEW) == [False, True]


@pytest.mark.parametrize("seconds", ["0", "60", "3600"])
def test_the_overlap_is_a_setting(make_deployment: Callable[..., Deployment], clock: TestClock, seconds: str) -> None:
    deployment = make_deployment(CREDENTIAL_CACHE_SECONDS=seconds, SNAPSHOT_MAX_AGE_SECONDS="86400")
    api = Api(deployment, deployment.operator[1])
    kms_key(api, "cred", OLD)
    change_content(api, "cred", NEW)
    tick(api, clock)
    if seconds != "0":
        clock.shift(int(seconds) - 1)
        assert valid(api, OLD, NEW) == [True, True]
        clock.shift(1)
    assert valid(api, OLD, NEW) == [False, True]


def test_an_unchanged_content_changes_nothing_but_the_time_of_the_check(api: Api, clock: TestClock, key: Any) -> None:
    before = api("get_key", "GET", f"/keys/{key['key_id']}").body
    report = tick(api, clock)
    assert (report["polled"], report["unchanged"], report["changed"]) == (1, 1, 0)
    after = api("get_key", "GET", f"/keys/{key['key_id']}").body
    assert after["sync"].pop("checked_at") > before["sync"].pop("checked_at")
    assert after == before


@pytest.mark.parametrize("within", [True, False])
def test_back_to_the_former_content_makes_it_current_again(api: Api, clock: TestClock, key: Any, within: bool) -> None:
    change_content(api, "cred", NEW)
    tick(api, clock)
    if not within:
        clock.shift(400)
        tick(api, clock)
    change_content(api, "cred", OLD)
    tick(api, clock)
    assert valid(api, OLD, NEW) == [True, True]
    clock.shift(300)
    assert valid(api, OLD, NEW) == [True, False]
    tick(api, clock)
    assert valid(api, OLD, NEW) == [True, False]


def test_each_of_several_quick_changes_has_its_own_overlap(api: Api, clock: TestClock, key: Any) -> None:
    for content in (NEW, NEWER):
        change_content(api, "cred", content)
        tick(api, clock)
    assert valid(api, OLD, NEW, NEWER) == [True, True, True]
    clock.shift(240)
    assert valid(api, OLD, NEW, NEWER) == [False, True, True]
    clock.shift(60)
    assert valid(api, OLD, NEW, NEWER) == [False, False, True]


def test_a_key_follows_its_own_version_only(api: Api, clock: TestClock, key: Any) -> None:
    cloud = api.deployment.cloud
    cloud.call("ssm", "PutSecretValue", SecretName="cred", VersionId="v2", SecretString=NEW)
    tick(api, clock)
    assert valid(api, OLD, NEW) == [True, False]


def test_a_disabled_key_is_followed_but_never_valid(api: Api, clock: TestClock, key: Any) -> None:
    api("disable_key", "POST", f"/keys/{key['key_id']}/disable")
    change_content(api, "cred", NEW)
    tick(api, clock)
    assert valid(api, OLD, NEW) == [False, False]
    api("enable_key", "POST", f"/keys/{key['key_id']}/enable")
    assert valid(api, OLD, NEW) == [True, True]


# A credential that is gone


def disabled(api: Api) -> None:
    ssm(api, "DisableSecret", "cred")


def pending(api: Api) -> None:
    disabled(api)
    ssm(api, "DeleteSecret", "cred", RecoveryWindowInDays=30)


def deleted(api: Api) -> None:
    disabled(api)
    ssm(api, "DeleteSecret", "cred", RecoveryWindowInDays=0)


def version_deleted(api: Api) -> None:
    ssm(api, "DeleteSecretVersion", "cred", VersionId="v1")


@pytest.mark.parametrize(
    ("gone", "code"),
    [
        (disabled, "CredentialDisabled"), (pending, "CredentialPendingDeletion"), (deleted, "CredentialNotFound"),
        (version_deleted, "CredentialNotFound"),
    ],
)  # fmt: skip
def test_a_gone_credential_keeps_its_key_valid_for_300_seconds_and_is_shown_with_its_reason(
    api: Api, clock: TestClock, key: Any, gone: Callable[[Api], None], code: str
) -> None:
    gone(api)
    clock.shift(500)
    assert valid(api, OLD) == [True]  # nobody has noticed yet
    report = tick(api, clock)
    assert (report["ending"], report["failed"], report["errors"]) == (1, 0, {code: 1})
    sync = shown(api, key)
    assert (sync["status"], sync["error"]) == ("Success", code)
    clock.shift(120)
    first_check = sync["checked_at"]
    tick(api, clock)
    assert shown(api, key)["checked_at"] > first_check
    clock.shift(119)
    assert valid(api, OLD) == [True]
    clock.shift(1)
    assert (valid(api, OLD), code_of(api, OLD)) == ([False], "KeyEnded")
    assert tick(api, clock)["failed"] == 1
    sync = shown(api, key)
    assert (sync["status"], sync["error"]) == ("Fail", code)
    assert valid(api, OLD) == [False]


@pytest.mark.parametrize("after", [60, 240, 3000])
def test_a_credential_that_is_enabled_again_works_again(api: Api, clock: TestClock, key: Any, after: int) -> None:
    disabled(api)
    tick(api, clock)
    tick(api, clock, after)
    ssm(api, "EnableSecret", "cred")
    tick(api, clock)
    assert valid(api, OLD) == [True]
    assert (shown(api, key)["status"], shown(api, key)["error"]) == ("Success", None)
    for _ in range(10):
        tick(api, clock)
    assert valid(api, OLD) == [True]


def test_a_credential_that_comes_back_with_other_content_ends_the_old_one_on_time(
    api: Api, clock: TestClock, key: Any
) -> None:
    disabled(api)
    tick(api, clock)
    ssm(api, "EnableSecret", "cred")
    change_content(api, "cred", NEW)
    tick(api, clock)
    assert valid(api, OLD, NEW) == [True, True]
    clock.shift(240)
    assert valid(api, OLD, NEW) == [False, True]


def test_an_outage_after_a_credential_was_seen_gone_does_not_prolong_its_key(
    api: Api, clock: TestClock, key: Any
) -> None:
    disabled(api)
    tick(api, clock)
    with api.deployment.cloud.outage("ssm"):
        for _ in range(5):
            tick(api, clock)
            assert shown(api, key)["error"] == "CredentialDisabled"
    assert valid(api, OLD) == [False]
    assert shown(api, key)["status"] == "Fail"
    with api.deployment.cloud.outage("ssm"):
        tick(api, clock, 700)
    assert (shown(api, key)["status"], shown(api, key)["error"]) == ("Fail", "CredentialDisabled")


# A credential of which nothing is known


@pytest.mark.parametrize(
    "fault", ["outage", "throttle", "http 500", "InternalError", "UnauthorizedOperation", "AuthFailure"]
)
def test_an_unknown_state_changes_nothing_but_the_report(api: Api, clock: TestClock, key: Any, fault: str) -> None:
    cloud = api.deployment.cloud
    before = api("get_key", "GET", f"/keys/{key['key_id']}").body
    for _ in range(4):
        cloud.clear_faults()
        if fault == "throttle":
            cloud.throttle("ssm", "GetSecretValue", 0)
        elif fault == "http 500":
            cloud.status_next("ssm", "GetSecretValue", 500)
        elif fault == "outage":
            cloud.drop_next("ssm", "GetSecretValue")
        else:
            cloud.fail_next("ssm", "GetSecretValue", fault)
        report = tick(api, clock, 400)
        assert (report["unknown"], report["failed"], report["changed"]) == (1, 0, 0)
        assert sum(report["errors"].values()) == 1
        assert valid(api, OLD) == [True]
    assert shown(api, key)["status"] == "Success"
    assert shown(api, key)["error"] in ("DependencyUnavailable", "CredentialUnreadable")
    cloud.clear_faults()
    tick(api, clock, 400)
    after = api("get_key", "GET", f"/keys/{key['key_id']}").body
    assert after["sync"].pop("checked_at") > before["sync"].pop("checked_at")
    assert after == before
    assert valid(api, OLD) == [True]


def test_a_new_content_arrives_after_an_outage(api: Api, clock: TestClock, key: Any) -> None:
    change_content(api, "cred", NEW)
    with api.deployment.cloud.outage("ssm"):
        tick(api, clock)
        assert valid(api, OLD, NEW) == [True, False]
    tick(api, clock)
    assert valid(api, OLD, NEW) == [True, True]


def test_repeated_failures_are_asked_about_ever_more_rarely_but_never_forgotten(
    api: Api, clock: TestClock, key: Any
) -> None:
    reads(api)
    asked = []
    with api.deployment.cloud.outage("ssm"):
        for _ in range(120):
            tick(api, clock)
            asked.append(reads(api))
    assert asked[:4] == [1, 1, 1, 1]
    assert sum(asked[:30]) < 15
    assert all(sum(asked[start : start + 12]) >= 1 for start in range(108))
    for _ in range(12):
        tick(api, clock)
    assert shown(api, key)["error"] is None
    reads(api)
    tick(api, clock)
    assert reads(api) == 1


@pytest.mark.parametrize("content", ["short", "with space", "x" * 257, "逗号逗号逗号", "ck_reserved-prefix"])
def test_an_unusable_new_content_keeps_the_old_one_and_is_reported(
    api: Api, clock: TestClock, key: Any, content: str
) -> None:
    change_content(api, "cred", content)
    for _ in range(3):
        report = tick(api, clock, 200)
        assert report["errors"] == {"CredentialInvalid": 1}
        assert valid(api, OLD) == [True]
    assert shown(api, key)["error"] == "CredentialInvalid"
    change_content(api, "cred", NEW)
    tick(api, clock)
    assert valid(api, NEW) == [True]


def test_a_new_content_that_another_key_uses_keeps_the_old_one_and_is_reported(
    api: Api, clock: TestClock, key: Any
) -> None:
    other = api.bound_key("other", generation="Custom", value=NEW)
    change_content(api, "cred", NEW)
    assert tick(api, clock)["errors"] == {"ValueInUse": 1}
    assert valid(api, OLD, NEW) == [True, True]
    assert api.validate(NEW).headers["X-Key-Id"] == other["key_id"]
    assert shown(api, key)["error"] == "ValueInUse"


def contents(api: Api, names: str, values: list[str]) -> None:
    """New contents of several credentials, within one tick."""
    for name, value in zip(names, values, strict=True):
        change_content(api, f"cred-{name}", value)


@pytest.mark.parametrize("names", ["ab", "abc", "abcdefgh"])
def test_keys_whose_credentials_swap_their_contents_follow_them_in_one_tick(
    api: Api, clock: TestClock, names: str
) -> None:
    values = [f"content-{name}-Zq7x" for name in names]
    keys = [kms_key(api, f"cred-{name}", value) for name, value in zip(names, values, strict=True)]
    turned = values[1:] + values[:1]
    contents(api, names, turned)
    report = tick(api, clock)
    assert (report["changed"], report["unknown"], report["errors"]) == (len(names), 0, {})
    for minutes in (0, 1, 10):
        clock.shift(60 * minutes)
        api.tick()
        for key, value in zip(keys, turned, strict=True):
            assert api.validate(value).headers["X-Key-Id"] == key["key_id"]
    audited = sql(api.deployment, "SELECT target FROM audit WHERE action = 'key.sync'")
    assert sorted(row["target"] for row in audited) == sorted(key["key_id"] for key in keys)


def test_a_content_that_moved_on_to_another_key_is_taken_over_and_the_last_former_one_overlaps(
    api: Api, clock: TestClock
) -> None:
    first, second = kms_key(api, "cred-a", OLD), kms_key(api, "cred-b", NEW)
    contents(api, "ab", [NEW, NEWER])
    assert tick(api, clock)["changed"] == 2
    owners = {value: api.validate(value).headers["X-Key-Id"] for value in (OLD, NEW, NEWER)}
    assert owners == {OLD: first["key_id"], NEW: first["key_id"], NEWER: second["key_id"]}
    clock.shift(300)
    assert valid(api, OLD, NEW, NEWER) == [False, True, True]


@pytest.mark.parametrize("other", ["unreadable", "gone", "unusable", "the same"])
def test_a_content_is_not_taken_from_a_key_that_has_not_given_it_up(api: Api, clock: TestClock, other: str) -> None:
    first, second = kms_key(api, "cred-a", OLD), kms_key(api, "cred-b", NEW)
    contents(api, "a", [NEW])
    if other == "unreadable":
        api.deployment.cloud.fail_next("ssm", "GetSecretValue", "InternalError", only="cred-b", times=9)
    elif other == "gone":
        ssm(api, "DisableSecret", "cred-b")
    elif other == "unusable":
        contents(api, "b", ["no key value"])
    assert tick(api, clock)["errors"].get("ValueInUse") == 1
    assert api.validate(OLD).headers["X-Key-Id"] == first["key_id"]
    assert api.validate(NEW).headers["X-Key-Id"] == second["key_id"]


@pytest.mark.parametrize("swapped", [False, True])
def test_the_secret_of_an_operator_never_becomes_a_key_value(
    api: Api, clock: TestClock, key: Any, swapped: bool
) -> None:
    """As the content of the credential itself, or of the one that it swaps contents with."""
    secret = api.token
    if swapped:
        other = kms_key(api, "second", NEW)
        change_content(api, "cred", NEW)
        change_content(api, "second", secret)
    else:
        change_content(api, "cred", secret)
    for _ in range(3):
        assert tick(api, clock)["errors"]["ValueInUse"] >= 1
        assert valid(api, OLD, secret) == [True, False]
    if swapped:
        assert api.validate(NEW).headers["X-Key-Id"] == other["key_id"]
    assert shown(api, key)["error"] == "ValueInUse"


# Many keys


def test_one_failing_credential_of_thirty_holds_none_of_the_others_back(api: Api, clock: TestClock) -> None:
    for number in range(30):
        kms_key(api, f"cred{number}", f"old-content-{number}")
        change_content(api, f"cred{number}", f"new-content-{number}")
        clock.shift(1)  # the one seen longest ago comes first: the fault below is for number 0
    ssm(api, "DisableSecret", "cred3")
    change_content(api, "cred7", "unusable content")
    api.deployment.cloud.fail_next("ssm", "GetSecretValue", "InternalError")
    report = tick(api, clock)
    assert (report["polled"], report["changed"], report["ending"], report["unknown"]) == (30, 27, 1, 2)
    news = valid(api, *(f"new-content-{number}" for number in range(30)))
    assert sum(news) == 27
    assert all(valid(api, *(f"old-content-{number}" for number in range(30))))


def test_two_keys_on_one_credential_cost_one_read_and_both_follow(
    make_deployment: Callable[..., Deployment], clock: TestClock
) -> None:
    deployment = make_deployment(GATEWAYS="default,other")
    api = Api(deployment, deployment.operator[1])
    kms_key(api, "cred", OLD)
    body = {"name": "second", "generation": "KMS", "credential": {"name": "cred", "version": "v1"}}
    second = api("create_key", "POST", "/v1/gateways/other/keys", body).body
    consumer = api("create_consumer", "POST", "/v1/gateways/other/consumers", {"name": "app"}).body
    path = f"/v1/gateways/other/keys/{second['key_id']}/consumer"
    api("bind_consumer", "PUT", path, {"consumer_id": consumer["consumer_id"]})
    api.tick()  # a cold instance reads the root secret too
    change_content(api, "cred", NEW)
    reads(api)
    report = tick(api, clock)
    assert (report["polled"], report["changed"], reads(api)) == (2, 2, 1)
    for gateway in ("default", "other"):
        assert api("validate_key", "GET", f"/v1/gateways/{gateway}/validate", token=NEW).status == 200


def test_two_keys_may_not_share_a_content_within_one_gateway(api: Api, key: Any) -> None:
    body = {"name": "second", "generation": "KMS", "credential": {"name": "cred", "version": "v1"}}
    problem(api("create_key", "POST", "/keys", body), 409, "ValueInUse")


def test_system_and_custom_keys_are_not_polled(api: Api, clock: TestClock) -> None:
    api.bound_key("one")
    api.bound_key("two", generation="Custom", value=NEW)
    reads(api)
    assert (tick(api, clock)["polled"], reads(api)) == (0, 0)


# One run at a time, and its report


def test_an_overlapping_run_does_nothing_and_says_busy(api: Api, key: Any) -> None:
    cloud = api.deployment.cloud
    cloud.clear_calls()
    cloud.delay("ssm", "GetSecretValue", 0.5)
    reports: list[dict[str, Any]] = []
    first = threading.Thread(target=lambda: reports.append(api.tick()))
    first.start()
    while not sql(api.deployment, "SELECT 1 FROM leases WHERE name = 'sync' AND expires_at > 0"):
        assert first.is_alive()
        time.sleep(0)
    overlapping = api.tick()
    first.join()
    assert overlapping["lease"] == "busy"
    assert "polled" not in overlapping
    assert (reports[0]["lease"], reports[0]["polled"]) == ("held", 1)
    assert api.tick()["lease"] == "held"


def test_the_lease_of_a_run_that_died_ends_before_ten_minutes_are_over(api: Api, clock: TestClock, key: Any) -> None:
    services = api.deployment.services
    now_ms = services.now_ms()
    assert services.store.housekeeping(
        "lease-claim", lambda db: db.claim_lease("sync", "a run that is killed", now_ms, 295_000)
    )
    change_content(api, "cred", NEW)
    assert api.tick()["lease"] == "busy"
    tick(api, clock, 600)
    assert valid(api, NEW) == [True]


def test_the_report_is_returned_stored_and_shown_by_status(api: Api, clock: TestClock, key: Any) -> None:
    earlier = status(api)["last_sync"]
    change_content(api, "cred", NEW)
    report = tick(api, clock)
    assert status(api)["last_sync"] != earlier
    assert status(api)["last_sync"] == report
    assert {"polled", "changed", "unchanged", "failed", "unknown", "errors", "published", "poll_ms", "publish_ms"} <= (
        report.keys()
    )
    assert report["published"]["version"] == status(api)["snapshot"]["version"]
    assert report["published"]["revision"] == status(api)["revision"] == status(api)["snapshot"]["revision"]
    api.tick()  # at once again: nothing is due, and the report is the newest one's
    assert status(api)["last_sync"]["changed"] == 0


def test_the_report_holds_no_content_and_no_name_of_a_credential(api: Api, clock: TestClock, key: Any) -> None:
    change_content(api, "cred", "unusable content")
    text = json.dumps(tick(api, clock))
    assert "unusable" not in text
    assert "content-" not in text


def test_a_tick_during_an_outage_of_the_database_changes_nothing_and_the_next_one_works(
    api: Api, clock: TestClock, key: Any
) -> None:
    change_content(api, "cred", NEW)
    with database_down(api.deployment):
        clock.shift(60)
        assert api.tick()["code"] == "DependencyUnavailable"
    assert valid(api, OLD, NEW) == [True, False]
    tick(api, clock)
    assert valid(api, OLD, NEW) == [True, True]


def test_the_time_in_the_event_decides_nothing(api: Api, clock: TestClock, key: Any) -> None:
    change_content(api, "cred", NEW)
    clock.shift(60)
    event = {"Type": "Timer", "TriggerName": "x", "Time": "1999-01-01T00:00:00Z", "Message": '{"force": true}'}
    assert api.deployment.call("sync_credentials", event)["changed"] == 1


# Publication


def test_each_tick_republishes_so_that_the_snapshot_stays_young(api: Api, clock: TestClock, key: Any) -> None:
    versions = []
    for _ in range(3):
        tick(api, clock)
        state = status(api)["snapshot"]
        versions.append(state["version"])
        assert state["age_seconds"] < 1
        assert api.verify(OLD)["snapshot"]["age_seconds"] < 1
    assert versions == sorted(set(versions))
    clock.shift(30)
    assert status(api)["snapshot"]["age_seconds"] == pytest.approx(30, abs=1)


def test_a_publication_that_was_missed_is_repaired_by_the_next_tick(api: Api, clock: TestClock) -> None:
    first = api.bound_key("first")
    with api.deployment.cloud.outage("cos"):
        api("disable_key", "POST", f"/keys/{first['key_id']}/disable")
        second = api.bound_key("second")
    assert valid(api, first["value"], second["value"]) == [True, False]
    state = status(api)
    assert state["snapshot"]["revision"] < state["revision"]
    tick(api, clock)
    assert valid(api, first["value"], second["value"]) == [False, True]
    state = status(api)
    assert state["snapshot"]["revision"] == state["revision"]


def test_an_outage_of_cos_during_the_tick_is_reported_and_the_polling_is_kept(
    api: Api, clock: TestClock, key: Any
) -> None:
    change_content(api, "cred", NEW)
    with api.deployment.cloud.outage("cos"):
        report = tick(api, clock)
    assert (report["changed"], report["published"], report["publish_error"]) == (1, None, "DependencyUnavailable")
    assert valid(api, OLD, NEW) == [True, False]
    assert tick(api, clock)["publish_error"] is None
    assert valid(api, OLD, NEW) == [True, True]


def test_a_late_overwrite_by_an_old_publisher_is_repaired_by_the_next_tick(api: Api, clock: TestClock) -> None:
    key = api.bound_key()
    late = objects(api.deployment)[POINTER]
    api("disable_key", "POST", f"/keys/{key['key_id']}/disable")
    put_object(api.deployment, POINTER, late)
    tick(api, clock)
    assert valid(api, key["value"]) == [False]
    assert pointer(api.deployment)["version"] == status(api)["snapshot"]["version"]


def test_a_version_is_never_given_out_twice_after_a_restored_database(api: Api, clock: TestClock) -> None:
    api.bound_key()
    before = pointer(api.deployment)["version"]
    sql(api.deployment, "UPDATE deployment SET published_version = 0, published_revision = 0")
    sql(api.deployment, "DELETE FROM publications")
    tick(api, clock)
    assert pointer(api.deployment)["version"] > before


def many_keys(api: Api, number: int) -> list[dict[str, Any]]:
    """Bound keys, published."""
    keys = []
    consumer = api.create_consumer("many")
    for index in range(number):
        key = api.create_key(f"many-{index}")
        api.bind(key, consumer)
        keys.append(key)
    assert api.tick()["publish_error"] is None
    return keys


@pytest.mark.parametrize("by", ["a tick", "a change"])
def test_a_snapshot_that_would_lose_many_keys_is_refused_and_reported_and_the_last_one_stays(
    api: Api, clock: TestClock, by: str
) -> None:
    keys = many_keys(api, 30)
    before = pointer(api.deployment)
    for key in keys[:20]:
        sql(api.deployment, "DELETE FROM key_values WHERE key_id = :id", id=key["key_id"])
        sql(api.deployment, "DELETE FROM consumer_keys WHERE key_id = :id", id=key["key_id"])
    if by == "a change":
        api.create_consumer("another")
    else:
        report = tick(api, clock)
        assert report["published"] is None
        assert "20 of 30" in report["publish_error"]
        assert status(api)["last_sync"]["publish_error"] == report["publish_error"]
    after = pointer(api.deployment)
    assert all(after[name] == before[name] for name in ("base", "overlay", "revision"))
    assert all(valid(api, *(key["value"] for key in keys)))


def test_while_the_shrink_guard_holds_ticks_keep_the_last_snapshot_in_force(api: Api, clock: TestClock) -> None:
    keys = many_keys(api, 30)
    sql(api.deployment, "DELETE FROM key_values")
    for _ in range(3):
        clock.shift(1800)
        assert "30 of 30" in api.tick()["publish_error"]
        assert all(valid(api, *(key["value"] for key in keys)))


def test_an_operator_can_override_the_shrink_guard(api: Api, clock: TestClock) -> None:
    keys = many_keys(api, 30)
    sql(api.deployment, "DELETE FROM key_values")
    assert tick(api, clock)["published"] is None
    assert api.deployment.services.publisher.publish(heartbeat=True, may_shrink=True) is not None
    assert not any(valid(api, *(key["value"] for key in keys)))
    assert tick(api, clock)["publish_error"] is None


def test_a_few_lost_keys_are_published(api: Api, clock: TestClock) -> None:
    keys = many_keys(api, 30)
    for key in keys[:9]:
        sql(api.deployment, "DELETE FROM key_values WHERE key_id = :id", id=key["key_id"])
    assert tick(api, clock)["publish_error"] is None
    assert sum(valid(api, *(key["value"] for key in keys))) == 21


def test_keys_deleted_one_by_one_are_no_mishap(api: Api, clock: TestClock) -> None:
    for key in many_keys(api, 20):
        path = f"/keys/{key['key_id']}"
        api("disable_key", "POST", f"{path}/disable")
        api("unbind_consumer", "DELETE", f"{path}/consumer")
        assert api("delete_key", "DELETE", path).status == 204
        assert valid(api, key["value"]) == [False]
    assert tick(api, clock)["publish_error"] is None
    assert pointer(api.deployment)["revision"] == status(api)["revision"]


@pytest.mark.long
def test_the_base_is_rebuilt_when_the_overlay_has_outgrown_it_and_nothing_is_lost(api: Api, clock: TestClock) -> None:
    keys = many_keys(api, 110)  # more than a hundred changes, and more than 5 % of an empty base
    base = pointer(api.deployment)["base"]["name"]
    assert pointer(api.deployment)["base"]["entries"] == 111
    tick(api, clock)
    assert pointer(api.deployment)["overlay"]["entries"] == 0
    assert pointer(api.deployment)["base"]["name"] == base
    assert all(valid(api, *(key["value"] for key in keys)))
    for key in keys[:3]:
        api("disable_key", "POST", f"/keys/{key['key_id']}/disable")
    assert pointer(api.deployment)["base"]["name"] == base
    assert pointer(api.deployment)["overlay"]["entries"] == 3
    assert valid(api, *(key["value"] for key in keys)) == [False] * 3 + [True] * 107
    path = f"/keys/{keys[0]['key_id']}"
    api("unbind_consumer", "DELETE", f"{path}/consumer")
    api("delete_key", "DELETE", path)
    assert code_of(api, keys[0]["value"]) == "UnknownKey"


def test_clean_up_deletes_what_is_a_day_old_and_never_what_the_pointer_names(api: Api, clock: TestClock) -> None:
    key = api.bound_key()
    path = f"/keys/{key['key_id']}"
    for number in range(30):
        api("update_key", "PATCH", path, {"name": f"name-{number}"})
        clock.shift(60)
        if number % 10 == 9:
            tick(api, clock)
    before = set(objects(api.deployment))
    assert len(before) > 30
    clock.shift(82_000)
    tick(api, clock)
    assert before <= set(objects(api.deployment))  # not a day old yet
    clock.shift(86_400)
    for _ in range(25):
        tick(api, clock)
    left = set(objects(api.deployment))
    manifest = pointer(api.deployment)
    assert {POINTER, *(f"consumer-keys/{manifest[part]['name']}" for part in ("base", "overlay"))} <= left
    assert len(left) < 10
    assert api.validate(key["value"]).status == 200
    api("update_key", "PATCH", path, {"name": "name-0"})  # equal to an overlay that was deleted
    assert api.validate(key["value"]).headers["X-Key-Name"] == "name-0"


def test_clean_up_touches_nothing_else_in_the_bucket(api: Api, clock: TestClock) -> None:
    put_object(api.deployment, "consumer-keys/note.txt", b"kept")
    put_object(api.deployment, "other/base-0.lmdb", b"kept")
    clock.shift(200_000)
    for _ in range(25):
        tick(api, clock)
    assert {"consumer-keys/note.txt", "other/base-0.lmdb"} <= set(api.deployment.cloud.cos.list_objects(BUCKET))


def test_a_restart_finds_the_same_keys_valid(
    make_deployment: Callable[..., Deployment], clock: TestClock, tmp_path: Any
) -> None:
    first = make_deployment(tmp_path / "kept", durable=True)
    api = Api(first, first.operator[1])
    system = api.bound_key("system")
    kms_key(api, "cred", OLD)
    first.close()
    clock.shift(5000)
    second = make_deployment(tmp_path / "kept", durable=True)
    again = Api(second, second.operator[1])
    assert again.validate(OLD).status == 503
    tick(again, clock)
    assert valid(again, system["value"], OLD) == [True, True]
    with nothing_changes(second):
        assert again("list_keys", "GET", "/keys").body["total_count"] == 2
