"""What the measurements share: options, seeding, medians, the table and its JSON."""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results"
SCRATCH = ROOT / ".build" / "bench"
GATEWAY = "default"
RUNS = 7  # every median is of at least so many


class Row(NamedTuple):
    """One line of a table. `bound` is the most, or with `at_least` the least, that is accepted; None is no bound."""

    what: str
    value: float
    unit: str
    bound: float | None = None
    at_least: bool = False
    note: str = ""

    @property
    def verdict(self) -> str:
        if self.bound is None:
            return ""
        kept = self.value >= self.bound if self.at_least else self.value <= self.bound
        return "ok" if kept else "MISSED"


def options(description: str | None, *extra: tuple[str, dict[str, Any]]) -> argparse.Namespace:
    """The script's options: `--quick` and its own."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="smaller numbers, to see that it runs")
    for name, settings in extra:
        parser.add_argument(name, **settings)
    return parser.parse_args()


def report(name: str, rows: list[Row], *, quick: bool, **more: Any) -> None:
    """Prints the table and keeps it as JSON, with nothing that names the machine."""
    cells = [(row.what, _number(row.value), row.unit, _bound(row), row.verdict, row.note) for row in rows]
    table = [("measured", "value", "unit", "bound", "", ""), *cells]
    widths = [max(len(cell[column]) for cell in table) for column in range(5)]
    print(f"\n{name}{' (quick)' if quick else ''}: Python {platform.python_version()}, {os.cpu_count()} cores")
    for cell in table:
        what, value, unit, bound, verdict, note = cell
        line = f"  {what:<{widths[0]}}  {value:>{widths[1]}} {unit:<{widths[2]}}  {bound:>{widths[3]}}"
        print(f"{line}  {verdict:<{widths[4]}}  {note}".rstrip())
    sys.stdout.flush()
    document = {
        "bench": name, "quick": quick, "python": platform.python_version(), "cpus": os.cpu_count(), **more,
        "rows": [{**row._asdict(), "verdict": row.verdict} for row in rows],
    }  # fmt: skip
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}" if abs(value) < 10 else f"{value:.1f}"


def _bound(row: Row) -> str:
    return "" if row.bound is None else f"{'>=' if row.at_least else '<='} {_number(row.bound)}"


def interleaved(runs: int, *measured: Callable[[], Any]) -> list[list[float]]:
    """CPU seconds of each, taken in turns so that what disturbs one disturbs all; one warm-up before."""
    for function in measured:
        function()
    seconds: list[list[float]] = [[] for _ in measured]
    for _ in range(runs):
        for kept, function in zip(seconds, measured, strict=True):
            started = time.process_time()
            function()
            kept.append(time.process_time() - started)
    return seconds


def median_ratio(over: list[float], under: list[float]) -> float:
    """The median of the ratios of neighbouring runs."""
    return statistics.median(a / b for a, b in zip(over, under, strict=True))


@contextmanager
def deployment(**settings: str) -> Iterator[Any]:
    """The product with the emulated cloud in memory and SQLite; its log goes to a file, as on SCF to a collector."""
    from ckeys.deployment import Deployment

    answers = sys.stdout
    with tempfile.TemporaryDirectory(prefix="ckeys-bench-") as folder:
        try:
            with open(Path(folder) / "log", "w", encoding="utf-8") as log:
                sys.stdout = log
                with Deployment(Path(folder) / "home", durable=False, environ={**os.environ, **settings}) as made:
                    yield made
        finally:
            sys.stdout = answers


@contextmanager
def shown() -> Iterator[None]:
    """Prints to the terminal inside `deployment`."""
    kept, sys.stdout = sys.stdout, sys.__stdout__
    try:
        yield
    finally:
        sys.stdout = kept


def system_values(count: int) -> list[str]:
    from consumer_keys.keytext import make_system_value

    return [make_system_value("ck", os.urandom) for _ in range(count)]


def digests_with(lookup_key: bytes, values: list[str], count: int) -> list[bytes]:
    """`count` ascending digests, among them those of `values`.

    Digests are uniform, so the values lie all over the set; the other digests are drawn at random, which saves
    making and hashing a million values that nobody presents.
    """
    from consumer_keys.keytext import lookup_digest

    digests = [lookup_digest(lookup_key, GATEWAY, value.encode()) for value in values]
    return sorted(digests + [os.urandom(32) for _ in range(count - len(digests))])


def seed(made: Any, count: int, sampled: int) -> list[str]:
    """`count` bound keys straight into the tables, published as a base; returns `sampled` of their values."""
    app = made.services
    values = system_values(min(count, sampled))
    digests = digests_with(app.root.lookup_key, values, count)
    owners = list(range(count))
    random.Random(count).shuffle(owners)  # digests and ids have nothing to do with each other
    consumers = max(1, count // 100)
    connection = app.store.engine.raw_connection()
    try:
        cursor = connection.cursor()
        cursor.execute("PRAGMA cache_size = -500000")
        cursor.execute("BEGIN IMMEDIATE")
        cursor.executemany(
            "INSERT INTO consumers VALUES (?, 'default', ?, '', 'Enable', 1, ?, ?)",
            ((f"consumer-{i:014x}", f"app-{i}", i, i) for i in range(1, consumers + 1)),
        )
        cursor.executemany(
            "INSERT INTO consumer_keys (key_id, gateway_id, name, description, type, generation, status, masked_value,"
            " consumer_id, sync_failures, revision, created_at, modified_at)"
            " VALUES (?, 'default', ?, '', 'ApiKey', 'System', 'Enable', 'ck_****xyz', ?, 0, 1, ?, ?)",
            ((f"secret-{i:014x}", f"key-{i:07d}", f"consumer-{i % consumers + 1:014x}", i, i) for i in range(count)),
        )
        cursor.executemany(
            "INSERT INTO key_values (digest, key_id, created_at) VALUES (?, ?, 1)",
            ((digest, f"secret-{owner:014x}") for digest, owner in zip(digests, owners, strict=True)),
        )
        cursor.execute("UPDATE deployment SET revision = revision + 1, entry_count = ?, base = NULL", (count,))
        connection.commit()
        cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        connection.invalidate()  # not back into the pool with that much cache
    app.publisher.publish(heartbeat=True)
    os.sync()  # what was just written must not slow down what is measured
    return values


def validate_event(value: str) -> dict[str, Any]:
    """What the API gateway hands over for a forward-auth request with the usual headers."""
    headers = {
        "accept": "*/*", "accept-encoding": "gzip", "authorization": f"Bearer {value}", "content-length": "0",
        "host": "gateway.example", "user-agent": "curl/8", "x-forwarded-for": "192.0.2.4",
        "x-scf-remote-addr": "192.0.2.4",
    }  # fmt: skip
    return {
        "body": "", "headers": headers, "httpMethod": "GET", "path": f"/v1/gateways/{GATEWAY}/validate",
        "queryString": {},
    }  # fmt: skip


def base_python() -> str:
    """The interpreter behind the virtual environment."""
    return os.path.realpath(getattr(sys, "_base_executable", "") or sys.executable)


def child(*arguments: str) -> dict[str, Any]:
    """What a fresh process of the calling script prints as its last line, parsed."""
    done = subprocess.run(
        [sys.executable, sys.argv[0], *arguments], stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT
    )
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer
