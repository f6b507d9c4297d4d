"""Seeded schedules: changes, publishers, ticks, clean-up and readers at once, with faults at their steps.

A seed is a history of several schedules on one deployment. After some of them everything recovers, and one tick later
every reader must hold exactly what the database holds.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

from consumer_keys import sync
from consumer_keys.audit_chain import GENESIS, first_fault
from consumer_keys.errors import CloudFailure
from consumer_keys.follow import Pace
from consumer_keys.operators import system_caller
from consumer_keys.publish import PublicationRefused, Publisher, quietly
from consumer_keys.roots import Roots
from consumer_keys.secret import Secret
from consumer_keys.snapshot import POINTER
from consumer_keys.snapshot_cache import SnapshotCache
from consumer_keys.store.change import Change
from tests.simulation.choices import Choices
from tests.simulation.edges import ENVIRONMENT, Bucket, Late, Reader, Store, publisher_of
from tests.simulation.edits import GATEWAY, Edit, MassRemoval, bring_back
from tests.simulation.oracle import PREFIX, Violation
from tests.simulation.scheduler import Scheduler, Task, biased
from tests.simulation.world import KMS_KEY, LOOKUP_KEY, Faults, World

SCHEDULES_PER_SEED = 5
# What may have happened between two schedules; those that need something which is not there are plain time.
EVENTS = (
    *["time"] * 12, *["many changes"] * 4, *["restore"] * 3,
    "copy", "two days", "base lost", "old pointer", "new credential",
)  # fmt: skip
DAY_MS, AHEAD_MS = 86_400_000, 70_000
CALLER = system_caller("simulation", "")
SETTINGS = SimpleNamespace(
    key_prefix="ck", credential_cache_seconds=300.0, ssm_requests_per_second=1000.0, audit_prefix="audit/",
    environment=ENVIRONMENT, root_secret_version="v1",
)  # fmt: skip
KEYS_OF_ROOT: Any = SimpleNamespace(lookup_key=LOOKUP_KEY, operator_key=b"o" * 32, audit_key=b"a" * 32)
ROOTS = Roots(KEYS_OF_ROOT, None)


def bulk(world: World) -> None:
    """So many changes that the next tick builds a new base."""
    world.mutations += 1
    first = world.mutations << 16

    def touch(db: Change) -> None:
        raw: Any = db.connection.connection.driver_connection
        rows = [((first + number).to_bytes(32, "big"), db.revision) for number in range(101)]
        raw.executemany("INSERT INTO changes VALUES ('value', ?, ?)", rows)
        db.audit("key.update", GATEWAY, KMS_KEY, None)

    world.store.change(CALLER, world.now_ms, touch)
    world.oracle.note_state()


class History:
    """Several schedules, as they are drawn from a seed or were recorded."""

    def __init__(
        self, world: World, choices: Choices, *, publisher: type[Publisher] = Publisher,
        reader: type[SnapshotCache] = SnapshotCache, restores: bool = False, many_keys: bool = False,
    ) -> None:  # fmt: skip
        """`publisher` and `reader` are the real ones, or broken ones that the simulation has to find out.

        With `restores` the database is brought back to an older copy now and then, with `many_keys` so many values go
        that the shrink guard holds; otherwise that is rare.
        """
        self.world, self.choices, self.kind = world, choices, publisher
        self.trace: list[str] = []
        self.many = choices.chance("many keys", 1 if many_keys else 0.03)
        world.reset(choices, "many keys" if self.many else "start")
        world.readers = [Reader(world, reader) for _ in range(2)]
        self.skewed = choices.chance("skewed", 0.1)
        self.restores = choices.chance("restores", 1 if restores else 0.1) and not self.many
        world.oracle.restores = self.restores
        world.stale_reads = not self.restores and choices.chance("stale reads", 0.2)
        self.saved = False

    def run(self, schedules: int = SCHEDULES_PER_SEED) -> None:
        """Runs every schedule. Raises Violation."""
        for number in range(schedules):
            self._between()
            self._one()
            last = number == schedules - 1
            if self.choices.chance("recovers", 0.1) or last:
                self._recover()
                if self.choices.chance("is released", 0.5) or last:
                    self._release()
        if self.choices.chance("audit log", 0.05):
            self._check_audit_log()

    def _one(self) -> None:
        choices, world = self.choices, self.world
        budget, chance = choices.of("faults", (0, 1, 1, 2, 3)), choices.of("chance of a fault", (0.02, 0.05, 0.2))
        world.faults = Faults(choices, budget, chance)
        # Leases run out in the middle of slow publications.
        world.step_ms_max = choices.of("longest step", (60, 60, 60, 12_000))
        tasks = [self._task(f"change {n}", self._change) for n in range(choices.of("changes", (1, 1, 2)))]
        tasks += [self._task(f"tick {n}", self._tick) for n in range(choices.of("ticks", (0, 0, 0, 1, 2)))]
        if self.many:
            tasks += self._shrinking()
        tasks += [self._task(f"reader {n}", self._look(reader)) for n, reader in enumerate(world.readers)]
        self._play(tasks, choices.of("probability to stay", (0.3, 0.8, 0.95)))

    def _shrinking(self) -> list[Task]:
        """A removal of many values beside the changes, and an operator who lets the snapshot shrink."""
        tasks = []
        if self.choices.chance("mass removal", 0.4):
            tasks.append(self._task("mass removal", lambda task: self._change(task, MassRemoval)))
        if self.choices.chance("operator", 0.15):
            tasks.append(self._task("operator", self._override))
        return tasks

    def _task(self, name: str, run: Callable[[Task], Any]) -> Task:
        skews = (-AHEAD_MS, AHEAD_MS, -DAY_MS, DAY_MS)
        skew = self.choices.of("skew", skews) if self.skewed and self.choices.chance("wrong clock", 0.3) else 0
        return Task(name, run, skew)

    def _play(self, tasks: list[Task], stay: float) -> None:
        world = self.world
        world.scheduler = Scheduler(biased(self.choices, stay))
        try:
            world.scheduler.run(tasks)
        finally:
            self.trace += ["---", *world.scheduler.trace]
            world.scheduler = None

    # What happens

    def _between(self) -> None:
        """What may have happened since the last schedule: time, lost objects, many changes, a restored database."""
        choices, world = self.choices, self.world
        event = choices.of("event", EVENTS)
        self.trace.append(event)
        if event == "two days":
            world.now_ms += 2 * DAY_MS
        elif event == "many changes":
            bulk(world)
        elif (
            event == "base lost"
            and (base := world.database().base) is not None
            and not world.stale_reads
            and not self.many
        ):
            # (While the guard holds, nothing can take the place of a base that is lost.)
            world.objects.pop(PREFIX + base.name, None)
            world.oracle.lost.add(PREFIX + base.name)
        elif event == "old pointer":
            world.late.append(self._old_pointer())
        elif event == "new credential":
            world.credential = f"content-{choices.below('content', 4)}".encode()
        elif self.restores and event == "copy":
            world.save("backup")
            self.saved = True
        elif self.restores and self.saved and event == "restore":
            self._restore()
        else:
            world.now_ms += choices.of("ms between", (0, 1_000, 30_000, 60_000))

    def _old_pointer(self) -> Late:
        past = self.world.past.get(PREFIX + POINTER) or [self.world.objects[PREFIX + POINTER]]
        return Late(PREFIX + POINTER, past[self.choices.below("old pointer", len(past))])

    def _restore(self) -> None:
        """The database of some time ago; the bucket holds the newest pointer, and nothing is on its way."""
        world = self.world
        world.late.clear()
        newest = max(world.oracle.pointers, default=0)
        if f'"version":{newest},'.encode() in world.objects[PREFIX + POINTER]:
            world.restore("backup")
            world.past.clear()  # nor will anything from before it still arrive: a restore takes longer than a write
            world.oracle.note_state()

    def _change(self, task: Task, kind: type[Edit] = Edit) -> None:
        choices, world = self.choices, self.world
        world.mutations += 1
        edit = kind(choices, world.mutations)
        try:
            _, revision = Store(world).change(CALLER, world.now_ms + task.clock_offset_ms, edit)
        except CloudFailure:
            return
        finally:
            self.trace.append(f"{task.name}: {edit.text}")
        publisher = publisher_of(world, task, self.kind)
        if choices.chance("quietly", 0.02):
            quietly(publisher, revision, lambda _error: None)
            return
        with suppress(CloudFailure, PublicationRefused):
            publisher.publish()

    def _tick(self, task: Task) -> None:
        publisher = publisher_of(self.world, task, self.kind)
        if self.choices.chance("whole tick", 0.05):
            with suppress(CloudFailure):
                sync.run(self._app(task, publisher), "tick", self._pace(task))
            return
        for work in (lambda: publisher.publish(heartbeat=True), publisher.clean_up):
            with suppress(CloudFailure, PublicationRefused):
                work()

    def _override(self, task: Task) -> None:
        with suppress(CloudFailure, PublicationRefused):
            publisher_of(self.world, task, self.kind).publish(heartbeat=True, may_shrink=True)

    def _app(self, task: Task, publisher: Publisher) -> Any:
        world = self.world

        def secret_value(name: str, version: str, attempts: int) -> Secret:
            world.step("ssm")
            return Secret(world.credential)

        store = Store(world)
        return SimpleNamespace(
            store=store, bucket=Bucket(world), publisher=publisher, settings=SETTINGS, read=store.snapshot,
            roots=lambda _db: ROOTS, root_keys=lambda _version: KEYS_OF_ROOT, keyed=lambda attempt: attempt(),
            ssm=SimpleNamespace(secret_value=secret_value), now_ms=lambda: world.now_ms + task.clock_offset_ms,
        )  # fmt: skip

    def _pace(self, task: Task) -> Pace:
        world = self.world

        def sleep(seconds: float) -> None:
            world.now_ms += int(seconds * 1000)
            world.step("sleep")

        return Pace(50.0, lambda: world.now_ms / 1000, sleep, lambda: self.choices.below("jitter", 100) / 100)

    def _look(self, reader: Reader) -> Callable[[Task], None]:
        def run(_task: Task) -> None:
            for _ in range(self.choices.of("looks", (1, 1, 2))):
                reader.look()

        return run

    # What must hold

    def _recover(self) -> None:
        """Faults end, what was on its way has arrived; the next tick comes. Then all are up to date."""
        world = self.world
        world.faults = Faults(self.choices)
        world.oracle.check_counters()
        world.stale_reads, stale = False, world.stale_reads
        world.step_ms_max = 60
        while world.late:
            world.arrive(world.late.pop())
        # With the credentials and all, or as much of it as the publication needs.
        whole = self.choices.chance("whole recovery", 0.1)
        if self.skewed:
            # The fault ends when what a wrong clock wrote down does: a lease that was taken under one that is ahead
            # lasts so much longer. (One of a clock that is further ahead is known to be wrong, and taken over.)
            world.now_ms += AHEAD_MS
        self._tick_and_check(whole=whole)
        world.stale_reads = stale

    def _release(self) -> None:
        """While the guard holds: the values come back, or an operator lets them go. Then everything is published."""
        world, state = self.world, self.world.database()
        world.stale_reads, stale = False, world.stale_reads
        if state.published_revision != state.revision and self.choices.chance("brought back", 0.5):
            work = bring_back(world.oracle.gone(state.published_revision))
            world.store.change(CALLER, world.now_ms, work)
            world.oracle.note_state()
            self._tick_and_check(whole=False)
            state = world.database()
        if state.published_revision != state.revision:
            self._play([Task("operator", self._override)], 1.0)
            if world.oracle.guard_may_hold():
                raise Violation("an operator let the snapshot shrink, and it was refused")
            self._tick_and_check(whole=False)
        world.stale_reads = stale

    def _tick_and_check(self, *, whole: bool) -> None:
        """One tick; then all are up to date, or the guard keeps the last snapshot in force."""
        world = self.world
        world.now_ms += 60_000
        self._play([Task("recovery", self._full_tick if whole else self._publishing_tick)], 1.0)
        state = world.database()
        if state.published_revision != state.revision and not world.oracle.guard_may_hold():
            raise Violation(f"revision {state.revision} is not published after a tick: {state.published_revision}")
        for reader in [*world.readers, Reader(world)]:
            reader.look()
            if reader.revision != state.published_revision or reader.version != state.published_version:
                raise Violation(f"a reader is at {reader.version, reader.revision}, the database at {state}")
            if reader.age_ms() > 60_000:
                raise Violation(f"what a reader holds after a tick is {reader.age_ms()} ms old")

    def _check_audit_log(self) -> None:
        """Every row follows the one before it, and the last is the one that is counted."""
        fault = self.world.store.audit_log(lambda log: first_fault(log.rows(), (0, GENESIS), (), log.counted()))
        if fault is not None:
            raise Violation(f"the audit log is broken: {fault.text}")

    def _publishing_tick(self, task: Task) -> None:
        publisher = publisher_of(self.world, task, self.kind)
        for _ in range(50):  # as the tick does: another publisher may have died at it
            try:
                if publisher.publish(heartbeat=True) is not None:
                    return
            except PublicationRefused:
                return  # by the shrink guard, if that is right
            self.world.now_ms += 500

    def _full_tick(self, task: Task) -> None:
        report = sync.run(self._app(task, publisher_of(self.world, task, self.kind)), "tick", self._pace(task))
        self.trace.append(str(report))
