"""What must hold: no version or revision goes back, no reader holds a mixture, and nothing acknowledged is lost."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from typing import Any

from consumer_keys.snapshot import ConsumerRecord, KeyRecord, id_bytes, unpack_consumer, unpack_key
from consumer_keys.snapshot_cache import Snapshot
from consumer_keys.store.publication import UNRECORDED

PREFIX = "consumer-keys/"
State = tuple[dict[bytes, Any], dict[bytes, Any], dict[bytes, Any]]


class Violation(AssertionError):  # noqa: N818 - what it is
    """A guarantee that did not hold."""


class Oracle:
    """Keeps every state that the database ever had and every pointer that was written."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.states: dict[int, list[State]] = {}
        self.pointers: dict[int, tuple[Any, ...]] = {}
        self._renewals: set[int] = set()  # versions that name what an earlier one named
        self.lost: set[str] = set()  # objects that somebody took away
        self.restores = False  # whether the database is brought back to older copies
        self._digests: set[bytes] = set()  # of every value that ever was, also of those that are gone
        self._idents: set[bytes] = set()

    def note_state(self) -> None:
        """Keeps what the database holds at its revision: a snapshot of that revision must hold exactly this."""
        states = self.states.setdefault(revision_of(self._connection), [])
        state = _state(self._connection)
        if states and state not in states and not self.restores:
            # A restored database counts on from its copy; it publishes only above what the bucket holds.
            raise Violation(f"revision {revision_of(self._connection)} was given to two states")
        if state not in states:
            states.append(state)
            self._digests |= state[0].keys()
            self._idents |= state[1].keys()

    def note_pointer(self, data: bytes, objects: Mapping[str, bytes], *, may_shrink: bool) -> None:
        """A version is given out once, and a higher one never carries an older state, nor one that lost too much."""
        manifest = json.loads(data)["manifest"]
        version, revision = manifest["version"], manifest["revision"]
        named = (revision, manifest["base"]["name"], manifest["overlay"]["name"])
        missing = {PREFIX + name for name in named[1:]} - objects.keys() - self.lost
        if missing:
            raise Violation(f"version {version} names objects that are not in the bucket: {missing}")
        if version not in self.pointers and named in self.pointers.values():
            self._renewals.add(version)
        if self.pointers.setdefault(version, named) != named:
            raise Violation(f"version {version} was given out twice: {self.pointers[version]} and {named}")
        for other, (other_revision, *_) in self.pointers.items():
            first, second = sorted([(other, other_revision), (version, revision)])
            if first[1] > second[1] and not self.is_excused(first[0], second[0]):
                raise Violation(f"versions {other}, {version} carry revisions {other_revision}, {revision}")

        if not may_shrink and not self.restores and all(self._losses(version, self._lasting(revision))):
            raise Violation(f"version {version} has only {self._lasting(revision)} values")

    def is_excused(self, version: int, later: int) -> bool:
        """Whether the later one may carry an older state: a known limit of renewals while the shrink guard holds.

        What is renewed is the pointer in the bucket or the last one that was recorded. If a publisher died after it
        wrote a pointer and before it recorded that, and another pointer then took its place late, nobody knows it.
        """
        row = self._connection.execute("SELECT revision FROM publications WHERE version = ?", (version,)).fetchone()
        return later in self._renewals and row == (UNRECORDED,)

    def guard_may_hold(self) -> bool:
        """Whether so many values are gone that what the database holds now may not be published."""
        now = self._lasting(revision_of(self._connection))
        # The publisher's own count may be that of an earlier publication, if the last one was not recorded.
        counted = self._connection.execute("SELECT published_count FROM deployment").fetchone()[0]
        newest = max(self.pointers, default=0) + 1
        return not self.restores and any([_loses(counted, now), *self._losses(newest, now)])

    def _losses(self, version: int, after: int) -> list[bool]:
        """Whether this is too few against the last pointer, and against the last publication that was recorded.

        They differ when a publisher died between the two; then the guard may hold, but need not.
        """
        recorded = self._connection.execute("SELECT published_revision FROM deployment").fetchone()[0]
        last = max((other for other in self.pointers if other < version), default=None)
        of_pointer = recorded if last is None else self.pointers[last][0]
        return [_loses(self._lasting(before), after) for before in (of_pointer, recorded)]

    def _lasting(self, revision: int) -> int:
        states = self.states.get(revision)
        return 0 if not states else sum(record.ends_at == 0 for record in states[-1][0].values())

    def gone(self, revision: int) -> set[bytes]:
        """Values that were accepted without an end at this revision, and are no longer."""
        then, now = (
            {digest for digest, record in self.states[at][-1][0].items() if record.ends_at == 0}
            for at in (revision, revision_of(self._connection))
        )
        return then - now

    def check_counters(self) -> None:
        """What changes count up and down is what a count of the rows finds."""
        wrong = self._connection.execute(
            "SELECT entry_count, (SELECT count(*) FROM key_values WHERE ends_at IS NULL) AS counted FROM deployment"
            " WHERE entry_count <> counted UNION ALL "
            "SELECT key_count, (SELECT count(*) FROM consumer_keys k WHERE k.facet_id = f.facet_id) AS counted"
            " FROM key_facets f WHERE key_count <> counted"
        ).fetchall()
        if wrong:
            raise Violation(f"counters and what they should be: {wrong}")

    def check(self, snapshot: Snapshot) -> None:
        """A reader holds one whole state of the database: no mixture, nothing lost, nothing revived."""
        revision = snapshot.manifest.revision
        keys = {digest: snapshot.find(digest) for digest in self._digests}
        consumers = {ident: snapshot.find_consumer(ident) for ident in self._idents}
        held = (
            {digest: unpack_key(record) for digest, record in keys.items() if record is not None},
            {ident: unpack_consumer(record) for ident, record in consumers.items() if record is not None},
            snapshot.overlay.operators,
        )
        if held not in self.states.get(revision, []):
            found = _difference(held, self.states.get(revision, []))
            raise Violation(f"revision {revision} (version {snapshot.manifest.version}) holds another state: {found}")


def _loses(before: int, after: int) -> bool:
    return before - after > 10 and before - after > 0.3 * before


def _difference(held: State, states: list[State]) -> Any:
    if not states:
        return "one that never was"
    return [
        {key: (value, of.get(key)) for key, value in part.items() if of.get(key) != value}
        | {key: (None, value) for key, value in of.items() if key not in part}
        for part, of in zip(held, states[-1], strict=True)
    ]


# What a snapshot has to hold, read without the code that publishes.


def revision_of(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT revision FROM deployment").fetchone()[0])


def _state(connection: sqlite3.Connection) -> State:
    keys = connection.execute(
        "SELECT digest, k.key_id, name, status = 'Enable', consumer_id, ends_at FROM key_values v, consumer_keys k"
        " WHERE k.key_id = v.key_id"
    )
    consumers = connection.execute("SELECT consumer_id, name, status = 'Enable' FROM consumers")
    return (
        {
            digest: KeyRecord(key_id, name, bool(enabled), bound_to, 0 if ends_at is None else ends_at // 1000)
            for digest, key_id, name, enabled, bound_to, ends_at in keys
        },
        {id_bytes(consumer_id): ConsumerRecord(name, bool(enabled)) for consumer_id, name, enabled in consumers},
        {},  # there are no operators and no groups
    )
