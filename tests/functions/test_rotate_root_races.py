"""A rotation of the root secret while others work, with real threads and connections, and what its last step checks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from consumer_keys import audit, failpoints, operator_admin, root_rotation
from consumer_keys.secret import Secret
from tests.conftest import Api
from tests.crashes.expected import published, stored
from tests.databases import rows_of
from tests.functions.helpers import check_counted, pointer, sql
from tests.functions.rotation import Killed, Reader, elsewhere, killed_at

OLD, NEW = "v1", "v2"
WRITERS, BEFORE = 2, 12
SECONDS_MAX = 60
# So many changes are made by others at least, between two steps of the rotation.
MEANWHILE = 3


class Others:
    """Operators who create, bind, disable and delete keys, another who makes operators, and gateways that ask."""

    def __init__(self, api: Api) -> None:
        self.api, self.app = api, api.deployment.services
        self.consumer = api.create_consumer()
        self.good: dict[str, str] = {}  # value -> key id; a value is here only while nothing is said against it
        self.refused: list[str] = []
        self.tokens = [api.token]
        self.asked = {OLD: 0, NEW: 0}
        self.unready = 0
        self.begun, self.old_is_over, self._over = threading.Event(), threading.Event(), threading.Event()
        self._changes, self._moved = 0, threading.Condition()
        self._running: list[Future[None]] = []

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """They work while the block runs; what failed in a thread fails here."""
        loops = [self._asking(OLD), self._asking(NEW), self._making_operators]
        loops += [self._changing(number) for number in range(WRITERS)]
        with ThreadPoolExecutor(len(loops)) as pool:
            self._running = [pool.submit(loop) for loop in loops]
            try:
                yield
            finally:
                for event in (self._over, self.old_is_over, self.begun):
                    event.set()
            for each in self._running:
                each.result(SECONDS_MAX)

    def meanwhile(self, *_: Any) -> None:
        """Waits until others have made some more changes."""
        with self._moved:
            wanted = self._changes + MEANWHILE
            assert self._moved.wait_for(lambda: self._changes >= wanted or self._failed(), SECONDS_MAX)
        for each in self._running:
            if each.done():
                each.result()

    def _failed(self) -> bool:
        return any(each.done() and each.exception() is not None for each in self._running)

    def _changed(self) -> None:
        with self._moved:
            self._changes += 1
            self._moved.notify_all()

    def make(self, name: str) -> tuple[str, str]:
        """(value, key id) of a new bound key that the snapshot in force holds."""
        key = self.api.create_key(name)
        self._changed()
        path, body = f"/keys/{key['key_id']}/consumer", {"consumer_id": self.consumer["consumer_id"]}
        bound = self.api("bind_consumer", "PUT", path, body)
        assert bound.status == 200, bound.body
        self._changed()
        while self.app.store.snapshot(lambda db: db.published()).published_revision < bound.body["revision"]:
            self.app.publish_pending()  # its own publisher did not come to it in two seconds
        return key["value"], key["key_id"]

    def unmake(self, value: str) -> None:
        """Disables, unbinds and deletes a key."""
        path = f"/keys/{self.good.pop(value)}"
        for function, method, where, status in (
            ("disable_key", "POST", f"{path}/disable", 200), ("unbind_consumer", "DELETE", f"{path}/consumer", 200),
            ("delete_key", "DELETE", path, 204),
        ):  # fmt: skip
            answer = self.api(function, method, where)
            assert answer.status == status, answer.body
            self._changed()
        self.refused.append(value)

    def _changing(self, number: int) -> Callable[[], None]:
        def loop() -> None:
            mine: list[str] = []
            while not self._over.is_set():
                value, key_id = self.make(f"key-{number}-{len(mine)}")
                self.good[value] = key_id
                mine.append(value)
                if len(mine) % 2:
                    self.unmake(mine[len(mine) // 2])

        return loop

    def _making_operators(self) -> None:
        while not self._over.is_set():
            name = f"operator-{len(self.tokens)}"
            self.tokens.append(operator_admin.add(self.app, name, "viewer")[1])
            self.tokens.append(operator_admin.rotate(self.app, name, 3_600_000)[1])
            self._changed()

    def _asking(self, version: str) -> Callable[[], None]:
        """A gateway, by a validator of this version, about every good key in turn: none is ever denied."""
        over = self.old_is_over if version == OLD else self._over

        def loop() -> None:
            if version == NEW:
                self.begun.wait(SECONDS_MAX)
            reader, number = Reader(self.api.deployment, version), 0
            try:
                while not over.is_set():
                    values = list(self.good)
                    value, number = values[number % len(values)], number + 1
                    status = reader.status(value)
                    assert status != 401 or value not in self.good or over.is_set(), (version, self.good[value])
                    assert status != 503 or not self.asked[version], "once it has a snapshot, it answers"
                    self.asked[version] += status == 200
                    self.unready += status == 503
            finally:
                reader.close()

        return loop


def rotated(others: Others) -> None:
    """From begin to end, with the others' changes between any two steps."""
    app = others.app
    others.meanwhile()
    root_rotation.begin(app, None)
    others.begun.set()
    others.meanwhile()
    for _ in range(5):
        done = root_rotation.backfill(app, 5, pause=lambda _: None, progress=others.meanwhile)
        if done["phase"] == "ready":
            break
    assert done["phase"] == "ready", done
    others.meanwhile()
    while not others.asked[NEW]:
        others.meanwhile()
    others.old_is_over.set()
    steps = []

    def progress(count: int) -> None:
        steps.append(count)
        if len(steps) <= BEFORE:  # by then it has met enough of them
            others.meanwhile()

    finished = root_rotation.finish(app, 5, readers_moved=True, progress=progress)
    assert (finished["present"], finished["coming"]) == (NEW, None)
    others.meanwhile()


