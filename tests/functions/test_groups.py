"""Groups: consumers that are named and stopped together, and what the gateway learns of them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from tests.conftest import Answer, Api
from tests.functions.helpers import code_of, nothing_changes, pointer, problem, sql


def at(group: dict[str, Any], consumer: dict[str, Any] | None = None) -> str:
    path = f"/groups/{group['group_id']}"
    return path if consumer is None else f"{path}/consumers/{consumer['consumer_id']}"


def add(api: Api, group: dict[str, Any], consumer: dict[str, Any], **headers: Any) -> Answer:
    return api("add_to_group", "PUT", at(group, consumer), headers=headers)


def remove(api: Api, group: dict[str, Any], consumer: dict[str, Any]) -> Answer:
    return api("remove_from_group", "DELETE", at(group, consumer))


def edit(api: Api, group: dict[str, Any], **fields: Any) -> Answer:
    return api("update_group", "PATCH", at(group), fields)


def delete(api: Api, group: dict[str, Any], **query: Any) -> Answer:
    return api("delete_group", "DELETE", at(group), query=query)


def get(api: Api, group: dict[str, Any]) -> dict[str, Any]:
    body: dict[str, Any] = api("get_group", "GET", at(group)).body
    return body


def bound(api: Api, name: str) -> tuple[str, dict[str, Any]]:
    """A good key's value, and its consumer."""
    key, consumer = api.create_key(f"key-of-{name}"), api.create_consumer(name)
    api.bind(key, consumer)
    return key["value"], consumer


def test_the_gateway_learns_the_names_of_a_callers_groups_sorted_and_percent_encoded(api: Api) -> None:
    value, consumer = bound(api, "app")
    for name in ("beta", "分组", "alpha"):
        api.create_group(name, consumer)
    answer = api.validate(value, **{"X-Consumer-Groups": "admins"})
    assert (answer.status, answer.headers["X-Consumer-Groups"]) == (200, "alpha,beta,%E5%88%86%E7%BB%84")
    assert api.verify(value)["consumer_groups"] == ["alpha", "beta", "分组"]


def test_a_disabled_group_stops_every_key_of_its_consumers_and_no_other(api: Api) -> None:
    first, one = bound(api, "one")
    second, two = bound(api, "two")
    other, _ = bound(api, "other")
    group, everybody = api.create_group("team", one, two), api.create_group("everybody", one, two)
    assert edit(api, group, status="Disable").body["status"] == "Disable"
    assert [code_of(api, value) for value in (first, second, other)] == ["GroupDisabled", "GroupDisabled", "Valid"]
    assert [api.validate(value).status for value in (first, second, other)] == [401, 401, 200]
    remove(api, group, one)
    assert api.verify(first)["consumer_groups"] == ["everybody"]
    assert [code_of(api, value) for value in (first, second)] == ["Valid", "GroupDisabled"]
    add(api, group, one)
    assert code_of(api, first) == "GroupDisabled"
    edit(api, group, status="Enable")
    assert {code_of(api, value) for value in (first, second)} == {"Valid"}
    assert get(api, everybody)["consumer_count"] == 2


def test_a_disabled_consumer_is_told_before_its_disabled_group(api: Api) -> None:
    value, consumer = bound(api, "app")
    group = api.create_group("team", consumer)
    edit(api, group, status="Disable")
    api("update_consumer", "PATCH", f"/consumers/{consumer['consumer_id']}", {"status": "Disable"})
    assert code_of(api, value) == "ConsumerDisabled"
    edit(api, group, status="Enable")
    assert code_of(api, value) == "ConsumerDisabled"


def test_a_groups_new_name_reaches_the_gateway(api: Api) -> None:
    value, consumer = bound(api, "app")
    group = api.create_group("before", consumer)
    assert edit(api, group, name="after", description="Renamed.").body["name"] == "after"
    assert api.validate(value).headers["X-Consumer-Groups"] == "after"


def test_groups_survive_a_new_base(api: Api) -> None:
    value, consumer = bound(api, "app")
    stopped, member = bound(api, "stopped")
    team = api.create_group("team", consumer, member)
    edit(api, api.create_group("off", member), status="Disable")
    for number in range(110):
        api.create_consumer(f"more-{number}")
    before = pointer(api.deployment)["base"]["name"]
    api.tick()
    assert pointer(api.deployment)["base"]["name"] != before
    assert pointer(api.deployment)["overlay"]["entries"] == 0
    assert api.validate(value).headers["X-Consumer-Groups"] == "team"
    assert code_of(api, stopped) == "GroupDisabled"
    # Every later change reaches the members, although nothing of them is in the overlay any more.
    edit(api, team, name="crew")
    assert api.validate(value).headers["X-Consumer-Groups"] == "crew"
    edit(api, team, status="Disable")
    assert code_of(api, value) == "GroupDisabled"


