"""Publication under every order of steps: seeded schedules, all interleavings of two publishers, broken publishers.

CKEYS_SCHEDULES says how many schedules run (50,000 in CI), CKEYS_SIMULATION_SEED where they begin; the seed is shown at
the end of the run. A history that fails names its seed and writes down what was chosen: keep that file in `failing`,
whose histories are replayed first. A seed alone is worth nothing once a step or a choice has been added.
"""

from __future__ import annotations

import gc
import itertools
import os
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
from tests.simulation.choices import Choices, Recorded
from tests.simulation.edges import Reader, publisher_of
from tests.simulation.oracle import Violation
from tests.simulation.scheduler import Scheduler, Task, in_order
from tests.simulation.schedules import CALLER, SCHEDULES_PER_SEED, History, bulk
from tests.simulation.world import World

SCHEDULES = int(os.environ.get("CKEYS_SCHEDULES", "1000"))
PARTS = 20
ALL = 50_000
HERE, FAILED = Path(__file__).parent, Path(__file__).parents[2] / ".build" / "failing"
KINDS = {kind.__name__: kind for kind in (*broken.PUBLISHERS, *broken.READERS)}
KEPT = [
    line.split() for line in (HERE / "failing_seeds.txt").read_text(encoding="utf-8").splitlines() if line[:1].isdigit()
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
    # Nothing that is here by now goes away, and little of a history is in circles: the collector looks less often.
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(20_000, before[1], before[2])
    yield made
    gc.set_threshold(*before)
    gc.unfreeze()
    made.close()


def play(world: World, seed: int) -> None:
    """One history. If it fails, its seed and its steps are shown, and its choices are written down."""
    history = History(world, Choices(seed))
    try:
        history.run()
    except Exception as error:
        FAILED.mkdir(parents=True, exist_ok=True)
        record = FAILED / f"{seed}.json"
        record.write_text(history.choices.record(), encoding="utf-8")
        steps = "\n".join(history.trace)
        raise AssertionError(f"seed {seed}, recorded in {record}: {error}\n{steps}") from error


@pytest.mark.parametrize("path", sorted((HERE / "failing").glob("*.json")), ids=lambda path: path.stem)
def test_a_recorded_history_that_once_failed_holds(world: World, path: Path) -> None:
    History(world, Recorded(path.read_text(encoding="utf-8"))).run()


@pytest.mark.long
@pytest.mark.parametrize("part", range(PARTS))
def test_whatever_the_order_of_steps_and_faults_readers_never_go_back_and_one_tick_repairs(
    world: World, part: int
) -> None:
    seeds = max(1, SCHEDULES // SCHEDULES_PER_SEED // PARTS)
    first = int(os.environ["CKEYS_SIMULATION_SEED"]) + part * seeds
    for seed in range(first, first + seeds):
        play(world, seed)


def history_with(world: World, name: str, choices: Choices, **options: Any) -> History:
    """A history with what is broken on purpose under this name."""
    kind: Any = KINDS[name]
    if issubclass(kind, Publisher):
        return History(world, choices, publisher=kind, **options)
    return History(world, choices, reader=kind, **options)


def is_found_out(world: World, name: str, seed: int, **options: Any) -> bool:
    """Whether a guarantee does not hold, in a history that the sound ones get through."""
    try:
        history_with(world, name, Choices(seed), **options).run()
    except Violation:
        History(world, Choices(seed), **options).run()
        return True
    return False


@pytest.mark.parametrize(("seed", "name", "options"), [(int(seed), name, options) for seed, name, *options in KEPT])
def test_a_broken_publisher_or_reader_is_found_out_at_the_seed_that_is_kept_for_it(
    world: World, seed: int, name: str, options: list[str]
) -> None:
    given: dict[str, Any] = dict.fromkeys(options, True)
    if not is_found_out(world, name, seed, **given):
        others = (other for other in range(500) if is_found_out(world, name, other, **given))
        raise AssertionError(f"seed {seed} does not show what is wrong with {name} any more, but {next(others, None)}")


def test_a_seed_is_kept_for_everything_that_is_broken_on_purpose() -> None:
    assert {name for _, name, *_ in KEPT} == KINDS.keys()


def test_a_recorded_history_does_again_what_it_did(world: World) -> None:
    first = history_with(world, "PointerFirst", Choices(0))
    with pytest.raises(Violation) as found:
        first.run()
    again = history_with(world, "PointerFirst", Recorded(first.choices.record()))
    with pytest.raises(Violation) as found_again:
        again.run()
    assert again.trace == first.trace
    assert str(found_again.value) == str(found.value)


def orders(part: int = 0, parts: int = 1) -> Iterator[list[str]]:
    """All 12,870 orders of two times eight steps, or a part of them."""
    for chosen in itertools.islice(itertools.combinations(range(16), 8), part, None, parts):
        yield ["first", "second", *("first" if place in chosen else "second" for place in range(16))]


@pytest.mark.parametrize("part", range(PARTS))
def test_two_publishers_interleaved_in_every_way_lose_nothing(world: World, part: int) -> None:
    """An eighth of them in CI, other ones each time; an eightieth elsewhere."""
    apart = 8 if SCHEDULES >= ALL else 80
    offset = int(os.environ["CKEYS_SIMULATION_SEED"]) % apart
    for order in orders(part + PARTS * offset, PARTS * apart):
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
    world.reset(Choices(0))
    reader = Reader(world)
    bulk(world)

    def run(task: Task) -> None:
        with suppress(PublicationRefused, CloudFailure):
            publisher_of(world, task, kind).publish(heartbeat=task.name == "first")

    world.store.change(CALLER, world.now_ms, rename)
    world.oracle.note_state()
    world.switches = STEPS
    world.scheduler = scheduler = Scheduler(in_order(order))
    try:
        scheduler.run([Task("first", run), Task("second", run, 65_000)])
    finally:
        world.scheduler, world.switches = None, ()
    world.now_ms += 130_000
    world.store.change(CALLER, world.now_ms, disable)
    world.oracle.note_state()
    assert publisher_of(world, None, kind).publish() is not None, scheduler.trace
    reader.look()
    state = world.database()
    assert (reader.version, reader.revision) == (state.published_version, state.revision), scheduler.trace
