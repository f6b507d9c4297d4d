"""The management calls at a million keys and 10,000 consumers on PostgreSQL, against the same at 10,000 keys.

The statements that PostgreSQL ran, with their plans, are kept beside the figures in `results/scale_plans.txt`.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import RESULTS, ROOT, RUNS, Row, deployment, options, report

sys.path.insert(0, str(ROOT))

import pytest
import sqlalchemy as sa

from tests.databases import PostgreSQL

LARGE, SMALL, PER_CONSUMER = 1_000_000, 10_000, 100
BOUND = 2.0
LISTS: dict[str, dict[str, Any]] = {
    "newest first": {},
    "status Enable": {"status": "Enable"},
    "status Disable": {"status": "Disable"},
    "generation Custom": {"generation": "Custom"},
    "generation KMS": {"generation": "KMS"},
    "type": {"type": "ApiKey"},
    "of one consumer": {"consumer_id": f"consumer-{7:014x}"},
    "bound": {"bound": True},
    "not bound": {"bound": False},
    "keyword that 10 names have": {"keyword": "key-000012"},
    "keyword that no name has": {"keyword": "zzz"},
    "keyword that every name has": {"keyword": "key-"},
    "three filters": {"status": "Enable", "generation": "Custom", "bound": True},
    "three filters that no key matches": {"status": "Disable", "generation": "Custom", "bound": True},
    "keyword and status": {"keyword": "key-000012", "status": "Enable"},
    "status Disable, offset 500": {"status": "Disable", "offset": 500},
}
# An exact total of so many matches has to be counted: shown, and held to nothing.
COUNTED = "keys, keyword that every name has"
CONSUMERS: dict[str, dict[str, Any]] = {
    "newest first": {},
    "status Enable": {"status": "Enable"},
    "status Disable": {"status": "Disable"},
    "keyword that 10 names have": {"keyword": "app-0001"},
    "group of 50": {"group_id": f"group-{1:014x}"},
}


def _patient(driver: Any) -> None:
    """A million rows may take longer to arrive than the answer to any statement of a function."""
    driver.answer_seconds = 600


def fill(made: Any, count: int) -> None:
    """Keys of every kind straight into the tables: 1 in 10 disabled, 1 in 5 unbound, 1 in 10 of KMS."""
    consumers = count // PER_CONSUMER
    connection = made.services.store.engine.raw_connection()
    _patient(connection.driver_connection)
    try:
        cursor = connection.cursor()
        cursor.execute("SET LOCAL statement_timeout = 0")
        with cursor.copy("COPY consumers FROM STDIN") as copy:
            for i in range(1, consumers + 1):
                copy.write_row(
                    (
                        f"consumer-{i:014x}",
                        "default",
                        f"app-{i:05d}",
                        "",
                        "Disable" if i % 10 == 9 else "Enable",
                        1,
                        i,
                        i,
                    )
                )
        group = f"group-{1:014x}"
        cursor.execute("INSERT INTO consumer_groups VALUES (%s, 'default', 'group', '', 'Enable', 1, 1, 1)", (group,))
        cursor.execute(
            "INSERT INTO group_members SELECT %s, consumer_id FROM consumers ORDER BY created_at LIMIT 50", (group,)
        )
        columns = "key_id, gateway_id, name, description, type, generation, status, masked_value, consumer_id,"
        columns += " sync_failures, revision, created_at, modified_at, credential_name, credential_version,"
        columns += " sync_status, sync_checked_at, facet_id"
        facets: dict[tuple[str, str, bool], tuple[int, int]] = {}
        with cursor.copy(f"COPY consumer_keys ({columns}) FROM STDIN") as copy:
            for i in range(count):
                generation = ("KMS", "Custom", "Custom")[i % 10] if i % 10 < 3 else "System"
                owner = None if i % 5 == 4 else f"consumer-{i % consumers + 1:014x}"
                status = "Disable" if i % 10 == 9 else "Enable"
                facet = (generation, status, owner is not None)
                facet_id, number = facets.get(facet, (len(facets) + 1, 0))
                facets[facet] = (facet_id, number + 1)
                followed = ("cred", "v1", "Success", i) if generation == "KMS" else (None,) * 4
                copy.write_row((f"secret-{i:014x}", "default", f"key-{i:07d}", "", "ApiKey", generation, status,
                                "ck_****xyz", owner, 0, 1, i, i, *followed, facet_id))  # fmt: skip
        with cursor.copy("COPY key_facets FROM STDIN") as copy:
            for (generation, status, bound), (facet_id, number) in facets.items():
                copy.write_row((facet_id, "default", "ApiKey", generation, "Manual", status, bound, number))
        with cursor.copy("COPY key_values (digest, key_id, created_at) FROM STDIN") as copy:
            for i in range(count):
                copy.write_row((os.urandom(32), f"secret-{i:014x}", 1))
        cursor.execute("UPDATE deployment SET revision = revision + 1, entry_count = %s, base = NULL", (count,))
        connection.commit()
    finally:
        connection.close()
    with made.services.store.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as plain:
        _patient(plain.connection.driver_connection)
        plain.execute(sa.text("SET statement_timeout = 0"))
        plain.execute(sa.text("VACUUM ANALYZE"))
        plain.execute(sa.text("CHECKPOINT"))  # writing all that to the disk is nobody's call
        plain.invalidate()
    made.services.publisher.publish(heartbeat=True, may_shrink=True)


def median_ms(runs: int, call: Callable[[int], Any]) -> float:
    """Milliseconds of wall time; one call before is not counted."""
    taken = []
    for number in range(runs + 1):
        started = time.perf_counter()
        call(number)
        taken.append(time.perf_counter() - started)
    return statistics.median(taken[1:]) * 1000


def measure(server: PostgreSQL, count: int, runs: int, plans: list[str]) -> dict[str, float]:
    """Every call of the table at this number of keys, in ms."""
    found: dict[str, float] = {}
    with deployment(DATABASE_URL=server.url(server.empty())) as made:
        fill(made, count)
        app = made.services
        # Publishing is timed by itself. Each function has collaborators of its own, so it is their class that changes.
        monkey = pytest.MonkeyPatch()
        monkey.setattr(type(app), "publish_after", lambda _self, _revision: None)

        def call(function: str, **fields: Any) -> Any:
            answer = made.call(function, {"gateway_id": "default", **fields})
            assert "code" not in answer, (function, fields, answer)
            return answer

        os.sync()
        median_ms(5 * runs, lambda _: call("list_keys", limit=20))  # the first calls after the fill are not measured
        for what, (function, filters) in {
            **{f"keys, {what}": ("list_keys", filters) for what, filters in LISTS.items()},
            **{f"consumers, {what}": ("list_consumers", filters) for what, filters in CONSUMERS.items()},
        }.items():

            def listed(_: int = 0, name: str = function, given: dict[str, Any] = filters) -> Any:
                return call(name, limit=20, **given)

            found[what] = median_ms(runs, listed)
            plans += explained(app.store.engine, f"{what}, {count:,} keys", listed)
        cursor = call("list_keys", limit=20)["next_cursor"]
        found["keys, second page by cursor"] = median_ms(runs, lambda _: call("list_keys", limit=20, cursor=cursor))
        found["get"] = median_ms(runs, lambda n: call("get_key", key_id=f"secret-{count * n // 99:014x}"))
        made_keys: list[Any] = []
        found["create"] = median_ms(
            runs, lambda n: made_keys.append(call("create_key", name=f"new-{n}", generation="System"))
        )
        owner = f"consumer-{7:014x}"
        found["bind"] = median_ms(
            runs, lambda n: call("bind_consumer", key_id=made_keys[n]["key_id"], consumer_id=owner)
        )
        app.publisher.publish()

        def change(number: int) -> float:
            call("disable_key", key_id=made_keys[number]["key_id"])
            revision = app.store.read(lambda db: db.status()["revision"])
            started = time.perf_counter()
            outcome = app.publisher.publish()
            taken = time.perf_counter() - started
            assert outcome is not None
            assert outcome.revision == revision
            return taken

        found["publish one change"] = statistics.median([change(n) for n in range(runs + 1)][1:]) * 1000
        for what, run in {
            "get": lambda: call("get_key", key_id=f"secret-{count // 2:014x}"),
            "create": lambda: call("create_key", name="explained", generation="System"),
            "bind": lambda: call("bind_consumer", key_id=f"secret-{4:014x}", consumer_id=owner),
            "publish": app.publisher.publish,
        }.items():
            plans += explained(app.store.engine, f"{what}, {count:,} keys", run)
        monkey.undo()
    return found


def explained(engine: sa.Engine, title: str, run: Callable[[], Any]) -> list[str]:
    """The SELECTs that a call runs, each with its plan as PostgreSQL executed it."""
    seen: list[tuple[str, Any]] = []

    def keep(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.lstrip().startswith("SELECT") and "FOR UPDATE" not in statement:
            seen.append((statement, parameters))

    sa.event.listen(engine, "before_cursor_execute", keep)
    try:
        run()
    finally:
        sa.event.remove(engine, "before_cursor_execute", keep)
    lines = [f"== {title}"]
    with engine.connect() as connection:
        for statement, parameters in seen:
            if not any(table in statement for table in ("consumer_keys", "key_values", "changes")):
                continue
            plan = connection.exec_driver_sql("EXPLAIN (ANALYZE, TIMING OFF) " + statement, parameters)
            where = statement.partition("FROM")[2]
            lines += ["-- ... FROM " + " ".join(where.split()), *(str(row[0]) for row in plan), ""]
    return lines


def main() -> None:
    given = options(__doc__)
    large = 50_000 if given.quick else LARGE
    runs, plans = RUNS * 3, []
    server = PostgreSQL()
    try:
        few = measure(server, SMALL, runs, plans)
        many = measure(server, large, runs, plans)
    finally:
        server.close()
    rows = [
        Row(
            what,
            many[what] / few[what],
            "x",
            None if what == COUNTED else BOUND,
            note=f"{many[what]:.1f} ms, {SMALL:,} keys {few[what]:.1f} ms",
        )
        for what in few
    ]
    report("scale", rows, quick=given.quick, keys=large, consumers=large // PER_CONSUMER)
    if not given.quick:
        Path(RESULTS / "scale_plans.txt").write_text("\n".join(plans) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
