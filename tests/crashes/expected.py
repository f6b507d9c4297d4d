"""What must be there after writers were killed: known from what they were told, and from nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ckeys.deployment import BUCKET, Deployment
from consumer_keys import audit
from consumer_keys.keytext import lookup_digest
from consumer_keys.snapshot import decode_overlay, pack_consumer, pack_key
from consumer_keys.snapshot_base import Base
from tests.conftest import Api
from tests.crashes.killing import Run
from tests.databases import Rows, rows_of
from tests.functions.helpers import check_counted, pointer, sql

COLUMNS = ("name", "status", "consumer_id", "description")
TICKS = ("tick", "follow")
Resources = dict[str, dict[str, Any] | None]


class Expected:
    """What the database must hold."""

    def __init__(self, api: Api, credentials: Sequence[str], folder: Path) -> None:
        """Each of the credentials is followed by a key."""
        self._deployment, self._api, self._credentials, self._folder = api.deployment, api, credentials, folder
        self._lookup_key = api.deployment.services.root.lookup_key
        self.recover()

    def check(self, run: Run) -> None:
        """Every acknowledged change is there, those under way are whole or absent, and nothing else happened."""
        rows = rows_of(self._deployment.services.store.engine)
        known, found = dict(self._known), _resources(rows)
        for line in run.done:
            if line["done"] not in TICKS:
                ident = _named(line, line["answer"])
                known[ident] = _after(line, ident, known.get(ident))
        changed = {ident for ident in found.keys() | known.keys() if known.get(ident) != found.get(ident)}
        for call in run.under_way:
            made = {row["name"]: ident for ident, row in found.items() if row is not None and ident not in known}
            ident = call.get("key_id", made.get(call.get("name", ""), ""))
            if ident in changed:
                assert found.get(ident) == _after(call, ident, known.get(ident)), call
                changed.remove(ident)
        assert not changed, run.under_way
        self._check_contents(rows, run)
        self._check_whole(rows)

    def recover(self) -> None:
        """One tick after the leases of the dead have run out: the snapshot equals the database, the audit chain holds.

        What is there then is known from now on.
        """
        sql(self._deployment, "UPDATE leases SET expires_at = 0")
        report = self._api.tick()
        assert (report["lease"], report["publish_error"], report["audit_error"]) == ("held", None, None), report
        held, wanted = published(self._deployment, self._folder), stored(self._deployment)
        assert held == wanted
        assert audit.verify(self._deployment.services).fault is None
        rows = rows_of(self._deployment.services.store.engine)
        self._known = _resources(rows)
        self._revision: int = rows["deployment"][0]["revision"]
        self._audit_rows = len(changes_of(rows))
        self._contents = {name: [self._content_of(name)] for name in self._credentials}
        self._check_contents(rows, Run([], []))

    def _content_of(self, credential: str) -> str:
        call = self._deployment.cloud.call
        return str(call("ssm", "GetSecretValue", SecretName=credential, VersionId="v1")["SecretString"])

    def _check_contents(self, rows: Rows, run: Run) -> None:
        """A key of a credential accepts without an end what the last acknowledged tick found there, or newer content.

        Newer is what was written since then; whether a tick has come to it, nobody was told.
        """
        for name in self._credentials:
            possible = self._contents[name]
            for line in [*run.done, *run.under_way]:
                if line.get("credential") == name:
                    possible = [line["content"]] if line.get("followed") else [*possible, line["content"]]
            (key_id,) = (row["key_id"] for row in rows["consumer_keys"] if row["credential_name"] == name)
            digests = [lookup_digest(self._lookup_key, "default", content.encode()) for content in possible]
            assert [row["digest"] in digests for row in _lasting(rows) if row["key_id"] == key_id] == [True], name

    def _check_whole(self, rows: Rows) -> None:
        """No change is half there: values, counter, revision and audit rows agree."""
        check_counted(rows)
        state, lasting = rows["deployment"][0], _lasting(rows)
        keys = {row["key_id"] for row in rows["consumer_keys"]}
        assert sorted(row["key_id"] for row in lasting) == sorted(keys)  # each accepts one value without an end
        assert {row["key_id"] for row in rows["key_values"]} == keys
        assert state["entry_count"] == len(lasting)
        changes = changes_of(rows)
        fresh = [row for row in changes if row["revision"] > self._revision]
        assert len(changes) == self._audit_rows + len(fresh)
        assert {row["revision"] for row in fresh} == set(range(self._revision + 1, state["revision"] + 1))
        # What has ended is dropped in one change, whosever it is; any other one has one row.
        single = [row["revision"] for row in fresh if row["action"] != "key.overlap_end"]
        assert len(single) == len(set(single))
        check_data_keys(rows)


def _resources(rows: Rows) -> Resources:
    """Keys and consumers by id, as far as callers change them; None is one that is gone."""
    found = [(row["consumer_id"], row) for row in rows["consumers"]]
    found += [(row["key_id"], row) for row in rows["consumer_keys"]]
    return {ident: {column: row[column] for column in COLUMNS} for ident, row in found}


def _named(line: dict[str, Any], answer: Any) -> str:
    return str(line["key_id"] if "key_id" in line else answer.get("key_id", answer.get("consumer_id")))


def _after(line: dict[str, Any], ident: str, before: dict[str, Any] | None) -> dict[str, Any] | None:
    """What a call makes of a resource."""
    call = str(line.get("done", line.get("call")))
    if call == "delete_key":
        return None
    fresh = {"name": line.get("name"), "status": line.get("status", "Enable"), "description": ""}
    changes: dict[str, dict[str, Any]] = {
        "create_consumer": {**fresh, "consumer_id": ident},
        "create_key": {**fresh, "consumer_id": None},
        "update_key": {"description": line.get("description")},
        "enable_key": {"status": "Enable"},
        "disable_key": {"status": "Disable"},
        "bind_consumer": {"consumer_id": line.get("consumer_id")},
        "unbind_consumer": {"consumer_id": None},
    }
    return {**(before or {}), **changes[call]}


def _lasting(rows: Rows) -> list[dict[str, Any]]:
    return [row for row in rows["key_values"] if row["ends_at"] is None]


def changes_of(rows: Rows) -> list[dict[str, Any]]:
    """The audit rows of changes. What becomes of a data key is on record too, but is none, and has no revision."""
    return [row for row in rows["audit"] if not row["action"].startswith("data_key.")]


def check_data_keys(rows: Rows) -> None:
    """What a rotation did to a data key is done and on record, or neither."""
    said: dict[str, set[str]] = {action: set() for action in ("begin", "retire", "destroy")}
    for row in rows["audit"]:
        if row["action"].startswith("data_key."):
            said[row["action"].partition(".")[2]].add(row["target"])
    there = {row["data_key_id"] for row in rows["data_keys"]}
    assert (said["begin"] | said["retire"]) - said["destroy"] <= there
    assert not said["destroy"] & there
    assert {row["data_key_id"] for row in rows["data_keys"] if row["unused_since"] is not None} <= said["retire"]


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
