"""Key values as text: making, checking, masking and digesting them.

A key value is handled as exact bytes: never trimmed, case-folded or normalised.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from binascii import crc32
from collections.abc import Callable

from consumer_keys.light_typing import Any

BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
# token68 of RFC 9110 section 11.2: what may stand after "Bearer ". It has no comma and no space, so that
# two header lines joined by a proxy can never form one value.
TOKEN68 = frozenset(BASE62.encode() + b"-._~+/=")
_TOKEN68_BYTES = bytes(sorted(TOKEN68))
# Byte -> base62 digit; 255 for what is none.
_DIGITS = bytes(BASE62.encode().find(byte) % 256 for byte in range(256))
# Byte -> its base62 character, each of them four times; the bytes behind have none.
_REJECTED = bytes(range(248, 256))
_CHARS = BASE62.encode() * 4 + _REJECTED
VALUE_BYTES_MIN, VALUE_BYTES_MAX = 8, 256
BODY_CHARS, CHECKSUM_CHARS = 32, 6
MASK, MASK_SHOWS = "****", 3
_SHA256_BLOCK = 64
_INNER_PAD, _OUTER_PAD = (bytes(byte ^ pad for byte in range(256)) for pad in (0x36, 0x5C))
_GATEWAYS_REMEMBERED_MAX = 64

RandomBytes = Callable[[int], bytes]


def random_base62(length: int, random_bytes: RandomBytes) -> str:
    """`length` base62 characters, uniform: bytes of 248 and above are rejected, since 256 is no multiple of 62."""
    chars = b""
    while len(chars) < length:
        chars += random_bytes(2 * length).translate(_CHARS, _REJECTED)
    return chars[:length].decode()


def checksum(text: str) -> str:
    """CRC-32 of the ASCII text as 6 base62 characters; it rejects typing errors early and secures nothing."""
    number = crc32(text.encode())
    digits = []
    for _ in range(CHECKSUM_CHARS):
        number, digit = divmod(number, 62)
        digits.append(BASE62[digit])
    return "".join(reversed(digits))


def make_system_value(prefix: str, random_bytes: RandomBytes) -> str:
    """`<prefix>_` + 32 random base62 characters (190 bits) + 6 of checksum."""
    text = f"{prefix}_{random_base62(BODY_CHARS, random_bytes)}"
    return text + checksum(text)


def is_well_formed(value: bytes, prefix: bytes) -> bool:
    """Whether the bytes can be a key value at all: length, alphabet and, under our own prefix, the checksum."""
    if not VALUE_BYTES_MIN <= len(value) <= VALUE_BYTES_MAX or value.translate(None, _TOKEN68_BYTES):
        return False
    return not value.startswith(prefix + b"_") or _has_checksum(value, len(prefix) + 1)


def _has_checksum(value: bytes, prefix_length: int) -> bool:
    if len(value) != prefix_length + BODY_CHARS + CHECKSUM_CHARS:
        return False
    tail = value[-CHECKSUM_CHARS:]
    if not tail.isalnum():
        return False
    one, two, three, four, five, six = tail.translate(_DIGITS)
    number = ((((one * 62 + two) * 62 + three) * 62 + four) * 62 + five) * 62 + six
    return number == crc32(value[:-CHECKSUM_CHARS])


def foreign_fault(value: str, prefix: str) -> str | None:
    """Why a value that was not made here cannot be a key value, or None. The text never holds the value."""
    raw = value.encode("utf-8", "replace")
    if not VALUE_BYTES_MIN <= len(raw) <= VALUE_BYTES_MAX:
        return f"must be {VALUE_BYTES_MIN} to {VALUE_BYTES_MAX} characters long"
    if raw.translate(None, _TOKEN68_BYTES):
        return "may only contain letters, digits and - . _ ~ + / ="
    if value.startswith(f"{prefix}_"):
        return f"must not begin with {prefix}_, which is reserved for generated values"
    return None


def masked(value: str) -> str:
    """First 3 + `****` + last 3 characters; only `****` when that would show half of the value or more."""
    return f"{value[:MASK_SHOWS]}{MASK}{value[-MASK_SHOWS:]}" if len(value) > 4 * MASK_SHOWS else MASK


def lookup_digest(lookup_key: bytes, gateway_id: str, value: bytes) -> bytes:
    """32 bytes: HMAC-SHA256 of the gateway id, preceded by its length, and the value. One gateway, one digest."""
    gateway = gateway_id.encode()
    return hmac.digest(lookup_key, len(gateway).to_bytes(2, "big") + gateway + value, "sha256")


class LookupDigester:
    """`lookup_digest` with one key, three times as fast: HMAC's padded key blocks (RFC 2104) are hashed only once.

    The inner state goes on with the gateway, of which a few are remembered.
    """

    def __init__(self, lookup_key: bytes) -> None:
        block = lookup_key.ljust(_SHA256_BLOCK, b"\0")
        self._inner = hashlib.sha256(block.translate(_INNER_PAD))
        self._outer = hashlib.sha256(block.translate(_OUTER_PAD))
        self._gateways: dict[str, Any] = {}

    def __call__(self, gateway_id: str, value: bytes) -> bytes:
        """32 bytes, equal to `lookup_digest(lookup_key, gateway_id, value)`."""
        inner = (self._gateways.get(gateway_id) or self._begin(gateway_id)).copy()
        inner.update(value)
        outer = self._outer.copy()
        outer.update(inner.digest())
        digest: bytes = outer.digest()
        return digest

    def _begin(self, gateway_id: str) -> Any:
        gateway = gateway_id.encode()
        begun = self._inner.copy()
        begun.update(len(gateway).to_bytes(2, "big") + gateway)
        if len(self._gateways) < _GATEWAYS_REMEMBERED_MAX:
            self._gateways[gateway_id] = begun
        return begun


def derive_key(root_secret: bytes, purpose: str) -> bytes:
    """32 bytes by HKDF-SHA256 (RFC 5869) with an empty salt; one purpose, one key."""
    pseudo_random_key = hmac.digest(bytes(32), root_secret, hashlib.sha256)
    return hmac.digest(pseudo_random_key, f"consumer-keys/{purpose}".encode() + b"\x01", hashlib.sha256)


def is_id(kind: str, text: str) -> bool:
    """Whether a text is such an id."""
    return re.fullmatch(rf"{kind}-[0-9a-f]{{14}}", text) is not None


def new_id(kind: str, random_bytes: RandomBytes) -> str:
    """`<kind>-` and 14 hex digits, as the vendor's ids of 2026."""
    return f"{kind}-{random_bytes(7).hex()}"
