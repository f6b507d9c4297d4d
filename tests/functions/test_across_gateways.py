"""Nothing of one gateway is reached through another: every id, filter, cursor, Idempotency-Key and value of every call.

The calls come from the template, their ids from the paths and the input models, so that a new one is covered when it
appears. `default` is the gateway that is called, `other` the one whose things are named.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any, NamedTuple

import pytest

from ckeys.deployment import Deployment
from consumer_keys.operation import Operation
from tencent_emulator.pytest_plugin import TestClock
from tests.conftest import Answer, Api
from tests.functions.callers import FILLED, two_gateways
from tests.functions.helpers import as_operator, change_content, kms_key, nothing_changes, problem
from tests.functions.test_input import BODIES, OPERATIONS, TEMPLATE, declared

Ids = dict[str, str]
TAKEN = "kT7vQ2xM9pLr4WzB"
NOT_FOUND = {"key_id": "KeyNotFound", "consumer_id": "ConsumerNotFound", "group_id": "GroupNotFound"}
OF_GATEWAY = [operation for operation in OPERATIONS.values() if "{gateway_id}" in operation.path]
# These need what is free; the others are shown to work on what is in use.
NEEDS_FREE = {"bind_consumer", "delete_key", "delete_consumer", "add_to_group", "delete_group"}


def ids_of(operation: Operation) -> list[str]:
    """The ids of resources that a call takes, those of the path first: it is looked up in this order."""
    of_path = re.findall(r"\{([a-z_]+)\}", operation.path)[1:]
    return of_path + sorted(name for name in declared(operation.body) if name.endswith("_id"))


ON_A_RESOURCE = [operation for operation in OF_GATEWAY if ids_of(operation)]
LISTS = [operation for operation in OF_GATEWAY if "cursor" in declared(operation.query)]
POSTS = [operation for operation in OF_GATEWAY if operation.method == "POST"]


def named(operation: Operation) -> str:
    return operation.function


class World(NamedTuple):
    """A gateway with a key, a consumer and a group that belong together, and with ones that are free."""

    gateway: str
    used: Ids
    free: Ids


class Caller(Api):
    """Calls operations on given ids, by HTTP or directly."""

    def call(self, operation: Operation, gateway: str, ids: Ids | None = None, **more: Any) -> Answer:
        path = operation.path.replace("{gateway_id}", gateway)
        for name, value in (ids or {}).items():
            path = path.replace(f"{{{name}}}", value)
        return self(operation.function, operation.method, path, self.body(operation, ids), **more)

    def direct(self, operation: Operation, gateway: str, ids: Ids) -> Any:
        given = {name: ids[name] for name in ids_of(operation)}
        return self.deployment.call(
            operation.function, {"gateway_id": gateway, **BODIES.get(named(operation), {}), **given}
        )

    def body(self, operation: Operation, ids: Ids | None) -> Any:
        if operation.body is None:
            return None
        given = {name: ids[name] for name in declared(operation.body) if ids and name in ids}
        return {**BODIES[operation.function], **given}

    def make(self, gateway: str, name: str, **of_key: str) -> Ids:
        """A key, a consumer and a group of this name."""
        made = {}
        for kind, ident in (("key", "key_id"), ("consumer", "consumer_id"), ("group", "group_id")):
            body = {"name": name, **({"generation": "System", **of_key} if kind == "key" else {})}
            answer = self(f"create_{kind}", "POST", f"/v1/gateways/{gateway}/{kind}s", body)
            assert answer.status == 201, answer.body
            made[ident] = answer.body[ident]
        return made

    def world(self, gateway: str, name: str) -> World:
        used, free = self.make(gateway, f"{name}-used"), self.make(gateway, f"{name}-free", status="Disable")
        for function in ("bind_consumer", "add_to_group"):
            assert self.call(OPERATIONS[function], gateway, used).status == 200
        return World(gateway, used, free)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with two_gateways(tmp_path_factory.mktemp("across") / "home") as made:
        yield made


@pytest.fixture(scope="module")
def admin(both: Deployment) -> Caller:
    return Caller(both, both.operator[1])


@pytest.fixture(scope="module")
def of_default(both: Deployment) -> Caller:
    return Caller(both, both.add_operator("of-default", "admin", ("default",))[1])


@pytest.fixture(scope="module")
def of_other(both: Deployment) -> Caller:
    return Caller(both, both.add_operator("of-other", "admin", ("other",))[1])


@pytest.fixture(scope="module")
def ours(admin: Caller) -> World:
    return admin.world("default", "ours")


@pytest.fixture(scope="module")
def theirs(both: Deployment) -> World:
    """Made by somebody who never calls `default`, not even in vain."""
    return Caller(both, both.add_operator("resident", "admin", ("other",))[1]).world("other", "theirs")


def same(answer: Answer) -> Answer:
    """An answer without what differs between two calls."""
    return answer._replace(body={name: value for name, value in (answer.body or {}).items() if name != "request_id"})


# Ids


def test_the_calls_that_take_ids_of_several_resources_are_known_as_such() -> None:
    several = {operation.function: ids_of(operation) for operation in ON_A_RESOURCE if len(ids_of(operation)) > 1}
    assert several == {
        "bind_consumer": ["key_id", "consumer_id"], "add_to_group": ["group_id", "consumer_id"],
        "remove_from_group": ["group_id", "consumer_id"],
    }  # fmt: skip
    assert {name for operation in ON_A_RESOURCE for name in ids_of(operation)} == NOT_FOUND.keys()
    functions = {item.name for item in TEMPLATE.functions if any("{gateway_id}" in route.path for route in item.routes)}
    assert functions == {*map(named, OF_GATEWAY), "validate_key"}  # whose values are below


@pytest.mark.parametrize("operation", ON_A_RESOURCE, ids=named)
def test_an_id_of_another_gateway_is_the_id_of_nothing_and_works_in_its_own(
    operation: Operation, both: Deployment, admin: Caller, of_default: Caller, of_other: Caller, ours: World
) -> None:
    theirs = of_other.world("other", operation.function.replace("_", "-"))
    names = ids_of(operation)
    asked: list[dict[str, Any]] = [{}]
    if len(names) == 1:  # a call on something of ours may be told that ours has changed
        asked.append({"headers": {"if-match": '"1"'}})
    if "dry_run" in declared(operation.query):
        asked.append({"query": {"dry_run": "true"}})
    with nothing_changes(both):
        for mine, foreign in ((ours.used, theirs.used), (ours.free, theirs.free)):
            for chosen in product((False, True), repeat=len(names)):
                wrong = {name for name, is_theirs in zip(names, chosen, strict=True) if is_theirs}
                if not wrong:
                    continue
                code = NOT_FOUND[next(name for name in names if name in wrong)]
                ids = {name: foreign[name] if name in wrong else mine[name] for name in names}
                nothing = {name: FILLED[name] if name in wrong else mine[name] for name in names}
                for more in asked:
                    answer = admin.call(operation, "default", ids, **more)
                    problem(answer, 404, code)
                    assert same(answer) == same(admin.call(operation, "default", nothing, **more))
                problem(of_default.call(operation, "default", ids), 404, code)
                problem(of_other.call(operation, "default", ids), 404, "GatewayNotFound")
                assert admin.direct(operation, "default", ids)["code"] == code
    own = theirs.free if operation.function in NEEDS_FREE else theirs.used
    assert of_other.call(operation, "other", own).status in (200, 204)


# Lists


@pytest.mark.parametrize("operation", LISTS, ids=named)
def test_a_list_shows_nothing_of_another_gateway_whatever_it_is_filtered_by(
    operation: Operation, admin: Caller, of_default: Caller, of_other: Caller, ours: World, theirs: World
) -> None:
    actor = of_other("list_audit", "GET", "/v1/gateways/other/audit").body["items"][0]["actor"]
    foreign = {
        "keyword": ["theirs"], "consumer_id": [theirs.used["consumer_id"], theirs.free["consumer_id"]],
        "group_id": [theirs.used["group_id"], theirs.free["group_id"]], "actor": [actor],
        "target": [*theirs.used.values(), *theirs.free.values()],
    }  # fmt: skip
    marks = ["theirs", actor, *foreign["target"]]
    everything = admin.call(operation, "default", query={"limit": "100"})
    assert everything.body["items"]
    assert not [mark for mark in marks if mark in json.dumps(everything.body)]
    filters = declared(operation.query) & foreign.keys()
    assert filters
    for name, value in [(each, value) for each in sorted(filters) for value in foreign[each]]:
        for caller in (admin, of_default):
            answer = caller.call(operation, "default", query={name: value})
            assert (answer.status, answer.body["items"], answer.body.get("total_count", 0)) == (200, [], 0), name
        problem(of_other.call(operation, "default", query={name: value}), 404, "GatewayNotFound")
    for name in filters:
        assert of_other.call(operation, "other", query={name: foreign[name][0]}).body["items"], name


@pytest.mark.parametrize("operation", LISTS, ids=named)
def test_a_cursor_of_another_gateway_opens_no_list(
    operation: Operation, admin: Caller, of_default: Caller, of_other: Caller, ours: World, theirs: World
) -> None:
    for listed in LISTS:
        cursor = of_other.call(listed, "other", query={"limit": "1"}).body["next_cursor"]
        given = {"query": {"limit": "1", "cursor": cursor}}
        for caller in (admin, of_default):
            problem(caller.call(operation, "default", **given), 400, "InvalidParameter", "cursor")
        problem(of_other.call(operation, "default", **given), 404, "GatewayNotFound")
        if listed is operation:
            assert of_other.call(operation, "other", **given).status == 200


# Repetitions


@pytest.mark.parametrize("operation", POSTS, ids=named)
def test_an_idempotency_key_of_one_gateway_replays_nothing_in_another(
    operation: Operation, both: Deployment, admin: Caller, of_other: Caller, ours: World
) -> None:
    theirs = admin.world("other", f"repeated-by-{operation.function.replace('_', '-')}")
    marked = {"headers": {"idempotency-key": operation.function}}
    assert admin.call(operation, "other", theirs.used, **marked).status == operation.status
    with nothing_changes(both):
        for ids in (ours.used, ours.free):
            problem(admin.call(operation, "default", ids, **marked), 422, "IdempotencyKeyReused")
            problem(of_other.call(operation, "default", ids, **marked), 404, "GatewayNotFound")
        foreign = admin.call(operation, "default", theirs.used, **marked)
        assert foreign.body["code"] in ("IdempotencyKeyReused", "KeyNotFound")
        assert not [ident for ident in theirs.used.values() if ident in json.dumps(foreign.body)]
        again = admin.call(operation, "other", theirs.used, **marked)
        assert (again.status, again.headers["Idempotency-Replayed"]) == (operation.status, "true")


# Values


def test_a_value_of_another_gateway_is_no_key(both: Deployment, admin: Caller, ours: World, theirs: World) -> None:
    value = admin.call(OPERATIONS["reveal_key"], "other", theirs.used).body["value"]
    for path in ("validate", "validate/chat", "verify"):
        for gateway, good in (("other", True), ("default", False)):
            at = f"/v1/gateways/{gateway}/{path}"
            if path == "verify":
                verdict = admin("validate_key", "POST", at, {"key": value}).body
                assert (verdict["valid"], verdict["code"]) == (good, "Valid" if good else "UnknownKey")
                assert (verdict["key_id"] == theirs.used["key_id"]) is good
            else:
                assert admin("validate_key", "GET", at, token=value).status == (200 if good else 401)
    for gateway, good in (("other", True), ("default", False)):
        assert both.call("validate_key", {"gateway_id": gateway, "key": value})["valid"] is good


# The deployment's status


def test_the_timers_report_names_only_keys_of_the_gateways_that_an_operator_may_see(
    make_deployment: Callable[..., Deployment], clock: TestClock
) -> None:
    deployment = make_deployment(GATEWAYS="default=One,other=Two")
    api = Api(deployment, deployment.operator[1])
    failing = {}
    for gateway in ("default", "other"):
        path, body = f"/v1/gateways/{gateway}", {"name": "taken", "generation": "Custom", "value": TAKEN}
        assert api("create_key", "POST", f"{path}/keys", body).status == 201
        failing[gateway] = kms_key(api, f"of-{gateway}", f"content-of-{gateway}-7Rk2", bound=False, path=path)["key_id"]
        change_content(api, f"of-{gateway}", TAKEN)  # fails run after run
    for _ in range(5):
        clock.shift(61)
        api.tick()

    def shown(caller: Api) -> set[str]:
        return {*caller("get_status", "GET", "/v1/status").body["last_sync"]["quarantined_keys"]}

    assert shown(api) == {*failing.values()}
    for gateway, key_id in failing.items():
        assert shown(as_operator(api, "viewer", (gateway,))) == {key_id}
