"""Operators who change one key at the same moment, with real threads and connections, on each database."""

from __future__ import annotations

import random
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import pytest
import sqlalchemy as sa

from ckeys.deployment import ROOT
from ckeys.template import load_template
from consumer_keys import failpoints
from tests.conftest import Answer, Api
from tests.functions.helpers import check_counted, nothing_changes, problem, sql, stored

ROUNDS, THREADS = 12, 7
SECONDS_MAX = 30


class Attempt(NamedTuple):
    """One request and its answer."""

    call: str
    consumer_id: str | None
    answer: Answer


def send(api: Api, call: str, key_id: str, consumer_id: str | None = None, **headers: str) -> Answer:
    """One change of a key."""
    path = f"/keys/{key_id}"
    if call in ("enable", "disable"):
        return api(f"{call}_key", "POST", f"{path}/{call}", headers=headers)
    if call == "bind":
        return api("bind_consumer", "PUT", f"{path}/consumer", {"consumer_id": consumer_id}, headers=headers)
    if call == "unbind":
        return api("unbind_consumer", "DELETE", f"{path}/consumer", headers=headers)
    return api("delete_key", "DELETE", path, headers=headers)


class State(NamedTuple):
    """What matters of a key here."""

    status: str
    consumer_id: str | None

    def after(self, attempt: Attempt) -> State | None:
        """The state that a change leads to, None for no key. A change that is not legal here fails the test."""
        if attempt.call in ("enable", "disable"):
            return self._replace(status=attempt.call.capitalize())
        if attempt.call == "bind":
            assert self.consumer_id in (None, attempt.consumer_id), (self, attempt)
            return self._replace(consumer_id=attempt.consumer_id)
        if attempt.call == "unbind":
            return self._replace(consumer_id=None)
        assert self == State("Disable", None), attempt
        return None

    def leads_to(self, attempt: Attempt, other: State) -> bool:
        """Whether the change is one, and leads to the other state."""
        free = attempt.call != "bind" or self.consumer_id is None
        return self != other and free and self.after(attempt) == other


def state_of(body: dict[str, Any]) -> State:
    return State(body["status"], body["consumer"] and body["consumer"]["consumer_id"])


def check(created: dict[str, Any], attempts: list[Attempt], found: Answer) -> None:
    """The answers are those of some order, one change after the other; revisions say which."""
    history = {created["revision"]: state_of(created)}
    state = history[created["revision"]]
    done = [attempt for attempt in attempts if attempt.answer.status == 200]
    for revision in sorted({attempt.answer.body["revision"] for attempt in done}):
        group = [attempt for attempt in done if attempt.answer.body["revision"] == revision]
        (seen,) = {state_of(attempt.answer.body) for attempt in group}
        # One of them made the change, the others found that there was nothing to do.
        makers = [attempt for attempt in group if revision != created["revision"] and state.leads_to(attempt, seen)]
        assert makers or seen == state, (state, group)
        assert all(seen.after(attempt) == seen for attempt in group if attempt not in makers[:1]), group
        history[revision] = state = seen
    deleted = [attempt for attempt in attempts if attempt.answer.status == 204]
    assert len(deleted) <= 1
    if deleted:
        assert state.after(deleted[0]) is None
        problem(found, 404, "KeyNotFound")
    else:
        assert state_of(found.body) == state
        assert found.body["revision"] == max(history)
    for attempt in attempts:
        check_refusal(attempt, set(history.values()), bool(deleted))


def check_refusal(attempt: Attempt, states: set[State], deleted: bool) -> None:
    """A refusal has its reason in one of the states that the key went through."""
    code = attempt.answer.body.get("code") if attempt.answer.body else None
    if code is None:
        return
    reasons = {
        "KeyNotFound": deleted,
        "AlreadyBound": attempt.call == "bind" and bool({s.consumer_id for s in states} - {None, attempt.consumer_id}),
        "UnresolvedDependencies": attempt.call == "delete" and bool(states - {State("Disable", None)}),
        "RevisionMismatch": attempt.call == "enable" and any(s.status == "Disable" for s in states),
    }
    assert reasons.get(code), attempt


@pytest.mark.parametrize("seed", range(3))
def test_changes_that_race_end_as_if_they_had_been_made_one_after_the_other(api: Api, seed: int) -> None:
    chosen = random.Random(seed)
    consumers = [api.create_consumer(f"app-{number}")["consumer_id"] for number in range(2)]
    with ThreadPoolExecutor(THREADS) as pool:
        for number in range(ROUNDS):
            key = api.create_key(f"key-{number}", status=chosen.choice(["Enable", "Disable"]))
            calls = [chosen.choice(["enable", "disable", "bind", "bind", "unbind", "delete", "delete"])
                     for _ in range(THREADS)]  # fmt: skip
            barrier = threading.Barrier(THREADS)

            def one(call: str, consumer_id: str, key_id: str = key["key_id"], ready: Any = barrier) -> Attempt:
                ready.wait(SECONDS_MAX)
                return Attempt(call, consumer_id, send(api, call, key_id, consumer_id))

            attempts = list(pool.map(one, calls, [chosen.choice(consumers) for _ in calls]))
            check(key, attempts, api("get_key", "GET", f"/keys/{key['key_id']}"))
    leaked = sql(api.deployment, "SELECT * FROM key_values WHERE key_id NOT IN (SELECT key_id FROM consumer_keys)")
    assert not leaked
    check_counted(stored(api.deployment))


