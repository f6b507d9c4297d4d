"""Publication under every order of steps: seeded schedules, all interleavings of two publishers, broken publishers.

CKEYS_SCHEDULES says how many schedules run (50,000 in CI), CKEYS_SIMULATION_SEED where they begin; the seed is shown at
the end of the run. A history that fails names its seed: put it into failing_seeds.txt, which is replayed first.
"""

from __future__ import annotations

import itertools
import os
import random
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from consumer_keys.errors import CloudFailure
from consumer_keys.publish import PublicationRefused, Publisher
from consumer_keys.store.change import Change
from tests.simulation import broken
from tests.simulation.scheduler import Scheduler, Task, in_order
from tests.simulation.schedules import CALLER, SCHEDULES_PER_SEED, History, bulk
from tests.simulation.world import Faults, Reader, Violation, World, publisher_of

SCHEDULES = int(os.environ.get("CKEYS_SCHEDULES", "1000"))
PARTS = 20
ALL = 50_000
FAILED = [
    int(line.split()[0])
    for line in (Path(__file__).parent / "failing_seeds.txt").read_text(encoding="utf-8").splitlines()
    if line[:1].isdigit()
]
# What two publishers do until they have published: each is a step that the other's steps may fall between.
STEPS = ("begin lease-claim", "get s/current.json", "read", "begin reservation", "put", "begin publication")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("simulation")
    before, tempfile.tempdir = tempfile.tempdir, str(path)  # bases are built there
    yield path
    tempfile.tempdir = before


@pytest.fixture(scope="module")
def world(folder: Path) -> Iterator[World]:
    made = World(folder)
    yield made
    made.close()


def play(world: World, seed: int) -> None:
    """One history; what it violated is told together with its seed and its steps."""
    history = History(world, seed)
    try:
        history.run()
    except Exception as error:
        raise AssertionError(f"seed {seed}: {error}\n" + "\n".join(history.trace)) from error


@pytest.mark.parametrize("seed", FAILED)
def test_a_history_that_once_failed_holds(world: World, seed: int) -> None:
    play(world, seed)


@pytest.mark.parametrize("part", range(PARTS))
def test_whatever_the_order_of_steps_and_faults_readers_never_go_back_and_one_tick_repairs(
    world: World, part: int
) -> None:
    seeds = max(1, SCHEDULES // SCHEDULES_PER_SEED // PARTS)
    first = int(os.environ["CKEYS_SIMULATION_SEED"]) + part * seeds
    for seed in range(first, first + seeds):
        play(world, seed)


@pytest.mark.parametrize("kind", [*broken.PUBLISHERS, *broken.READERS], ids=lambda kind: kind.__name__)
def test_a_broken_publisher_or_reader_is_found_out(world: World, kind: type[Any]) -> None:
    """In a history that the sound ones get through."""
    role = "publisher" if issubclass(kind, Publisher) else "reader"
    for seed in range(500):
        restores = kind is broken.VersionNotAboveTheBucket
        try:
            History(world, seed, **{role: kind}, restores=restores).run()
        except Violation:
            return History(world, seed, restores=restores).run()
    raise AssertionError(f"500 histories did not show what is wrong with {kind.__name__}")


def orders(part: int = 0, parts: int = 1) -> Iterator[list[str]]:
    """All 12,870 orders of two times eight steps, or a part of them."""
    for chosen in itertools.islice(itertools.combinations(range(16), 8), part, None, parts):
        yield ["first", "second", *("first" if place in chosen else "second" for place in range(16))]


@pytest.mark.parametrize("part", range(PARTS))
def test_two_publishers_interleaved_in_every_way_lose_nothing(world: World, part: int) -> None:
    """All of them in CI, every 25th elsewhere."""
    for order in orders(part, PARTS * (1 if SCHEDULES >= ALL else 25)):
        interleave(world, order, Publisher)


def test_a_publisher_that_forgets_changes_when_it_was_overtaken_is_found_out(world: World) -> None:
    def all_orders() -> None:
        for order in orders(parts=25):
            interleave(world, order, broken.ForgetsTooMuch)

    with pytest.raises(Violation):
        all_orders()


def rename(db: Change) -> None:
    db.update_key("secret-00000000000001", name="new")
    db.audit("key.update", "default", "secret-00000000000001", None)


def disable(db: Change) -> None:
    db.update_key("secret-00000000000002", status="Disable")
    db.audit("key.disable", "default", "secret-00000000000002", None)


def interleave(world: World, order: list[str], kind: type[Publisher]) -> None:
    """A tick that builds a new base, and a change's publisher whose clock lets it take over at any step of the tick.

    They take their steps in this order; then another change is published.
    """
    world.reset()
    world.faults = Faults(random.Random(0), 0, 0)
    reader = Reader(world)
    bulk(world, random.Random(0))

    def run(task: Task) -> None:
        with suppress(PublicationRefused, CloudFailure):
            publisher_of(world, task, kind).publish(heartbeat=task.name == "first")

    world.store.change(CALLER, world.now_ms, rename)
    world.note_state()
    world.switches = STEPS
    world.scheduler = scheduler = Scheduler(in_order(order))
    try:
        scheduler.run([Task("first", run), Task("second", run, 65_000)])
    finally:
        world.scheduler, world.switches = None, ()
    world.now_ms += 130_000
    world.store.change(CALLER, world.now_ms, disable)
    world.note_state()
    assert publisher_of(world, None, kind).publish() is not None, scheduler.trace
    reader.look()
    state = world.database()
    assert (reader.version, reader.revision) == (state.published_version, state.revision), scheduler.trace
