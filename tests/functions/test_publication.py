"""Publication when something went wrong before it: failed ones, restored databases, late pointers, wrong clocks."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ckeys.deployment import BUCKET
from consumer_keys import config, follow, sync, validate_wiring, wiring
from tencent_emulator.pytest_plugin import TestClock
from tests.conftest import Api
from tests.databases import restore, rows_of
from tests.functions.helpers import POINTER, objects, pointer, put_object, signed, sql
from tests.functions.rotation import elsewhere

DAY = 86_400


def clean_up(api: Api) -> int:
    """Clean-up alone, in the one role that may delete objects."""
    with config.Hosted("sync_credentials", api.deployment.environment_of("sync_credentials")):
        return wiring.services().publisher.clean_up()


def tick(api: Api, clock: TestClock, seconds: float = 60) -> dict[str, Any]:
    clock.shift(seconds)
    report = api.tick()
    assert report["lease"] == "held"
    return report


def snapshot(api: Api) -> dict[str, Any]:
    shown: dict[str, Any] = api("get_status", "GET", "/v1/status").body["snapshot"]
    return shown


def cold(api: Api, value: str) -> bool:
    """Whether an instance that starts now accepts the value."""
    validate_wiring.close()
    return api.validate(value).status == 200


def bulk_keys(api: Api, number: int) -> None:
    """Keys straight in the database, as one change of somebody else; then published by a tick."""
    for index in range(number):
        key_id, digest = f"secret-{index:014x}", bytes([index]) * 32
        sql(
            api.deployment,
            "INSERT INTO consumer_keys (key_id, gateway_id, name, description, type, generation, status, masked_value,"
            " sync_failures, revision, created_at, modified_at)"
            " VALUES (:id, 'default', :id, '', 'ApiKey', 'System', 'Enable', 'ck_****', 0, 1, 1, 1)",
            id=key_id,
        )
        sql(
            api.deployment, "INSERT INTO key_values (digest, key_id, created_at) VALUES (:digest, :id, 1)",
            digest=digest, id=key_id,
        )  # fmt: skip


def test_values_that_came_and_went_by_sql_are_counted_by_the_next_tick_and_known_ever_after(
    api: Api, clock: TestClock
) -> None:
    bulk_keys(api, 30)
    assert tick(api, clock)["publish_error"] is None
    assert snapshot(api)["values"] == 30
    api.create_key("one")
    assert snapshot(api)["values"] == 31
    sql(api.deployment, "DELETE FROM key_values WHERE key_id < 'secret-00000000000009'")
    assert tick(api, clock)["publish_error"] is None
    api.create_key("two")
    assert snapshot(api)["values"] == 23
    sql(api.deployment, "DELETE FROM key_values WHERE key_id < 'secret-00000000000014'")
    assert tick(api, clock)["publish_error"] == "the snapshot would lose 11 of 23 values"


@pytest.mark.parametrize("base", [False, True])
def test_objects_of_failed_publications_are_cleaned_up_after_a_day(api: Api, clock: TestClock, base: bool) -> None:
    key = api.bound_key()
    if base:
        sql(api.deployment, "UPDATE deployment SET base = NULL")
    before = set(objects(api.deployment))
    api.deployment.cloud.drop_next("cos", "PutObject", "after")  # written, but nobody hears of it
    api("update_key", "PATCH", f"/keys/{key['key_id']}", {"name": "new"})
    orphans = set(objects(api.deployment)) - before
    assert len(orphans) == 1
    api.create_consumer("another")
    for _ in range(20):
        tick(api, clock)
        assert orphans <= set(objects(api.deployment))
    clock.shift(DAY - 1300)
    assert tick(api, clock)["cleaned_objects"] == 0
    assert tick(api, clock, 200)["cleaned_objects"] >= 1
    assert not orphans & set(objects(api.deployment))
    assert cold(api, key["value"])


def test_a_publication_that_failed_leaves_twenty_that_succeeded_behind(api: Api, clock: TestClock) -> None:
    """Failed ones have versions of their own, which must not use up the twenty that are kept."""
    api.bound_key()
    for _ in range(19):
        tick(api, clock)
    kept = set(objects(api.deployment))
    api.deployment.cloud.drop_next("cos", "PutObject", "after", times=25)
    for _ in range(25):
        assert tick(api, clock)["publish_error"] == "DependencyUnavailable"
    api.deployment.cloud.clear_faults()
    clock.shift(3 * DAY)
    assert tick(api, clock)["publish_error"] is None
    assert kept - set(objects(api.deployment)) <= kept
    left = sql(api.deployment, "SELECT version FROM publications WHERE revision >= 0")
    assert len(left) >= 20


def test_clean_up_that_fails_half_way_is_finished_by_a_later_tick(api: Api, clock: TestClock) -> None:
    key = api.bound_key()
    before = set(objects(api.deployment))
    for number in range(3):
        api("update_key", "PATCH", f"/keys/{key['key_id']}", {"name": f"name-{number}"})
    old = set(objects(api.deployment)) - before
    for _ in range(21):
        tick(api, clock)
    clock.shift(DAY)
    api.deployment.cloud.fail_next("cos", "DeleteObject", "InternalError")
    report = tick(api, clock)
    assert report["published"] is not None
    assert (report["publish_error"], report["clean_up_error"]) == (None, "DependencyUnavailable")
    assert tick(api, clock)["clean_up_error"] is None
    named = {f"consumer-keys/{pointer(api.deployment)[part]['name']}" for part in ("base", "overlay")}
    assert old & set(objects(api.deployment)) <= named


def test_clean_up_does_nothing_while_it_cannot_tell_what_is_in_force(api: Api, clock: TestClock) -> None:
    api.bound_key()
    for _ in range(21):
        tick(api, clock)
    clock.shift(DAY)
    before = set(objects(api.deployment))
    put_object(api.deployment, POINTER, b"damaged")
    assert clean_up(api) == 0
    assert set(objects(api.deployment)) == before


def test_clean_up_keeps_what_a_newer_pointer_names_although_the_database_does_not_know_it(
    api: Api, clock: TestClock
) -> None:
    """A restored database has old rows only; the pointer in force may name any of their objects."""
    key = api.bound_key()
    first = pointer(api.deployment)
    for number in range(3):
        api("update_key", "PATCH", f"/keys/{key['key_id']}", {"name": f"name-{number}"})
    for _ in range(21):
        tick(api, clock)
    clock.shift(DAY)
    in_force = {**pointer(api.deployment), "overlay": first["overlay"], "created_at_ms": int(clock.now() * 1000)}
    put_object(api.deployment, POINTER, signed(in_force, api.deployment.services.root.manifest_key))
    assert clean_up(api) > 0
    assert f"consumer-keys/{first['overlay']['name']}" in objects(api.deployment)
    assert cold(api, key["value"])


@pytest.mark.parametrize("by", ["a tick", "a change"])
def test_a_base_that_is_not_in_the_bucket_is_built_anew(api: Api, clock: TestClock, by: str) -> None:
    key = api.bound_key()
    manifest = pointer(api.deployment)
    api.deployment.cloud.cos.delete_object(BUCKET, f"consumer-keys/{manifest['base']['name']}")
    if by == "a change":  # the pointer of before the restore names another base
        manifest["base"]["name"] = manifest["base"]["name"].replace("base-", "base-f")
        put_object(api.deployment, POINTER, signed(manifest, api.deployment.services.root.manifest_key))
        api.create_consumer("another")
    else:
        assert tick(api, clock)["publish_error"] is None
    assert f"consumer-keys/{pointer(api.deployment)['base']['name']}" in objects(api.deployment)
    assert pointer(api.deployment)["version"] > manifest["version"]
    assert cold(api, key["value"])


def test_a_restored_database_gives_out_no_version_and_no_revision_twice(api: Api, clock: TestClock) -> None:
    key = api.bound_key()
    engine = api.deployment.services.store.engine
    tick(api, clock)
    backup = rows_of(engine)
    for number in range(10):
        api("update_key", "PATCH", f"/keys/{key['key_id']}", {"name": f"name-{number}"})
    before = pointer(api.deployment)
    assert api.validate(key["value"]).headers["X-Key-Name"] == "name-9"
    restore(engine, backup)
    assert tick(api, clock)["publish_error"] is None
    after = pointer(api.deployment)
    assert (after["version"], after["revision"]) > (before["version"], before["revision"])
    assert after["revision"] > before["revision"]
    answer = api.validate(key["value"])  # the warm instance takes over what was restored
    assert (answer.status, answer.headers["X-Key-Name"]) == (200, "key")
    shown = api("get_key", "GET", f"/keys/{key['key_id']}")
    changed = api(
        "update_key", "PATCH", f"/keys/{key['key_id']}", {"name": "last"}, headers={"if-match": shown.headers["ETag"]}
    )
    assert changed.body["revision"] > after["revision"]


def test_a_version_exceeds_that_of_a_pointer_with_a_date_in_the_future(api: Api, clock: TestClock) -> None:
    key = api.bound_key()
    far = {**pointer(api.deployment), "version": 1000, "created_at_ms": int((clock.now() + DAY) * 1000)}
    put_object(api.deployment, POINTER, signed(far, api.deployment.services.root.manifest_key))
    assert tick(api, clock)["publish_error"] is None
    assert pointer(api.deployment)["version"] > 1000
    assert cold(api, key["value"])


def test_a_late_pointer_is_not_renewed_while_the_shrink_guard_holds(api: Api, clock: TestClock) -> None:
    bulk_keys(api, 30)
    key = api.bound_key()
    late = objects(api.deployment)[POINTER]
    api("disable_key", "POST", f"/keys/{key['key_id']}/disable")
    tick(api, clock)
    in_force = pointer(api.deployment)
    put_object(api.deployment, POINTER, late)
    sql(api.deployment, "DELETE FROM key_values WHERE key_id LIKE 'secret-0000000000%'")
    for _ in range(2):
        assert "would lose 30 of 31" in tick(api, clock)["publish_error"]
        assert not cold(api, key["value"])
    renewed = pointer(api.deployment)
    assert renewed["version"] > in_force["version"]
    assert (renewed["overlay"], renewed["revision"]) == (in_force["overlay"], in_force["revision"])


def test_a_pointer_that_was_written_but_not_recorded_is_renewed_while_the_guard_holds(
    api: Api, clock: TestClock
) -> None:
    """Its publisher died in between; readers have seen it, so nothing older may follow."""
    bulk_keys(api, 30)
    api.bound_key()
    tick(api, clock)
    newer = pointer(api.deployment)
    newer |= {"version": newer["version"] + 1, "revision": newer["revision"] + 1}
    put_object(api.deployment, POINTER, signed(newer, api.deployment.services.root.manifest_key))
    sql(api.deployment, "DELETE FROM key_values WHERE key_id LIKE 'secret-0000000000%'")
    assert "would lose 30 of 31" in tick(api, clock)["publish_error"]
    assert pointer(api.deployment)["version"] > newer["version"]
    assert pointer(api.deployment)["revision"] == newer["revision"]


@pytest.mark.parametrize("lease", ["publish", "sync"])
def test_a_lease_taken_under_a_clock_that_was_a_day_ahead_blocks_nobody(api: Api, clock: TestClock, lease: str) -> None:
    key = api.bound_key()
    far = int((clock.now() + DAY) * 1000)
    sql(api.deployment, "UPDATE leases SET expires_at = :far WHERE name = :name", far=far, name=lease)
    api("disable_key", "POST", f"/keys/{key['key_id']}/disable")
    assert tick(api, clock)["publish_error"] is None
    assert not cold(api, key["value"])


def test_a_tick_waits_for_the_lease_of_a_publisher_that_died(api: Api, clock: TestClock) -> None:
    key = api.bound_key()
    services = api.deployment.services
    token = services.store.housekeeping(
        "lease-claim", lambda db: db.claim_lease("publish", "a function that is killed", services.now_ms(), 1_000)
    )
    assert token is not None
    api("disable_key", "POST", f"/keys/{key['key_id']}/disable")
    ticking = iter(range(100))
    pace = follow.Pace(60, lambda: next(ticking) * 1.0, clock.shift, lambda: 0.0)
    report = sync.run(services, "request", pace)
    assert report["published"] is not None, json.dumps(report)
    assert not cold(api, key["value"])


def test_an_instance_with_another_environment_does_not_publish_over_the_deployments_snapshot(
    api: Api, clock: TestClock
) -> None:
    value = api.bound_key("key")["value"]
    for _ in range(21):
        api.tick()
    clock.shift(2 * DAY)  # there is something to clean up
    elsewhere(api, "mistyped", ENVIRONMENT="prod")("create_consumer", "POST", "/consumers", {"name": "app"})
    before = objects(api.deployment)[POINTER]
    strange = elsewhere(api, "mistyped", ENVIRONMENT="prod").deployment
    report = strange.call("sync_credentials", {"Type": "Timer", "TriggerName": "t", "Time": "", "Message": ""})
    assert "ENVIRONMENT" in report["publish_error"]
    assert "ENVIRONMENT" in report["clean_up_error"]
    assert objects(api.deployment)[POINTER] == before
    assert tick(api, clock)["published"], "the deployment itself goes on"
    assert cold(api, value)
