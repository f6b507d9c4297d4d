"""Publication of the snapshot: always from the database, never from an event, one publisher at a time.

Immutable objects first, the pointer last. A publisher that was paused may still write an old pointer late; readers
never go backwards and the next tick writes a newer pointer over it.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from consumer_keys.failpoints import reach
from consumer_keys.snapshot import (
    POINTER,
    Manifest,
    Overlay,
    Part,
    SnapshotError,
    encode_overlay,
    open_manifest,
    part,
    seal_manifest,
)

if TYPE_CHECKING:
    from consumer_keys.store.database import Database
    from consumer_keys.store.publication import Housekeeping, Published, SnapshotReads

LEASE, LEASE_MS, LEASE_MARGIN_MS = "publish", 60_000, 10_000
OVERLAY_ENTRIES_MAX = 5_000
OVERLAY_SHARE_MAX, OVERLAY_SHARE_FROM = 0.05, 100
SHRINK_SHARE_MAX, SHRINK_KEYS = 0.30, 10
KEEP_MS, KEEP_VERSIONS = 86_400_000, 20
WAIT_STEPS, WAIT_STEP_SECONDS = 100, 0.02
_ROUNDS = 3


class Bucket(Protocol):
    """What publishing needs of COS."""

    def put(self, key: str, data: bytes, content_type: str) -> None:
        """Writes an object."""

    def get(self, key: str) -> bytes | None:
        """Reads an object."""

    def delete(self, key: str) -> None:
        """Deletes an object."""


class BuildBase(Protocol):
    """`snapshot_base.build`."""

    def __call__(self, path: str, keys: Any, consumers: Any) -> tuple[str, int, int]:
        """(sha256, size, entries)."""


class PublicationRefused(Exception):  # noqa: N818 - a guard that held
    """The snapshot was not published; the text says why. The last one stays in force."""

    safe_to_log = True


class SnapshotShrinks(PublicationRefused):
    """So many values fewer than last time are more likely a mishap; an operator may override it."""


class _Draft(NamedTuple):
    """What one publication holds, and the state that it was made from."""

    state: Published
    base: Part
    base_revision: int
    fresh: bool
    overlay: Overlay
    values: int


class Outcome(NamedTuple):
    """What a publication made."""

    version: int
    revision: int


class Publisher:
    """Publishes what the database holds."""

    def __init__(
        self, store: Database, bucket: Bucket, build_base: BuildBase, *, prefix: str, environment: str,
        manifest_key: bytes, root_version: str, now_ms: Callable[[], int], sleep: Callable[[float], None],
    ) -> None:  # fmt: skip
        self._store, self._bucket, self._build_base = store, bucket, build_base
        self._prefix, self._environment = prefix, environment
        self._manifest_key, self._root_version, self._now_ms, self._sleep = manifest_key, root_version, now_ms, sleep

    def publish_change(self, revision: int) -> Outcome | None:
        """Publishes after a change with this revision, or waits for the publisher that is at it already.

        None when that one does not come to the change within two seconds; the next tick will.
        """
        for _ in range(WAIT_STEPS):
            outcome = self.publish()
            if outcome is not None:
                return outcome
            state = self._store.snapshot(lambda db: db.published())
            if state.published_revision >= revision:
                return Outcome(state.published_version, state.published_revision)
            self._sleep(WAIT_STEP_SECONDS)
        return None

    def publish(self, *, heartbeat: bool = False, may_shrink: bool = False) -> Outcome | None:
        """Brings the snapshot up to the database; None when another publisher is at it.

        A heartbeat publishes also when nothing changed, and builds a new base when the overlay has outgrown it.
        Raises PublicationRefused or Unavailable.
        """
        holder = os.urandom(8).hex()
        started, token = self._store.housekeeping("lease-claim", lambda db: self._claim(db, holder))
        if token is None:
            return None
        try:
            return self._rounds(token, started, heartbeat, may_shrink)
        finally:
            self._store.housekeeping("lease-release", lambda db: db.release_lease(LEASE, token))

    def _claim(self, db: Housekeeping, holder: str) -> tuple[int, int | None]:
        started = self._now_ms()  # under the lock, however long it took to get it
        return started, db.claim_lease(LEASE, holder, started, LEASE_MS)

    def _rounds(self, token: int, started_ms: int, heartbeat: bool, may_shrink: bool) -> Outcome:
        """Publishes again while changes were committed meanwhile: their own publishers found the lease taken."""
        state = self._store.snapshot(lambda db: db.published())
        outcome = Outcome(state.published_version, state.published_revision)
        for round_number in range(_ROUNDS):
            if state.revision <= outcome.revision and not (heartbeat and round_number == 0):
                break
            try:
                outcome = self._once(token, started_ms, heartbeat, may_shrink)
            except SnapshotShrinks:
                if heartbeat:
                    self._renew(token, started_ms)
                raise
            state = self._store.snapshot(lambda db: db.published())
        return outcome

    def _once(self, token: int, started_ms: int, heartbeat: bool, may_shrink: bool) -> Outcome:
        with tempfile.TemporaryDirectory(prefix="ckeys-publish-") as folder:
            path = os.path.join(folder, "base.lmdb")
            draft = self._store.snapshot(lambda db: self._collect(db, path, heartbeat, may_shrink))
            if draft.fresh:
                with open(path, "rb") as file:
                    self._upload("base", draft.base, file.read(), "application/octet-stream")
        state, overlay = draft.state, draft.overlay
        data = encode_overlay(overlay)
        named = part(
            "overlay", ".json", hashlib.sha256(data).hexdigest(), len(data), len(overlay.keys) + len(overlay.consumers)
        )
        self._upload("overlay", named, data, "application/json")
        version = self._write_pointer(token, started_ms, state.published_version, state.revision, draft.base, named)
        self._store.housekeeping(
            "publication",
            lambda db: db.record_publication(
                version, state.revision, draft.values, draft.base, draft.base_revision, named, self._now_ms()
            ),
        )
        return Outcome(version, state.revision)

    def _collect(self, db: SnapshotReads, path: str, heartbeat: bool, may_shrink: bool) -> _Draft:
        """What to publish, from one state of the database; a new base is written to `path`. Raises SnapshotShrinks."""
        state = db.published()
        base, base_revision = state.base, state.base_revision
        fresh = base is None or (heartbeat and _outgrown(db.change_count(), base))
        if fresh or base is None:
            sha256, size, count = self._build_base(path, db.all_keys(), db.all_consumers())
            base, base_revision = part("base", ".lmdb", sha256, size, count), state.revision
        overlay = Overlay(db.changed_keys(base_revision), db.changed_consumers(base_revision), db.all_operators())
        # The counter is kept by changes; values that went any other way show only when they are counted, and that is
        # done whenever the snapshot could lose too many, and at each tick.
        removed = sum(record is None for record in overlay.keys.values())
        counted = fresh or heartbeat or _shrinks(state.published_count, state.published_count - removed)
        count = db.value_count() if counted else state.entry_count
        if not may_shrink and _shrinks(state.published_count, count):
            raise SnapshotShrinks(
                f"the snapshot would lose {state.published_count - count} of {state.published_count} values"
            )
        return _Draft(state, base, base_revision, fresh, overlay, count)

    def _upload(self, what: str, named: Part, data: bytes, content_type: str) -> None:
        """Writes an immutable object and reads it back before anything may name it."""
        key = self._prefix + named.name
        reach(f"{what}.before-write")
        self._bucket.put(key, data, content_type)
        reach(f"{what}.after-write")
        if self._bucket.get(key) != data:
            raise PublicationRefused(f"{named.name} reads back differently from what was written")

    def _renew(self, token: int, started_ms: int) -> None:
        """Keeps the last snapshot in force while a guard holds: the mishap must not end validation an hour later."""
        state = self._store.snapshot(lambda db: db.published())
        last = self._manifest_in_bucket()
        if last is None:
            return
        version = self._write_pointer(
            token, started_ms, state.published_version, last.revision, last.base, last.overlay
        )
        self._store.housekeeping(
            "publication",
            lambda db: db.record_publication(
                version, last.revision, state.published_count, last.base, state.base_revision, last.overlay,
                self._now_ms(),
            ),
        )  # fmt: skip

    def _write_pointer(
        self, token: int, started_ms: int, published_version: int, revision: int, base: Part, overlay: Part
    ) -> int:
        last, now_ms = self._manifest_in_bucket(), self._now_ms()
        # Above the bucket's version too: a restored database must not hand out old numbers.
        version = max(published_version, last.version if last else 0) + 1
        manifest = Manifest(self._environment, version, revision, now_ms, self._root_version, base, overlay)
        held = self._store.snapshot(lambda db: db.holds_lease(LEASE, token, now_ms))
        if not held or now_ms > started_ms + LEASE_MS - LEASE_MARGIN_MS:
            raise PublicationRefused("the lease ran out before the pointer was written")
        reach("pointer.before-write")
        self._bucket.put(self._prefix + POINTER, seal_manifest(manifest, self._manifest_key), "application/json")
        reach("pointer.after-write")
        return version

    def _manifest_in_bucket(self) -> Manifest | None:
        data = self._bucket.get(self._prefix + POINTER)
        if data is None:
            return None
        try:
            return open_manifest(
                data, self._manifest_key, environment=self._environment, version_min=0, now_ms=self._now_ms()
            )
        except SnapshotError:
            return None  # not ours, or damaged: it is about to be replaced, and readers refuse it anyway

    def clean_up(self) -> int:
        """Deletes objects that no publication of the last day and no recent version names; returns how many."""
        now_ms = self._now_ms()
        old = self._store.snapshot(lambda db: db.old_publications(now_ms - KEEP_MS, KEEP_VERSIONS))
        if not old:
            return 0
        unused = self._store.housekeeping("clean-up", lambda db: db.forget_publications(old))
        for name in sorted(unused):
            reach("deletion.before-write")
            self._bucket.delete(self._prefix + name)
            reach("deletion.after-write")
        return len(unused)


def quietly(publisher: Publisher, revision: int, report: Callable[[BaseException], None]) -> None:
    """Publishes after a commit, best effort: the change is durable and the next tick repairs what fails here."""
    try:
        publisher.publish_change(revision)
    except Exception as error:  # noqa: BLE001 - a full disk too must not turn a committed change into an error
        report(error)


def _outgrown(change_count: int, base: Part) -> bool:
    share = base.entries * OVERLAY_SHARE_MAX
    return change_count > OVERLAY_ENTRIES_MAX or (change_count > OVERLAY_SHARE_FROM and change_count > share)


def _shrinks(before: int, after: int) -> bool:
    """Whether so many values less are more likely a mishap than a decision."""
    return before - after > SHRINK_KEYS and before - after > SHRINK_SHARE_MAX * before