@pytest.mark.long
def test_a_rotation_while_others_work_denies_nobody_and_leaves_one_version(api: Api, tmp_path: Path) -> None:
    others = Others(api)
    for number in range(BEFORE):
        value, key_id = others.make(f"before-{number}")
        others.good[value] = key_id
    with others.at_work():
        rotated(others)
    assert others.asked[OLD] > 10
    assert others.asked[NEW] > 10
    assert others.unready > 0, "a validator that is deployed too early says that it knows nothing"
    assert len(others.refused) > WRITERS
    assert api.tick()["publish_error"] is None
    check_whole(others, tmp_path)
    early, late = Reader(api.deployment, OLD), Reader(api.deployment, NEW)
    try:
        assert {late.status(value) for value in others.good} == {200}
        assert {late.status(value) for value in others.refused} == {401}
        assert {early.status(value) for value in others.good} == {503}
        assert all(map(late.knows, others.tokens))
        assert {api("list_keys", "GET", "/keys", token=token).status for token in others.tokens} == {200}
    finally:
        early.close()
        late.close()


def check_whole(others: Others, folder: Path) -> None:
    """Digests are those of the new version alone; counters, audit log and snapshot agree with the rows."""
    app, deployment = others.app, others.api.deployment
    rows = rows_of(app.store.engine)
    present = app.read(app.roots)
    digests = {present.lookup("default", Secret(value.encode())).present for value in others.good}
    assert {bytes(row["digest"]) for row in rows["key_values"]} == digests
    tokens = {present.token(Secret(token.encode())).present for token in others.tokens}
    assert {bytes(row["digest"]) for name in ("operators", "former_secrets") for row in rows[name]} == tokens
    names = ("key_values", "operators", "former_secrets")
    assert all(row["coming_digest"] is None for name in names for row in rows[name])
    assert {row["root_generation"] for row in rows["key_values"]} == {1}
    check_counted(rows)
    state = rows["deployment"][0]
    assert (state["entry_count"], state["published_count"]) == (len(others.good), len(others.good))
    held, wanted = published(deployment, folder), stored(deployment)
    assert held == wanted
    assert held[0].keys() == digests, "the snapshot has no entry of the former version"
    assert audit.verify(app).fault is None


# What the last step checks, under the lock


@contextmanager
def at_commit(number: int, then: Callable[[], Any]) -> Iterator[None]:
    """Does something else right after the n-th commit of a rotation's batch."""
    seen: list[str] = []

    def hook(point: str) -> None:
        if point == "root-rotation.after-commit":
            seen.append(point)
            if len(seen) == number:
                then()

    failpoints.install(hook)
    try:
        yield
    finally:
        failpoints.install(None)
    assert len(seen) >= number


