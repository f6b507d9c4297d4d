"""The world of one simulation: real publisher, worker, store and reader; a bucket, SSM and clocks that misbehave.

Every read and write of the bucket and every transaction is a step. Observers keep what was ever acknowledged and
check after each look of a reader that it holds exactly one state of the database, and that it never goes back.
"""

from __future__ import annotations

import json
import random
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, cast

from ckeys.database import migrate
from consumer_keys import snapshot_base
from consumer_keys.errors import Unavailable
from consumer_keys.failpoints import Commit
from consumer_keys.keytext import lookup_digest
from consumer_keys.model import Caller
from consumer_keys.operators import system_caller
from consumer_keys.publish import Publisher
from consumer_keys.roots import Digests
from consumer_keys.snapshot import POINTER, ConsumerRecord, KeyRecord, id_bytes, unpack_consumer, unpack_key
from consumer_keys.snapshot_base import Base
from consumer_keys.snapshot_cache import Snapshot, SnapshotCache
from consumer_keys.store.change import Change
from consumer_keys.store.database import Database
from consumer_keys.store.publication import Published
from tests.simulation.scheduler import Killed, Scheduler, Task

PREFIX, ENVIRONMENT, MANIFEST_KEY, LOOKUP_KEY = "consumer-keys/", "simulation", b"m" * 32, b"l" * 32
START_MS = 1_800_000_000_000
KEYS, CONSUMERS = 4, 2
GATEWAY, KMS_KEY = "default", "secret-000000000000ff"

State = tuple[dict[bytes, Any], dict[bytes, Any], dict[bytes, Any]]


class Violation(AssertionError):  # noqa: N818 - what it is
    """A guarantee that did not hold."""


class Faults:
    """How many steps may still fail in this schedule, and how likely one is to."""

    def __init__(self, rng: random.Random, budget: int, chance: float) -> None:
        self.rng, self.budget, self.chance = rng, budget, chance

    def strike(self) -> bool:
        """Whether this step fails."""
        if self.budget == 0 or self.rng.random() >= self.chance:
            return False
        self.budget -= 1
        return True


class Late(NamedTuple):
    """A write that was given up by its sender and is still on its way."""

    key: str
    data: bytes | None


