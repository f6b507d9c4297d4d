"""The audit log as a hash chain: h(i) = SHA-256(encoding of row i || h(i-1)), and signed heads of it. Pure.

An edited, removed, inserted or reordered row breaks the chain; a chain that was cut short or computed anew breaks with
the heads, which are kept in object storage and signed under a key of their own (the model is CloudTrail's digest
files).
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from consumer_keys.model import timestamp

SCHEMA = 1
HEAD_BYTES_MAX = 4_096
GENESIS = bytes(32)
_LABEL = b"consumer-keys/audit/1"


class Entry(NamedTuple):
    """One row: who did what to which target, in which state it was before and after (JSON text), times in ms."""

    sequence: int
    at: int
    actor: str
    action: str
    gateway_id: str
    target: str
    before: str | None
    after: str | None
    request_id: str
    revision: int


class Head(NamedTuple):
    """How far the log reached at a moment, and the hash of its last row."""

    environment: str
    sequence: int
    hash: bytes
    created_at_ms: int
    root_version: str

    def __str__(self) -> str:
        return f"the signed head of {timestamp(self.created_at_ms)}"


class HeadError(Exception):
    """A head that proves nothing; the text says which check failed."""

    safe_to_log = True


class Fault(NamedTuple):
    """The first row that is not as it was written, and one sentence about it."""

    sequence: int
    text: str


def entry_hash(entry: Entry, previous: bytes) -> bytes:
    """The hash of a row that follows the row with the hash `previous`; equal on every database."""
    return hashlib.sha256(_LABEL + b"".join(map(_encoded, entry)) + previous).digest()


def _encoded(value: Any) -> bytes:
    """Kind, length and content, so that no two rows have one encoding. A column that somebody spoiled counts too."""
    if value is None:
        return b"n"
    if type(value) is int:
        kind, content = b"i", b"%d" % value
    elif isinstance(value, str):
        kind, content = b"s", value.encode("utf-8", "surrogatepass")
    else:
        kind, content = b"x", repr(value).encode()
    return kind + len(content).to_bytes(8, "big") + content


class Chain:
    """Rows are added in ascending order; the first fault ends the check.

    `start` is the (sequence, hash) that the first row must follow.
    """

    def __init__(self, start: tuple[int, bytes], heads: Sequence[Head]) -> None:
        self.sequence, self._previous = start
        self._heads: dict[int, list[Head]] = {}
        for head in heads:
            self._heads.setdefault(head.sequence, []).append(head)

    def add(self, entry: Entry, found: Any) -> Fault | None:
        """Checks the next row and the hash that was stored with it."""
        expected = self.sequence + 1
        if entry.sequence < expected:
            return Fault(entry.sequence, f"Row {entry.sequence} has no place in the log, which begins with row 1.")
        if entry.sequence > expected:
            return Fault(expected, f"Row {expected} is missing: row {entry.sequence} follows row {self.sequence}.")
        self.sequence, self._previous = expected, entry_hash(entry, self._previous)
        if found != self._previous:
            return Fault(expected, f"Row {expected} does not fit its hash: it was changed, or put in another's place.")
        for head in self._heads.pop(expected, ()):
            if head.hash != self._previous:
                text = f"Row {expected} is not the one that {head} names: it, or a row before it, was written anew."
                return Fault(expected, text)
        return None

    def end(self, counted: tuple[int, Any]) -> Fault | None:
        """Checks that the rows reach as far as the database's own count, and as every head."""
        missing = self.sequence + 1
        if self._heads:
            head = self._heads[max(self._heads)][0]
            return Fault(
                missing, f"Row {missing} is missing: the rows end before it, and {head} names row {head.sequence}."
            )
        if counted[0] > self.sequence:
            return Fault(
                missing, f"Row {missing} is missing: the rows end before it, and the database counts {counted[0]}."
            )
        if counted != (self.sequence, self._previous):
            return Fault(self.sequence, f"Row {self.sequence} is not the one that the database counts as its last.")
        return None


def first_fault(
    rows: Iterable[tuple[Entry, Any]], start: tuple[int, bytes], heads: Sequence[Head], counted: tuple[int, Any]
) -> Fault | None:
    """The first fault of the rows after `start`, or None. Holds one row at a time."""
    chain = Chain(start, heads)
    for entry, found in rows:
        fault = chain.add(entry, found)
        if fault is not None:
            return fault
    return chain.end(counted)


def seal_head(head: Head, key: bytes) -> bytes:
    """`{"mac":"<hex>","head":{...}}`, the MAC being HMAC-SHA256 over the exact bytes of the inner object."""
    fields = {"schema": SCHEMA, **head._asdict(), "hash": head.hash.hex()}
    body = json.dumps(fields, separators=(",", ":")).encode()
    return _signed(body, key)


def open_head(data: bytes, key_of: Callable[[str], bytes | None], environment: str) -> Head | None:
    """The head; None for one that was signed under a root secret which is no longer known. Raises HeadError.

    `key_of` gives the key of a version of the root secret.
    """
    if len(data) > HEAD_BYTES_MAX:
        raise HeadError("is too large")
    try:
        # The version only chooses the key, so it may be read before the MAC is checked.
        version = str(json.loads(data)["head"]["root_version"])
        body = data[data.index(b',"head":') + len(b',"head":') : -1]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise HeadError("is no signed head") from None
    key = key_of(version)
    if key is None:
        return None
    if not hmac.compare_digest(data, _signed(body, key)):
        raise HeadError("is not signed by this deployment's root secret")
    fields = json.loads(body)
    if fields.pop("schema") != SCHEMA:
        raise HeadError("has an unknown form")
    head = Head(**{**fields, "hash": bytes.fromhex(fields["hash"])})
    if head.environment != environment:
        raise HeadError("belongs to another environment")
    return head


def _signed(body: bytes, key: bytes) -> bytes:
    return b'{"mac":"' + hmac.digest(key, body, "sha256").hex().encode() + b'","head":' + body + b"}"
