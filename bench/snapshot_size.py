"""The snapshot at a million keys: opening, memory, file size, building, and publishing one change on top of it."""

from __future__ import annotations

import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common import ROOT, RUNS, SCRATCH, Row, base_python, child, deployment, options, report, seed

from ckeys.build import build
from ckeys.template import load_template
from consumer_keys import snapshot_base
from consumer_keys.snapshot import (
    ConsumerRecord,
    KeyRecord,
    Manifest,
    Overlay,
    decode_overlay,
    encode_overlay,
    open_manifest,
    part,
    seal_manifest,
)
from consumer_keys.snapshot_cache import Snapshot

MILLION, LOOKUPS, KEY = 1_000_000, 10_000, bytes(range(32))
MB = 1 << 20


def digest_of(number: int, count: int) -> bytes:
    """Ascending in `number`, spread evenly over all digests; 24 of the 32 bytes look random."""
    start = ((1 << 64) - 1) // count * number
    return start.to_bytes(8, "big") + hashlib.sha256(number.to_bytes(8, "big")).digest()[:24]


def rows(count: int) -> Iterator[tuple[bytes, KeyRecord]]:
    """What a server-side cursor hands over, ordered by digest: nothing is held."""
    for number in range(count):
        consumer = f"consumer-{number % max(1, count // 100) + 1:014x}"
        yield digest_of(number, count), KeyRecord(f"secret-{number:014x}", f"api-key-{number:07d}", True, consumer, 0)


def owners(count: int) -> Iterator[tuple[bytes, ConsumerRecord]]:
    for number in range(1, max(1, count // 100) + 1):
        yield number.to_bytes(7, "big"), ConsumerRecord(f"application-{number}", True)


def proc_kb(file: str, *names: str) -> dict[str, int]:
    """Fields of a /proc file in kB; one that the system does not have is 0."""
    lines = Path(file).read_text(encoding="utf-8").splitlines()
    found = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines) if name in names}
    return {name: found.get(name, 0) for name in names}


def child_build(path: str, count: int) -> dict[str, Any]:
    """In a process of its own: the peak of its memory is the build's."""
    before = proc_kb("/proc/self/status", "VmRSS")["VmRSS"]
    started = time.perf_counter()
    sha256, size, entries = snapshot_base.build(path, rows(count), owners(count))
    seconds = time.perf_counter() - started
    peak = proc_kb("/proc/self/status", "VmHWM")["VmHWM"]
    started = time.perf_counter()
    for _ in rows(count):
        pass
    feeding = time.perf_counter() - started
    return {"seconds": seconds, "feeding": feeding, "growth_mb": (peak - before) / 1024, "size": size,
            "entries": entries, "sha256": sha256}  # fmt: skip


MEMORY = """
import hashlib, json, os, sys
sys.path.insert(0, {package!r})
import index
from consumer_keys.snapshot import Manifest, Overlay, Part
from consumer_keys.snapshot_base import Base
from consumer_keys.snapshot_cache import Snapshot

def private():
    with open("/proc/self/smaps_rollup") as file:
        lines = [line.split() for line in file][1:]
    found = {{name[:-1]: int(kb) / 1024 for name, kb, _ in lines}}
    return {{"Anonymous": found["Anonymous"], "Private": found["Private_Clean"] + found["Private_Dirty"]}}

nothing = Part("", 0, "", 0)
manifest = Manifest("bench", 1, 1, 0, "v1", nothing, nothing)
snapshot = Snapshot(manifest, Overlay({{}}, {{}}, {{}}), Base({path!r}))
before, step = private()["Anonymous"], ((1 << 64) - 1) // {count}
for _ in range({lookups}):
    number = int.from_bytes(os.urandom(6), "big") % {count}
    digest = (step * number).to_bytes(8, "big") + hashlib.sha256(number.to_bytes(8, "big")).digest()[:24]
    record = snapshot.find(digest)
    assert record is not None
    snapshot.find_consumer(record[8:15])
print(json.dumps({{"before": before, **private()}}))
"""


def memory(package: Path, path: str, count: int, runs: int, *, cold: bool) -> dict[str, float]:
    """Megabytes of a process that has loaded the built function and opened the base, after random lookups; medians.

    Anonymous memory is what only this process has and the system cannot take back. The rest of what is private is,
    besides a little code, the pages of the base file that this process and no other has mapped: page cache, which the
    system drops when memory is short. How many are mapped depends on what was cached: the kernel maps neighbours too.
    """
    code = MEMORY.format(package=str(package), path=path, count=count, lookups=LOOKUPS)
    answers = []
    for _ in range(runs):
        if cold:
            evict(path)
        done = subprocess.run([base_python(), "-I", "-c", code], capture_output=True, text=True, check=True)
        answers.append(json.loads(done.stdout))
    return {name: statistics.median(answer[name] for answer in answers) for name in answers[0]}