def test_a_consumer_shows_its_groups_and_lists_are_filtered_by_group(api: Api) -> None:
    consumer, other = api.create_consumer("app"), api.create_consumer("other")
    group, second = api.create_group("one", consumer, other), api.create_group("two", consumer)
    edit(api, second, status="Disable")
    shown = api("get_consumer", "GET", f"/consumers/{consumer['consumer_id']}").body
    assert shown["groups"] == [
        {"group_id": group["group_id"], "name": "one", "status": "Enable"},
        {"group_id": second["group_id"], "name": "two", "status": "Disable"},
    ]

    def found(**query: str) -> list[str]:
        return [item["name"] for item in api("list_consumers", "GET", "/consumers", query=query).body["items"]]

    assert found(group_id=group["group_id"]) == ["other", "app"]
    assert found(group_id=second["group_id"], keyword="APP") == ["app"]
    assert found(group_id="cg-00000000000000") == []
    assert [item["groups"] for item in api("list_consumers", "GET", "/consumers").body["items"]] == [
        [{"group_id": group["group_id"], "name": "one", "status": "Enable"}], shown["groups"],
    ]  # fmt: skip


def test_groups_are_listed_newest_first_in_pages_by_keyword_and_status(api: Api) -> None:
    for name in ("alpha", "beta", "Alpha-2"):
        api.create_group(name)
    api("create_group", "POST", "/groups", {"name": "gamma", "status": "Disable"})

    def page(**query: str) -> dict[str, Any]:
        body: dict[str, Any] = api("list_groups", "GET", "/groups", query=query).body
        return {**body, "items": [item["name"] for item in body["items"]]}

    first = page(limit="3")
    assert (first["items"], first["total_count"]) == (["gamma", "Alpha-2", "beta"], 4)
    assert page(limit="3", cursor=first["next_cursor"])["items"] == ["alpha"]
    assert page(limit="2", offset="2")["items"] == ["beta", "alpha"]
    assert page(keyword="ALPHA")["items"] == ["Alpha-2", "alpha"]
    assert page(status="Disable")["items"] == ["gamma"]


def test_repeating_a_membership_changes_nothing(api: Api) -> None:
    consumer = api.create_consumer()
    group = api.create_group("team", consumer)
    with nothing_changes(api.deployment):
        assert add(api, group, consumer).body["consumer_count"] == 1
    assert remove(api, group, consumer).body["consumer_count"] == 0
    with nothing_changes(api.deployment):
        assert remove(api, group, consumer).body["consumer_count"] == 0


def test_a_group_in_use_and_a_consumer_in_a_group_are_kept_and_every_blocker_is_named(api: Api) -> None:
    one, two = api.create_consumer("one"), api.create_consumer("two")
    group = api.create_group("team", one, two)
    key = api.create_key()
    api.bind(key, one)
    with nothing_changes(api.deployment):
        refused = problem(delete(api, group), 409, "UnresolvedDependencies")
        assert delete(api, group, dry_run="true").body == {"deletable": False, "blockers": refused["blockers"]}
        held = problem(
            api("delete_consumer", "DELETE", f"/consumers/{one['consumer_id']}"), 409, "UnresolvedDependencies"
        )
    named = {(item["code"], item["resource"]["id"]) for item in refused["blockers"]}
    assert named == {("GroupHasConsumer", consumer["consumer_id"]) for consumer in (one, two)}
    assert {(item["code"], item["resource"]["id"]) for item in held["blockers"]} == {
        ("ConsumerHasKey", key["key_id"]), ("ConsumerInGroup", group["group_id"]),
    }  # fmt: skip
    for consumer in (one, two):
        remove(api, group, consumer)
    assert delete(api, group, dry_run="true").body == {"deletable": True, "blockers": []}
    assert delete(api, group).status == 204
    problem(delete(api, group), 404, "GroupNotFound")
    assert api("delete_consumer", "DELETE", f"/consumers/{two['consumer_id']}").status == 204


