"""The life of keys and consumers after their creation: bind, disable, delete, and what stands in the way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ckeys.deployment import Deployment
from tests.conftest import Answer, Api
from tests.functions.helpers import code_of, kms_key, nothing_changes, problem, sql, ssm
from tests.functions.test_create_key import LONG


def put(api: Api, key: dict[str, Any], consumer_id: Any) -> Answer:
    return api("bind_consumer", "PUT", f"/keys/{key['key_id']}/consumer", {"consumer_id": consumer_id})


def unbind(api: Api, key: dict[str, Any]) -> Answer:
    return api("unbind_consumer", "DELETE", f"/keys/{key['key_id']}/consumer")


def enable(api: Api, key: dict[str, Any]) -> Answer:
    return api("enable_key", "POST", f"/keys/{key['key_id']}/enable")


def disable(api: Api, key: dict[str, Any]) -> Answer:
    return api("disable_key", "POST", f"/keys/{key['key_id']}/disable")


def delete(api: Api, key: dict[str, Any], **query: str) -> Answer:
    return api("delete_key", "DELETE", f"/keys/{key['key_id']}", query=query)


def get(api: Api, key: dict[str, Any]) -> Answer:
    return api("get_key", "GET", f"/keys/{key['key_id']}")


def edit(api: Api, consumer: dict[str, Any], **fields: Any) -> Answer:
    return api("update_consumer", "PATCH", f"/consumers/{consumer['consumer_id']}", fields)


def delete_consumer(api: Api, consumer: dict[str, Any], **query: str) -> Answer:
    return api("delete_consumer", "DELETE", f"/consumers/{consumer['consumer_id']}", query=query)


# Binding


def test_binding_shows_the_consumer_and_repeating_it_is_no_change(api: Api) -> None:
    key, consumer = api.create_key(), api.create_consumer("应用")
    answer = put(api, key, consumer["consumer_id"])
    assert answer.status == 200
    assert answer.body["consumer"] == {"consumer_id": consumer["consumer_id"], "name": "应用"}
    with nothing_changes(api.deployment):
        assert put(api, key, consumer["consumer_id"]).body == answer.body


def test_a_key_bound_elsewhere_is_refused_and_the_holder_named(api: Api) -> None:
    key, holder, other = api.create_key(), api.create_consumer("holder"), api.create_consumer("other")
    api.bind(key, holder)
    with nothing_changes(api.deployment):
        body = problem(put(api, key, other["consumer_id"]), 409, "AlreadyBound")
    assert body["consumer"] == {"consumer_id": holder["consumer_id"], "name": "holder"}
    unbind(api, key)
    assert put(api, key, other["consumer_id"]).status == 200
    assert api.validate(key["value"]).headers["X-Consumer-Id"] == other["consumer_id"]


@pytest.mark.parametrize("consumer_id", ["consumer-00000000000000", "x", "secret-00000000000000", "' OR 1=1"])
def test_an_unknown_consumer_is_a_404(api: Api, consumer_id: str) -> None:
    key = api.create_key()
    with nothing_changes(api.deployment):
        problem(put(api, key, consumer_id), 404, "ConsumerNotFound")


@pytest.mark.parametrize("consumer_id", [None, "", 5, ["x"], "x" * 65, "\ud800", "a\x00b"])
def test_a_malformed_consumer_id_is_refused_by_name(api: Api, consumer_id: Any) -> None:
    key = api.create_key()
    with nothing_changes(api.deployment):
        problem(put(api, key, consumer_id), 400, "InvalidParameter", "consumer_id")


def test_an_unknown_key_cannot_be_bound(api: Api) -> None:
    consumer = api.create_consumer()
    problem(put(api, {"key_id": "secret-00000000000000"}, consumer["consumer_id"]), 404, "KeyNotFound")


def test_a_consumer_of_another_gateway_does_not_exist(make_deployment: Callable[..., Deployment]) -> None:
    deployment = make_deployment(GATEWAYS="default,other")
    api = Api(deployment, deployment.operator[1])
    key = api.create_key()
    foreign = api("create_consumer", "POST", "/v1/gateways/other/consumers", {"name": "app"}).body
    with nothing_changes(deployment):
        problem(put(api, key, foreign["consumer_id"]), 404, "ConsumerNotFound")


def test_binding_to_a_disabled_consumer_works_but_the_key_stays_refused_until_it_is_enabled(api: Api) -> None:
    key, consumer = api.create_key(), api.create_consumer()
    edit(api, consumer, status="Disable")
    assert put(api, key, consumer["consumer_id"]).status == 200
    assert (api.validate(key["value"]).status, code_of(api, key["value"])) == (401, "ConsumerDisabled")
    edit(api, consumer, status="Enable")
    assert api.validate(key["value"]).status == 200


def test_one_consumer_has_many_keys_and_each_stands_alone(api: Api) -> None:
    consumer = api.create_consumer()
    first, second = api.create_key("first"), api.create_key("second")
    api.bind(first, consumer)
    api.bind(second, consumer)
    shown = api("get_consumer", "GET", f"/consumers/{consumer['consumer_id']}").body
    assert shown["key_count"] == 2
    disable(api, first)
    assert (api.validate(first["value"]).status, api.validate(second["value"]).status) == (401, 200)


def test_unbinding_stops_the_key_and_repeating_it_is_no_change(api: Api) -> None:
    key = api.bound_key()
    assert unbind(api, key).body["consumer"] is None
    assert (api.validate(key["value"]).status, code_of(api, key["value"])) == (401, "KeyUnbound")
    with nothing_changes(api.deployment):
        assert unbind(api, key).status == 200


# Status


def test_disabling_and_enabling_twice_is_no_error_and_no_change(api: Api) -> None:
    key = api.bound_key()
    with nothing_changes(api.deployment):
        assert enable(api, key).body["status"] == "Enable"
    assert disable(api, key).body["status"] == "Disable"
    with nothing_changes(api.deployment):
        assert disable(api, key).body["status"] == "Disable"
    assert (api.validate(key["value"]).status, code_of(api, key["value"])) == (401, "KeyDisabled")
    assert enable(api, key).body["status"] == "Enable"
    assert api.validate(key["value"]).status == 200


def test_the_status_of_an_unknown_key_cannot_be_set(api: Api) -> None:
    for call in (enable, disable, unbind, delete):
        problem(call(api, {"key_id": "secret-00000000000000"}), 404, "KeyNotFound")


def test_a_body_with_fields_is_refused_by_enable_and_disable(api: Api) -> None:
    key = api.create_key()
    for name in ("enable", "disable"):
        answer = api(f"{name}_key", "POST", f"/keys/{key['key_id']}/{name}", {"force": True})
        problem(answer, 400, "InvalidParameter", "force")


# Deleting keys


def test_every_blocker_is_named_at_once_and_a_dry_run_says_the_same_and_changes_nothing(api: Api) -> None:
    key = api.bound_key()
    consumer = get(api, key).body["consumer"]
    with nothing_changes(api.deployment):
        refused = problem(delete(api, key), 409, "UnresolvedDependencies")
        dry = delete(api, key, dry_run="true")
    assert dry.status == 200
    assert dry.body == {"deletable": False, "blockers": refused["blockers"]}
    assert refused["blockers"] == [
        {"code": "KeyEnabled", "resource": {"type": "key", "id": key["key_id"], "name": key["name"]}},
        {"code": "KeyBound", "resource": {"type": "consumer", "id": consumer["consumer_id"], "name": consumer["name"]}},
    ]


def test_each_blocker_alone_still_refuses(api: Api) -> None:
    key = api.bound_key()
    disable(api, key)
    assert [item["code"] for item in delete(api, key).body["blockers"]] == ["KeyBound"]
    unbind(api, key)
    enable(api, key)
    assert [item["code"] for item in delete(api, key).body["blockers"]] == ["KeyEnabled"]


def test_a_disabled_and_unbound_key_is_deleted_once_and_its_value_is_unknown(api: Api) -> None:
    key = api.bound_key()
    disable(api, key)
    unbind(api, key)
    with nothing_changes(api.deployment):
        assert delete(api, key, dry_run="true").body == {"deletable": True, "blockers": []}
    answer = delete(api, key)
    assert (answer.status, answer.body) == (204, None)
    assert "Content-Type" not in answer.headers
    problem(delete(api, key), 404, "KeyNotFound")
    problem(delete(api, key, dry_run="true"), 404, "KeyNotFound")
    problem(get(api, key), 404, "KeyNotFound")
    assert api("list_keys", "GET", "/keys").body["total_count"] == 0
    assert (api.validate(key["value"]).status, code_of(api, key["value"])) == (401, "UnknownKey")


def test_name_and_value_of_a_deleted_key_may_be_used_again(api: Api) -> None:
    fields = {"name": "again", "generation": "Custom", "value": LONG}
    first = api.create_key(**fields, status="Disable")
    assert delete(api, first).status == 204
    second = api.create_key(**fields)
    api.bind(second, api.create_consumer())
    assert api.validate(LONG).headers["X-Key-Id"] == second["key_id"] != first["key_id"]


def test_the_content_of_a_deleted_kms_key_is_refused_and_no_longer_followed(api: Api) -> None:
    key = kms_key(api, "cred", "content-Zq7x9Lk3")
    disable(api, key)
    unbind(api, key)
    assert delete(api, key).status == 204
    assert code_of(api, "content-Zq7x9Lk3") == "UnknownKey"
    ssm(api, "DisableSecret", "cred")
    assert api.tick()["polled"] == 0


@pytest.mark.parametrize("flag", ["1", "True", "yes", "", "truex"])
def test_a_malformed_dry_run_deletes_nothing(api: Api, flag: str) -> None:
    key = api.create_key(status="Disable")
    with nothing_changes(api.deployment):
        problem(delete(api, key, dry_run=flag), 400, "InvalidParameter", "dry_run")
        problem(delete(api, key, force="true"), 400, "InvalidParameter", "force")


# Consumers


def test_consumers_are_created_shown_listed_edited_and_deleted(api: Api) -> None:
    body = {"name": "应用-1", "description": "text", "status": "Enable"}
    created = api("create_consumer", "POST", "/consumers", body)
    assert created.status == 201
    consumer = created.body
    assert consumer["consumer_id"].startswith("consumer-")
    assert (consumer["name"], consumer["description"], consumer["status"], consumer["key_count"]) == (
        "应用-1", "text", "Enable", 0,
    )  # fmt: skip
    assert api("get_consumer", "GET", f"/consumers/{consumer['consumer_id']}").body == consumer
    page = api("list_consumers", "GET", "/consumers").body
    assert page == {"items": [consumer], "total_count": 1, "next_cursor": None}
    after = edit(api, consumer, name="renamed").body
    assert (after["name"], after["description"]) == ("renamed", "text")
    with nothing_changes(api.deployment):
        assert edit(api, consumer, name="renamed", status="Enable").body == after
        assert delete_consumer(api, consumer, dry_run="true").body == {"deletable": True, "blockers": []}
    assert delete_consumer(api, consumer).status == 204
    problem(delete_consumer(api, consumer), 404, "ConsumerNotFound")
    problem(edit(api, consumer, name="x"), 404, "ConsumerNotFound")
    assert api("list_consumers", "GET", "/consumers").body["total_count"] == 0
    assert api.create_consumer("renamed")["consumer_id"] != consumer["consumer_id"]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"name": ""}, "name"), ({"name": "1x"}, "name"), ({"name": "x" * 61}, "name"), ({}, "name"),
        ({"name": "app", "status": "on"}, "status"), ({"name": "app", "description": "x" * 201}, "description"),
        ({"name": "app", "consumer_id": "x"}, "consumer_id"), ({"name": "app", "key_count": 1}, "key_count"),
    ],
)  # fmt: skip
def test_a_bad_consumer_is_refused_by_field(api: Api, fields: dict[str, Any], field: str) -> None:
    with nothing_changes(api.deployment):
        problem(api("create_consumer", "POST", "/consumers", fields), 400, "InvalidParameter", field)


def test_a_consumers_name_is_unique_in_its_gateway(api: Api) -> None:
    api.create_consumer("taken")
    other = api.create_consumer("free")
    with nothing_changes(api.deployment):
        problem(api("create_consumer", "POST", "/consumers", {"name": "taken"}), 409, "NameInUse")
        problem(edit(api, other, name="taken"), 409, "NameInUse")
        problem(edit(api, other), 400, "InvalidParameter", "body")


def test_consumers_are_filtered_by_keyword_and_status(api: Api) -> None:
    for name in ("alpha", "Alpha-2", "beta", "under_score"):
        api.create_consumer(name)
    api("create_consumer", "POST", "/consumers", {"name": "gamma", "status": "Disable"})

    def found(**query: str) -> set[str]:
        return {item["name"] for item in api("list_consumers", "GET", "/consumers", query=query).body["items"]}

    assert found(keyword="ALPHA") == {"alpha", "Alpha-2"}
    assert found(keyword="%") == set()
    assert found(keyword="_") == {"under_score"}
    assert found(status="Disable") == {"gamma"}
    assert found(status="Disable", keyword="a") == {"gamma"}
    problem(api("list_consumers", "GET", "/consumers", query={"bound": "true"}), 400, "InvalidParameter", "bound")


def test_a_consumer_with_keys_is_kept_and_every_bound_key_is_named(api: Api) -> None:
    consumer = api.create_consumer()
    keys = [api.create_key(f"key{number}") for number in range(3)]
    for key in keys:
        api.bind(key, consumer)
    disable(api, keys[0])
    with nothing_changes(api.deployment):
        refused = problem(delete_consumer(api, consumer), 409, "UnresolvedDependencies")
        dry = delete_consumer(api, consumer, dry_run="true").body
    assert dry == {"deletable": False, "blockers": refused["blockers"]}
    named = {(item["code"], item["resource"]["id"], item["resource"]["name"]) for item in refused["blockers"]}
    assert named == {("ConsumerHasKey", key["key_id"], key["name"]) for key in keys}
    for key in keys:
        unbind(api, key)
    assert delete_consumer(api, consumer).status == 204


def test_a_disabled_consumer_stops_all_its_keys_and_an_enabled_one_brings_them_back(api: Api) -> None:
    consumer = api.create_consumer()
    keys = [api.create_key(f"key{number}") for number in range(3)]
    for key in keys:
        api.bind(key, consumer)
    other = api.bound_key("other")
    assert edit(api, consumer, status="Disable").body["status"] == "Disable"
    assert {(api.validate(key["value"]).status, code_of(api, key["value"])) for key in keys} == {
        (401, "ConsumerDisabled")
    }
    assert api.validate(other["value"]).status == 200
    assert get(api, keys[0]).body["status"] == "Enable"
    edit(api, consumer, status="Enable")
    assert {api.validate(key["value"]).status for key in keys} == {200}


def test_a_consumers_new_name_reaches_the_gateway(api: Api) -> None:
    key, consumer = api.create_key(), api.create_consumer()
    api.bind(key, consumer)
    edit(api, consumer, name="新名")
    assert api.validate(key["value"]).headers["X-Consumer-Name"] == "%E6%96%B0%E5%90%8D"


def test_each_change_has_one_audit_row_with_rising_revisions_and_no_value(api: Api) -> None:
    key = api.bound_key()
    disable(api, key)
    unbind(api, key)
    delete(api, key)
    rows = sql(api.deployment, "SELECT * FROM audit ORDER BY sequence")
    actions = ["key.create", "consumer.create", "key.bind", "key.disable", "key.unbind", "key.delete"]
    assert [row["action"] for row in rows][-6:] == actions
    revisions = [row["revision"] for row in rows]
    assert revisions == sorted(set(revisions))
    assert all(key["value"] not in str(row) for row in rows)
