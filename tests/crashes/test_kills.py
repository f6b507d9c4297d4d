"""Writers are killed with SIGKILL, at every named point and at random moments; nothing acknowledged is ever lost.

300 times on SQLite, 100 times on PostgreSQL, 42 times on MariaDB, in one batch of each with two writers at once. After
each kill: every acknowledged change is there, the one that was under way is there whole or not at all, every revision
has its audit row; one tick later the snapshot holds what the database holds, and the audit chain is whole. What the
dead leave behind holds no value.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ckeys.deployment import Deployment
from consumer_keys.failpoints import POINTS
from tests.conftest import Api
from tests.crashes.expected import Expected
from tests.crashes.killing import CREDENTIALS, Writers
from tests.crashes.writer import CALLS
from tests.functions.canaries import files, places_of, sweep
from tests.functions.failing import CANARIES, PREFIX
from tests.functions.helpers import sql

# A rotation of the root secret is killed at these in tests/functions/test_rotate_root.py.
ROTATION = {"root-rotation.before-commit", "root-rotation.after-commit"}
WRITER = POINTS - ROTATION
KILLED_AT = {
    # A change is confirmed when the connection was lost during its commit; SQLite has none that could be lost.
    "sqlite": sorted(point for point in WRITER if not point.startswith("confirmation.")),
    "postgresql": sorted(WRITER),
    "mariadb": sorted(WRITER),
}
SECRETS = {name: CANARIES[name].encode() for name in ("system", "content")}
CHANGES_MAX, VISITS_MAX, AFTER_SECONDS_MAX = 4, 2, 0.04


class Batch(NamedTuple):
    """So many kills in one deployment at named points, in turn from `first` on, and so many at random moments."""

    database: str
    number: int
    first: int
    named: int
    random: int
    writers: int = 1

    @property
    def kills(self) -> int:
        """How many at least."""
        return self.named + self.random


BATCHES = [
    *(Batch("sqlite", number, number * 46, 46, 46) for number in range(3)), Batch("sqlite", 3, 138, 12, 12, writers=2),
    Batch("postgresql", 4, 0, 38, 38), Batch("postgresql", 5, 38, 12, 12, writers=2),
    Batch("mariadb", 6, 0, 30, 12, writers=2),
]  # fmt: skip


def orders(batch: Batch) -> Iterator[dict[str, Any]]:
    """How each run of a batch is killed; at last there are more random moments, as many as it takes."""
    chosen, points = random.Random(batch.number), KILLED_AT[batch.database]
    plan = [points[(batch.first + number) % len(points)] for number in range(batch.named)] + [""] * batch.random
    chosen.shuffle(plan)
    for number, point in enumerate(plan + [""] * batch.kills):
        order: dict[str, Any] = {"seed": batch.number * 1000 + number + 1, "writers": batch.writers}
        if point:
            visits = 1 if point.startswith(RARE) else VISITS_MAX // batch.writers
            # A tick does not come to its end while another writer publishes without a pause.
            yield {**order, "changes": CHANGES_MAX // 2, "point": point, "visit": chosen.randint(1, visits)}
        else:
            changes = chosen.randint(1, CHANGES_MAX // batch.writers)
            yield {**order, "changes": changes, "after": chosen.random() * AFTER_SECONDS_MAX}


# What happens once in a run at most, and is made to happen by `prepare` or by the writer.
RARE = ("base.", "clean-up.", "deletion.", "confirmation.", "reseal.")


def prepare(deployment: Deployment, order: dict[str, Any]) -> None:
    """A minute and a day go by: the leases of the dead run out, and publications become old."""
    sql(deployment, "UPDATE leases SET expires_at = 0")
    if order.get("point", "").startswith("base."):
        sql(deployment, "UPDATE deployment SET base = NULL, published_revision = 0")
    if order.get("point", "").startswith(RARE):
        sql(deployment, "UPDATE publications SET created_at = 0")


@pytest.mark.parametrize(
    ("database", "batch"),
    [(batch.database, batch) for batch in BATCHES],
    ids=[f"{batch.database}-{batch.number}" for batch in BATCHES],
)
@pytest.mark.long
def test_killed_writers_lose_nothing_and_leave_nothing_half_done(
    make_deployment: Callable[..., Deployment], batch: Batch, tmp_path: Path
) -> None:
    # Former content ends at once, so that ticks drop what ended as well.
    deployment = make_deployment(KEY_PREFIX=PREFIX, CREDENTIAL_CACHE_SECONDS="0")
    api = Api(deployment, deployment.operator[1])
    for name in (credentials := CREDENTIALS[: batch.writers]):
        api.put_credential(name, f"{CANARIES['content']}-{name}")
        api.create_key(f"follows-{name}", generation="KMS", credential={"name": name, "version": "v1"})
    interrupted: Counter[str] = Counter()
    acknowledged: Counter[str] = Counter()
    with Writers(deployment, left := tmp_path / "left") as writers:
        expected = Expected(api, credentials, tmp_path)
        for number, order in enumerate(orders(batch)):
            missing = [call for call in CALLS if not interrupted[call] or not acknowledged[call]]
            if number >= batch.kills and not missing:
                break
            prepare(deployment, order)
            run = writers.run({**order, "wanted": missing} if "after" in order else order)
            if "after" in order:
                made = Counter(line["writer"] for line in run.done)
                assert min(made[writer] for writer in range(batch.writers)) >= order["changes"], order
            acknowledged.update(line["done"] for line in run.done if line.get("followed") is not False)
            interrupted.update(call["call"] for call in run.under_way)
            expected.check(run)
            expected.recover()
    assert interrupted.keys() == acknowledged.keys() == set(CALLS)
    places = places_of(deployment) | files(left)
    operator = {"operator": deployment.operator[1].encode()}
    assert sweep(places, {**SECRETS, **operator}, {("operator", "home/operator.json")}) == []
    assert sweep(places, operator), "that one file does hold it"


def test_every_named_point_is_a_place_where_some_run_is_killed() -> None:
    planned: dict[str, Counter[str]] = {database: Counter() for database in KILLED_AT}
    for batch in BATCHES:
        planned[batch.database].update(order["point"] for order in orders(batch) if "point" in order)
    assert {database: planned[database].keys() for database in planned} == {
        "sqlite": WRITER - {"confirmation.before-commit", "confirmation.after-commit"},
        "postgresql": WRITER,
        "mariadb": WRITER,
    }
    kills = {database: sum(batch.kills for batch in BATCHES if batch.database == database) for database in KILLED_AT}
    assert kills == {"sqlite": 300, "postgresql": 100, "mariadb": 42}
    assert {batch.database for batch in BATCHES if batch.writers == 2} == KILLED_AT.keys()
