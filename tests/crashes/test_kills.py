"""A writer is killed with SIGKILL, at every named point and at random moments; nothing acknowledged is ever lost.

300 times on SQLite, 100 times on PostgreSQL, 50 times on MariaDB. After each kill: every acknowledged change is there,
the one that was under way is there whole or not at all, every revision has its audit row; one tick later the snapshot
holds what the database holds, and the audit chain is whole. What the dead leave behind holds no value.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ckeys.deployment import BUCKET, ROOT, Deployment
from consumer_keys import audit
from consumer_keys.failpoints import POINTS
from consumer_keys.snapshot import decode_overlay, pack_consumer, pack_key
from consumer_keys.snapshot_base import Base
from tests.conftest import Api
from tests.databases import rows_of
from tests.functions.canaries import files, places_of, sweep
from tests.functions.failing import CANARIES, PREFIX
from tests.functions.helpers import check_counted, pointer, sql

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
BATCH = 50
BATCHES = [("sqlite", number) for number in range(6)] + [("postgresql", 6), ("postgresql", 7), ("mariadb", 8)]


class Writer:
    """The process that runs writers and reports what they say."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.crashes.writer"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            cwd=ROOT, env={**os.environ, **environment},
        )  # fmt: skip

    def run(self, order: dict[str, Any]) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
        """What a killed run had acknowledged, and the call that was under way."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(order), file=self._process.stdin, flush=True)
        done: list[dict[str, Any]] = []
        under_way: dict[str, Any] | None = None
        reached = None
        for text in self._process.stdout:
            line = json.loads(text)
            assert "error" not in line, line
            reached = line.get("at", reached)
            if "ended" in line:
                assert reached == order.get("point"), order
                assert line["ended"] == signal.SIGKILL, order
                return done, under_way
            if "call" in line:
                under_way = line
            elif "done" in line:
                done.append(line)
                under_way = None
        raise AssertionError("the writer ended")

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()


class Expected:
    """What the database must hold, known from acknowledgements alone."""

    def __init__(self, rows: dict[str, list[dict[str, Any]]]) -> None:
        self.take_over(rows)

    def take_over(self, rows: dict[str, list[dict[str, Any]]]) -> None:
        """What is there is known from now on."""
        self.keys = {row["key_id"]: row for row in rows["consumer_keys"]}
        self.consumers = {row["consumer_id"]: row for row in rows["consumers"]}
        self.revision: int = rows["deployment"][0]["revision"]
        self.audit_rows = len(changes_of(rows))

    def check(
        self, rows: dict[str, list[dict[str, Any]]], done: list[dict[str, Any]], under_way: dict[str, Any] | None
    ) -> None:
        """Every acknowledged change is there; the one under way is whole or absent; nothing else happened."""
        keys, consumers = dict(self.keys), dict(self.consumers)
        for line in done:
            self._apply(keys, consumers, line)
        now = {row["key_id"]: row for row in rows["consumer_keys"]}
        there = {row["consumer_id"]: row for row in rows["consumers"]}
        changed = {ident for ident in now.keys() | keys.keys() if self._differs(keys.get(ident), now.get(ident))}
        changed |= there.keys() ^ consumers.keys()
        assert len(changed) <= (under_way is not None), (changed, under_way)
        if changed:
            (ident,) = changed
            assert under_way is not None
            assert under_way.get("key_id") == ident or under_way["call"].startswith("create_"), under_way
        self._check_whole(rows, now)

    @staticmethod
    def _differs(expected: dict[str, Any] | None, found: dict[str, Any] | None) -> bool:
        if expected is None or found is None:
            return expected is not found
        names = ("name", "status", "consumer_id", "description")
        return any(expected[name] != found[name] for name in names)

    @staticmethod
    def _apply(keys: dict[str, Any], consumers: dict[str, Any], line: dict[str, Any]) -> None:
        answer = line.get("answer")
        if line["done"] == "delete_key":
            del keys[line["key_id"]]
        elif line["done"] == "create_consumer":
            assert answer is not None
            consumers[answer["consumer_id"]] = answer
        elif line["done"] != "tick":
            assert answer is not None
            bound = answer["consumer"] and answer["consumer"]["consumer_id"]
            keys[answer["key_id"]] = {**answer, "consumer_id": bound}

    def _check_whole(self, rows: dict[str, list[dict[str, Any]]], keys: dict[str, Any]) -> None:
        """No change is half there: values, counter, revision and audit rows agree."""
        check_counted(rows)
        state = rows["deployment"][0]
        owners = [row["key_id"] for row in rows["key_values"]]
        assert sorted(owners) == sorted(keys)  # these keys have one value each
        assert state["entry_count"] == len(owners)
        changes = changes_of(rows)
        fresh = [row["revision"] for row in changes if row["revision"] > self.revision]
        assert sorted(fresh) == list(range(self.revision + 1, state["revision"] + 1))
        assert len(changes) == self.audit_rows + len(fresh)
        check_data_keys(rows)


def changes_of(rows: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The audit rows of changes. What becomes of a data key is on record too, but is none, and has no revision."""
    return [row for row in rows["audit"] if not row["action"].startswith("data_key.")]


def check_data_keys(rows: dict[str, list[dict[str, Any]]]) -> None:
    """What a rotation did to a data key is done and on record, or neither."""
    said: dict[str, set[str]] = {action: set() for action in ("begin", "retire", "destroy")}
    for row in rows["audit"]:
        if row["action"].startswith("data_key."):
            said[row["action"].partition(".")[2]].add(row["target"])
    there = {row["data_key_id"] for row in rows["data_keys"]}
    assert (said["begin"] | said["retire"]) - said["destroy"] <= there
    assert not said["destroy"] & there
    assert {row["data_key_id"] for row in rows["data_keys"] if row["unused_since"] is not None} <= said["retire"]


