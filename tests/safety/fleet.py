"""Many keys in every state, a snapshot of them made by the publisher's own functions, and a bucket in memory."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from consumer_keys import snapshot_base
from consumer_keys.errors import Unavailable
from consumer_keys.keytext import BASE62, lookup_digest, make_system_value
from consumer_keys.snapshot import (
    POINTER,
    ConsumerRecord,
    KeyRecord,
    Manifest,
    OperatorRecord,
    Overlay,
    Part,
    encode_overlay,
    id_bytes,
    part,
    seal_manifest,
)
from consumer_keys.snapshot_base import Base
from consumer_keys.snapshot_cache import SnapshotCache
from consumer_keys.validate import Validator

ENVIRONMENT, GATEWAY, OTHER_GATEWAY, PREFIX = "prod", "default", "other", "ck"
MANIFEST_KEY, LOOKUP_KEY, OPERATOR_KEY = b"m" * 32, b"l" * 32, b"o" * 32
START, POLL, MAX_AGE = 1_800_000_000.0, 10.0, 3600.0
STATES = ("Valid", "KeyDisabled", "KeyUnbound", "KeyEnded", "ConsumerDisabled")
_CUSTOM = BASE62 + "-._~+/="


class Key(NamedTuple):
    """A key of the fleet: what is presented, where, and what the judgement must be."""

    gateway_id: str
    value: str
    code: str
    record: KeyRecord
    digest: bytes


class Fleet:
    """`count` keys of the default gateway, a tenth as many of another one, and three operators."""

    def __init__(self, count: int, seed: int = 1) -> None:
        self._draw = random.Random(seed)
        self.active = ["consumer-" + self._draw.randbytes(7).hex() for _ in range(max(1, count // 50))]
        self.stopped = "consumer-" + self._draw.randbytes(7).hex()
        self.keys: list[Key] = []
        for number in range(count):
            self.keys.append(self._key(GATEWAY, number))
        self.foreign = [self._key(OTHER_GATEWAY, number) for number in range(0, count, 10)]
        self.operators = ["SK" + self._draw.randbytes(20).hex() for _ in range(3)]
        self.codes = {key.value.encode(): key.code for key in self.keys}
        self.valid = [key for key in self.keys if key.code == "Valid"]

    def _key(self, gateway_id: str, number: int) -> Key:
        # Half of the values are enabled; the rest is spread over the other states.
        code = STATES[number // 2 % 4 + 1] if number % 2 else "Valid"
        if number % 10 < 6:
            value = make_system_value(PREFIX, self._draw.randbytes)
        elif number % 10 < 8 and number > 10:
            # Neighbours that share 20 or 31 characters with an older key of another state.
            before = next(key for key in self.keys[number - number % 10 + 4 - 10 :] if len(key.value) > 31)
            value = "c" + before.value[: 20 + 11 * (number % 2)] + self._text(24)
        else:
            value = self._text(self._draw.choice((8, 16, 40, 64, 255, 256)))
        consumer = {"KeyUnbound": None, "ConsumerDisabled": self.stopped}.get(code, self._draw.choice(self.active))
        ends_at = {"KeyEnded": int(START) - 1, "Valid": int(START) + 10**8 if number % 6 == 0 else 0}.get(code, 0)
        key_id = "secret-" + self._draw.randbytes(7).hex()
        record = KeyRecord(key_id, f"name-{number}", code != "KeyDisabled", consumer, ends_at)
        return Key(gateway_id, value, code, record, lookup_digest(LOOKUP_KEY, gateway_id, value.encode()))

    def _text(self, length: int) -> str:
        return "".join(self._draw.choices(_CUSTOM, k=length))

    @property
    def records(self) -> dict[bytes, KeyRecord]:
        """Every digest with its record."""
        return {key.digest: key.record for key in (*self.keys, *self.foreign)}

    @property
    def consumers(self) -> dict[bytes, ConsumerRecord]:
        """Every consumer."""
        active = {id_bytes(ident): ConsumerRecord(f"app-{ident[-4:]}", True) for ident in self.active}
        return active | {id_bytes(self.stopped): ConsumerRecord("stopped", False)}


class Bucket:
    """A `Source` in memory. `before` runs before each read, so a test may count, hold up or fail it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._seen = folder, b""
        self.objects: dict[str, bytes] = {}
        self.pointer_reads = 0
        self.before: Callable[[str], None] = lambda _name: None

    def pointer(self, name: str) -> bytes | None:
        self.pointer_reads += 1
        data = self._read(name, 1 << 20)
        if data == self._seen:
            return None
        self._seen = data
        return data

    def forget_pointer(self) -> None:
        self._seen = b""

    def object(self, name: str, size_max: int) -> bytes:
        return self._read(name, size_max)

    def download(self, name: str, size_max: int, path: str) -> None:
        Path(path).write_bytes(self.objects.get(name, b"")[:1000])  # what is there if the connection breaks
        Path(path).write_bytes(self._read(name, size_max))

    def _read(self, name: str, size_max: int) -> bytes:
        data = self.objects.get(name)
        self.before(name)
        if data is None:
            raise Unavailable("SnapshotUnavailable", "cos", "GetObject", "404")
        if len(data) > size_max:
            raise Unavailable("SnapshotUnavailable", "cos", "GetObject", "TooLarge")
        return data

    def put_base(self, keys: dict[bytes, KeyRecord], consumers: dict[bytes, ConsumerRecord]) -> Part:
        """Stores a base file."""
        path = str(self._folder / "new.lmdb")
        sha256, size, count = snapshot_base.build(path, sorted(keys.items()), sorted(consumers.items()))
        named = part("base", ".lmdb", sha256, size, count)
        self.objects[named.name] = Path(path).read_bytes()
        os.unlink(path)
        return named

    def put_overlay(self, overlay: Overlay) -> Part:
        """Stores an overlay."""
        data = encode_overlay(overlay)
        count = len(overlay.keys) + len(overlay.consumers)
        named = part("overlay", ".json", hashlib.sha256(data).hexdigest(), len(data), count)
        self.objects[named.name] = data
        return named

    def point(
        self, version: int, base: Part, overlay: Part, *, now: float = START, manifest_key: bytes = MANIFEST_KEY
    ) -> bytes:
        """Writes the pointer."""
        manifest = Manifest(ENVIRONMENT, version, version, int(now * 1000), "v1", base, overlay)
        self.objects[POINTER] = seal_manifest(manifest, manifest_key)
        return self.objects[POINTER]

    def publish(self, fleet: Fleet, version: int, *, in_overlay: int = 0, now: float = START) -> None:
        """The whole fleet as one snapshot; the last `in_overlay` keys lie in the overlay."""
        records = fleet.records
        late = dict(list(records.items())[len(records) - in_overlay :])
        operators = {
            hashlib.sha256(secret.encode()).digest(): OperatorRecord(f"operator-{number}", "viewer", None)
            for number, secret in enumerate(fleet.operators)
        }
        base = self.put_base({digest: records[digest] for digest in records.keys() - late.keys()}, fleet.consumers)
        self.point(version, base, self.put_overlay(Overlay({**late}, {}, operators)), now=now)


class Instance:
    """A warm or cold validation on a bucket, with a clock driven by hand."""

    def __init__(self, bucket: Bucket, folder: Path, *, now: float = START, poll: float = POLL) -> None:
        self.now, self.folder = now, folder
        self.reports: list[Exception] = []
        self.cache = SnapshotCache(
            bucket, Base, self.reports.append, manifest_key=MANIFEST_KEY, environment=ENVIRONMENT, folder=str(folder),
            poll_seconds=poll, max_age_seconds=MAX_AGE, clock=lambda: self.now,
        )  # fmt: skip
        self.validator = Validator(self.cache, LOOKUP_KEY, PREFIX)

    def code(self, value: str, gateway_id: str = GATEWAY) -> str:
        """The verdict on a value as it stands."""
        return self.validator.judge(gateway_id, value.encode())[0].code

    def files(self) -> list[str]:
        """What lies in the cache's folder."""
        return os.listdir(self.folder) if self.folder.exists() else []
