"""What validation reads, as bytes: records, overlay and manifest. Pure: no I/O, no clock.

A snapshot is an immutable base file (digest -> record), a small JSON overlay with everything that changed since the
base, and the manifest that names both. The manifest is authenticated and is checked before it is parsed.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import struct
from collections.abc import Mapping

from consumer_keys.light_typing import Any, NamedTuple

SCHEMA = 2
ANY_TIME_MS = 1 << 62  # for who opens a pointer whatever its date is
POINTER = "current.json"
DIGEST_BYTES, ID_BYTES = 32, 7
MANIFEST_BYTES_MAX = 16_384
CREATED_AHEAD_MS_MAX = 300_000
_KEY = struct.Struct("!B7s7sI")  # flags, key id, consumer id (zeros: unbound), end in Unix seconds (0: none)
_ENABLED = 1
_IN_DISABLED_GROUP = 2  # of a consumer
_BETWEEN = "\0"  # no name holds it
# Where a packed key record holds what a judgement needs, so that it can look without unpacking the rest.
PACKED_KEY_BYTES_MIN = _KEY.size
CONSUMER_SLICE, ENDS_AT_SLICE, NO_END = slice(8, 15), slice(15, 19), bytes(4)
_UNBOUND = bytes(ID_BYTES)
_MAC_START, _MAC_END = len('{"mac":"'), len('{"mac":"') + 64
_MAC_AND_COMMA = 65
_BODY_START = _MAC_END + len('","manifest":')


class SnapshotError(Exception):
    """A snapshot that must not be used; the text says which check failed."""

    safe_to_log = True


class ForeignEnvironmentError(SnapshotError):
    """The manifest is authentic and another environment's."""


class KeyRecord(NamedTuple):
    """What validation needs of one accepted value. `ends_at` is Unix seconds, 0 for none."""

    key_id: str
    name: str
    enabled: bool
    consumer_id: str | None
    ends_at: int


class ConsumerRecord(NamedTuple):
    """What validation needs of one consumer; stored once, not in each of its keys. `groups` are names."""

    name: str
    enabled: bool
    groups: tuple[str, ...] = ()
    in_disabled_group: bool = False


class OperatorRecord(NamedTuple):
    """Who may ask /verify. `gateways` None means all. `ends_at` is Unix seconds for a former secret, else 0."""

    secret_id: str
    role: str
    gateways: tuple[str, ...] | None
    ends_at: int = 0


class Part(NamedTuple):
    """One object of a snapshot; `name` ends with its SHA-256."""

    name: str
    size: int
    sha256: str
    entries: int


class Manifest(NamedTuple):
    """The pointer. `version` grows with every publication, `revision` is the database's."""

    environment: str
    version: int
    revision: int
    created_at_ms: int
    root_version: str
    base: Part
    overlay: Part


class Overlay(NamedTuple):
    """Changes since the base; a None value is a removal. Operators are always complete."""

    keys: dict[bytes, KeyRecord | None]
    consumers: dict[bytes, ConsumerRecord | None]
    operators: dict[bytes, OperatorRecord]


def id_bytes(resource_id: str) -> bytes:
    """The 7 bytes behind `<kind>-` and 14 hex digits."""
    return bytes.fromhex(resource_id.rpartition("-")[2])


def pack_key(record: KeyRecord) -> bytes:
    """19 bytes and the name."""
    consumer = id_bytes(record.consumer_id) if record.consumer_id else _UNBOUND
    flags = _ENABLED if record.enabled else 0
    return _KEY.pack(flags, id_bytes(record.key_id), consumer, record.ends_at) + record.name.encode()


def is_enabled(data: bytes) -> bool:
    """Whether nothing stops a packed record: an enabled key, an enabled consumer without a disabled group."""
    return data[0] == _ENABLED


def is_stopped_by_group(data: bytes) -> bool:
    """Whether a packed consumer record is enabled itself, but in a disabled group."""
    return data[0] == _ENABLED | _IN_DISABLED_GROUP


def key_id_of(data: bytes) -> str:
    """The id in a packed key record."""
    return "secret-" + data[1:8].hex()


def ids_of(data: bytes) -> tuple[str, str]:
    """Key id and consumer id of a packed key record; zeros stand for no consumer."""
    return "secret-" + data[1:8].hex(), "consumer-" + data[CONSUMER_SLICE].hex()


def key_name_of(data: bytes) -> str:
    """The name in a packed key record."""
    return data[_KEY.size :].decode()