def orders(database: str, batch: int) -> Iterator[dict[str, Any]]:
    """How each run of a batch is killed: at named points in turn, and as often at a random moment."""
    chosen, points = random.Random(batch), KILLED_AT[database]
    for number in range(BATCH):
        order: dict[str, Any] = {"seed": batch * 1000 + number + 1}
        if number % 2:
            yield {**order, "after": 0.03 + chosen.random() * 0.25}
        else:
            point = points[(batch * BATCH + number) // 2 % len(points)]
            yield {**order, "point": point, "visit": 1 if point.startswith(RARE) else chosen.randint(1, 3)}


# What happens once in a run at most, and is made to happen by `prepare` or by the writer.
RARE = ("base.", "clean-up.", "deletion.", "confirmation.", "reseal.")


def prepare(deployment: Deployment, order: dict[str, Any]) -> None:
    """A minute and a day go by: the leases of the dead run out, and publications become old."""
    sql(deployment, "UPDATE leases SET expires_at = 0")
    if order.get("point", "").startswith("base."):
        sql(deployment, "UPDATE deployment SET base = NULL, published_revision = 0")
    if order.get("point", "").startswith(RARE):
        sql(deployment, "UPDATE publications SET created_at = 0")


@pytest.mark.parametrize(("database", "batch"), BATCHES)
def test_a_killed_writer_loses_nothing_and_leaves_nothing_half_done(
    make_deployment: Callable[..., Deployment], database: str, batch: int, tmp_path: Path
) -> None:
    deployment = make_deployment(KEY_PREFIX=PREFIX)
    api = Api(deployment, deployment.operator[1])
    api.put_credential("cred", CANARIES["content"])
    api.create_key("followed", generation="KMS", credential={"name": "cred", "version": "v1"})
    for _ in range(22):  # so many publications are kept whatever their age
        api.tick()
    engine = deployment.services.store.engine
    expected = Expected(rows_of(engine))
    # One process plays every function, so it has the account's own credential and no function's role.
    account = dict(zip(("SECRETID", "SECRETKEY", "SESSIONTOKEN"), (*deployment.operator, ""), strict=True))
    (left := tmp_path / "left").mkdir()
    settings = {f"TENCENTCLOUD_{name}": value for name, value in account.items()} | {"TMPDIR": str(left)}
    writer = Writer(deployment.environment | settings)
    try:
        for number, order in enumerate(orders(database, batch)):
            prepare(deployment, order)
            done, under_way = writer.run(order)
            rows = rows_of(engine)
            expected.check(rows, done, under_way)
            expected.take_over(rows)
            if number % 5 == 4:
                recover(deployment, api, tmp_path)
    finally:
        writer.close()
    recover(deployment, api, tmp_path)
    places = places_of(deployment) | files(left)
    operator = {"operator": deployment.operator[1].encode()}
    assert sweep(places, {**SECRETS, **operator}, {("operator", "home/operator.json")}) == []
    assert sweep(places, operator), "that one file does hold it"


def recover(deployment: Deployment, api: Api, folder: Path) -> None:
    """One tick after the leases of the dead have run out: the snapshot equals the database, the audit chain holds."""
    sql(deployment, "UPDATE leases SET expires_at = 0")
    report = api.tick()
    assert report["publish_error"] is None, report
    held, wanted = published(deployment, folder), stored(deployment)
    assert held == wanted
    assert audit.verify(deployment.services).fault is None


def stored(deployment: Deployment) -> tuple[dict[bytes, bytes], dict[bytes, bytes], int]:
    """What a snapshot of the database holds: keys, consumers, revision."""
    return deployment.services.store.snapshot(
        lambda db: (
            {digest: pack_key(record) for digest, record in db.all_keys()},
            {ident: pack_consumer(record) for ident, record in db.all_consumers()},
            db.published().revision,
        )
    )


def published(deployment: Deployment, folder: Path) -> tuple[dict[bytes, bytes], dict[bytes, bytes], int]:
    """What the bucket's snapshot holds: the overlay over the base."""
    manifest, cos = pointer(deployment), deployment.cloud.cos
    prefix = deployment.services.settings.snapshot_prefix
    path = folder / "base.lmdb"
    path.write_bytes(cos.get_object(BUCKET, prefix + manifest["base"]["name"]))
    base = Base(str(path))
    content = dict(base._read.cursor())
    base.close()
    overlay_part = manifest["overlay"]
    overlay = decode_overlay(cos.get_object(BUCKET, prefix + overlay_part["name"]), overlay_part["entries"])
    for digest, key in overlay.keys.items():
        content.pop(digest, None)
        if key is not None:
            content[digest] = pack_key(key)
    for ident, consumer in overlay.consumers.items():
        content.pop(ident, None)
        if consumer is not None:
            content[ident] = pack_consumer(consumer)
    keys = {ref: value for ref, value in content.items() if len(ref) == 32}
    return keys, {ref: value for ref, value in content.items() if len(ref) != 32}, manifest["revision"]


def test_every_named_point_is_a_place_where_some_run_is_killed() -> None:
    for kind in ("sqlite", "postgresql"):
        chosen = {order.get("point") for name, batch in BATCHES if name == kind for order in orders(name, batch)}
        assert chosen - {None} == set(KILLED_AT[kind])
    assert set().union(*KILLED_AT.values()) == WRITER
    assert sum(BATCH for name, _ in BATCHES if name == "sqlite") >= 300
    assert sum(BATCH for name, _ in BATCHES if name == "postgresql") >= 100
