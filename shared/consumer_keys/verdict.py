"""The answer of a validation. A refused key is a verdict, never an exception."""

from __future__ import annotations

from typing import NamedTuple

VALID = "Valid"
MISSING = "MissingKey"
AMBIGUOUS = "AmbiguousKey"
MALFORMED = "MalformedKey"
UNKNOWN = "UnknownKey"
DISABLED = "KeyDisabled"
UNBOUND = "KeyUnbound"
ENDED = "KeyEnded"
CONSUMER_DISABLED = "ConsumerDisabled"
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
}


class Verdict(NamedTuple):
    """Whether a presented key is good and whose it is; ids and names are None unless the value is known."""

    code: str
    key_id: str | None = None
    key_name: str | None = None
    consumer_id: str | None = None
    consumer_name: str | None = None

    @property
    def valid(self) -> bool:
        """True for the one code that lets a caller in."""
        return self.code == VALID