def consumer_id_of(data: bytes) -> str | None:
    """The consumer's id in a packed key record; None when the key is unbound."""
    consumer = data[CONSUMER_SLICE]
    return None if consumer == _UNBOUND else "consumer-" + consumer.hex()


def consumer_name_of(data: bytes) -> str:
    """The name in a packed consumer record."""
    return data[1:].partition(b"\0")[0].decode()


def consumer_groups_of(data: bytes) -> tuple[str, ...]:
    """The names of its groups in a packed consumer record."""
    end_of_name = data.find(b"\0", 1)
    return () if end_of_name < 0 else tuple(data[end_of_name + 1 :].decode().split(_BETWEEN))


def unpack_key(data: bytes) -> KeyRecord:
    """The reverse of `pack_key`. Raises SnapshotError for bytes that it did not make."""
    try:
        flags, key, consumer, ends_at = _KEY.unpack_from(data)
        name = data[_KEY.size :].decode()
    except (struct.error, UnicodeDecodeError):
        raise SnapshotError("a key record is damaged") from None
    if flags not in (0, _ENABLED):
        raise SnapshotError("a key record has an unknown status")
    consumer_id = None if consumer == _UNBOUND else "consumer-" + consumer.hex()
    return KeyRecord("secret-" + key.hex(), name, flags == _ENABLED, consumer_id, ends_at)


def pack_consumer(record: ConsumerRecord) -> bytes:
    """One byte of status, the name, and the names of its groups."""
    flags = (_ENABLED if record.enabled else 0) | (_IN_DISABLED_GROUP if record.in_disabled_group else 0)
    return bytes([flags]) + _BETWEEN.join((record.name, *record.groups)).encode()


def unpack_consumer(data: bytes) -> ConsumerRecord:
    """The reverse of `pack_consumer`. Raises SnapshotError for bytes that it did not make."""
    try:
        flags, (name, *groups) = data[0], data[1:].decode().split(_BETWEEN)
    except (IndexError, UnicodeDecodeError):
        raise SnapshotError("a consumer record is damaged") from None
    if flags > _ENABLED | _IN_DISABLED_GROUP:
        raise SnapshotError("a consumer record has an unknown status")
    return ConsumerRecord(name, bool(flags & _ENABLED), tuple(groups), bool(flags & _IN_DISABLED_GROUP))


def encode_overlay(overlay: Overlay) -> bytes:
    """Canonical JSON, so that equal overlays have equal names."""
    document = {
        "schema": SCHEMA,
        "keys": {digest.hex(): record and list(record) for digest, record in overlay.keys.items()},
        "consumers": {ident.hex(): record and list(record) for ident, record in overlay.consumers.items()},
        "operators": {digest.hex(): list(record) for digest, record in overlay.operators.items()},
    }
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def decode_overlay(data: bytes, entries: int) -> Overlay:
    """Parses bytes whose hash was checked. Raises SnapshotError when they are not an overlay of `entries` entries."""
    try:
        document = json.loads(data, object_pairs_hook=_without_duplicates)
        if document["schema"] != SCHEMA:
            raise SnapshotError("the overlay has another schema")
        keys = {_digest(key, DIGEST_BYTES): _key_record(row) for key, row in document["keys"].items()}
        consumers = {_digest(key, ID_BYTES): _consumer_record(row) for key, row in document["consumers"].items()}
        operators = {_digest(key, DIGEST_BYTES): _operator_record(row) for key, row in document["operators"].items()}
    except SnapshotError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, struct.error):
        raise SnapshotError("the overlay cannot be read") from None
    if len(keys) + len(consumers) != entries:
        raise SnapshotError("the overlay has another number of entries than its manifest says")
    return Overlay(keys, consumers, operators)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise SnapshotError("the overlay names an entry twice")
    return result


def _digest(text: str, size: int) -> bytes:
    data = bytes.fromhex(text)
    if len(data) != size or data.hex() != text:  # two spellings of one digest would hide each other
        raise SnapshotError("the overlay names an entry in another form than hex digits")
    return data


def _key_record(row: Any) -> KeyRecord | None:
    if row is None:
        return None
    key_id, name, enabled, consumer_id, ends_at = row
    record = KeyRecord(key_id, name, enabled, consumer_id, ends_at)
    if unpack_key(pack_key(record)) != record or type(enabled) is not bool or type(ends_at) is not int:
        raise SnapshotError("a key record of the overlay is damaged")
    return record


