"""The judgement: is this value good in this gateway, and whose is it? Served from the snapshot alone."""

from __future__ import annotations

from consumer_keys.keytext import VALUE_BYTES_MAX, LookupDigester, is_well_formed
from consumer_keys.light_typing import TYPE_CHECKING, Protocol
from consumer_keys.snapshot import (
    CONSUMER_SLICE,
    ENDS_AT_SLICE,
    NO_END,
    is_enabled,
    is_stopped_by_group,
)
from consumer_keys.verdict import (
    AMBIGUOUS,
    CONSUMER_DISABLED,
    DISABLED,
    ENDED,
    GROUP_DISABLED,
    MALFORMED,
    MISSING,
    NOBODY,
    UNBOUND,
    UNKNOWN,
    VALID,
    Verdict,
)

# What `presented_key` may refuse by itself; no other text is a verdict.
REFUSED_UNSEEN = frozenset({MISSING, AMBIGUOUS, MALFORMED})

if TYPE_CHECKING:
    from consumer_keys.snapshot_cache import Snapshot


class Cache(Protocol):
    """What validation needs of `snapshot_cache`."""

    def current(self) -> Snapshot:
        """The newest good snapshot, looked for at most every poll interval."""

    def recheck(self) -> Snapshot:
        """The same after a look at the pointer, if one is due before a refusal."""

    @property
    def latest(self) -> float:
        """Wall time of the last question, in seconds; it never goes back."""


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

    def at_once(self, gateway_id: str, value: bytes | str) -> Verdict:
        """The verdict of the snapshot at hand. Only a Valid is final; whatever else comes is for `judge` to say."""
        return self._look(self._cache.current(), gateway_id, value)

    def _look(self, snapshot: Snapshot, gateway_id: str, value: bytes | str) -> Verdict:
        if isinstance(value, str):
            return Verdict(value if value in REFUSED_UNSEEN else MALFORMED)
        if len(value) > VALUE_BYTES_MAX:  # nothing so long is hashed
            return Verdict(MALFORMED)
        record = snapshot.find(self._digest(gateway_id, value))
        found = NOBODY if record is None else record
        consumer = snapshot.find_consumer(found[CONSUMER_SLICE])
        # No short cuts: each of these is worked out for every value.
        if is_enabled(found) & is_enabled(consumer or NOBODY) & (found[ENDS_AT_SLICE] == NO_END):
            return Verdict(VALID, record, consumer)
        return self._look_closely(value, record, found, consumer)

    def _look_closely(self, value: bytes, record: bytes | None, found: bytes, consumer: bytes | None) -> Verdict:
        """The code of what is not plainly valid, by the same work for each, so that time does not tell them apart."""
        well_formed = is_well_formed(value, self._prefix)
        ended = self._cache.latest >= int.from_bytes(found[ENDS_AT_SLICE], "big") > 0
        enabled = is_enabled(found)
        if record is None:
            code = UNKNOWN if well_formed else MALFORMED
        elif not enabled:
            code = DISABLED
        elif ended:
            code = ENDED
        elif consumer is None:
            code = UNBOUND
        elif is_stopped_by_group(consumer):
            code = GROUP_DISABLED
        else:
            code = VALID if is_enabled(consumer) else CONSUMER_DISABLED
        return Verdict(code, record, consumer)
