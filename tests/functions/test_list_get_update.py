"""GET /keys, GET and PATCH /keys/{id}: what operators see, and the two fields that they can edit."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations, product
from typing import Any

import pytest

from ckeys.deployment import Deployment
from tencent_emulator.pytest_plugin import TestClock
from tests.conftest import Answer, Api
from tests.functions.helpers import code_of, kms_key, nothing_changes, problem


def find(api: Api, **query: Any) -> dict[str, Any]:
    answer = api("list_keys", "GET", "/keys", query={name: str(value) for name, value in query.items()})
    assert answer.status == 200, answer.body
    body: dict[str, Any] = answer.body
    return body


def names(page: dict[str, Any]) -> list[str]:
    return [item["name"] for item in page["items"]]


def patch(api: Api, key: dict[str, Any], body: Any, **headers: str) -> Answer:
    return api("update_key", "PATCH", f"/keys/{key['key_id']}", body, headers=headers)


def get(api: Api, key: dict[str, Any]) -> dict[str, Any]:
    answer = api("get_key", "GET", f"/keys/{key['key_id']}")
    assert answer.status == 200, answer.body
    body: dict[str, Any] = answer.body
    return body


# List


def test_an_empty_gateway_lists_nothing(api: Api) -> None:
    assert find(api) == {"items": [], "total_count": 0, "next_cursor": None}


def test_the_newest_key_comes_first_and_twenty_make_the_default_page(api: Api, clock: TestClock) -> None:
    for number in range(22):
        api.create_key(f"key{number}")
        clock.shift(1)
    page = find(api)
    assert names(page) == [f"key{number}" for number in range(21, 1, -1)]
    assert page["total_count"] == 22


def test_every_filter_alone_and_in_combination_gives_exactly_the_matching_keys(api: Api) -> None:
    consumer, other = api.create_consumer("one"), api.create_consumer("two")
    made = []
    combos = product(("System", "Custom"), ("Enable", "Disable"), (None, consumer, other))
    for number, (generation, status, holder) in enumerate(combos):
        value = {"value": f"kT7vQ2xM-{number}-fB3w"} if generation == "Custom" else {}
        key = api.create_key(
            f"{'alpha' if number % 3 else 'Beta'}-{number}", generation=generation, status=status, **value
        )
        if holder:
            api.bind(key, holder)
        made.append({**key, "holder": holder and holder["consumer_id"]})
    kms = kms_key(api, "gamma", "content-Zq7x9Lk3", bound=False)
    made.append({**kms, "holder": None})
    filters: dict[str, tuple[str, Callable[[dict[str, Any]], bool]]] = {
        "keyword": ("ALPHA", lambda key: "alpha" in key["name"]),
        "status": ("Disable", lambda key: bool(key["status"] == "Disable")),
        "generation": ("Custom", lambda key: bool(key["generation"] == "Custom")),
        "type": ("ApiKey", lambda key: True),
        "consumer_id": (consumer["consumer_id"], lambda key: bool(key["holder"] == consumer["consumer_id"])),
        "bound": ("true", lambda key: key["holder"] is not None),
    }
    for size in range(1, len(filters) + 1):
        for chosen in combinations(filters, size):
            page = find(api, limit=100, **{name: filters[name][0] for name in chosen})
            expected = {key["key_id"] for key in made if all(filters[name][1](key) for name in chosen)}
            assert ({item["key_id"] for item in page["items"]}, page["total_count"]) == (expected, len(expected)), (
                chosen
            )
    assert find(api, bound="false")["total_count"] == sum(key["holder"] is None for key in made)
    assert names(find(api, generation="KMS")) == ["gamma"]
    assert find(api, consumer_id="consumer-00000000000000")["total_count"] == 0


@pytest.mark.parametrize(
    ("keyword", "expected"),
    [
        ("%", set()), ("_", {"under_score"}), ("\\", set()), ("/", set()), ("'", set()), ("der_s", {"under_score"}),
        ("网关", {"生产网关密钥"}), ("BILL", {"Billing", "billing-2"}), ("bill", {"Billing", "billing-2"}),
        ("g", {"Billing", "billing-2"}), ("-2", {"billing-2"}), ("%il%", set()), ("密钥", {"生产网关密钥"}),
    ],
)  # fmt: skip
def test_a_keyword_is_looked_for_literally_and_without_regard_to_case(
    api: Api, keyword: str, expected: set[str]
) -> None:
    for name in ("Billing", "billing-2", "under_score", "underXscore", "生产网关密钥"):
        api.create_key(name)
    page = find(api, keyword=keyword)
    assert (set(names(page)), page["total_count"]) == (expected, len(expected))


def test_offset_pages_meet_without_overlap_and_beyond_the_end_is_empty(api: Api) -> None:
    for number in range(7):
        api.create_key(f"key{number}")
    pages = [find(api, limit=3, offset=offset) for offset in (0, 3, 6, 9)]
    assert [len(page["items"]) for page in pages] == [3, 3, 1, 0]
    assert {page["total_count"] for page in pages} == {7}
    assert len({key["key_id"] for page in pages for key in page["items"]}) == 7


@pytest.mark.parametrize("seconds_between", [0, 1])
def test_a_cursor_walk_visits_each_key_once_also_while_keys_are_added(
    api: Api, clock: TestClock, seconds_between: int
) -> None:
    before = set()
    for number in range(11):
        before.add(api.create_key(f"key{number}")["key_id"])
        clock.shift(seconds_between)
    seen: list[str] = []
    page = find(api, limit=3)
    while True:
        seen += [item["key_id"] for item in page["items"]]
        if page["next_cursor"] is None:
            break
        api.create_key(f"late{len(seen)}")
        clock.shift(seconds_between)
        page = find(api, limit=3, cursor=page["next_cursor"])
    assert len(seen) == len(set(seen))
    assert before <= set(seen)


def test_a_cursor_walk_goes_on_when_the_key_it_stopped_at_is_deleted(api: Api, clock: TestClock) -> None:
    for number in range(4):
        api.create_key(f"key{number}", status="Disable")
        clock.shift(1)
    page = find(api, limit=2)
    api("delete_key", "DELETE", f"/keys/{page['items'][-1]['key_id']}")
    assert names(find(api, limit=2, cursor=page["next_cursor"])) == ["key1", "key0"]


def test_the_last_page_has_no_cursor_also_when_it_is_full(api: Api) -> None:
    for number in range(4):
        api.create_key(f"key{number}")
    page = find(api, limit=2)
    assert find(api, limit=2, cursor=page["next_cursor"])["next_cursor"] is None


def test_a_cursor_is_good_only_unchanged_in_its_list_and_gateway_with_its_filters_for_a_day(
    make_deployment: Callable[..., Deployment], clock: TestClock
) -> None:
    deployment = make_deployment(GATEWAYS="default,other")
    api = Api(deployment, deployment.operator[1])
    for number in range(3):
        api.create_key(f"key{number}")
        api.create_consumer(f"app{number}")
    cursor = find(api, limit=1)["next_cursor"]

    def refused(function: str = "list_keys", path: str = "/keys", **query: str) -> None:
        problem(api(function, "GET", path, query=query), 400, "InvalidParameter", "cursor")

    for position in range(len(cursor)):
        refused(cursor=cursor[:position] + ("A" if cursor[position] != "A" else "B") + cursor[position + 1 :])
    for bad in ("", "x", cursor[:-1], cursor + "A", cursor + "=", " " + cursor, "é"):
        refused(cursor=bad)
    refused(cursor=cursor, status="Enable")
    refused("list_consumers", "/consumers", cursor=cursor)
    refused("list_keys", "/v1/gateways/other/keys", cursor=cursor)
    refused(cursor=cursor, offset="1")
    clock.shift(86_399)
    assert find(api, limit=1, cursor=cursor)["items"]
    clock.shift(2)
    refused(cursor=cursor)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("limit", "0"), ("limit", "-1"), ("limit", "101"), ("limit", "1000000000000"), ("limit", "1.5"), ("limit",
        "1_0"),
        ("limit", "٣"), ("limit", ""), ("limit", "x"), ("limit", " 1"), ("offset", "-1"), ("offset", "x"),
        ("offset", "99999999999"), ("status", ""), ("status", "enable"), ("generation", "kms"), ("type", "x"),
        ("bound", "1"), ("bound", "True"), ("bound", ""), ("keyword", ""), ("keyword", "x" * 61), ("keyword", "a\x00"),
        ("consumer_id", ""), ("consumer_id", "x" * 65), ("consumer_id", "\ud800"), ("name", "x"), ("sort", "name"),
        ("limit", ["1", "2"]),
    ],
)  # fmt: skip
def test_a_bad_list_parameter_is_refused_by_name(api: Api, field: str, value: Any) -> None:
    problem(api("list_keys", "GET", "/keys", query={field: value}), 400, "InvalidParameter", field)


@pytest.mark.parametrize("limit", [1, 100])
def test_the_smallest_and_the_largest_limit_work(api: Api, limit: int) -> None:
    api.create_key()
    assert len(find(api, limit=limit)["items"]) == 1


# Get


def test_get_shows_the_consumer_and_the_state_of_the_credential(api: Api) -> None:
    key = kms_key(api, "cred", "content-Zq7x9Lk3", bound=False)
    consumer = api.create_consumer("应用")
    api.bind(key, consumer)
    shown = get(api, key)
    assert shown["consumer"] == {"consumer_id": consumer["consumer_id"], "name": "应用"}
    assert shown["sync"]["status"] == "Success"
    assert shown["credential"] == {"name": "cred", "version": "v1"}
    assert find(api)["items"][0] == shown


@pytest.mark.parametrize(
    "ident", ["secret-00000000000000", "x", "%00", "%2e%2e", "secret-%ff", "' OR 1=1 --", "%27%20OR%201=1", "*", "名"]
)
def test_an_unknown_key_is_a_404_whatever_its_id_looks_like(api: Api, ident: str) -> None:
    api.create_key()
    answer = api("get_key", "GET", f"/keys/{ident}")
    assert (answer.status, answer.body["code"]) in {(404, "KeyNotFound"), (404, "RouteNotFound")}


def test_a_key_of_another_gateway_does_not_exist_for_any_call(make_deployment: Callable[..., Deployment]) -> None:
    deployment = make_deployment(GATEWAYS="default,other")
    api = Api(deployment, deployment.operator[1])
    key, consumer = api.create_key(), api.create_consumer()
    foreign, holder = (
        f"/v1/gateways/other/keys/{key['key_id']}",
        f"/v1/gateways/other/consumers/{consumer['consumer_id']}",
    )
    with nothing_changes(deployment):
        for function, method, path, body in (
            ("get_key", "GET", foreign, None), ("update_key", "PATCH", foreign, {"name": "new"}),
            ("delete_key", "DELETE", foreign, None), ("enable_key", "POST", f"{foreign}/enable", None),
            ("disable_key", "POST", f"{foreign}/disable", None), ("reveal_key", "POST", f"{foreign}/reveal", {}),
            ("unbind_consumer", "DELETE", f"{foreign}/consumer", None),
        ):  # fmt: skip
            problem(api(function, method, path, body), 404, "KeyNotFound")
        for function, method, path, body in (
            ("get_consumer", "GET", holder, None), ("update_consumer", "PATCH", holder, {"name": "new"}),
            ("delete_consumer", "DELETE", holder, None),
        ):  # fmt: skip
            problem(api(function, method, path, body), 404, "ConsumerNotFound")
    assert api("list_keys", "GET", "/v1/gateways/other/keys").body["total_count"] == 0


# Update


def test_name_and_description_change_alone_or_together_and_what_is_absent_stays(api: Api, clock: TestClock) -> None:
    key = api.create_key("before", description="old")
    clock.shift(5)
    after = patch(api, key, {"name": "after"}).body
    assert (after["name"], after["description"]) == ("after", "old")
    assert after["modified_at"] > key["modified_at"] == after["created_at"]
    assert after["revision"] > key["revision"]
    after = patch(api, key, {"description": ""}).body
    assert (after["name"], after["description"]) == ("after", "")
    after = patch(api, key, {"name": "again", "description": "新"}).body
    assert (after["name"], after["description"]) == ("again", "新")
    assert get(api, key) == after


def test_a_new_name_reaches_the_gateway(api: Api) -> None:
    key = api.bound_key()
    patch(api, key, {"name": "renamed"})
    assert api.validate(key["value"]).headers["X-Key-Name"] == "renamed"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "body"), ("", "body"), ({"name": None}, "name"), ({"description": None}, "description"),
        ({"name": "1x"}, "name"), ({"name": ""}, "name"), ({"description": "x" * 201}, "description"),
        ({"status": "Disable"}, "status"), ({"value": "kT7vQ2xM"}, "value"), ({"generation": "KMS"}, "generation"),
        ({"credential": {"name": "a", "version": "b"}}, "credential"), ({"consumer_id": "x"}, "consumer_id"),
        ({"type": "ApiKey"}, "type"), ({"key_id": "x"}, "key_id"), ({"name": "good", "revision": 9}, "revision"),
    ],
)  # fmt: skip
def test_an_empty_update_and_any_other_field_is_refused_by_name(api: Api, body: Any, field: str) -> None:
    key = api.create_key()
    with nothing_changes(api.deployment):
        problem(patch(api, key, body), 400, "InvalidParameter", field)


def test_a_name_in_use_is_refused(api: Api) -> None:
    api.create_key("taken")
    key = api.create_key("free")
    with nothing_changes(api.deployment):
        problem(patch(api, key, {"name": "taken"}), 409, "NameInUse")


def test_an_update_that_changes_nothing_keeps_revision_and_time(api: Api, clock: TestClock) -> None:
    key = api.create_key("same", description="text")
    clock.shift(5)
    with nothing_changes(api.deployment):
        answer = patch(api, key, {"name": "same", "description": "text"})
    assert (answer.status, answer.body["revision"]) == (200, key["revision"])


def test_a_stale_if_match_is_refused_with_the_current_etag(api: Api) -> None:
    key = api.create_key()
    first = patch(api, key, {"description": "one"}, **{"if-match": f'"{key["revision"]}"'})
    assert first.status == 200
    with nothing_changes(api.deployment):
        stale = patch(api, key, {"description": "two"}, **{"if-match": f'"{key["revision"]}"'})
    problem(stale, 412, "RevisionMismatch")
    assert stale.headers["ETag"] == first.headers["ETag"] == f'"{first.body["revision"]}"'
    assert patch(api, key, {"description": "two"}, **{"if-match": stale.headers["ETag"]}).status == 200


def test_if_match_guards_every_change_of_a_key(api: Api) -> None:
    consumer = api.create_consumer()
    key = api.create_key()
    path, stale = f"/keys/{key['key_id']}", {"if-match": '"1"'}
    with nothing_changes(api.deployment):
        for function, method, below, body in (
            ("enable_key", "POST", "/enable", None), ("disable_key", "POST", "/disable", None),
            ("bind_consumer", "PUT", "/consumer", {"consumer_id": consumer["consumer_id"]}),
            ("unbind_consumer", "DELETE", "/consumer", None), ("delete_key", "DELETE", "", None),
        ):  # fmt: skip
            problem(api(function, method, path + below, body, headers=stale), 412, "RevisionMismatch")
        holder = f"/consumers/{consumer['consumer_id']}"
        problem(api("update_consumer", "PATCH", holder, {"name": "x"}, headers=stale), 412, "RevisionMismatch")
        problem(api("delete_consumer", "DELETE", holder, headers=stale), 412, "RevisionMismatch")


@pytest.mark.parametrize("tag", ["1", "abc", '"abc"', 'W/"1"', '""', '"1', '"-1"', ["1", "2"]])
def test_an_if_match_that_etag_never_gave_is_refused(api: Api, tag: Any) -> None:
    key = api.create_key()
    problem(api("update_key", "PATCH", f"/keys/{key['key_id']}", {"description": "x"}, headers={"if-match": tag}),
            400, "InvalidParameter", "If-Match")  # fmt: skip


def test_several_tags_and_a_star_match(api: Api) -> None:
    key = api.create_key()
    assert patch(api, key, {"description": "a"}, **{"if-match": f'"1", "{key["revision"]}"'}).status == 200
    assert patch(api, key, {"description": "b"}, **{"if-match": "*"}).status == 200


def test_an_update_does_not_touch_what_a_key_accepts(api: Api) -> None:
    key = api.bound_key()
    patch(api, key, {"description": "other"})
    assert code_of(api, key["value"]) == "Valid"