class World:
    """One deployment. `reset` brings it back to the prepared state: four bound keys, published."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        url = f"sqlite:///{folder / 'simulation.db'}"
        migrate(url)
        self.store = Database(url)
        raw = self.store.engine.raw_connection()
        self._connection: sqlite3.Connection = cast(Any, raw.driver_connection)
        for pragma in ("synchronous=OFF", "wal_autocheckpoint=100000"):
            self._connection.execute(f"PRAGMA {pragma}")
        raw.close()
        self._images: dict[str, sqlite3.Connection] = {}
        self.scheduler: Scheduler | None = None
        self.faults = Faults(random.Random(0), 0, 0)
        self._fresh()
        self.store.change(system_caller("simulation", ""), self.now_ms, self._seed)
        publisher_of(self, None).publish(heartbeat=True)
        self.save("start")
        self._objects = dict(self.objects)

    def close(self) -> None:
        """Releases the database."""
        for image in self._images.values():
            image.close()
        self.store.engine.dispose()

    def _fresh(self) -> None:
        self.now_ms = START_MS
        self.step_ms_max = 60
        self.switches: tuple[str, ...] = ()  # the only steps at which others may move, if there are any
        self.objects: dict[str, bytes] = {}
        self.past: dict[str, list[bytes]] = {}
        self.late: list[Late] = []
        self.states: dict[int, list[State]] = {}
        self.pointers: dict[int, tuple[Any, ...]] = {}
        self.readers: list[Reader] = []
        self.lost: set[str] = set()  # objects that somebody took away
        self.stale_reads = False
        self.mutations = 0
        self.credential = b"content-0"

    def reset(self) -> None:
        """Back to the start."""
        for reader in self.readers:
            reader.cache.close()
        self._fresh()
        self.restore("start")
        self.objects = dict(self._objects)
        self.note_state()

    def save(self, name: str) -> None:
        """A copy of the database."""
        image = self._images.setdefault(name, sqlite3.connect(":memory:", check_same_thread=False))
        self._connection.backup(image)

    def restore(self, name: str) -> None:
        """The database as it was copied."""
        self._images[name].backup(self._connection)

    def _seed(self, db: Change) -> None:
        for number in range(1, CONSUMERS + 1):
            db.insert_consumer(
                {
                    "consumer_id": f"consumer-{number:014x}", "gateway_id": GATEWAY, "name": f"app-{number}",
                    "description": "", "status": "Enable",
                }
            )  # fmt: skip
        same = {"gateway_id": GATEWAY, "description": "", "type": "ApiKey", "status": "Enable", "masked_value": "****"}
        for number in range(1, KEYS + 1):
            key_id, consumer_id = f"secret-{number:014x}", f"consumer-{number % CONSUMERS + 1:014x}"
            names = {"key_id": key_id, "name": f"key-{number}", "generation": "Custom", "consumer_id": consumer_id}
            db.insert_key({**same, **names})
            db.add_value(key_id, Digests(bytes([number]) * 32, None))
        db.insert_key(
            {
                **same, "key_id": KMS_KEY, "name": "kms", "generation": "KMS", "credential_name": "cred",
                "credential_version": "v1", "sync_status": "Success", "sync_checked_at": self.now_ms,
                "sync_next_at": self.now_ms,
            }
        )  # fmt: skip
        db.audit("key.create", GATEWAY, KMS_KEY, None)
        db.add_value(KMS_KEY, Digests(lookup_digest(LOOKUP_KEY, GATEWAY, self.credential), None))

    # Steps

    def step(self, what: str) -> None:
        """Time goes on, others may move, a late write may arrive."""
        if self.scheduler is None or self.scheduler.current is None:
            return
        if self.switches and (not what.startswith(self.switches) or what.endswith(".lmdb")):
            return
        self.now_ms += self.faults.rng.randrange(1, self.step_ms_max)
        if self.late and self.faults.rng.random() < 0.1:
            self.arrive(self.late.pop(self.faults.rng.randrange(len(self.late))))
        self.scheduler.step(what)
        if self.faults.strike():
            self._strike(self.scheduler.current)

    def _strike(self, task: Task) -> None:
        """The process dies, pauses for longer than any lease, or the step just does not work."""
        kind = self.faults.rng.choice(("dies", "pauses", "pauses", "fails"))
        if kind == "dies":
            task.dead = True
            raise Killed
        if kind == "pauses":
            self.now_ms += self.faults.rng.choice((25_000, 65_000))
            task.asleep = self.faults.rng.choice((5, 20, 60))
            if self.scheduler is not None:
                self.scheduler.step("is paused")
        else:
            raise Unavailable("DependencyUnavailable", "simulation", "step", "Failed")

    def arrive(self, late: Late) -> None:
        """A late write takes effect."""
        if late.data is None:
            self.objects.pop(late.key, None)
        else:
            self.write(late.key, late.data)

    def write(self, key: str, data: bytes) -> None:
        """The bucket holds this from now on."""
        if key in self.objects and self.objects[key] != data:
            self.past.setdefault(key, []).append(self.objects[key])
        self.objects[key] = data

    # What must hold

    def note_state(self) -> None:
        """Keeps what the database holds at its revision: a snapshot of that revision must hold exactly this."""
        states = self.states.setdefault(_revision(self._connection), [])
        state = _state(self._connection)
        if state not in states:
            states.append(state)

    def note_pointer(self, data: bytes) -> None:
        """A version is given out once, and a higher one never carries an older state."""
        manifest = json.loads(data)["manifest"]
        version, revision = manifest["version"], manifest["revision"]
        named = (revision, manifest["base"]["name"], manifest["overlay"]["name"])
        missing = {PREFIX + name for name in named[1:]} - self.objects.keys() - self.lost
        if missing:
            raise Violation(f"version {version} names objects that are not in the bucket: {missing}")
        if self.pointers.setdefault(version, named) != named:
            raise Violation(f"version {version} was given out twice: {self.pointers[version]} and {named}")
        for other, (other_revision, *_) in self.pointers.items():
            if (other < version and other_revision > revision) or (other > version and other_revision < revision):
                raise Violation(f"versions {other}, {version} carry revisions {other_revision}, {revision}")

    def check(self, snapshot: Snapshot) -> None:
        """A reader holds one whole state of the database: no mixture, nothing lost, nothing revived."""
        revision = snapshot.manifest.revision
        digests = {digest for states in self.states.values() for state in states for digest in state[0]}
        idents = {ident for states in self.states.values() for state in states for ident in state[1]}
        keys = {digest: snapshot.find(digest) for digest in digests}
        consumers = {ident: snapshot.find_consumer(ident) for ident in idents}
        held = (
            {digest: unpack_key(record) for digest, record in keys.items() if record is not None},
            {ident: unpack_consumer(record) for ident, record in consumers.items() if record is not None},
            snapshot.overlay.operators,
        )
        if held not in self.states.get(revision, []):
            found = _difference(held, self.states.get(revision, []))
            raise Violation(f"revision {revision} (version {snapshot.manifest.version}) holds another state: {found}")

    def database(self) -> Published:
        """The counters."""
        return self.store.snapshot(lambda db: db.published())


def _difference(held: State, states: list[State]) -> Any:
    if not states:
        return "one that never was"
    return [
        {key: (value, of.get(key)) for key, value in part.items() if of.get(key) != value}
        | {key: (None, value) for key, value in of.items() if key not in part}
        for part, of in zip(held, states[-1], strict=True)
    ]


class Bucket:
    """The publisher's bucket: each call may fail before or after its effect, or take effect later."""

    def __init__(self, world: World) -> None:
        self._world = world

    def put(self, key: str, data: bytes, _content_type: str) -> None:
        """Writes."""
        world = self._world
        if key.endswith(POINTER):
            world.note_pointer(data)
        world.step(f"put {key[-14:]}")
        if world.faults.strike():
            if world.faults.rng.random() < 0.5:
                world.late.append(Late(key, data))
            else:
                world.write(key, data)
            raise Unavailable("DependencyUnavailable", "cos", "PutObject", "AnswerLost")
        world.write(key, data)
        world.step(f"has put {key[-14:]}")

    def get(self, key: str) -> bytes | None:
        """Reads; an object that was overwritten may still be seen as it was."""
        world = self._world
        world.step(f"get {key[-14:]}")
        past = world.past.get(key)
        if world.stale_reads and past and world.faults.rng.random() < 0.2:
            return past[-1]
        return world.objects.get(key)

    def exists(self, key: str) -> bool:
        """Looks."""
        self._world.step(f"head {key[-14:]}")
        return key in self._world.objects

    def delete(self, key: str) -> None:
        """Deletes."""
        world = self._world
        world.step(f"delete {key[-14:]}")
        if world.faults.strike():
            world.objects.pop(key, None)
            raise Unavailable("DependencyUnavailable", "cos", "DeleteObject", "AnswerLost")
        world.objects.pop(key, None)


