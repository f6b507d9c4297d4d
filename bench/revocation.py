"""How long a disabled key is still accepted: many validators on one bucket, each with its own cache and folder."""

from __future__ import annotations

import os
import random
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from common import GATEWAY, Row, deployment, options, report

from consumer_keys import config
from consumer_keys.validate_wiring import Validation

VALIDATORS, ASK_EVERY_SECONDS, SLACK_SECONDS = 20, 0.02, 2.0


class Fleet:
    """Asks every validator about one key every 20 ms and notes when each first refuses it."""

    def __init__(self, folder: Path, poll_seconds: float) -> None:
        self.members = []
        for number in range(VALIDATORS):
            settings = {**os.environ, "SNAPSHOT_POLL_SECONDS": str(poll_seconds), "SNAPSHOT_DIR": f"{folder}/{number}"}
            self.members.append(Validation(config.load(settings, ("COS_BUCKET",))))
        self.poll_seconds = poll_seconds

    def spread(self, value: bytes) -> None:
        """First looks at random moments of one interval: instances do not start together."""
        moments = sorted((random.uniform(0, self.poll_seconds), number) for number in range(VALIDATORS))
        started = time.perf_counter()
        for moment, number in moments:
            time.sleep(max(0.0, started + moment - time.perf_counter()))
            assert self.judge(number, value)

    def judge(self, number: int, value: bytes) -> bool:
        return self.members[number].validator.judge(GATEWAY, value)[0].valid

    def refusals(self, value: bytes, begun: threading.Event) -> list[float]:
        """When each refused, by the clock of `perf_counter`."""
        refused: dict[int, float] = {}
        while len(refused) < VALIDATORS:
            for number in range(VALIDATORS):
                if number not in refused and not self.judge(number, value):
                    refused[number] = time.perf_counter()
            begun.set()
            time.sleep(ASK_EVERY_SECONDS)
        return list(refused.values())


def one_round(made: Any, fleet: Fleet, key: dict[str, Any]) -> list[float]:
    """Seconds from the call of disable_key to each validator's first refusal."""
    seen: list[float] = []
    begun = threading.Event()
    asking = threading.Thread(target=lambda: seen.extend(fleet.refusals(key["value"].encode(), begun)))
    asking.start()
    begun.wait()
    time.sleep(random.uniform(0, fleet.poll_seconds))
    started = time.perf_counter()
    made.call("disable_key", {"gateway_id": GATEWAY, "key_id": key["key_id"]})
    asking.join()
    return [moment - started for moment in seen]


def measure(poll_seconds: float, rounds: int) -> list[float]:
    delays: list[float] = []
    with deployment() as made, tempfile.TemporaryDirectory(prefix="ckeys-bench-") as folder:
        consumer = made.call("create_consumer", {"gateway_id": GATEWAY, "name": "app"})["consumer_id"]
        keys = []
        for number in range(rounds):  # each round disables a key of its own, so no refusal upsets the rhythm before
            keys.append(made.call("create_key", {"gateway_id": GATEWAY, "name": f"k{number}", "generation": "System"}))
            made.call("bind_consumer", {"gateway_id": GATEWAY, "key_id": keys[-1]["key_id"], "consumer_id": consumer})
        fleet = Fleet(Path(folder), poll_seconds)
        fleet.spread(keys[0]["value"].encode())
        for key in keys:
            delays += one_round(made, fleet, key)
        for member in fleet.members:
            member.close()
    return sorted(delays)


def main() -> None:
    given = options(__doc__, ("--poll", {"type": float, "default": 1.0, "help": "SNAPSHOT_POLL_SECONDS [1]"}))
    rounds = 3 if given.quick else 15 if given.poll <= 1 else 7
    delays = measure(given.poll, rounds)
    rows = [
        Row("disabled to refused, min", delays[0], "s"),
        Row("median", statistics.median(delays), "s"),
        Row("p95", delays[int(len(delays) * 0.95)], "s"),
        Row("max: refused by all", delays[-1], "s", given.poll + SLACK_SECONDS,
            note=f"poll {given.poll:g} s, {VALIDATORS} validators, {rounds} keys"),
    ]  # fmt: skip
    name = "revocation" if given.poll == 1 else f"revocation-poll-{given.poll:g}"
    report(name, rows, quick=given.quick, poll_seconds=given.poll)


if __name__ == "__main__":
    main()
