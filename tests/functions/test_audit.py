"""The audit log through the functions: what it records, who may read it, and that nothing done to it stays unseen."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from click.testing import CliRunner

from ckeys.deployment import Deployment
from ckeys.main import cli
from consumer_keys import audit
from consumer_keys.fields import AUDIT_ACTIONS
from consumer_keys.model import CreateKey
from consumer_keys.operators import system_caller
from consumer_keys.secret import REDACTED
from tencent_emulator.pytest_plugin import TestClock
from tests.conftest import Api
from tests.functions.helpers import STRONG, as_operator, kms_key, nothing_changes, objects, problem, put_object, sql

HEAD = "consumer-keys-audit/head.json"


def rows(api: Api, **filters: str) -> list[dict[str, Any]]:
    answer = api("list_audit", "GET", "/audit", query={"limit": "100", **filters})
    assert answer.status == 200, answer.body
    items: list[dict[str, Any]] = answer.body["items"]
    return items


def fault(api: Api) -> str | None:
    return audit.verify(api.deployment.services).fault


# What is recorded


def test_a_change_is_recorded_with_who_what_before_after_request_and_revision(api: Api) -> None:
    key = api.create_key("before")
    editor = as_operator(api, "editor")
    changed = editor("update_key", "PATCH", f"/keys/{key['key_id']}", {"name": "after"}).body
    row = rows(api)[0]
    assert (row["action"], row["gateway_id"], row["target"]) == ("key.update", "default", key["key_id"])
    assert (row["before"]["name"], row["after"]) == ("before", changed)
    assert (row["revision"], row["at"]) == (changed["revision"], changed["modified_at"])
    assert row["actor"].startswith("operator-")
    assert row["actor"] != api.deployment.operator[0]
    assert len(row["request_id"]) == 36
    assert key["value"] not in json.dumps(rows(api))


def test_every_change_of_a_life_has_a_row_and_what_changes_nothing_has_none(api: Api, clock: TestClock) -> None:
    key = api.bound_key()
    at, holder = f"/keys/{key['key_id']}", f"/consumers/{rows(api, action='consumer.create')[0]['target']}"
    kms_key(api, "cred", "kms-content-1-aB3dE6gH")
    for _ in range(2):
        api("disable_key", "POST", f"{at}/disable")
        api("enable_key", "POST", f"{at}/enable")
        api("enable_key", "POST", f"{at}/enable")
    api("update_key", "PATCH", at, {"description": "x"})
    api("update_consumer", "PATCH", holder, {"status": "Disable"})
    api("reveal_key", "POST", f"{at}/reveal", {"reason": "lost"})
    api("unbind_consumer", "DELETE", f"{at}/consumer")
    api("unbind_consumer", "DELETE", f"{at}/consumer")
    api("disable_key", "POST", f"{at}/disable")
    api("delete_key", "DELETE", at, query={"dry_run": "true"})
    api("delete_key", "DELETE", at)
    api("delete_consumer", "DELETE", holder)
    api.deployment.cloud.call(
        "ssm", "UpdateSecret", SecretName="cred", VersionId="v1", SecretString="kms-content-2-Zx9"
    )
    for _ in range(3):
        api.tick()
        clock.shift(200)
    api.tick()
    found = [row["action"] for row in reversed(rows(api))]
    assert found == [
        "key.create", "consumer.create", "key.bind", "key.create", "consumer.create", "key.bind", "key.disable",
        "key.enable", "key.disable", "key.enable", "key.update", "consumer.update", "key.reveal", "key.unbind",
        "key.disable", "key.delete", "consumer.delete", "key.sync", "key.overlap_end",
    ]  # fmt: skip
    assert rows(api, action="key.reveal")[0]["after"] == {"reason": "lost"}
    assert fault(api) is None


def test_the_closed_list_of_actions_is_kept(api: Api) -> None:
    app = api.deployment.services
    with pytest.raises(ValueError, match=r"key\.rename"):
        app.store.change(system_caller("x", ""), 0, lambda db: db.audit("key.rename", "default", "secret-1", None))
    assert {row["action"] for row in sql(api.deployment, "SELECT action FROM audit")} <= AUDIT_ACTIONS


def test_a_change_without_an_audit_row_is_undone(api: Api) -> None:
    key, app = api.create_key(), api.deployment.services
    caller, now_ms = system_caller("x", ""), app.now_ms()
    with nothing_changes(api.deployment), pytest.raises(RuntimeError, match="audit row"):
        app.store.change(caller, now_ms, lambda db: db.update_key(key["key_id"], description="unseen"))


# The database refuses rows of the audit log, as it would if the log's disk were full; and takes them again.
LOG_IS_FULL = {
    "sqlite": ["CREATE TRIGGER stop BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'the log is full'); END"],
    "postgresql": [
        "CREATE FUNCTION stop() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'the log is full'; END $$",
        "CREATE TRIGGER stop BEFORE INSERT ON audit FOR EACH ROW EXECUTE FUNCTION stop()",
    ],
    "mariadb": [
        "CREATE TRIGGER stop BEFORE INSERT ON audit FOR EACH ROW"
        " SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'the log is full'"
    ],
}
LOG_HAS_ROOM = {
    "sqlite": ["DROP TRIGGER stop"],
    "postgresql": ["DROP TRIGGER stop ON audit", "DROP FUNCTION stop"],
    "mariadb": ["DROP TRIGGER stop"],
}


def test_no_audit_no_change_and_no_reveal(api: Api, database: str) -> None:
    key = api.create_key()
    for statement in LOG_IS_FULL[database]:
        sql(api.deployment, statement)
    with nothing_changes(api.deployment):
        problem(
            api("create_key", "POST", "/keys", {"name": "new", "generation": "System"}), 503, "DependencyUnavailable"
        )
        problem(api("disable_key", "POST", f"/keys/{key['key_id']}/disable"), 503, "DependencyUnavailable")
        refused = api("reveal_key", "POST", f"/keys/{key['key_id']}/reveal")
        problem(refused, 503, "DependencyUnavailable")
    assert key["value"] not in str(refused)
    for statement in LOG_HAS_ROOM[database]:
        sql(api.deployment, statement)
    assert api("reveal_key", "POST", f"/keys/{key['key_id']}/reveal").body["value"] == key["value"]


# Refused reveals


def test_a_reveal_that_a_known_operator_is_refused_is_recorded(make_deployment: Callable[..., Deployment]) -> None:
    deployment = make_deployment(GATEWAYS="default,other")
    api = Api(deployment, deployment.operator[1])
    key, kms = api.create_key(), kms_key(api, "cred", "kms-content-1-aB3dE6gH")
    viewer, stranger = as_operator(api, "viewer"), as_operator(api, "revealer", ("other",))
    unknown = "secret-00000000000000"
    for operator, key_id, status, code in (
        (viewer, key["key_id"], 403, "Forbidden"), (stranger, key["key_id"], 404, "GatewayNotFound"),
        (api, unknown, 404, "KeyNotFound"), (api, kms["key_id"], 409, "ManagedByKms"),
    ):  # fmt: skip
        problem(operator("reveal_key", "POST", f"/keys/{key_id}/reveal"), status, code)
        row = rows(api)[0]
        assert (row["action"], row["target"]) == ("key.reveal_denied", key_id)
        assert (row["before"], row["after"]) == (None, {"code": code})
    actors = [row["actor"] for row in rows(api, action="key.reveal_denied")]
    assert actors[:2] == [deployment.operator[0]] * 2
    assert len(set(actors)) == 3
    api.tick()
    assert fault(api) is None


def test_anonymous_and_malformed_reveals_write_nothing(api: Api) -> None:
    key = api.create_key()
    before = sql(api.deployment, "SELECT * FROM audit")
    path = f"/keys/{key['key_id']}/reveal"
    problem(api("reveal_key", "POST", path, token=None), 401, "Unauthenticated")
    problem(api("reveal_key", "POST", path, token=key["value"]), 401, "Unauthenticated")
    problem(api("reveal_key", "POST", path, {"reason": 5}), 400, "InvalidParameter")
    problem(api("reveal_key", "GET", path), 405, "MethodNotAllowed")
    assert sql(api.deployment, "SELECT * FROM audit") == before


def test_a_value_in_place_of_an_id_never_reaches_the_log(api: Api) -> None:
    key = api.create_key()
    for place in (key["value"], STRONG):
        problem(api("reveal_key", "POST", f"/keys/{place}/reveal"), 404, "KeyNotFound")
        path = f"/v1/gateways/{place}/keys/{key['key_id']}/reveal"
        problem(api("reveal_key", "POST", path), 404, "GatewayNotFound")
    found = sql(api.deployment, "SELECT * FROM audit WHERE action = 'key.reveal_denied' ORDER BY sequence")
    assert [(row["gateway_id"], row["target"]) for row in found] == [("default", ""), ("", key["key_id"])] * 2
    assert not any(place in str(row) for row in found for place in (key["value"], STRONG))


# Reading


def test_filters_and_their_combinations_select_exactly_their_rows(api: Api, clock: TestClock) -> None:
    editor = as_operator(api, "editor")
    keys = []
    for number, operator in enumerate((api, editor, api, editor)):
        keys.append(operator.create_key(f"key-{number}")["key_id"])
        clock.shift(10)
    api("disable_key", "POST", f"/keys/{keys[1]}/disable")
    everything = rows(api)
    assert [row["sequence"] for row in everything] == sorted((row["sequence"] for row in everything), reverse=True)
    actor, moment = everything[1]["actor"], everything[2]["at"]
    for filters, expected in (
        ({"actor": actor}, [keys[3], keys[1]]), ({"action": "key.disable"}, [keys[1]]),
        ({"target": keys[1]}, [keys[1]] * 2),
        ({"actor": actor, "target": keys[1]}, [keys[1]]), ({"actor": "operator-0"}, []),
        ({"from": moment}, [keys[1], keys[3], keys[2]]), ({"to": moment}, [keys[1], keys[0]]),
        ({"from": moment, "to": moment}, []), ({"from": "2999-01-01T00:00:00Z"}, []),
        ({"to": "2999-01-01T00:00:00.123456+08:00", "limit": "2"}, [keys[1], keys[3]]),
    ):  # fmt: skip
        assert [row["target"] for row in rows(api, **filters)] == expected, filters


def test_pages_join_without_gap_or_repetition_while_rows_are_added(api: Api) -> None:
    for number in range(7):
        api.create_key(f"key-{number}")
    expected = [row["sequence"] for row in rows(api)]
    query, seen = {"limit": "3"}, []
    while True:
        answer = api("list_audit", "GET", "/audit", query=query).body
        assert answer.keys() == {"items", "next_cursor"}
        seen += [row["sequence"] for row in answer["items"]]
        api.create_key(f"later-{len(seen)}")
        if answer["next_cursor"] is None:
            break
        query["cursor"] = answer["next_cursor"]
    assert seen == expected


def test_a_cursor_of_the_log_works_for_its_gateway_and_filters_alone(
    make_deployment: Callable[..., Deployment],
) -> None:
    deployment = make_deployment(GATEWAYS="default,other")
    api = Api(deployment, deployment.operator[1])
    for number in range(2):
        api.create_key(f"key-{number}")
    cursor = api("list_audit", "GET", "/audit", query={"limit": "1"}).body["next_cursor"]
    for path, query in (
        ("/v1/gateways/other/audit", {}), ("/audit", {"action": "key.create"}), ("/keys", {}), ("/consumers", {}),
        ("/audit", {"to": "2999-01-01T00:00:00Z"}), ("/audit", {"cursor": cursor[:-1] + chr(ord(cursor[-1]) ^ 1)}),
    ):  # fmt: skip
        function = {"keys": "list_keys", "consumers": "list_consumers"}.get(path.rpartition("/")[2], "list_audit")
        problem(api(function, "GET", path, query={"cursor": cursor, **query}), 400, "InvalidParameter", "cursor")


def test_a_gateway_shows_its_own_rows_and_no_row_of_the_deployment(make_deployment: Callable[..., Deployment]) -> None:
    deployment = make_deployment(GATEWAYS="default,other")
    api = Api(deployment, deployment.operator[1])
    api.create_key()
    as_operator(api, "viewer")
    assert [row["action"] for row in rows(api)] == ["key.create"]
    assert api("list_audit", "GET", "/v1/gateways/other/audit").body == {"items": [], "next_cursor": None}
    assert {row["gateway_id"] for row in sql(deployment, "SELECT gateway_id FROM audit")} == {"default", ""}


@pytest.mark.parametrize("field", ["from", "to"])
@pytest.mark.parametrize(
    "text",
    [
        "", "now", "2026-01-01", "2026-01-01T00:00:00", "2026-02-29T00:00:00Z", "2026-01-01T24:00:01Z", "1767225600",
        "2026-01-01 00:00:00Z", "2026-01-01T00:00:00+25:00", "２026-01-01T00:00:00Z", "2026-01-01T00:00:00Z\n",
        "0000-01-01T00:00:00Z", "2026-01-01T00:00:00.Z",
    ],
)  # fmt: skip
def test_what_is_no_time_is_refused_by_name(api: Api, field: str, text: str) -> None:
    problem(api("list_audit", "GET", "/audit", query={field: text}), 400, "InvalidParameter", field)


def test_a_time_that_ends_before_it_begins_is_refused(api: Api) -> None:
    moment, earlier = "2026-01-01T00:00:00Z", "2026-01-01T00:59:59.999+01:00"
    answer = api("list_audit", "GET", "/audit", query={"from": moment, "to": earlier})
    problem(answer, 400, "InvalidParameter", "to")
    listed = CliRunner().invoke(cli, ["audit", "list", "--from", moment, "--to", earlier])
    assert (listed.exit_code, listed.stderr) == (1, "Error: to: must not be before `from`\n")


def test_a_gateway_that_is_not_declared_is_said_to_be_that(api: Api) -> None:
    listed = CliRunner().invoke(cli, ["audit", "list", "--gateway", "nope"])
    assert (listed.exit_code, listed.stderr) == (1, "Error: The gateway is not declared; GATEWAYS has: default.\n")


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "2026-01-01t00:00:00z"])
def test_the_ends_of_time_are_times(api: Api, text: str) -> None:
    assert api("list_audit", "GET", "/audit", query={"from": text}).status == 200


# Checking


def life(api: Api) -> None:
    for number in range(3):
        api.bound_key(f"key-{number}")


def test_the_chain_holds_over_concurrent_changes_without_a_gap(api: Api) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: api.create_key(f"key-{number}"), range(24)))
    api.tick()
    found = audit.verify(api.deployment.services)
    assert found == (25, 2, 0, None)
    assert [row["sequence"] for row in sql(api.deployment, "SELECT sequence FROM audit ORDER BY sequence")] == list(
        range(1, 26)
    )


@pytest.mark.parametrize(
    ("statement", "first"),
    [
        ("UPDATE audit SET actor = 'somebody' WHERE sequence = 5", 5),
        ("UPDATE audit SET at = at + 1 WHERE sequence = 9", 9),
        ("UPDATE audit SET gateway_id = 'other' WHERE sequence = 2", 2),
        ('UPDATE audit SET "before" = NULL WHERE sequence = 4', 4),
        ("UPDATE audit SET revision = revision + 1 WHERE sequence = 10", 10),
        ("UPDATE audit SET hash = (SELECT audit_hash FROM deployment) WHERE sequence = 6", 6),
        ("DELETE FROM audit WHERE sequence = 7", 7),
        ("DELETE FROM audit WHERE sequence > 7", 8),
        ("DELETE FROM audit", 1),
        ("UPDATE audit SET sequence = -sequence WHERE sequence = 3", -3),
        ("UPDATE deployment SET audit_sequence = 9", 10),
        ("UPDATE deployment SET audit_sequence = 11", 11),
        ("UPDATE deployment SET audit_hash = (SELECT hash FROM audit WHERE sequence = 9)", 10),
    ],
)  # fmt: skip
def test_what_somebody_does_in_the_database_is_found(api: Api, statement: str, first: int) -> None:
    life(api)
    assert api.tick()["audit_head"] == 10
    assert fault(api) is None
    if api.deployment.services.store.engine.dialect.name == "mysql":
        statement = statement.replace('"before"', "`before`")
    sql(api.deployment, statement)
    found = fault(api)
    assert found is not None
    assert found.startswith(f"Row {first} "), found
    api.tick()
    assert fault(api) == found


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM audit WHERE sequence > 7",
        "DELETE FROM audit WHERE sequence = 10",
        "DELETE FROM audit WHERE sequence = 11",
        "DELETE FROM audit WHERE sequence = 12",
        "UPDATE audit SET actor = 'somebody' WHERE sequence = 11",
        "UPDATE audit SET hash = (SELECT audit_hash FROM deployment) WHERE sequence = 10",
        "UPDATE deployment SET audit_sequence = 11",
    ],
)
def test_the_timer_never_signs_over_a_log_that_does_not_follow_from_its_last_head(api: Api, statement: str) -> None:
    life(api)
    api.tick()
    head = objects(api.deployment)[HEAD]
    for number in range(2):
        api.create_key(f"later-{number}")
    sql(api.deployment, statement)
    for _ in range(2):
        report = api.tick()
        assert report["audit_head"] is None
        assert report["audit_error"].startswith("Row "), report
        assert report["published"] is not None
    assert objects(api.deployment)[HEAD] == head
    assert api("get_status", "GET", "/v1/status").body["last_sync"]["audit_error"] == report["audit_error"]


def test_a_head_that_is_missing_replaced_or_older_than_an_hours_copy_is_found(api: Api, clock: TestClock) -> None:
    life(api)
    assert fault(api) == (
        "There is no signed head in the bucket, so missing rows at the end would not be seen."
        " The timer's next tick writes one."
    )
    api.tick()
    old = objects(api.deployment)[HEAD]
    clock.shift(3600)
    api.create_key("later")
    api.tick()
    assert audit.verify(api.deployment.services) == (11, 3, 0, None)
    put_object(api.deployment, HEAD, old.replace(b'"sequence":10', b'"sequence":11'))
    assert fault(api) == f"The object {HEAD} is not signed by this deployment's root secret."
    report = api.tick()
    assert (report["audit_head"], report["audit_error"]) == (
        None, "The last signed head is not signed by this deployment's root secret."
    )  # fmt: skip
    # Back to the state of an hour ago, head and database alike: the later hour's copy still names the row.
    put_object(api.deployment, HEAD, old)
    sql(api.deployment, "DELETE FROM audit WHERE sequence > 10")
    sql(
        api.deployment,
        "UPDATE deployment SET audit_sequence = 10, audit_hash = (SELECT hash FROM audit WHERE sequence = 10)",
    )
    found = fault(api)
    assert found is not None
    assert found.startswith("Row 11 is missing: the rows end before it, and the signed head of ")


def test_a_head_is_signed_when_the_log_moved_and_at_least_hourly(api: Api, clock: TestClock) -> None:
    api.create_key()
    api.tick()
    first = objects(api.deployment)[HEAD]
    clock.shift(60)
    assert api.tick()["audit_head"] == 2
    assert objects(api.deployment)[HEAD] == first
    clock.shift(3600)
    api.tick()
    second = objects(api.deployment)[HEAD]
    assert second != first
    api.create_key("next")
    assert api.tick()["audit_head"] == 3
    assert objects(api.deployment)[HEAD] != second
    hours = [name for name in objects(api.deployment) if name.startswith("consumer-keys-audit/hours/")]
    assert len(hours) == 2


def test_an_outage_of_the_bucket_stops_no_tick_and_the_next_one_signs(api: Api) -> None:
    api.create_key()
    with api.deployment.cloud.outage("cos"):
        report = api.tick()
    assert (report["audit_head"], report["audit_error"]) == (None, "DependencyUnavailable")
    assert api.tick()["audit_head"] == 2
    assert fault(api) is None


def test_a_row_about_an_input_that_holds_a_value_shows_stars(api: Api) -> None:
    """No row is about an input; if one ever is, it still says nothing."""
    given = CreateKey.model_validate({"name": "key", "generation": "Custom", "value": STRONG})
    caller = system_caller("test", "r-1")
    app = api.deployment.services
    app.store.change(caller, app.now_ms(), lambda db: db.audit("key.create", "default", "", None, given))
    (row,) = sql(api.deployment, "SELECT * FROM audit WHERE request_id = 'r-1'")
    assert json.loads(row["after"])["value"] == REDACTED
    assert STRONG not in str(row)