class Store:
    """The database: each transaction is one step, may fail before it, be undone, or be committed unheard of."""

    def __init__(self, world: World) -> None:
        self._world = world

    def snapshot(self, work: Callable[[Any], Any]) -> Any:
        """A read."""
        self._world.step("read")
        return self._world.store.snapshot(work)

    def audit_log(self, work: Callable[[Any], Any]) -> Any:
        """A read of the audit log."""
        self._world.step("read audit")
        return self._world.store.audit_log(work)

    def housekeeping(self, purpose: Commit, work: Callable[[Any], Any]) -> Any:
        """A short write."""
        return self._write(purpose, work, lambda done: self._world.store.housekeeping(purpose, done))

    def change(self, caller: Caller, now_ms: int, work: Callable[[Any], Any]) -> Any:
        """A change."""
        return self._write("change", work, lambda done: self._world.store.change(caller, now_ms, done))

    def _write(self, purpose: str, work: Callable[[Any], Any], run: Callable[[Callable[[Any], Any]], Any]) -> Any:
        world = self._world
        world.step(f"begin {purpose}")
        changed = False

        def done(db: Any) -> Any:
            nonlocal changed
            connection = db.connection.connection.driver_connection
            before = _revision(connection)
            result = work(db)
            changed = _revision(connection) != before
            if world.faults.strike():
                raise Unavailable("DependencyUnavailable", "database", "commit", "Undone")
            return result

        result = run(done)
        if changed:
            world.note_state()
        if world.faults.strike():
            raise Unavailable("DependencyUnavailable", "database", "commit", "AnswerLost")
        world.step(f"committed {purpose}")
        return result


