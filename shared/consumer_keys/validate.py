"""The judgement: is this value good in this gateway, and whose is it? Served from the snapshot alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from consumer_keys.keytext import VALUE_BYTES_MAX, LookupDigester, is_well_formed
from consumer_keys.snapshot import CONSUMER_SLICE, ENDS_AT_SLICE, NO_END, is_enabled
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
        self._cache, self._digest, self._prefix = cache, LookupDigester(lookup_key), key_prefix.encode()

    def judge(self, gateway_id: str, value: bytes | str) -> tuple[Verdict, Snapshot]:
        """The verdict and the snapshot that it came from; a `str` is a refusal that was already decided.

        Before any refusal, whatever its reason, the pointer is looked at once more: a new key works straight away,
        and the time taken tells nothing. Raises Problem SnapshotUnavailable when there is no usable snapshot.
        """
        snapshot = self._cache.current()
        verdict = self._look(snapshot, gateway_id, value)
        if verdict.code != VALID:
            rechecked = self._cache.recheck()
            if rechecked is not snapshot:
                snapshot, verdict = rechecked, self._look(rechecked, gateway_id, value)
        return verdict, snapshot

    def _look(self, snapshot: Snapshot, gateway_id: str, value: bytes | str) -> Verdict:
        if isinstance(value, str):
            return Verdict(value)
        if len(value) > VALUE_BYTES_MAX:  # nothing so long is hashed
            return Verdict(MALFORMED)
        record = snapshot.find(self._digest(gateway_id, value))
        if record is None:
            # Only what is not found is worth the question why: every value that was taken in is well formed.
            return Verdict(UNKNOWN if is_well_formed(value, self._prefix) else MALFORMED)
        consumer = snapshot.find_consumer(record[CONSUMER_SLICE])
        if not is_enabled(record):
            code = DISABLED
        elif record[ENDS_AT_SLICE] != NO_END and self._has_ended(record[ENDS_AT_SLICE]):
            code = ENDED
        elif consumer is None:
            code = UNBOUND
        else:
            code = VALID if is_enabled(consumer) else CONSUMER_DISABLED
        return Verdict(code, record, consumer)

    def _has_ended(self, ends_at: bytes) -> bool:
        return self._cache.now_seconds() >= int.from_bytes(ends_at, "big")
