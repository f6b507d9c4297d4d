"""Publication of the snapshot: always from the database, never from an event, one publisher at a time.

Immutable objects first, the pointer last. Every step that others rely on (the version, what was published) is taken
in a transaction that sees the lease still held, so a publisher that was overtaken writes nothing that counts. Its
pointer may still arrive late in the bucket; readers never go backwards and the next tick writes a newer one over it.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from consumer_keys.failpoints import Upload, reach
from consumer_keys.snapshot import (
    ANY_TIME_MS,
    POINTER,
    ForeignEnvironmentError,
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

LEASE = "publish"
# A change's publisher lives no longer than its function (20 s); a tick may build and upload a large base.
LEASE_MS_CHANGE, LEASE_MS_TICK, LEASE_MARGIN_MS = 20_000, 60_000, 5_000
OVERLAY_ENTRIES_MAX = 5_000
OVERLAY_SHARE_MAX, OVERLAY_SHARE_FROM = 0.05, 100
SHRINK_SHARE_MAX, SHRINK_KEYS = 0.30, 10
KEEP_MS, KEEP_VERSIONS, CLEAN_UP_MAX = 86_400_000, 20, 200
WAIT_STEPS, WAIT_STEP_SECONDS, _ROUNDS = 100, 0.02, 3


class Bucket(Protocol):
    """What publishing needs of COS."""

    def put(self, key: str, data: bytes, content_type: str) -> None:
        """Writes an object."""

    def get(self, key: str) -> bytes | None:
        """Reads an object."""

    def exists(self, key: str) -> bool:
        """Whether there is such an object."""

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


class Outcome(NamedTuple):
    """What a publication made."""

    version: int
    revision: int


class _Draft(NamedTuple):
    """One consistent state of the database, ready to be written. `base_file` None: the base is in the bucket."""

    state: Published
    base: Part
    base_revision: int
    base_file: bytes | None
    overlay: Part
    overlay_data: bytes
    values: int


class _Turn:
    """The time in which one publisher may publish: from its claim of the lease to the lease's end."""

    def __init__(self, token: int, ends_ms: int, heartbeat: bool, may_shrink: bool) -> None:
        self.token, self.ends_ms, self.heartbeat, self.may_shrink = token, ends_ms, heartbeat, may_shrink
        self.released = False
        self.pointer: Manifest | None = None  # the bucket's when the turn began


