"""Does the time of a refusal tell its reason? Welch's t between the reasons, after Reparaz, Balasch and Verbauwhede.

Samples of all classes are taken interleaved and in random order, with looks at the pointer held off. Each class has 64
values, so that no branch predictor or cache learns one of them. |t| above 4.5 is taken for a difference. A table is
printed; bench/results/timing_leak.json keeps the numbers.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import json
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from consumer_keys.keytext import lookup_digest, make_system_value  # noqa: E402
from consumer_keys.snapshot import Overlay  # noqa: E402
from tests.safety.fleet import ENVIRONMENT, GATEWAY, PREFIX, STATES, Bucket, Fleet, Instance  # noqa: E402

CLASSES = ("unknown", "disabled", "unbound", "malformed")
VALUES_EACH, LIMIT, BATCH = 64, 4.5, 20_000
Call = Callable[[str], Any]


class Nowhere(io.TextIOBase):
    """Where the log of a measured function goes."""

    def write(self, text: str) -> int:
        return len(text)


def values_by_class(fleet: Fleet, draw: random.Random) -> dict[str, list[str]]:
    """64 values of one length each; malformed ones have a wrong checksum."""
    known: dict[str, list[str]] = {code: [] for code in STATES}
    for key in fleet.keys:
        if key.value.startswith(f"{PREFIX}_"):
            known[key.code].append(key.value)
    unknown = [make_system_value(PREFIX, draw.randbytes) for _ in range(2 * VALUES_EACH)]
    return {
        "unknown": unknown[:VALUES_EACH],
        "disabled": known["KeyDisabled"][:VALUES_EACH],
        "unbound": known["KeyUnbound"][:VALUES_EACH],
        "malformed": [value[:-1] + ("0" if value[-1] != "0" else "1") for value in unknown[VALUES_EACH:]],
    }


def sample(call: Call, values: dict[str, list[str]], count: int, draw: random.Random) -> dict[str, list[int]]:
    """Nanoseconds per call, `count` per class."""
    taken: dict[str, list[int]] = {name: [] for name in values}
    left = count
    clock = time.perf_counter_ns
    while left:
        batch = min(left, BATCH)
        left -= batch
        order = [name for name in values for _ in range(batch)]
        draw.shuffle(order)
        plan = [(taken[name], values[name][draw.randrange(len(values[name]))]) for name in order]
        gc.collect()
        gc.disable()
        try:
            for into, value in plan:
                began = clock()
                call(value)
                into.append(clock() - began)
        finally:
            gc.enable()
    return taken


def welch(one: list[int], two: list[int]) -> float:
    """Welch's t."""
    spread = statistics.variance(one) / len(one) + statistics.variance(two) / len(two)
    difference = statistics.fmean(one) - statistics.fmean(two)
    if not spread:
        return 0.0 if not difference else float("inf")
    return float(difference / spread**0.5)


def cropped(taken: dict[str, list[int]], part: float) -> dict[str, list[int]]:
    """Without the slowest samples of all classes together: what the scheduler did says nothing about the code."""
    everything = sorted(value for values in taken.values() for value in values)
    limit = everything[int(len(everything) * part) - 1]
    return {name: [value for value in values if value <= limit] for name, values in taken.items()}


def judged(fleet: Fleet, folder: Path) -> Call:
    """`Validator.judge` on a snapshot of the fleet, with a clock that stands still."""
    bucket = Bucket(folder / "bucket")
    bucket.publish(fleet, 1)
    validator = Instance(bucket, folder / "cache").validator
    return lambda value: validator.judge(GATEWAY, value.encode())


@contextlib.contextmanager
def handled(fleet: Fleet, folder: Path) -> Iterator[Call]:
    """The whole function in a local deployment whose bucket holds the fleet; its log goes nowhere."""
    from ckeys.deployment import BUCKET, ROOT, Deployment
    from ckeys.front import load_handlers

    settings = {"SNAPSHOT_POLL_SECONDS": "3600", "ENVIRONMENT": ENVIRONMENT}
    with contextlib.redirect_stdout(Nowhere()), Deployment(folder / "home", durable=False, environ=settings) as local:
        root, bucket = local.services.root, Bucket(folder / "bucket")
        records = {lookup_digest(root.lookup_key, key.gateway_id, key.value.encode()): key.record for key in fleet.keys}
        base, overlay = bucket.put_base(records, fleet.consumers), bucket.put_overlay(Overlay({}, {}, {}))
        bucket.point(1_000_000, base, overlay, now=time.time(), manifest_key=root.manifest_key)
        for name, data in bucket.objects.items():
            local.cloud.cos.put_object(BUCKET, "consumer-keys/" + name, data)
        handler = load_handlers(ROOT / "functions", local.template)["validate_key"]
        context = {"request_id": "0" * 36}

        def call(value: str) -> Any:
            event = {
                "httpMethod": "GET", "path": "/v1/gateways/default/validate", "queryString": {}, "body": "",
                "headers": {"accept": "*/*", "user-agent": "bench", "x-api-key": value},
            }  # fmt: skip
            return handler(event, context)

        yield call


