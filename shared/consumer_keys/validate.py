"""The judgement: is this value good in this gateway, and whose is it? Served from the snapshot alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from consumer_keys.keytext import is_well_formed, lookup_digest
from consumer_keys.snapshot import KeyRecord, id_bytes
from consumer_keys.verdict import (
    CONSUMER_DISABLED,
    DISABLED,
    ENDED,
    MALFORMED,
    UNBOUND,
    UNKNOWN,
    VALID,
    Verdict,
)

if TYPE_CHECKING:
    from consumer_keys.snapshot_cache import Snapshot


class Cache(Protocol):
    """What validation needs of `snapshot_cache`."""

    def current(self) -> Snapshot:
        """The newest good snapshot, looked for at most every poll interval."""

    def recheck(self) -> Snapshot:
        """The same after a look at the pointer, if one is due before a refusal."""

    def now_seconds(self) -> float:
        """Wall time that never goes back."""


class Validator:
    """Judges presented values. `gateway_id` and the value are all that counts; no database, no KMS, no SSM."""

    def __init__(self, cache: Cache, lookup_key: bytes, key_prefix: str) -> None:
        self._cache, self._lookup_key, self._prefix = cache, lookup_key, key_prefix.encode()

    def judge(self, gateway_id: str, value: bytes | str) -> tuple[Verdict, Snapshot]:
        """The verdict and the snapshot that it came from; a `str` is a refusal that was already decided.

        Before any refusal, whatever its reason, the pointer is looked at once more: a new key works straight away,
        and the time taken tells nothing. Raises Problem SnapshotUnavailable when there is no usable snapshot.
        """
        snapshot = self._cache.current()
        verdict = self._look(snapshot, gateway_id, value)
        if not verdict.valid:
            snapshot = self._cache.recheck()
            verdict = self._look(snapshot, gateway_id, value)
        return verdict, snapshot

    def _look(self, snapshot: Snapshot, gateway_id: str, value: bytes | str) -> Verdict:
        if isinstance(value, str):
            return Verdict(value)
        if not is_well_formed(value, self._prefix):
            return Verdict(MALFORMED)
        record = snapshot.key(lookup_digest(self._lookup_key, gateway_id, value))
        if record is None:
            return Verdict(UNKNOWN)
        return self._of_record(snapshot, record)

    def _of_record(self, snapshot: Snapshot, record: KeyRecord) -> Verdict:
        consumer_id = record.consumer_id
        consumer = None if consumer_id is None else snapshot.consumer(id_bytes(consumer_id))
        if not record.enabled:
            code = DISABLED
        elif record.ends_at and self._cache.now_seconds() >= record.ends_at:
            code = ENDED
        elif consumer is None:
            code = UNBOUND
        else:
            code = VALID if consumer.enabled else CONSUMER_DISABLED
        return Verdict(code, record.key_id, record.name, consumer_id, consumer and consumer.name)