def test_of_many_who_saw_the_same_revision_one_changes_the_key(api: Api) -> None:
    key = api.create_key()
    tag = f'"{key["revision"]}"'

    def edit(number: int) -> Answer:
        path, body = f"/keys/{key['key_id']}", {"description": f"by {number}"}
        return api("update_key", "PATCH", path, body, headers={"if-match": tag})

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(edit, range(16)))
    assert sorted(answer.status for answer in answers) == [200] + [412] * 15
    (winner,) = (answer.body for answer in answers if answer.status == 200)
    assert {answer.headers["ETag"] for answer in answers} == {f'"{winner["revision"]}"'}
    assert api("get_key", "GET", f"/keys/{key['key_id']}").body == winner


@pytest.mark.parametrize("last", ["disable", "delete"])
def test_a_disable_or_delete_wins_over_an_enable_that_is_under_way(api: Api, last: str) -> None:
    key = api.create_key(status="Enable" if last == "disable" else "Disable")
    engine = api.deployment.services.store.engine
    committing, waiting = threading.Event(), threading.Event()

    def hold(point: str) -> None:
        if point == "change.before-commit" and threading.current_thread().name.startswith("first"):
            committing.set()
            assert waiting.wait(SECONDS_MAX)

    read: list[int] = []

    def count(_connection: Any) -> None:
        if threading.current_thread().name.startswith("second"):
            read.append(1)
            if len(read) == 2:  # it has authenticated and seen the key, and wants to write
                waiting.set()

    sa.event.listen(engine, "commit", count)
    failpoints.install(hold)
    try:
        with ThreadPoolExecutor(1, "first") as first, ThreadPoolExecutor(1, "second") as second:
            winner = first.submit(send, api, last, key["key_id"])
            assert committing.wait(SECONDS_MAX)
            loser = second.submit(send, api, "enable", key["key_id"])
            assert winner.result(SECONDS_MAX).status in (200, 204)
            if last == "disable":
                refused = problem(loser.result(SECONDS_MAX), 412, "RevisionMismatch")
                assert "disabled" in refused["detail"]
            else:
                problem(loser.result(SECONDS_MAX), 404, "KeyNotFound")
    finally:
        failpoints.install(None)
        sa.event.remove(engine, "commit", count)
    if last == "disable":
        assert api("get_key", "GET", f"/keys/{key['key_id']}").body["status"] == "Disable"
        assert send(api, "enable", key["key_id"]).status == 200  # having seen it


# If-Match: every route of the template that changes one existing resource.
BODIES: dict[str, Any] = {
    "update_key": {"description": "new"}, "update_consumer": {"description": "new"},
    "bind_consumer": {"consumer_id": ""}, "update_group": {"description": "new"},
}  # fmt: skip
MUTATIONS = [
    (function.name, route.method, route.path)
    for function in load_template(ROOT / "template.yaml").functions
    for route in function.routes
    if re.match(r"/v1/gateways/\{gateway_id\}/.*_id\}", route.path)
    and route.method != "GET" and function.name != "reveal_key"
]  # fmt: skip


@pytest.mark.parametrize(("function", "method", "path"), MUTATIONS, ids=[name for name, _, _ in MUTATIONS])
def test_a_change_of_something_that_changed_meanwhile_is_refused_with_the_current_revision(
    api: Api, function: str, method: str, path: str
) -> None:
    consumer = api.create_consumer()
    key = api.create_key(status="Disable" if function in ("enable_key", "delete_key") else "Enable")
    if function == "unbind_consumer":
        api.bind(key, consumer)
    body = BODIES.get(function)
    if body and "consumer_id" in body:
        body = {"consumer_id": consumer["consumer_id"]}
    group = api("create_group", "POST", "/groups", {"name": "team"}).body
    ids = {"key_id": key["key_id"], "group_id": group["group_id"], "consumer_id": consumer["consumer_id"]}
    where = path.format(gateway_id="default", **ids)
    # What is changed is what the path names first: a group's member is part of the group.
    kind = next(name for name in ("key", "group", "consumer") if f"{{{name}_id}}" in path)
    target = f"/{kind}s/{ids[f'{kind}_id']}"
    old = api(f"get_{kind}", "GET", target).headers["ETag"]
    current = api(f"update_{kind}", "PATCH", target, {"description": "by somebody else"}).headers["ETag"]
    assert current != old
    with nothing_changes(api.deployment):
        stale = api(function, method, where, body, headers={"if-match": old})
        problem(stale, 412, "RevisionMismatch")
        assert stale.headers["ETag"] == current
        assert current.strip('"') in stale.body["detail"]
    assert api(function, method, where, body, headers={"if-match": current}).status in (200, 204)


def test_the_routes_above_are_all_that_change_one_thing() -> None:
    names = {name for name, _, _ in MUTATIONS}
    assert names >= {
        "update_key", "enable_key", "disable_key", "bind_consumer", "unbind_consumer", "delete_key", "update_consumer",
        "delete_consumer", "update_group", "delete_group", "add_to_group", "remove_from_group",
    }  # fmt: skip