def test_groups_and_consumers_of_different_gateways_never_meet(make_deployment: Any) -> None:
    deployment = make_deployment(GATEWAYS="default,other")
    api = Api(deployment, deployment.operator[1])
    there = api("create_group", "POST", "/v1/gateways/other/groups", {"name": "team"}).body
    stranger = api("create_consumer", "POST", "/v1/gateways/other/consumers", {"name": "app"}).body
    here, consumer = api.create_group("team"), api.create_consumer()
    with nothing_changes(deployment):
        problem(add(api, here, stranger), 404, "ConsumerNotFound")
        problem(add(api, there, consumer), 404, "GroupNotFound")
        problem(edit(api, there, name="mine"), 404, "GroupNotFound")
        problem(delete(api, there), 404, "GroupNotFound")
        problem(api("get_group", "GET", at(there)), 404, "GroupNotFound")


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({}, "name"), ({"name": ""}, "name"), ({"name": "1st"}, "name"), ({"name": "x" * 61}, "name"),
        ({"name": "a,b"}, "name"), ({"name": "team", "status": "Active"}, "status"),
        ({"name": "team", "description": "d" * 201}, "description"), ({"name": "team", "group_id": "x"}, "group_id"),
        ({"name": "team", "consumer_count": 0}, "consumer_count"),
    ],
)  # fmt: skip
def test_a_bad_group_is_refused_by_field(api: Api, fields: dict[str, Any], field: str) -> None:
    with nothing_changes(api.deployment):
        problem(api("create_group", "POST", "/groups", fields), 400, "InvalidParameter", field)


def test_a_groups_name_is_unique_in_its_gateway(api: Api) -> None:
    api.create_group("taken")
    other = api.create_group("free")
    with nothing_changes(api.deployment):
        problem(api("create_group", "POST", "/groups", {"name": "taken"}), 409, "NameInUse")
        problem(edit(api, other, name="taken"), 409, "NameInUse")


def test_a_stale_revision_changes_no_group(api: Api) -> None:
    consumer, group = api.create_consumer(), api.create_group()
    stale = {"if-match": f'"{group["revision"]}"'}
    assert add(api, group, consumer, **stale).status == 200
    with nothing_changes(api.deployment):
        problem(add(api, group, consumer, **stale), 412, "RevisionMismatch")


def test_each_change_of_a_group_has_one_audit_row_that_says_whom_it_concerned(api: Api) -> None:
    consumer = api.create_consumer()
    group = api.create_group("team", consumer)
    edit(api, group, status="Disable")
    remove(api, group, consumer)
    delete(api, group)
    rows = sql(api.deployment, "SELECT * FROM audit WHERE action LIKE 'group.%' ORDER BY sequence")
    actions = ["group.create", "group.add", "group.update", "group.remove", "group.delete"]
    assert [row["action"] for row in rows] == actions
    assert {row["target"] for row in rows} == {group["group_id"]}
    assert all(consumer["consumer_id"] in rows[number]["after"] for number in (1, 3))


@pytest.mark.long
def test_any_order_of_changes_gives_the_verdict_and_the_groups_that_the_rule_says(api: Api) -> None:
    """A model: a key is good while its consumer is enabled and no group that holds the consumer is disabled."""

    class Machine(RuleBasedStateMachine):
        @initialize()
        def begin(self) -> None:
            self.number = len(sql(api.deployment, "SELECT consumer_id FROM consumers"))
            self.value, self.consumer = bound(api, f"app-{self.number}")
            self.groups = [api.create_group(f"g{number}-{self.number}") for number in range(3)]
            self.members: set[int] = set()
            self.disabled: set[int] = set()
            self.stopped = False

        @rule(which=st.integers(0, 2), member=st.booleans())
        def move(self, which: int, member: bool) -> None:
            assert (add if member else remove)(api, self.groups[which], self.consumer).status == 200
            (self.members.add if member else self.members.discard)(which)

        @rule(which=st.integers(0, 2), status=st.sampled_from(["Enable", "Disable"]))
        def switch(self, which: int, status: str) -> None:
            assert edit(api, self.groups[which], status=status).status == 200
            (self.disabled.add if status == "Disable" else self.disabled.discard)(which)

        @rule(stopped=st.booleans())
        def stop(self, stopped: bool) -> None:
            body = {"status": "Disable" if stopped else "Enable"}
            api("update_consumer", "PATCH", f"/consumers/{self.consumer['consumer_id']}", body)
            self.stopped = stopped

        @rule()
        def tick(self) -> None:
            api.tick()

        @invariant()
        def the_verdict_is_the_rules(self) -> None:
            found = api.verify(self.value)
            refused = "GroupDisabled" if self.members & self.disabled else "Valid"
            assert found["code"] == ("ConsumerDisabled" if self.stopped else refused)
            assert found["consumer_groups"] == sorted(self.groups[number]["name"] for number in self.members)

    limits = settings(max_examples=12, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck))
    run_state_machine_as_test(Machine, settings=limits)
