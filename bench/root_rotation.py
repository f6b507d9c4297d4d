"""A whole rotation of the root secret on PostgreSQL, while keys are created and validated all the time.

`--keys` says how many there are when it begins. Every value is really sealed, so the backfill really opens it.
"""

from __future__ import annotations

import os
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from common import GATEWAY, ROOT, Row, deployment, options, report

sys.path.insert(0, str(ROOT))

import sqlalchemy as sa

from tests.databases import PostgreSQL
from tests.functions.rotation import Reader

KEYS, QUICK, BATCH, SAMPLED, PER_CONSUMER = 100_000, 5_000, 200, 2_000, 100
FORMER, COMING = "v1", "v2"
# What others wait for a lock before they try again, and what no statement may take (store/dialect.py).
TRANSACTION_MS_MAX, STATEMENT_MS_MAX = 3_000, 10_000


def fill(made: Any, count: int) -> list[str]:
    """Bound System keys straight into the tables, published as a base; some of their values."""
    from consumer_keys.keytext import lookup_digest, make_system_value

    app, values, lookup_key = made.services, list[str](), made.services.root.lookup_key
    consumers = max(1, count // PER_CONSUMER)
    app.key_vault.seal(app.place_of_key(GATEWAY, ""), b"")  # the data key is there before its values
    connection = app.store.engine.raw_connection()
    try:
        cursor = connection.cursor()
        cursor.execute("SET LOCAL statement_timeout = 0")
        with cursor.copy("COPY consumers FROM STDIN") as copy:
            for i in range(1, consumers + 1):
                copy.write_row((f"consumer-{i:014x}", GATEWAY, f"app-{i:05d}", "", "Enable", 1, i, i))
        cursor.execute(
            "INSERT INTO key_facets VALUES (1, %s, 'ApiKey', 'System', 'Manual', 'Enable', true, %s)", (GATEWAY, count)
        )
        columns = "key_id, gateway_id, name, description, type, generation, status, masked_value, consumer_id,"
        columns += " sync_failures, revision, created_at, modified_at, facet_id"
        with cursor.copy(f"COPY consumer_keys ({columns}) FROM STDIN") as copy:
            for i in range(count):
                owner = f"consumer-{i % consumers + 1:014x}"
                copy.write_row((f"secret-{i:014x}", GATEWAY, f"key-{i:07d}", "", "ApiKey", "System", "Enable",
                                "ck_****xyz", owner, 0, 1, i, i, 1))  # fmt: skip
        with cursor.copy("COPY key_values (digest, key_id, sealed, data_key_id, created_at) FROM STDIN") as copy:
            for i in range(count):
                value = make_system_value("ck", os.urandom)
                if i % max(1, count // SAMPLED) == 0:
                    values.append(value)
                key_id = f"secret-{i:014x}"
                sealed = app.key_vault.seal(app.place_of_key(GATEWAY, key_id), value.encode())
                copy.write_row((lookup_digest(lookup_key, GATEWAY, value.encode()), key_id, *sealed, 1))
        cursor.execute("UPDATE deployment SET revision = revision + 1, entry_count = %s, base = NULL", (count,))
        connection.commit()
    finally:
        connection.close()
    with app.store.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as plain:
        plain.execute(sa.text("SET statement_timeout = 0"))
        plain.execute(sa.text("VACUUM ANALYZE"))
        plain.execute(sa.text("CHECKPOINT"))
        plain.invalidate()
    app.publisher.publish(heartbeat=True, may_shrink=True)
    return values


class Traffic:
    """Others, all the time: one creates keys and binds them, a validator of each version is asked."""

    def __init__(self, made: Any, values: list[str]) -> None:
        self.made, self.values, self.phase = made, values, "before"
        self.created: dict[str, list[float]] = {}
        self.asked: dict[str, list[float]] = {}
        self.denied = self.refused = self.unready = 0
        self._over, self._versions = threading.Event(), {FORMER}

    @contextmanager
    def running(self) -> Iterator[None]:
        """The threads live as long as the block."""
        threads = [threading.Thread(target=work) for work in (self._create, self._ask)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._over.set()
            for thread in threads:
                thread.join()

    def move_readers(self) -> None:
        """From now on validators have the coming version."""
        self._versions = {COMING}

    def _create(self) -> None:
        number = 0
        while not self._over.is_set():
            number, phase, started = number + 1, self.phase, time.perf_counter()
            fields = {"gateway_id": GATEWAY, "name": f"new-{number}", "generation": "System"}
            key = self.made.call("create_key", fields)
            if "value" not in key:
                self.refused += 1
                continue
            self.created.setdefault(phase, []).append((time.perf_counter() - started) * 1000)
            owner = {"gateway_id": GATEWAY, "key_id": key["key_id"], "consumer_id": f"consumer-{1:014x}"}
            self.made.call("bind_consumer", owner)
            time.sleep(0.05)

    def _ask(self) -> None:
        readers: dict[str, Reader] = {}
        number = 0
        while not self._over.is_set():
            (version,) = self._versions
            reader = readers.get(version) or readers.setdefault(version, Reader(self.made, version))
            number, phase, started = number + 1, self.phase, time.perf_counter()
            status = reader.status(self.values[number * 7 % len(self.values)])
            self.asked.setdefault(phase, []).append((time.perf_counter() - started) * 1000)
            self.denied += status == 401
            self.unready += status == 503
            time.sleep(0.005)
        for reader in readers.values():
            reader.close()


class Transactions:
    """How long transactions and statements of one thread took, in ms, by phase."""

    def __init__(self, engine: sa.Engine, traffic: Traffic) -> None:
        self._thread, self._traffic = threading.get_ident(), traffic
        self.transactions: dict[str, list[float]] = {}
        self.statements: dict[str, list[tuple[float, str]]] = {}
        for event, handler in (
            ("begin", self._begin), ("commit", self._end), ("rollback", self._end),
            ("before_cursor_execute", self._before), ("after_cursor_execute", self._after),
        ):  # fmt: skip
            sa.event.listen(engine, event, handler)

    def _begin(self, connection: sa.Connection) -> None:
        connection.info["begun"] = time.perf_counter()
        connection.info["locked"] = None

    def _end(self, connection: sa.Connection) -> None:
        # A read holds nobody up: counted from the lock on.
        locked = connection.info.pop("locked", None)
        if threading.get_ident() == self._thread and locked is not None:
            taken = (time.perf_counter() - locked) * 1000
            self.transactions.setdefault(self._traffic.phase, []).append(taken)

    def _before(self, connection: Any, *_: Any) -> None:
        connection.info["sent"] = time.perf_counter()

    def _after(self, connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        now = time.perf_counter()
        if "FOR UPDATE" in statement:
            connection.info["locked"] = now
        elif threading.get_ident() == self._thread:
            taken = (now - connection.info["sent"]) * 1000
            self.statements.setdefault(self._traffic.phase, []).append((taken, " ".join(statement.split())[:90]))


def timed(traffic: Traffic, phase: str, work: Callable[[], Any]) -> tuple[Any, float]:
    """A phase of the rotation: its report, and its seconds."""
    traffic.phase = phase
    started = time.perf_counter()
    done = work()
    taken = time.perf_counter() - started
    print(f"{phase}: {taken:.1f} s", file=sys.stderr)
    return done, taken


def measure(server: PostgreSQL, count: int, peace_seconds: float) -> list[Row]:
    """One rotation."""
    from consumer_keys import root_rotation

    with deployment(DATABASE_URL=server.url(server.empty()), SSM_REQUESTS_PER_SECOND="10000") as made:
        values = fill(made, count)
        app, traffic = made.services, Traffic(made, values)
        watched = Transactions(app.store.engine, traffic)
        batches: dict[str, list[float]] = {"backfill": [], "finish": []}

        def noted() -> Callable[[int], None]:
            last = [time.perf_counter()]

            def progress(_: int) -> None:
                now = time.perf_counter()
                batches[traffic.phase].append((now - last[0]) * 1000)
                last[0] = now

            return progress

        seconds: dict[str, float] = {}
        with traffic.running():
            time.sleep(peace_seconds)
            _, seconds["begin"] = timed(traffic, "begin", lambda: root_rotation.begin(app, None))
            done, seconds["backfill"] = timed(
                traffic, "backfill", lambda: root_rotation.backfill(app, BATCH, pause=time.sleep, progress=noted())
            )
            assert done["phase"] == "ready", done
            _, seconds["moving"] = timed(traffic, "moving", lambda: (traffic.move_readers(), time.sleep(peace_seconds)))
            done, seconds["finish"] = timed(
                traffic, "finish", lambda: root_rotation.finish(app, BATCH, readers_moved=True, progress=noted())
            )
            assert done["coming"] is None, done
            timed(traffic, "after", lambda: time.sleep(peace_seconds))
        left = sa.text("SELECT count(*) FROM key_values WHERE coming_digest IS NOT NULL OR root_generation <> 1")
        with app.store.engine.connect() as connection:
            assert connection.execute(left).scalar_one() == 0
    return rows(traffic, watched, batches, seconds)


def spread(ascending: list[float]) -> str:
    """Beside a median."""
    return f"95 % within {ascending[len(ascending) * 95 // 100]:.0f} ms, {ascending[-1]:.0f} ms at most"


def rows(
    traffic: Traffic, watched: Transactions, batches: dict[str, list[float]], seconds: dict[str, float]
) -> list[Row]:
    """The table."""
    found = []
    for phase in ("backfill", "finish"):
        found.append(Row(phase, seconds[phase], "s", note="with the publication at its end"))
        each = sorted(batches[phase])
        note = f"{len(each)} of {BATCH} values; {spread(each)}"
        found.append(Row(f"{phase}, a batch", statistics.median(each), "ms", note=note))
        held = max(watched.transactions[phase])
        found.append(Row(f"{phase}, longest hold of the lock", held, "ms", TRANSACTION_MS_MAX))
        longest, statement = max(watched.statements[phase])
        found.append(Row(f"{phase}, longest statement", longest, "ms", STATEMENT_MS_MAX, note=statement))
    for what, by_phase in (("create_key", traffic.created), ("validate", traffic.asked)):
        for phase in ("before", "backfill", "finish", "after"):
            taken = sorted(by_phase.get(phase, [0.0]))
            note = f"{len(taken)} calls; {spread(taken)}"
            found.append(Row(f"{what}, {phase}", statistics.median(taken), "ms", note=note))
    found.append(Row("good keys denied", traffic.denied, "", 0, note=f"of {sum(map(len, traffic.asked.values()))}"))
    found.append(Row("validations without a snapshot", traffic.unready, "", 0))
    found.append(Row("create_key refused", traffic.refused, "", 0))
    return found


def main() -> None:
    given = options(__doc__, ("--keys", {"type": int, "default": KEYS, "help": "how many [100,000]"}))
    count = QUICK if given.quick else given.keys
    server = PostgreSQL(durable=True)
    try:
        table = measure(server, count, 2.0 if given.quick else 10.0)
    finally:
        server.close()
    report("root_rotation", table, quick=given.quick, keys=count, batch=BATCH)


if __name__ == "__main__":
    main()