def _consumer_record(row: Any) -> ConsumerRecord | None:
    if row is None:
        return None
    name, enabled, groups, in_disabled_group = row
    if not isinstance(groups, list):
        raise SnapshotError("a consumer record of the overlay is damaged")
    record = ConsumerRecord(name, enabled, tuple(groups), in_disabled_group)
    if unpack_consumer(pack_consumer(record)) != record or {type(enabled), type(in_disabled_group)} != {bool}:
        raise SnapshotError("a consumer record of the overlay is damaged")
    return record


def _operator_record(row: Any) -> OperatorRecord:
    secret_id, role, gateways, ends_at = row
    texts = (secret_id, role, *(gateways or ()))
    if not isinstance(gateways, list | None) or not all(isinstance(text, str) for text in texts):
        raise SnapshotError("an operator record of the overlay is damaged")
    if type(ends_at) is not int or not 0 <= ends_at < 2**32:
        raise SnapshotError("an operator record of the overlay is damaged")
    return OperatorRecord(secret_id, role, None if gateways is None else tuple(gateways), ends_at)


def seal_manifest(manifest: Manifest, *manifest_keys: bytes) -> bytes:
    """`{"mac":"<hex>","manifest":{...}}`, the MAC being HMAC-SHA256 over the exact bytes of the inner object.

    With two keys, while the root secret is being rotated, there is a MAC under each, `"<hex>,<hex>"`.
    """
    fields = {**manifest._asdict(), "base": manifest.base._asdict(), "overlay": manifest.overlay._asdict()}
    body = json.dumps({"schema": SCHEMA, **fields}, separators=(",", ":")).encode()
    return _framed(b",".join(_mac(body, key) for key in manifest_keys), body)


def open_manifest(data: bytes, manifest_key: bytes, *, environment: str, version_min: int, now_ms: int) -> Manifest:
    """The manifest, after size, MAC, schema, environment, version and date held; SnapshotError says what did not."""
    if len(data) > MANIFEST_BYTES_MAX:
        raise SnapshotError("the manifest is too large")
    two = data[_MAC_END : _MAC_END + 1] == b","
    body = data[_BODY_START + _MAC_AND_COMMA * two : -1]
    macs = _mac(body, manifest_key)
    if two:  # the other one is for readers with the other version of the root secret, and cannot be checked here
        first, second = data[_MAC_START:_MAC_END], data[_MAC_START + _MAC_AND_COMMA : _MAC_END + _MAC_AND_COMMA]
        macs = first + b"," + macs if hmac.compare_digest(second, macs) else macs + b"," + second
    if not hmac.compare_digest(data, _framed(macs, body)):
        raise SnapshotError("the manifest is not signed by this deployment's root secret")
    manifest = _manifest(body)
    if manifest.environment != environment:
        raise ForeignEnvironmentError("the manifest belongs to another environment")
    if manifest.version < version_min:
        raise SnapshotError("the manifest is older than one seen before")
    if manifest.created_at_ms > now_ms + CREATED_AHEAD_MS_MAX:
        raise SnapshotError("the manifest comes from the future")
    return manifest


def _manifest(body: bytes) -> Manifest:
    try:
        document: Mapping[str, Any] = json.loads(body)
        if document.get("schema") != SCHEMA:
            raise SnapshotError("the manifest has another schema")
        parts = [Part(**document[name]) for name in ("base", "overlay")]
        fields = [document[name] for name in Manifest._fields[:-2]]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise SnapshotError("the manifest cannot be read") from None
    kinds = [type(value) for value in fields], *([type(value) for value in part] for part in parts)
    if kinds != ([str, int, int, int, str], *([str, int, str, int] for _ in parts)):
        raise SnapshotError("the manifest has a field of the wrong type")
    return Manifest(*fields, *parts)


def _framed(macs: bytes, body: bytes) -> bytes:
    return b'{"mac":"' + macs + b'","manifest":' + body + b"}"


def _mac(body: bytes, manifest_key: bytes) -> bytes:
    return hmac.digest(manifest_key, body, hashlib.sha256).hex().encode()


def part(prefix: str, suffix: str, data_sha256: str, size: int, entries: int) -> Part:
    """An object named by its content: `<prefix>-<sha256><suffix>`."""
    return Part(f"{prefix}-{data_sha256}{suffix}", size, data_sha256, entries)