@pytest.fixture
def ready(api: Api) -> list[str]:
    """The values of three good keys, in a rotation that only has to be finished."""
    values = [str(api.bound_key(f"key-{number}")["value"]) for number in range(3)]
    root_rotation.begin(api.deployment.services, None)
    done = root_rotation.backfill(api.deployment.services, 200, pause=lambda _: None, progress=lambda _: None)
    assert done["phase"] == "ready"
    return values


def finish(api: Api, batch: int = 200) -> dict[str, Any]:
    return root_rotation.finish(api.deployment.services, batch, readers_moved=True, progress=lambda _: None)


def test_a_value_that_is_written_after_the_last_look_is_moved_too(api: Api, ready: list[str]) -> None:
    others, roots = elsewhere(api, "others"), api.deployment.services.read(api.deployment.services.roots)

    def digest(value: str) -> bytes:
        return roots.lookup("default", Secret(value.encode())).present

    last = max(map(digest, ready))

    def write() -> None:
        """Until a value lies where the look has been."""
        while digest(ready[-1]) >= last or len(ready) == 3:
            ready.append(str(others.bound_key(f"late-{len(ready)}")["value"]))

    with at_commit(1, write):
        finish(api)
    reader = Reader(api.deployment, NEW)
    try:
        assert [reader.status(value) for value in ready] == [200] * len(ready)
    finally:
        reader.close()


def test_a_digest_that_is_lost_while_it_is_finished_stops_it_before_a_good_key_is_dropped(
    api: Api, ready: list[str]
) -> None:
    def lose() -> None:
        sql(api.deployment, "UPDATE key_values SET coming_digest = NULL WHERE root_generation = 0")

    with at_commit(1, lose), pytest.raises(root_rotation.RotationRefused, match="lacks its digest"):
        finish(api, batch=1)
    assert len(sql(api.deployment, "SELECT * FROM key_values")) == 3, "nothing is dropped"
    assert root_rotation.status(api.deployment.services)["phase"] == "incomplete"
    root_rotation.backfill(api.deployment.services, 200, pause=lambda _: None, progress=lambda _: None)
    finish(api)
    reader = Reader(api.deployment, NEW)
    try:
        assert [reader.status(value) for value in ready] == [200] * 3
    finally:
        reader.close()


def test_no_change_builds_the_base_that_a_rotation_needs_and_each_is_published_at_once(api: Api) -> None:
    api.bound_key("key")
    app = api.deployment.services
    root_rotation.begin(app, None)
    with killed_at(1, "base."), pytest.raises(Killed):
        root_rotation.backfill(app, 200, pause=lambda _: None, progress=lambda _: None)
    old, new = Reader(api.deployment, OLD), Reader(api.deployment, NEW)
    try:
        base = pointer(api.deployment)["base"]
        value = api.bound_key("while-old")["value"]
        assert pointer(api.deployment)["base"] == base
        assert (old.status(value), new.status(value)) == (200, 503), "what it builds upon lacks digests"
        api.tick()
        assert pointer(api.deployment)["base"] != base
        assert (old.status(value), new.status(value)) == (200, 200)
        base = pointer(api.deployment)["base"]
        with killed_at(1, "base."), pytest.raises(Killed):
            finish(api)
        values = [value, api.bound_key("after-end")["value"]]
        assert pointer(api.deployment)["base"] == base
        assert [new.status(each) for each in values] == [200, 200]
        api.tick()
        assert pointer(api.deployment)["base"] != base
        assert [new.status(each) for each in values] == [200, 200]
    finally:
        old.close()
        new.close()


def test_a_rotation_whose_snapshot_fell_behind_while_it_was_finished_is_stopped(api: Api, ready: list[str]) -> None:
    def fall_behind() -> None:
        sql(api.deployment, "UPDATE deployment SET root_complete = 0")  # as adding a digest that was missing does

    with at_commit(1, fall_behind), pytest.raises(root_rotation.RotationRefused, match="backfill"):
        finish(api)
    assert root_rotation.status(api.deployment.services)["coming"] == NEW