class Publisher:
    """Publishes what the database holds."""

    def __init__(
        self, store: Database, bucket: Bucket, build_base: BuildBase, *, prefix: str, environment: str,
        manifest_key: Callable[[str], bytes], root_version: str, now_ms: Callable[[], int],
        sleep: Callable[[float], None],
    ) -> None:  # fmt: skip
        """`manifest_key` gives the key of a version of the root secret; `root_version` is the one until a rotation."""
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

    def publish_base(self) -> Outcome | None:
        """A heartbeat that waits for changes' publishers, which are quick; None when one does not come to its end."""
        for _ in range(WAIT_STEPS):
            if (outcome := self.publish(heartbeat=True)) is not None:
                return outcome
            self._sleep(5 * WAIT_STEP_SECONDS)
        return None

    def publish(self, *, heartbeat: bool = False, may_shrink: bool = False) -> Outcome | None:
        """Brings the snapshot up to the database; None when another publisher is at it.

        A heartbeat publishes also when nothing changed, and builds a new base when the overlay has outgrown it or it is
        old: no change must wait for a million rows. Raises PublicationRefused or Unavailable.
        """
        holder, lease_ms = os.urandom(8).hex(), LEASE_MS_TICK if heartbeat else LEASE_MS_CHANGE

        def claim(db: Housekeeping) -> tuple[Published, int, int | None]:
            state, started = db.published(), self._now_ms()  # under the lock, however long it took to get it
            if state.revision <= state.published_revision and not heartbeat:
                return state, started, None
            return state, started, db.claim_lease(LEASE, holder, started, lease_ms, LEASE_MS_TICK)

        state, started, token = self._store.housekeeping("lease-claim", claim)
        if token is None:
            done = state.revision <= state.published_revision and not heartbeat
            return Outcome(state.published_version, state.published_revision) if done else None
        turn = _Turn(token, started + lease_ms - LEASE_MARGIN_MS, heartbeat, may_shrink)
        try:
            return self._rounds(turn, state)
        except SnapshotShrinks:
            if heartbeat:  # as it is now: an earlier round may have published before a mass removal was committed
                self._renew(turn, self._store.snapshot(lambda db: db.published()))
            raise
        finally:
            if not turn.released:
                self._store.housekeeping("lease-release", lambda db: db.release_lease(LEASE, token))

    def _rounds(self, turn: _Turn, state: Published) -> Outcome:
        """Publishes again while changes were committed meanwhile: their own publishers found the lease taken."""
        turn.pointer = self._manifest_in_bucket(state)
        if turn.pointer is not None and turn.pointer.revision > state.revision:
            # A database that knows less than the bucket was restored, and must not give out numbers twice.
            above = turn.pointer.revision + 1
            self._store.housekeeping("reservation", lambda db: db.raise_revision(above))
        fresh = self._base_is_missing(turn, state)
        for round_number in range(_ROUNDS):
            rebuild = fresh and round_number == 0
            draft = self._store.snapshot(partial(self._draft, turn=turn, fresh=rebuild))
            version = self._reserve(turn, draft.base, draft.overlay)
            if draft.base_file is not None:
                self._upload("base", draft.base, draft.base_file, "application/octet-stream")
            self._upload("overlay", draft.overlay, draft.overlay_data, "application/json")
            outcome = Outcome(version, draft.state.revision)
            self._point(turn, outcome, draft.base, draft.overlay, self._readers(draft.state, draft.base_file))
            record = (draft.base, draft.base_revision, draft.values, draft.values - draft.state.entry_count)
            if self._record(turn, outcome, *record, last=round_number == _ROUNDS - 1):
                break
        return outcome

    def _base_is_missing(self, turn: _Turn, state: Published) -> bool:
        """Whether there is no base yet, or it is not in the bucket: clean-up took it after the database was copied.

        The bucket is asked at each tick, and whenever the pointer names another base.
        """
        if state.base is None or (state.base_is_old and turn.heartbeat):
            return True
        if not turn.heartbeat and turn.pointer is not None and turn.pointer.base == state.base:
            return False
        return not self._bucket.exists(self._prefix + state.base.name)

    def _draft(self, db: SnapshotReads, turn: _Turn, *, fresh: bool) -> _Draft:
        """What is to be published, from one state. Raises SnapshotShrinks when it would lose too many values."""
        state = db.published()
        base, base_revision, base_file = state.base, state.base_revision, None
        if turn.heartbeat and base is not None:
            fresh = fresh or state.base_is_old or _outgrown(db.change_count(), base)
        if fresh or base is None:
            base, base_file = self._built(db.all_keys(), db.all_consumers())
            base_revision = state.revision
        overlay = Overlay(db.changed_keys(base_revision), db.changed_consumers(base_revision), db.all_operators())
        # The counter is kept by changes; values that went any other way show only when they are counted, and that is
        # done whenever the snapshot could lose too many, and at each tick.
        lost = sum(record is None or record.ends_at > 0 for record in overlay.keys.values())
        counted = fresh or turn.heartbeat or _shrinks(state.published_count, state.published_count - lost)
        count = db.lasting_count() if counted else state.entry_count
        if not turn.may_shrink and _shrinks(state.published_count, count):
            raise SnapshotShrinks(
                f"the snapshot would lose {state.published_count - count} of {state.published_count} values"
            )
        data, entries = encode_overlay(overlay), len(overlay.keys) + len(overlay.consumers)
        return _Draft(state, base, base_revision, base_file, _overlay_part(data, entries), data, count)

    def _built(self, keys: Any, consumers: Any) -> tuple[Part, bytes]:
        with tempfile.TemporaryDirectory(prefix="ckeys-publish-") as folder:
            path = os.path.join(folder, "base.lmdb")
            sha256, size, count = self._build_base(path, keys, consumers)
            with open(path, "rb") as file:
                return part("base", ".lmdb", sha256, size, count), file.read()

    def _readers(self, state: Published, built: bytes | None) -> Sequence[str]:
        """The versions of the root secret whose readers find every value: the present one alone, on an old base."""
        newest_first = state.readers(self._root_version)
        return newest_first[-1:] if state.base_is_old and built is None else newest_first

    def _reserve(self, turn: _Turn, base: Part, overlay: Part) -> int:
        """The version, noted with the objects that it is about to name: if it fails, clean-up still knows them.

        Above the bucket's version too: a restored database must not hand out old numbers.
        """
        floor = turn.pointer.version if turn.pointer is not None else 0
        version = self._store.housekeeping(
            "reservation",
            lambda db: db.reserve_publication(LEASE, turn.token, floor, base.name, overlay.name, self._now_ms()),
        )
        if version is None:
            raise PublicationRefused("another publisher took over before the version was taken")
        return version

    def _upload(self, what: Upload, named: Part, data: bytes, content_type: str) -> None:
        """Writes an immutable object and reads it back before anything may name it."""
        key = self._prefix + named.name
        reach(f"{what}.before-write")
        self._bucket.put(key, data, content_type)
        reach(f"{what}.after-write")
        if self._bucket.get(key) != data:
            raise PublicationRefused(f"{named.name} reads back differently from what was written")

    def _point(self, turn: _Turn, outcome: Outcome, base: Part, overlay: Part, versions: Sequence[str]) -> None:
        """Writes the pointer, last of all and only while the lease is held.

        Only readers with one of these versions of the root secret can use it: one that would not find every value here
        keeps what it has, or answers 503, but denies nobody.
        """
        keys, now_ms = [self._manifest_key(version) for version in versions], self._now_ms()
        manifest = Manifest(self._environment, *outcome, now_ms, ",".join(versions), base, overlay)
        held = self._store.snapshot(lambda db: db.holds_lease(LEASE, turn.token, now_ms))
        if not held or now_ms > turn.ends_ms:
            raise PublicationRefused("the lease ran out before the pointer was written")
        reach("pointer.before-write")
        self._bucket.put(self._prefix + POINTER, seal_manifest(manifest, *keys), "application/json")
        reach("pointer.after-write")

    def _record(
        self, turn: _Turn, outcome: Outcome, base: Part, base_revision: int, count: int, drift: int, *, last: bool
    ) -> bool:
        """Notes what is in force now. True when nothing is left to do, and then the lease is given back at once."""

        def record(db: Housekeeping) -> bool:
            if not db.record_publication(
                LEASE, turn.token, *outcome, count=count, drift=drift, base=base, base_revision=base_revision,
                now_ms=self._now_ms(),
            ):  # fmt: skip
                raise PublicationRefused("another publisher took over before the publication was recorded")
            done = last or db.published().revision <= outcome.revision
            if done:
                db.release_lease(LEASE, turn.token)
            return done

        turn.released = self._store.housekeeping("publication", record)
        return turn.released

    def _renew(self, turn: _Turn, state: Published) -> None:
        """Keeps the last snapshot in force while a guard holds: the mishap must not end validation an hour later."""
        last = turn.pointer
        if last is None or last.version < state.published_version:
            # An old pointer that arrived late, or none: what the database recorded is what readers have seen.
            last = self._recorded(state)
        if last is None:
            return
        outcome = Outcome(self._reserve(turn, last.base, last.overlay), last.revision)
        self._point(turn, outcome, last.base, last.overlay, self._readers(state, None))
        # A pointer that was written and not recorded may name a base that was built for it.
        base_revision = state.base_revision if last.base == state.base else last.revision
        self._record(turn, outcome, last.base, base_revision, state.published_count, 0, last=True)

    def _recorded(self, state: Published) -> Manifest | None:
        name = self._store.snapshot(lambda db: db.overlay_of(state.published_version))
        data = None if name is None else self._bucket.get(self._prefix + name)
        if data is None or state.base is None:
            return None
        document = json.loads(data)
        overlay = _overlay_part(data, len(document["keys"]) + len(document["consumers"]))
        version, revision = state.published_version, state.published_revision
        return Manifest(self._environment, version, revision, 0, "", state.base, overlay)

    def _manifest_in_bucket(self, state: Published) -> Manifest | None:
        data = self._bucket.get(self._prefix + POINTER)
        if data is None:
            return None
        for version in state.alive(self._root_version).newest_first:
            try:
                # Its date does not matter: a pointer written under a wrong clock has a version that was given out, too.
                key = self._manifest_key(version)
                return open_manifest(data, key, environment=self._environment, version_min=0, now_ms=ANY_TIME_MS)
            except ForeignEnvironmentError as foreign:
                raise PublicationRefused(f"{foreign}; look at ENVIRONMENT") from None
            except SnapshotError:
                pass  # under the other version; or not ours, or damaged: readers refuse it, and it is about to go
        return None

    def clean_up(self) -> int:
        """Deletes objects of publications, also of failed ones, that are out of date; returns how many.

        Kept is what the last day, the last twenty versions, the pointer or anything newer than it names. Objects go
        first and their rows after them, so that a run that dies in between is finished by the next one.
        """
        now_ms = self._now_ms()
        if not self._store.snapshot(lambda db: db.old_publications(now_ms - KEEP_MS, KEEP_VERSIONS, 1)):
            return 0
        # Under the publisher's lease: nobody names an object while it is being deleted.
        holder = os.urandom(8).hex()
        state, token = self._store.housekeeping(
            "lease-claim",
            lambda db: (db.published(), db.claim_lease(LEASE, holder, now_ms, LEASE_MS_TICK, LEASE_MS_TICK)),
        )
        if token is None:
            return 0
        try:
            return self._clean_up(now_ms, state)
        finally:
            self._store.housekeeping("lease-release", lambda db: db.release_lease(LEASE, token))

    def _clean_up(self, now_ms: int, state: Published) -> int:
        pointer = self._manifest_in_bucket(state)
        if pointer is None:
            return 0  # what is in force is not known
        in_force = pointer

        def find(db: SnapshotReads) -> tuple[list[int], set[str]]:
            rows = db.old_publications(now_ms - KEEP_MS, KEEP_VERSIONS, CLEAN_UP_MAX)
            old = [row["version"] for row in rows if row["version"] < in_force.version]
            return old, db.objects_only_of(old) - {in_force.base.name, in_force.overlay.name}

        old, unused = self._store.snapshot(find)
        for name in sorted(unused):
            if self._now_ms() > now_ms + LEASE_MS_TICK - LEASE_MARGIN_MS:
                return 0  # the rest is done by a later run; deleting twice is harmless
            reach("deletion.before-write")
            self._bucket.delete(self._prefix + name)
            reach("deletion.after-write")
        self._store.housekeeping("clean-up", lambda db: db.forget_publications(old))
        return len(unused)


def quietly(publisher: Publisher, revision: int, report: Callable[[BaseException], None]) -> None:
    """Publishes after a commit, best effort: the change is durable and the next tick repairs what fails here."""
    try:
        publisher.publish_change(revision)
    except Exception as error:  # noqa: BLE001 - a full disk too must not turn a committed change into an error
        report(error)


def _overlay_part(data: bytes, entries: int) -> Part:
    return part("overlay", ".json", hashlib.sha256(data).hexdigest(), len(data), entries)


def _outgrown(change_count: int, base: Part) -> bool:
    share = base.entries * OVERLAY_SHARE_MAX
    return change_count > OVERLAY_ENTRIES_MAX or (change_count > OVERLAY_SHARE_FROM and change_count > share)


def _shrinks(before: int, after: int) -> bool:
    """Whether so many values less are more likely a mishap than a decision."""
    return before - after > SHRINK_KEYS and before - after > SHRINK_SHARE_MAX * before