def evict(path: str) -> None:
    """Writes the file back and takes it out of the page cache."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def opening_ms(path: str, built: dict[str, Any]) -> float:
    """From the bytes of pointer and overlay and a checked base file to the first record; median."""
    data = encode_overlay(Overlay({}, {}, {}))
    overlay = part("overlay", ".json", hashlib.sha256(data).hexdigest(), len(data), 0)
    base = part("base", ".lmdb", str(built["sha256"]), int(built["size"]), int(built["entries"]))
    pointer = seal_manifest(Manifest("bench", 1, 1, int(time.time() * 1000), "v1", base, overlay), KEY)
    wanted, taken = digest_of(MILLION // 3, MILLION), []
    for _ in range(3 * RUNS):
        started = time.perf_counter()
        manifest = open_manifest(pointer, KEY, environment="bench", version_min=0, now_ms=int(time.time() * 1000))
        opened = snapshot_base.Base(path)
        assert opened.entry_count() == manifest.base.entries
        Snapshot(manifest, decode_overlay(data, 0), opened).find(wanted)
        taken.append(time.perf_counter() - started)
        opened.close()
    return statistics.median(taken) * 1000


def median_child(runs: int, kind: str, path: str, count: int) -> dict[str, Any]:
    """Each number's median over so many processes."""
    answers = [child("--child", kind, path, str(count)) for _ in range(runs)]
    return {
        name: value if isinstance(value, str) else statistics.median(answer[name] for answer in answers)
        for name, value in answers[-1].items()
    }


def file_rows(count: int, runs: int) -> list[Row]:
    """Building, opening and reading one base file."""
    with tempfile.TemporaryDirectory(prefix="ckeys-bench-") as folder:
        path = str(Path(folder) / "base.lmdb")
        built = median_child(runs, "build", path, count)
        template = load_template(ROOT / "template.yaml")
        package = build(ROOT, template, SCRATCH, python=base_python(), here=True, only=["validate_key"])[0].folder
        warm = memory(package, path, count, runs, cold=False)
        cold = memory(package, path, count, runs, cold=True)
        return [
            Row(f"opening, {count:,} keys", opening_ms(path, built), "ms", 5, note="manifest to first record"),
            Row(f"private memory after {LOOKUPS:,} lookups", warm["Anonymous"], "MB", 40,
                note=f"{warm['Anonymous'] - warm['before']:.1f} MB by the lookups"),
            Row("and pages of the base file, all of it cached", warm["Private"] - warm["Anonymous"], "MB",
                note="page cache, which the system takes back when it needs memory"),
            Row("the same, nothing of it cached before", cold["Private"] - cold["Anonymous"], "MB",
                note="each lookup maps its own page"),
            Row("base file per key", built["size"] / count, "bytes", 100, note=f"{built['size'] / 1e6:.0f} MB"),
            Row(f"building a base of {count:,}", built["seconds"], "s", 10,
                note=f"of which {built['feeding']:.1f} s make the rows"),
            Row("memory that building adds, peak", built["growth_mb"], "MB", 256),
        ]  # fmt: skip


def disable(app: Any, key_id: str) -> None:
    """The change alone, without its publication."""
    from consumer_keys.operators import system_caller

    def change(db: Any) -> None:
        db.update_key(key_id, status="Disable")
        db.audit("key.disable", "default", key_id, None)

    app.store.change(system_caller("bench", ""), app.now_ms(), change)


def publishing(count: int) -> tuple[list[float], float]:
    """Seconds of publishing one change on top of `count` keys, each time of another key; and of the first base."""
    with deployment() as made:
        started = time.perf_counter()
        seed(made, count, 1)
        seeded = time.perf_counter() - started
        app, taken = made.services, []
        for number in range(3 * RUNS):
            disable(app, f"secret-{count * number // 21:014x}")
            state = app.store.snapshot(lambda db: db.published())
            assert state.published_revision < state.revision
            started = time.perf_counter()
            outcome = app.publisher.publish()
            taken.append(time.perf_counter() - started)
            state = app.store.snapshot(lambda db: db.published())
            assert outcome is not None
            assert state.published_revision == outcome.revision == state.revision
        return taken, seeded


def publish_rows(small: int, large: int) -> list[Row]:
    few, _ = publishing(small)
    many, seeded = publishing(large)
    milliseconds = [statistics.median(taken) * 1000 for taken in (few, many)]
    return [
        Row(f"publishing one change, {small:,} keys", milliseconds[0], "ms"),
        Row(f"publishing one change, {large:,} keys", milliseconds[1], "ms"),
        Row("the larger / the smaller", milliseconds[1] / milliseconds[0], "x",
            note=f"inserting {large:,} and their first base: {seeded:.0f} s"),
    ]  # fmt: skip


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        _kind, path, count = sys.argv[2:]
        answer = child_build(path, int(count))
        print(json.dumps(answer))
        return
    given = options(__doc__)
    result = file_rows(MILLION, 1 if given.quick else RUNS)
    result += publish_rows(1_000, 100_000 if given.quick else MILLION)
    report("snapshot_size", result, quick=given.quick, pages_kb=os.sysconf("SC_PAGESIZE") // 1024)


if __name__ == "__main__":
    main()
