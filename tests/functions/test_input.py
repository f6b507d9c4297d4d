"""What no call takes: fields that belong to the server, JSON that two parsers read differently, and input without end.

Generated from the template and from the operations of the functions, so that a new function is covered when it appears.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import sqlalchemy as sa

from ckeys.deployment import ROOT, Deployment
from ckeys.template import load_template
from consumer_keys.model import Consumer, Key
from consumer_keys.operation import Operation
from consumer_keys.store.schema import metadata
from tests.conftest import Api
from tests.functions.helpers import nothing_changes, problem, sql
from tests.test_architecture import handler_module

TEMPLATE = load_template(ROOT / "template.yaml")
# What the server alone decides: the columns of every table, and the fields of every answer.
SERVER_OWNED = sorted(
    {column.name for table in metadata.tables.values() for column in table.columns}
    | set(Key.model_fields) | set(Consumer.model_fields)
    | {"is_admin", "operator", "total_count", "next_cursor", "__class__", "__proto__", "value_jwe"}
)  # fmt: skip


MARKS = {"body", "path", "headers"}


class Served(NamedTuple):
    """One operation with an address at which it does something."""

    operation: Operation
    path: str
    body: dict[str, Any]


def operations() -> Iterator[Operation]:
    for function in TEMPLATE.functions:
        for value in vars(handler_module(function.name)).values():
            if isinstance(value, Operation):
                yield value


OPERATIONS = {operation.function: operation for operation in operations()}
BODIES = {
    "create_key": {"name": "good-key", "generation": "System"}, "update_key": {"description": "good"},
    "bind_consumer": {"consumer_id": ""}, "create_consumer": {"name": "good-app"},
    "update_consumer": {"description": "good"}, "reveal_key": {"reason": "good"},
    "create_group": {"name": "good-group"}, "update_group": {"description": "good"},
}  # fmt: skip


@pytest.fixture
def served(api: Api, request: pytest.FixtureRequest) -> Served:
    """The operation that the test is about, on an existing key and consumer."""
    operation = OPERATIONS[request.param]
    consumer = api.create_consumer("present-app")["consumer_id"]
    ids = {"gateway_id": "default", "key_id": api.create_key("present-key")["key_id"], "consumer_id": consumer}
    ids["group_id"] = api("create_group", "POST", "/groups", {"name": "present-group"}).body["group_id"]
    path = operation.path
    for name, value in ids.items():
        path = path.replace(f"{{{name}}}", value)
    body = dict(BODIES.get(operation.function, {}))
    if "consumer_id" in body:
        body["consumer_id"] = consumer
    return Served(operation, path, body)


WITH_BODY = sorted(name for name, operation in OPERATIONS.items() if operation.body is not None)
EVERY = sorted(OPERATIONS)


def send(api: Api, served: Served, body: Any, **more: Any) -> Any:
    return api(served.operation.function, served.operation.method, served.path, body, **more)


def declared(model: Any) -> set[str]:
    return set() if model is None else {field.alias or name for name, field in model.model_fields.items()}


@pytest.mark.parametrize("served", EVERY, indirect=True)
def test_a_field_that_belongs_to_the_server_is_refused_by_name_everywhere(api: Api, served: Served) -> None:
    own = declared(served.operation.body)
    with nothing_changes(api.deployment):
        for field in SERVER_OWNED:
            if served.operation.query is None and field not in own:  # with a query, the body is not read at all
                for value in ("x", None, 1, {"a": 1}):
                    answer = send(api, served, {**served.body, field: value})
                    problem(answer, 400, "InvalidParameter", field)
            if field not in declared(served.operation.query):
                answer = send(api, served, served.body or None, query={field: "x"})
                problem(answer, 400, "InvalidParameter", field)


LISTS = [name for name in EVERY if OPERATIONS[name].query is not None and OPERATIONS[name].method == "GET"]


@pytest.mark.parametrize("served", LISTS, indirect=True)
def test_a_body_where_none_is_read_decides_nothing(api: Api, served: Served) -> None:
    plain = send(api, served, None).body
    for body in ({"gateway_id": "other", "limit": 1}, "{", "\x00", "[" * 100_000):
        assert send(api, served, body).body == plain


@pytest.mark.parametrize("served", EVERY, indirect=True)
def test_a_direct_invocation_takes_no_field_of_the_servers_either(api: Api, served: Served) -> None:
    model = served.operation.body or served.operation.query
    parts = zip(served.operation.path.split("/"), served.path.split("/"), strict=True)
    ids = {"gateway_id": "default"} | {name[1:-1]: value for name, value in parts if name.startswith("{")}
    fields = {**served.body, **ids} if "{gateway_id}" in served.operation.path else dict(served.body)
    with nothing_changes(api.deployment):
        for field in SERVER_OWNED:
            if field in ids or field in declared(model) | set(fields):
                continue
            answer = api.deployment.call(served.operation.function, {**fields, field: "x"})
            if field in MARKS:  # it is an event of HTTP then, and a malformed one
                assert answer["statusCode"] == 400
                continue
            assert answer["code"] == "InvalidParameter", (field, answer)
            assert field in [error["field"] for error in answer["errors"]]


def nested_objects(depth: int) -> str:
    return '"x":{' * depth + "}" * depth


def broken(body: dict[str, Any]) -> Iterator[tuple[str, int]]:
    """Texts that are no strict JSON object, each a variation of a good body; with the status of their refusal."""
    good = json.dumps(body)
    name, value = next(iter(body.items()))
    pair = f"{json.dumps(name)}:{json.dumps(value)}"
    inside = good[:-1]
    yield f"{{{pair},{pair}}}", 400
    yield f"{inside},{pair}}}", 400
    yield f'{inside},"{name[0]}\\u{ord(name[1]):04x}{name[2:]}":{json.dumps(value)}}}', 400  # the same name, escaped
    for text in ("NaN", "Infinity", "-Infinity", "1e999", "-1e999", "01", "+1", "1.", ".5", "0x1", "'x'", "undefined"):
        yield f'{inside},"x":{text}}}', 400
        yield f"{{{json.dumps(name)}:{text}}}", 400
    for depth in (21, 500, 5_000):
        yield f'{inside},"x":{"[" * depth}{"]" * depth}}}', 400
        yield f"{inside},{nested_objects(depth)}}}", 400
    yield f'{inside},"x":"{"y" * 66_000}"}}', 413
    yield good + " " * 66_000, 413
    yield f"[{good}]", 400
    yield good + good, 400
    yield good + "x", 400
    yield good[:-1], 400
    yield "\ufeff" + good, 400
    yield json.dumps(good), 400
    for text in ("null", "true", "5", '""', "[]", "{", "//", "{,}", f"{inside},}}", good.replace('"', "'")):
        yield text, 400
    yield good.replace(name, name.upper(), 1), 400
    yield good.replace(name, name + "\\u0000", 1), 400
    yield good.replace(name, name + "\\ud800", 1), 400


@pytest.mark.parametrize("served", WITH_BODY, indirect=True)
def test_what_is_no_strict_json_object_changes_nothing_in_any_call(api: Api, served: Served) -> None:
    with nothing_changes(api.deployment):
        for text, status in broken(served.body):
            answer = send(api, served, text)
            assert answer.status == status, (text[:80], answer.body)
            assert answer.body["code"] in ("MalformedJson", "InvalidParameter", "BodyTooLarge")


@pytest.mark.parametrize("served", WITH_BODY, indirect=True)
def test_a_body_that_is_no_utf_8_changes_nothing_in_any_call(api: Api, served: Served) -> None:
    event = {
        "httpMethod": served.operation.method, "path": served.path, "queryString": {}, "isBase64Encoded": True,
        "headers": {"authorization": f"Bearer {api.token}"},
    }  # fmt: skip
    with nothing_changes(api.deployment):
        for raw in (b"\xff", b'{"name": "\xff\xfe"}', b"\x1f\x8b\x08", json.dumps(served.body).encode("utf-16")):
            given = {**event, "body": base64.b64encode(raw).decode()}
            assert api.deployment.call(served.operation.function, given)["statusCode"] == 400


# Cursors and keywords


def test_no_flipped_bit_of_a_cursor_is_accepted(api: Api) -> None:
    for number in range(3):
        api.create_key(f"key-{number}")
    cursor = api("list_keys", "GET", "/keys", query={"limit": "1"}).body["next_cursor"]
    assert api("list_keys", "GET", "/keys", query={"limit": "1", "cursor": cursor}).status == 200
    for position, char in enumerate(cursor):
        for bit in range(8):
            changed = cursor[:position] + chr(ord(char) ^ 1 << bit) + cursor[position + 1 :]
            answer = api("list_keys", "GET", "/keys", query={"limit": "1", "cursor": changed})
            problem(answer, 400, "InvalidParameter", "cursor")


def many_keys(deployment: Deployment, count: int) -> None:
    """Keys with long names that hold what LIKE takes for wildcards nowhere."""
    same = {
        "gateway_id": "default", "description": "", "type": "ApiKey", "generation": "Custom", "status": "Enable",
        "masked_value": "****", "sync_failures": 0, "revision": 1, "created_at": 1, "modified_at": 1,
    }  # fmt: skip
    rows = [{**same, "key_id": f"secret-{number:014x}", "name": f"{'a' * 50}-{number}"} for number in range(count)]
    with deployment.services.store.engine.begin() as connection:
        connection.execute(sa.insert(metadata.tables["consumer_keys"]), rows)


@pytest.mark.parametrize("wildcard", ["%", "_", "\\", "%_", "\\%", "%a", "*", "?"])
def test_a_keyword_of_wildcards_is_literal_and_answered_at_once(api: Api, wildcard: str) -> None:
    many_keys(api.deployment, 2_000)
    texts = ((wildcard * 60)[:60], wildcard * 200)
    seconds: dict[str, list[float]] = {text: [] for text in texts}
    for text in texts * 5:
        started = time.perf_counter()
        answer = api("list_keys", "GET", "/keys", query={"keyword": text})
        seconds[text].append(time.perf_counter() - started)
        if len(text) > 60:
            problem(answer, 400, "InvalidParameter", "keyword")
        else:
            assert (answer.status, answer.body["total_count"]) == (200, 0)
    assert max(min(each) for each in seconds.values()) < 0.05


def test_like_wildcards_reach_no_other_call(api: Api) -> None:
    key = api.create_key()
    for text in ("%", "_", "secret-%", key["key_id"][:-1] + "_", "%25"):
        problem(api("get_key", "GET", f"/keys/{text}"), 404, "KeyNotFound")
    for name in ("consumer_id", "status"):
        answer = api("list_keys", "GET", "/keys", query={name: "%"})
        assert answer.status == 400 or answer.body["total_count"] == 0
    assert len(sql(api.deployment, "SELECT * FROM consumer_keys")) == 1
