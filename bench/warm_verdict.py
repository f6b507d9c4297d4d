"""A verdict in a warm process against what nobody can avoid: HMAC-SHA256 of the value and one dict lookup."""

from __future__ import annotations

import hashlib
import hmac
import os
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from common import (
    GATEWAY,
    ROOT,
    RUNS,
    Row,
    deployment,
    digests_with,
    interleaved,
    median_ratio,
    options,
    report,
    seed,
    system_values,
    validate_event,
)

from ckeys.front import load_handlers
from consumer_keys import snapshot_base
from consumer_keys.snapshot import (
    POINTER,
    ConsumerRecord,
    KeyRecord,
    Manifest,
    Overlay,
    encode_overlay,
    part,
    seal_manifest,
)
from consumer_keys.snapshot_cache import SnapshotCache
from consumer_keys.validate import Validator
from consumer_keys.verdict import UNKNOWN, VALID

KEY = bytes(range(32))
VERDICT_BOUND, HANDLER_BOUND = 2.5, 15.0


class Folder:
    """A snapshot's objects in a folder, in place of COS."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._unchanged = folder, False

    def pointer(self, name: str) -> bytes | None:
        if self._unchanged:
            return None
        self._unchanged = True
        return (self._folder / name).read_bytes()

    def forget_pointer(self) -> None:
        self._unchanged = False

    def object(self, name: str, size_max: int) -> bytes:
        return (self._folder / name).read_bytes()[:size_max]

    def download(self, name: str, size_max: int, path: str) -> None:
        assert (self._folder / name).stat().st_size <= size_max
        shutil.copyfile(self._folder / name, path)


def write_snapshot(folder: Path, digests: list[bytes]) -> None:
    """A sealed snapshot of bound keys, a hundred to a consumer."""
    consumers = max(1, len(digests) // 100)
    keys = (
        (digest, KeyRecord(f"secret-{i:014x}", f"key-{i:07d}", True, f"consumer-{i % consumers + 1:014x}", 0))
        for i, digest in enumerate(digests)
    )
    owners = ((i.to_bytes(7, "big"), ConsumerRecord(f"app-{i}", True)) for i in range(1, consumers + 1))
    sha256, size, count = snapshot_base.build(str(folder / "draft"), keys, owners)
    base = part("base", ".lmdb", sha256, size, count)
    (folder / "draft").rename(folder / base.name)
    data = encode_overlay(Overlay({}, {}, {}))
    overlay = part("overlay", ".json", hashlib.sha256(data).hexdigest(), len(data), 0)
    (folder / overlay.name).write_bytes(data)
    manifest = Manifest("bench", 1, 1, int(time.time() * 1000), "v1", base, overlay)
    (folder / POINTER).write_bytes(seal_manifest(manifest, KEY))


def floor(known: dict[bytes, int], values: list[bytes]) -> None:
    for value in values:
        known.get(hmac.digest(KEY, value, "sha256"))


def judge_all(judge: Callable[[str, bytes], Any], values: list[bytes]) -> None:
    for value in values:
        judge(GATEWAY, value)


def failed(error: Exception) -> None:
    raise error


def verdicts(count: int, sampled: int, runs: int) -> list[Row]:
    """Hits and misses at one size, each beside its floor over a dict of that size."""
    values = system_values(sampled)
    missing = [value.encode() for value in system_values(sampled)]
    digests = digests_with(KEY, values, count)
    hits = [value.encode() for value in values]
    random.shuffle(hits)
    known = dict.fromkeys((hmac.digest(KEY, value, "sha256") for value in hits), 1)
    known |= dict.fromkeys((os.urandom(32) for _ in range(count - len(hits))), 1)
    with tempfile.TemporaryDirectory(prefix="ckeys-bench-") as name:
        folder = Path(name)
        write_snapshot(folder, digests)
        cache = SnapshotCache(
            Folder(folder), snapshot_base.Base, failed, manifest_key=KEY, environment="bench",
            folder=str(folder / "validator"), poll_seconds=10, max_age_seconds=3600, clock=time.time,
        )  # fmt: skip
        judge = Validator(cache, KEY, "ck").judge
        assert {judge(GATEWAY, value)[0].code for value in hits} == {VALID}
        assert {judge(GATEWAY, value)[0].code for value in missing} == {UNKNOWN}
        rows = []
        for kind, presented in (("hit", hits), ("miss", missing)):
            ours, least = interleaved(runs, partial(judge_all, judge, presented), partial(floor, known, presented))
            rows += [
                Row(f"verdict, {count:,} keys, {kind}", median_ratio(ours, least), "x floor", VERDICT_BOUND,
                    note=f"{_ns(ours, presented):,.0f} ns, floor {_ns(least, presented):,.0f} ns"),
            ]  # fmt: skip
        cache.close()
    return rows


def _ns(seconds: list[float], of: list[Any]) -> float:
    return statistics.median(seconds) / len(of) * 1e9


def handler(count: int, sampled: int, runs: int) -> list[Row]:
    """The function from event to response and log line, beside the floor."""
    with deployment(SNAPSHOT_POLL_SECONDS="10") as made:
        values = seed(made, count, sampled)
        random.shuffle(values)
        handle, context = (
            load_handlers(ROOT / "functions", made.template)["validate_key"],
            {"request_id": "b883ca3a-ee61-11e9-8f0c-5254008a4f10"},
        )
        raw = [value.encode() for value in values]
        known = dict.fromkeys((hmac.digest(KEY, value, "sha256") for value in raw), 1)
        known |= dict.fromkeys((os.urandom(32) for _ in range(count - len(raw))), 1)
        rows = []
        for kind, presented, status in (("hit", values, 200), ("miss", system_values(len(values)), 401)):
            events = [validate_event(value) for value in presented]
            assert {handle(event, context)["statusCode"] for event in events} == {status}

            def all_events(events: list[dict[str, Any]] = events) -> None:
                for event in events:
                    handle(event, context)

            ours, least = interleaved(runs, all_events, partial(floor, known, [value.encode() for value in presented]))
            note = f"{_ns(ours, events) / 1000:.1f} us, floor {_ns(least, events) / 1000:.2f} us"
            rows.append(Row(f"handler, {count:,} keys, {kind}", median_ratio(ours, least), "x floor", HANDLER_BOUND,
                            note=note))  # fmt: skip
    return rows


def main() -> None:
    given = options(__doc__)
    rows = []
    for count in (10_000, 100_000) if given.quick else (100_000, 1_000_000):
        rows += verdicts(count, 10_000 if given.quick else 20_000, RUNS if given.quick else 15)
    rows += handler(10_000 if given.quick else 100_000, 2_000, RUNS if given.quick else 15)
    report("warm_verdict", rows, quick=given.quick)


if __name__ == "__main__":
    main()