def measure(name: str, call: Call, values: dict[str, list[str]], count: int, seed: int) -> dict[str, Any]:
    """Warm-up, samples, and t for each pair: of all samples, of the quickest 99 % and of the quickest 90 %."""
    draw = random.Random(seed)
    sample(call, values, min(count, 2_000), draw)
    taken = sample(call, values, count, draw)
    sets = {"all": taken, "quickest 99 %": cropped(taken, 0.99), "quickest 90 %": cropped(taken, 0.90)}
    pairs = {
        f"{one} - {two}": {which: round(welch(part[one], part[two]), 2) for which, part in sets.items()}
        for one, two in combinations(values, 2)
    }
    rows = {name: {"median_ns": statistics.median(part), "mean_ns": round(statistics.fmean(part))}
            for name, part in sets["quickest 99 %"].items()}  # fmt: skip
    worst = max(abs(t) for result in pairs.values() for t in result.values())
    return {"what": name, "samples_per_class": count, "classes": rows, "t": pairs, "worst": worst}


def show(result: dict[str, Any]) -> None:
    """The table of one measurement."""
    print(f"\n{result['what']}: {result['samples_per_class']:,} samples per class")
    for name, row in result["classes"].items():
        print(f"  {name:<14} median {row['median_ns']:>8,.0f} ns   mean {row['mean_ns']:>8,} ns")
    print(f"  {'pair':<26} {'|t| all':>10} {'|t| 99 %':>10} {'|t| 90 %':>10}")
    for pair, values in result["t"].items():
        marks = "  over 4.5" if max(map(abs, values.values())) > LIMIT else ""
        print(f"  {pair:<26} " + " ".join(f"{abs(t):>10.2f}" for t in values.values()) + marks)


def main() -> None:
    """Measures the judgement and the whole function."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=100_000, help="per class (100,000)")
    parser.add_argument("--quick", action="store_const", dest="samples", const=2_000, help="to see that it runs")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--what", choices=("judge", "handler", "both"), default="both")
    parser.add_argument("--json", type=Path, default=ROOT / "bench" / "results" / "timing_leak.json")
    chosen = parser.parse_args()
    import time_machine

    fleet = Fleet(1000)
    values = values_by_class(fleet, random.Random(chosen.seed))
    assert {len(given) for given in values.values()} == {VALUES_EACH}
    results = []
    with tempfile.TemporaryDirectory() as folder:
        if chosen.what != "handler":
            # Control: the same class twice, under two names, must not differ.
            call = judged(fleet, Path(folder) / "judge")
            for _ in range(11):
                call(values["unknown"][0])  # uses up the looks
            half = VALUES_EACH // 2
            twice = {"unknown": values["unknown"][:half], "unknown again": values["unknown"][half:]}
            results.append(measure("control", call, twice, chosen.samples, chosen.seed))
            results.append(measure("Validator.judge", call, values, chosen.samples, chosen.seed))
        if chosen.what != "judge":
            # Wall time stands still, so that no look at the pointer falls due; the counter of nanoseconds goes on.
            with time_machine.travel(time.time(), tick=False), handled(fleet, Path(folder) / "handler") as call:
                answers = {call(given[0])["statusCode"] for given in values.values() for _ in range(4)}
                assert answers == {401}, answers
                assert call(fleet.valid[0].value)["statusCode"] == 200
                results.append(measure("validate_key", call, values, chosen.samples, chosen.seed))
    for result in results:
        show(result)
    chosen.json.parent.mkdir(parents=True, exist_ok=True)
    about = {"python": platform.python_version(), "machine": platform.machine(), "seed": chosen.seed, "limit": LIMIT}
    chosen.json.write_text(json.dumps({**about, "results": results}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