# What a snapshot has to hold, read without the code that publishes.


def _revision(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT revision FROM deployment").fetchone()[0])


def _state(connection: sqlite3.Connection) -> State:
    keys = connection.execute(
        "SELECT digest, k.key_id, name, status = 'Enable', consumer_id, ends_at FROM key_values v, consumer_keys k"
        " WHERE k.key_id = v.key_id"
    )
    consumers = connection.execute("SELECT consumer_id, name, status = 'Enable' FROM consumers")
    return (
        {
            digest: KeyRecord(key_id, name, bool(enabled), bound_to, 0 if ends_at is None else ends_at // 1000)
            for digest, key_id, name, enabled, bound_to, ends_at in keys
        },
        {id_bytes(consumer_id): ConsumerRecord(name, bool(enabled)) for consumer_id, name, enabled in consumers},
        {},  # there are no operators and no groups
    )


class Source:
    """The reader's side of the bucket."""

    def __init__(self, world: World) -> None:
        self._world, self._last = world, b""

    def pointer(self, name: str) -> bytes | None:
        """The pointer; None when it is the one read last."""
        data = Bucket(self._world).get(PREFIX + name)
        if data is None:
            raise Unavailable("SnapshotUnavailable", "cos", "GetObject", "404")
        if data == self._last:
            return None
        self._last = data
        return data

    def forget_pointer(self) -> None:
        """Read it anew."""
        self._last = b""

    def object(self, name: str, size_max: int) -> bytes:
        """An object."""
        data = Bucket(self._world).get(PREFIX + name)
        if data is None:
            raise Unavailable("SnapshotUnavailable", "cos", "GetObject", "404")
        return data

    def download(self, name: str, size_max: int, path: str) -> None:
        """An object into a file."""
        Path(path).write_bytes(self.object(name, size_max))


class Reader:
    """A validator that looks at the bucket now and then; it may never go back."""

    def __init__(self, world: World, cache: type[SnapshotCache] = SnapshotCache) -> None:
        self._world = world
        self.cache = cache(
            Source(world), Base, lambda _error: None, manifest_key=MANIFEST_KEY, environment=ENVIRONMENT,
            folder=str(world.folder / "reader"), poll_seconds=0, max_age_seconds=3600,
            clock=lambda: world.now_ms / 1000,
        )  # fmt: skip
        self.version = self.revision = 0

    def look(self) -> None:
        """One look, and whether what it holds now is a whole state, and none before the last one."""
        self.cache.look()
        snapshot = self.cache._snapshot  # also one that is too old to answer
        if snapshot is None:
            return
        manifest = snapshot.manifest
        if manifest.version < self.version or manifest.revision < self.revision:
            raise Violation(f"a reader went from {self.version, self.revision} back to {manifest[1:3]}")
        if manifest.version > self.version:
            self._world.check(snapshot)
        self.version, self.revision = manifest.version, manifest.revision


def publisher_of(world: World, task: Task | None, kind: type[Publisher] = Publisher) -> Publisher:
    """The publisher of one process, with that process's clock."""
    offset = 0 if task is None else task.clock_offset_ms

    def sleep(seconds: float) -> None:
        world.now_ms += int(seconds * 1000)
        world.step("sleep")

    return kind(
        cast(Any, Store(world)), Bucket(world), snapshot_base.build, prefix=PREFIX, environment=ENVIRONMENT,
        manifest_key=lambda _version: MANIFEST_KEY, root_version="v1",
        now_ms=lambda: world.now_ms + offset, sleep=sleep,
    )  # fmt: skip
