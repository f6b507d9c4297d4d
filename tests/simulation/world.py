"""The world of one simulation: real publisher, worker, store and reader; a bucket, SSM and clocks that misbehave.

Every read and write of the bucket and every transaction is a step. The oracle keeps what was ever acknowledged; after
each look of a reader it checks that the reader holds exactly one state of the database, and that it never goes back.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from ckeys.database import migrate
from consumer_keys.errors import Unavailable
from consumer_keys.keytext import lookup_digest
from consumer_keys.operators import system_caller
from consumer_keys.roots import Digests
from consumer_keys.snapshot import POINTER
from consumer_keys.store.change import Change
from consumer_keys.store.database import Database
from consumer_keys.store.publication import Published
from tests.simulation.choices import Choices
from tests.simulation.edges import Late, Reader, publisher_of
from tests.simulation.edits import GATEWAY, new_consumer, new_key, value
from tests.simulation.oracle import PREFIX, Oracle
from tests.simulation.scheduler import Killed, Scheduler, Task

LOOKUP_KEY = b"l" * 32
START_MS = 1_800_000_000_000
KEYS, MANY_KEYS, CONSUMERS = 4, 24, 2
KMS_KEY = "secret-000000000000ff"


class Faults:
    """How many steps may still fail in this schedule, and how likely one is to."""

    def __init__(self, choices: Choices, budget: int = 0, chance: float = 0) -> None:
        self.choices, self.budget, self.chance = choices, budget, chance

    def strike(self) -> bool:
        """Whether this step fails."""
        if self.budget == 0 or not self.choices.chance("fault", self.chance):
            return False
        self.budget -= 1
        return True


class World:
    """One deployment. `reset` brings it back to the prepared state: a few bound keys, or many, published."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        url = f"sqlite:///{folder / 'simulation.db'}"
        migrate(url)
        self.store = Database(url)
        raw = self.store.engine.raw_connection()
        self._connection: sqlite3.Connection = cast(Any, raw.driver_connection)
        for pragma in ("synchronous=OFF", "wal_autocheckpoint=100000", "locking_mode=EXCLUSIVE"):
            self._connection.execute(f"PRAGMA {pragma}")
        raw.close()
        self._images: dict[str, sqlite3.Connection] = {}
        self.readers: list[Reader] = []
        self._fresh(Choices(0))
        self._objects: dict[str, dict[str, bytes]] = {}
        self._prepare("start", self._seed)
        self._prepare("many keys", self._seed_many)

    def close(self) -> None:
        """Releases the database."""
        for image in self._images.values():
            image.close()
        self.store.engine.dispose()

    def _fresh(self, choices: Choices) -> None:
        self.choices, self.faults = choices, Faults(choices)
        self.scheduler: Scheduler | None = None
        self.now_ms = START_MS
        self.step_ms_max = 60
        self.switches: tuple[str, ...] = ()  # the only steps at which others may move, if there are any
        self.objects: dict[str, bytes] = {}
        self.past: dict[str, list[bytes]] = {}
        self.late: list[Late] = []
        self.oracle = Oracle(self._connection)
        self.stale_reads = False
        self.mutations = 0
        self.credential = b"content-0"

    def _prepare(self, name: str, work: Callable[[Change], None]) -> None:
        self.store.change(system_caller("simulation", ""), self.now_ms, work)
        publisher_of(self, None).publish(heartbeat=True)
        self.save(name)
        self._objects[name] = dict(self.objects)

    def reset(self, choices: Choices, start: str = "start") -> None:
        """Back to a start; from here on these choices are made."""
        for reader in self.readers:
            reader.cache.close()
        self.readers = []
        self._fresh(choices)
        self.restore(start)
        self.objects = dict(self._objects[start])
        self.oracle.note_state()
        self.oracle.note_pointer(self.objects[PREFIX + POINTER], self.objects, may_shrink=True)

    def save(self, name: str) -> None:
        """A copy of the database."""
        image = self._images.setdefault(name, sqlite3.connect(":memory:", check_same_thread=False))
        self._connection.backup(image)

    def restore(self, name: str) -> None:
        """The database as it was copied."""
        self._images[name].backup(self._connection)

    def database(self) -> Published:
        """The counters."""
        return self.store.snapshot(lambda db: db.published())

    def _seed(self, db: Change) -> None:
        for number in range(1, CONSUMERS + 1):
            new_consumer(db, f"consumer-{number:014x}", f"app-{number}")
        for number in range(1, KEYS + 1):
            self._add_key(db, number)
        db.insert_key(
            {
                "key_id": KMS_KEY, "gateway_id": GATEWAY, "name": "kms", "description": "", "type": "ApiKey",
                "generation": "KMS", "status": "Enable", "masked_value": "****", "credential_name": "cred",
                "credential_version": "v1", "sync_status": "Success", "sync_checked_at": self.now_ms,
                "sync_next_at": self.now_ms,
            }
        )  # fmt: skip
        db.audit("key.create", GATEWAY, KMS_KEY, None)
        db.add_value(KMS_KEY, Digests(lookup_digest(LOOKUP_KEY, GATEWAY, self.credential), None))

    def _seed_many(self, db: Change) -> None:
        for number in range(KEYS + 1, MANY_KEYS + 1):
            self._add_key(db, number)
        db.audit("key.create", GATEWAY, KMS_KEY, None)

    def _add_key(self, db: Change, number: int) -> None:
        key_id, consumer_id = f"secret-{number:014x}", f"consumer-{number % CONSUMERS + 1:014x}"
        new_key(db, key_id, f"key-{number}", consumer_id)
        db.add_value(key_id, value(number))

    # Steps

    def is_operator(self) -> bool:
        """Whether an operator is at work, who lets the snapshot shrink."""
        return (
            self.scheduler is not None
            and self.scheduler.current is not None
            and (self.scheduler.current.name == "operator")
        )

    def step(self, what: str) -> None:
        """Time goes on, others may move, a late write may arrive."""
        scheduler = self.scheduler
        if scheduler is None or scheduler.current is None:
            return
        if self.switches and (not what.startswith(self.switches) or what.endswith(".lmdb")):
            return
        self.now_ms += 1 + self.choices.below("ms", self.step_ms_max)
        if self.late and self.choices.chance("arrives", 0.1):
            self.arrive(self.late.pop(self.choices.below("late", len(self.late))))
        scheduler.step(what)
        if self.faults.strike():
            self._strike(scheduler.current)

    def _strike(self, task: Task) -> None:
        """The process dies, pauses for longer than any lease, or the step just does not work."""
        kind = self.choices.of("kind of fault", ("fails", "dies", "pauses", "pauses"))
        if kind == "dies":
            task.dead = True
            raise Killed
        if kind == "pauses":
            self.now_ms += self.choices.of("ms of a pause", (25_000, 65_000))
            task.asleep = self.choices.of("steps of a pause", (5, 20, 60))
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
