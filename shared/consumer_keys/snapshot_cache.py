"""Which snapshot answers: when to look for a newer one, what to check before using it, what to serve if that fails.

Whatever goes wrong while refreshing, the last good snapshot keeps answering; only its age can end that.
"""

from __future__ import annotations

import hashlib
import os
from _thread import allocate_lock
from collections.abc import Callable

from consumer_keys.errors import Problem
from consumer_keys.light_typing import TYPE_CHECKING, Any, Protocol
from consumer_keys.snapshot import (
    CREATED_AHEAD_MS_MAX,
    POINTER,
    Manifest,
    OperatorRecord,
    Overlay,
    Part,
    SnapshotError,
    decode_overlay,
    open_manifest,
    pack_consumer,
    pack_key,
)

if TYPE_CHECKING:
    from consumer_keys.snapshot_base import Base

OVERLAY_BYTES_MAX, BASE_BYTES_MAX = 64 << 20, 400 << 20
# Looks before a refusal: one a second in the long run, ten at once, so that a person who enables a key and tries
# again within the second is not told an old answer.
RECHECKS_BURST, RECHECKS_PER_SECOND = 10.0, 1.0
RETRY_SECONDS = 1.0
CONSUMERS_REMEMBERED_MAX = 65_536
_UNSEEN: Any = object()


class Source(Protocol):
    """What the cache needs of `snapshot_source`."""

    def pointer(self, name: str) -> bytes | None:
        """The manifest's bytes; None when unchanged."""

    def forget_pointer(self) -> None:
        """Read it anew next time."""

    def object(self, name: str, size_max: int) -> bytes:
        """A small object."""

    def download(self, name: str, size_max: int, path: str) -> None:
        """A large object into a file."""


class Snapshot:
    """One consistent state: overlay first, then base. Records stay bytes until somebody reads them."""

    __slots__ = ("_base", "_changed", "_consumers", "base", "manifest", "overlay")

    def __init__(self, manifest: Manifest, overlay: Overlay, base: Base) -> None:
        self.manifest, self.overlay, self.base = manifest, overlay, base
        self._base = base.find
        self._changed = {digest: record and pack_key(record) for digest, record in overlay.keys.items()}
        self._consumers = {ident: record and pack_consumer(record) for ident, record in overlay.consumers.items()}

    def find(self, digest: bytes) -> bytes | None:
        """The packed key record of a lookup digest."""
        found: bytes | None = self._changed.get(digest, _UNSEEN)
        return self._base(digest) if found is _UNSEEN else found

    def find_consumer(self, ident: bytes) -> bytes | None:
        """The packed record of a consumer; those of the base are remembered, since many keys share few consumers."""
        found: bytes | None = self._consumers.get(ident, _UNSEEN)
        if found is _UNSEEN:
            found = self._base(ident)
            if len(self._consumers) < CONSUMERS_REMEMBERED_MAX:
                self._consumers[ident] = found
        return found

    def operator(self, digest: bytes) -> OperatorRecord | None:
        """The operator with this token digest."""
        return self.overlay.operators.get(digest)


