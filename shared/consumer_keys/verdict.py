"""The answer of a validation. A refused key is a verdict, never an exception."""

from __future__ import annotations

from consumer_keys.snapshot import (
    PACKED_KEY_BYTES_MIN,
    consumer_groups_of,
    consumer_id_of,
    consumer_name_of,
    ids_of,
    key_id_of,
    key_name_of,
)

VALID = "Valid"
MISSING = "MissingKey"
AMBIGUOUS = "AmbiguousKey"
MALFORMED = "MalformedKey"
UNKNOWN = "UnknownKey"
DISABLED = "KeyDisabled"
UNBOUND = "KeyUnbound"
ENDED = "KeyEnded"
CONSUMER_DISABLED = "ConsumerDisabled"
GROUP_DISABLED = "GroupDisabled"
CODES = {
    VALID: "The key is good.",
    MISSING: "No key was presented.",
    AMBIGUOUS: "Several different keys were presented.",
    MALFORMED: "The text cannot be a key: length, alphabet or checksum.",
    UNKNOWN: "No key of this gateway has this value.",
    DISABLED: "The key is disabled.",
    UNBOUND: "The key is bound to no consumer.",
    ENDED: "The value is no longer accepted: its credential is gone, or was replaced and the overlap is over.",
    CONSUMER_DISABLED: "The consumer is disabled.",
    GROUP_DISABLED: "The consumer is in a disabled group.",
}


NOBODY = bytes(PACKED_KEY_BYTES_MIN)  # in the place of a record that is not there, for the same work on it


class Verdict:
    """Whether a presented key is good and whose it is; ids and names are None unless the value is known.

    It holds the snapshot's packed records and reads them only when somebody asks for a name.
    """

    __slots__ = ("_consumer", "_record", "code")

    def __init__(self, code: str, record: bytes | None = None, consumer: bytes | None = None) -> None:
        self.code, self._record, self._consumer = code, record, consumer

    @property
    def valid(self) -> bool:
        """True for the one code that lets a caller in."""
        return self.code == VALID

    @property
    def ids(self) -> tuple[str, str]:
        """Key id and consumer id for a log line, by the same work for every verdict; zeros stand for none."""
        return ids_of(NOBODY if self._record is None else self._record)

    @property
    def key_id(self) -> str | None:
        """The id of the key that accepts the value."""
        return None if self._record is None else key_id_of(self._record)

    @property
    def key_name(self) -> str | None:
        """The name of that key."""
        return None if self._record is None else key_name_of(self._record)

    @property
    def consumer_id(self) -> str | None:
        """The consumer that the key is bound to."""
        return None if self._record is None else consumer_id_of(self._record)

    @property
    def consumer_name(self) -> str | None:
        """The name of that consumer."""
        return None if self._consumer is None else consumer_name_of(self._consumer)

    @property
    def consumer_groups(self) -> tuple[str, ...]:
        """The names of the groups that the consumer is in."""
        return () if self._consumer is None else consumer_groups_of(self._consumer)
