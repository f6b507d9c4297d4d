"""Publishers and readers that are broken on purpose: the simulation has to find out each of them."""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa

from consumer_keys.publish import LEASE, Outcome, Publisher
from consumer_keys.snapshot import ConsumerRecord, KeyRecord, Overlay, Part
from consumer_keys.snapshot_cache import SnapshotCache
from consumer_keys.store.publication import SnapshotReads
from consumer_keys.store.schema import changes, deployment, publications


class PointerFirst(Publisher):
    """Writes the pointer before the objects that it names."""

    def _upload(self, what: str, named: Part, data: bytes, content_type: str) -> None:
        self.__dict__.setdefault("later", []).append((what, named, data, content_type))

    def _point(self, turn: Any, outcome: Outcome, base: Part, overlay: Part, versions: Any) -> None:
        super()._point(turn, outcome, base, overlay, versions)
        for upload in self.__dict__.pop("later", []):
            super()._upload(*upload)


class VersionWithoutLock(Publisher):
    """Counts the version up from what it read, as two publishers may do at once."""

    def _reserve(self, turn: Any, base: Part, overlay: Part) -> int:
        floor = turn.pointer.version if turn.pointer is not None else 0
        return max(self._store.snapshot(lambda db: db.published().published_version), floor) + 1


class VersionNotAboveTheBucket(Publisher):
    """Does not look at the version in the bucket, which a restored database does not know."""

    def _reserve(self, turn: Any, base: Part, overlay: Part) -> int:
        turn.pointer = None
        return super()._reserve(turn, base, overlay)


class ForgetsTooMuch(Publisher):
    """Records its publication, and forgets changes, although another publisher has taken over."""

    def _record(
        self, turn: Any, outcome: Outcome, base: Part, base_revision: int, count: int, drift: int, *, last: bool
    ) -> bool:
        def record(db: Any) -> None:
            db.connection.execute(
                sa.update(deployment)
                .where(deployment.c.published_version < outcome.version)
                .values(
                    published_version=outcome.version, published_revision=outcome.revision,
                    published_at=self._now_ms(), published_count=count, base=json.dumps(base._asdict()),
                    base_revision=base_revision,
                )
            )  # fmt: skip
            named = publications.c.version == outcome.version
            db.connection.execute(sa.update(publications).where(named).values(revision=outcome.revision))
            db.connection.execute(sa.delete(changes).where(changes.c.revision <= base_revision))
            db.release_lease(LEASE, turn.token)

        self._store.housekeeping("publication", record)
        turn.released = True
        return True


class NoHeartbeat(Publisher):
    """A tick writes nothing when the database has not changed, so a late pointer stays."""

    def publish(self, *, heartbeat: bool = False, may_shrink: bool = False) -> Outcome | None:
        return super().publish(may_shrink=may_shrink)


class TwoReads(Publisher):
    """Reads the revision and the records in two transactions."""

    def _draft(self, db: Any, turn: Any, *, fresh: bool) -> Any:
        draft = super()._draft(db, turn, fresh=fresh)
        if turn.__dict__.setdefault("seen", draft.state) is draft.state:
            raise _Again
        return draft._replace(state=turn.__dict__.pop("seen"))

    def _rounds(self, turn: Any, state: Any) -> Outcome:
        while True:
            try:
                return super()._rounds(turn, state)
            except _Again:
                continue


class _Again(Exception):  # noqa: N818 - no error
    pass


class BaseNotLookedFor(Publisher):
    """Trusts that the base of the database is in the bucket."""

    def _base_is_missing(self, turn: Any, state: Any) -> bool:
        return state.base is None


class RemovalsForgotten(Publisher):
    """Leaves out what is gone since the base, so that a deleted key stays valid."""

    def _draft(self, db: Any, turn: Any, *, fresh: bool) -> Any:
        return super()._draft(_WithoutRemovals(db.connection), turn, fresh=fresh)


class _WithoutRemovals(SnapshotReads):
    def changed_keys(self, after_revision: int) -> dict[bytes, KeyRecord | None]:
        changed = super().changed_keys(after_revision)
        return {digest: record for digest, record in changed.items() if record is not None}


class ConsumersKept(Publisher):
    """The same of consumers."""

    def _draft(self, db: Any, turn: Any, *, fresh: bool) -> Any:
        return super()._draft(_WithoutGoneConsumers(db.connection), turn, fresh=fresh)


class _WithoutGoneConsumers(SnapshotReads):
    def changed_consumers(self, after_revision: int) -> dict[bytes, ConsumerRecord | None]:
        changed = super().changed_consumers(after_revision)
        return {ident: record for ident, record in changed.items() if record is not None}


class NoGuard(Publisher):
    """Publishes a snapshot however much it lost."""

    def publish(self, *, heartbeat: bool = False, may_shrink: bool = False) -> Outcome | None:
        return super().publish(heartbeat=heartbeat, may_shrink=True)


class OverrideIgnored(Publisher):
    """Refuses also what an operator lets pass."""

    def publish(self, *, heartbeat: bool = False, may_shrink: bool = False) -> Outcome | None:
        return super().publish(heartbeat=heartbeat)


class NotRenewed(Publisher):
    """Lets the last snapshot become old while the guard holds."""

    def _renew(self, turn: Any, state: Any) -> None:
        pass


class GoesBack(SnapshotCache):
    """A reader that takes whatever pointer it finds."""

    def _take(self, data: bytes) -> None:
        held, self._snapshot = self._snapshot, None
        try:
            super()._take(data)
        finally:
            self._snapshot = self._snapshot or held


class Mixes(SnapshotCache):
    """A reader that keeps the overlay it has."""

    def _overlay(self, part: Part, held: Any) -> Overlay:
        return held.overlay if held is not None else super()._overlay(part, held)


# ForgetsTooMuch needs a tick, a new base and a pause at one certain step: the interleavings find it.
PUBLISHERS = (
    PointerFirst, VersionWithoutLock, VersionNotAboveTheBucket, NoHeartbeat, TwoReads, BaseNotLookedFor,
    RemovalsForgotten, ConsumersKept, NoGuard, OverrideIgnored, NotRenewed,
)  # fmt: skip
READERS = (GoesBack, Mixes)