class SnapshotCache:
    """Holds the newest good snapshot. Thread-safe: one thread refreshes, the others go on with what there is."""

    def __init__(
        self, source: Source, open_base: Callable[[str], Base], report: Callable[[Exception], None], *,
        manifest_key: bytes, environment: str, folder: str, poll_seconds: float, max_age_seconds: float,
        clock: Callable[[], float],
    ) -> None:  # fmt: skip
        self._source, self._open_base, self._report = source, open_base, report
        self._manifest_key, self._environment, self.folder = manifest_key, environment, folder
        self._poll, self._max_age, self._clock = poll_seconds, max_age_seconds, clock
        self._lock, self._rechecks_lock = allocate_lock(), allocate_lock()
        self._snapshot: Snapshot | None = None
        self._looked_at = self._look_at = self._ends_at = float("-inf")
        self.latest = float("-inf")
        self._rechecks = RECHECKS_BURST
        self._rechecked_at = self._recheck_at = float("-inf")
        self._downloads = self._looks = 0

    def now_seconds(self) -> float:
        """Wall time; if the clock jumps back, the latest time seen."""
        self.latest = max(self.latest, self._clock())
        return self.latest

    def age_seconds(self, snapshot: Snapshot) -> float:
        """How old the snapshot's pointer is; never negative."""
        return max(0.0, self.now_seconds() - snapshot.manifest.created_at_ms / 1000)

    def holds_one(self) -> bool:
        """Whether there is a snapshot, so that `current` need not wait for the first."""
        return self._snapshot is not None

    def look(self) -> None:
        """Looks at the pointer now; for a thread that keeps the snapshot fresh. What goes wrong is reported."""
        self._refresh(wait=True)

    def current(self) -> Snapshot:
        """The snapshot to answer from. Raises SnapshotUnavailable when there is none or it is too old."""
        now, snapshot = self._clock(), self._snapshot
        # The way of nearly every request: the clock goes on, no look is due, the snapshot is young enough.
        if self._looked_at <= now < self._look_at and self.latest <= now <= self._ends_at and snapshot is not None:
            self.latest = now
            return snapshot
        # Without a usable snapshot every second counts: it is looked for sooner.
        interval = self._poll if snapshot is not None and now <= self._ends_at else min(self._poll, RETRY_SECONDS)
        # A clock that went back must not stop the looking, so intervals are measured by the clock as it is.
        if not 0 <= self._clock() - self._looked_at < interval:
            self._refresh(wait=self._snapshot is None)
        return self._usable()

    def recheck(self) -> Snapshot:
        """The same after a look at the pointer, as far as the limit on such looks allows."""
        now, snapshot = self._clock(), self._snapshot
        if self._rechecked_at <= now < self._recheck_at:  # no look is due
            return snapshot if snapshot is not None and self.latest <= now <= self._ends_at else self._usable()
        if self._may_recheck():
            self._refresh(wait=True)
        return self._usable()

    def _may_recheck(self) -> bool:
        """Takes one look out of the bucket; if it is empty, notes when there will be one."""
        with self._rechecks_lock:
            now = self._clock()
            refill = max(0.0, now - self._rechecked_at) * RECHECKS_PER_SECOND
            self._rechecks = min(RECHECKS_BURST, self._rechecks + refill)
            self._rechecked_at = self._recheck_at = now
            if self._rechecks < 1.0:
                self._recheck_at = now + (1.0 - self._rechecks) / RECHECKS_PER_SECOND
                return False
            self._rechecks -= 1.0
            return True

    def _usable(self) -> Snapshot:
        snapshot = self._snapshot
        if snapshot is None or self.age_seconds(snapshot) > self._max_age:
            raise Problem("SnapshotUnavailable")
        return snapshot

    def _refresh(self, *, wait: bool) -> None:
        seen = self._looks
        if not self._lock.acquire(blocking=wait):
            return
        try:
            # A look that began while this one waited is as good: threads must not queue up behind a slow bucket.
            if self._looks > seen:
                return
            self._looks += 1
            self._looked_at = self._clock()
            self._look_at = self._looked_at + self._poll
            data = self._source.pointer(POINTER)
            if data is not None:
                self._take(data)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with what was read, the last good one answers
            self._source.forget_pointer()
            self._report(error)
        finally:
            self._lock.release()

    def _take(self, data: bytes) -> None:
        """Checks everything, in the order that trusts nothing early, then swaps one reference."""
        held = self._snapshot
        manifest = open_manifest(
            data, self._manifest_key, environment=self._environment, version_min=held.manifest.version if held else 0,
            now_ms=int(self.now_seconds() * 1000),
        )  # fmt: skip
        if held is not None and manifest.version == held.manifest.version:
            return
        overlay, base = self._overlay(manifest.overlay, held), self._base(manifest.base, held)
        self._heal_clock(manifest.created_at_ms / 1000)
        if held is not None and manifest.created_at_ms < held.manifest.created_at_ms:
            # It was made after the one held, whatever its publisher's clock said: it makes nothing older.
            manifest = manifest._replace(created_at_ms=held.manifest.created_at_ms)
        self._snapshot = Snapshot(manifest, overlay, base)
        self._ends_at = manifest.created_at_ms / 1000 + self._max_age

    def _heal_clock(self, created_at: float) -> None:
        """Forgets a clock that had run ahead, once a new authentic pointer and the clock as it is now both say so.

        The clock alone could have been turned back, a pointer alone could be an old one; the two agree within five
        minutes only if the latest time seen was wrong. Otherwise validation would stay 503 until a restart.
        """
        now, leeway = self._clock(), CREATED_AHEAD_MS_MAX / 1000
        if abs(now - created_at) <= leeway and self.latest > max(now, created_at) + leeway:
            self.latest = max(now, created_at)

    def _overlay(self, part: Part, held: Snapshot | None) -> Overlay:
        if held is not None and held.manifest.overlay == part:
            return held.overlay
        data = self._source.object(part.name, min(part.size, OVERLAY_BYTES_MAX))
        _check(part, len(data), hashlib.sha256(data).hexdigest())
        return decode_overlay(data, part.entries)

    def _base(self, part: Part, held: Snapshot | None) -> Base:
        if held is not None and held.manifest.base == part:
            return held.base
        if part.size > BASE_BYTES_MAX:
            raise SnapshotError("the base file is too large")
        os.makedirs(self.folder, mode=0o700, exist_ok=True)
        # A mapped file is never written again, so every download has a name of its own.
        self._downloads += 1
        path = os.path.join(self.folder, f"{os.getpid()}-{id(self):x}-{self._downloads}.lmdb")
        try:
            self._source.download(part.name, part.size, path)
            _check(part, os.path.getsize(path), _file_sha256(path))
            base = self._open_base(path)
            if base.entry_count() != part.entries:
                base.close()
                raise SnapshotError("the base file has another number of entries than its manifest says")
        finally:
            # The mapping keeps the content; nothing is left behind, however the process ends.
            if os.path.exists(path):
                os.unlink(path)
        return base

    def close(self) -> None:
        """Releases the base file."""
        if self._snapshot is not None:
            self._snapshot.base.close()
            self._snapshot = None


def _check(part: Part, size: int, sha256: str) -> None:
    if size != part.size or sha256 != part.sha256:
        raise SnapshotError(f"{part.name} is not what its manifest says")


def _file_sha256(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
