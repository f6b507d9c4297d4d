"""However a snapshot is damaged, the last good one goes on answering as before, and the next good one is taken."""

from __future__ import annotations

import hashlib
import hmac
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from consumer_keys.errors import Gone, Problem, Unavailable
from consumer_keys.snapshot import POINTER, Overlay, SnapshotError
from tests.safety.fleet import GATEWAY, MANIFEST_KEY, POLL, START, Bucket, Fleet, Instance, Key

CHUNKS, DAMAGES_EACH = 20, 500
HELD, NEXT = 5, 6
Verdicts = list[tuple[str, str | None, str | None]]


class Library:
    """Six publications, each with the objects of its own and another state of every key."""

    def __init__(self, folder: Path) -> None:
        self.fleet = Fleet(40)
        self.pointers: dict[int, bytes] = {}
        self.objects: dict[str, bytes] = {}
        bucket = Bucket(folder / "bucket")
        for version in range(1, NEXT + 1):
            records = {key.digest: self.record(key, version) for key in self.fleet.keys}
            late = dict(list(records.items())[-5 - version :])
            base = bucket.put_base({digest: records[digest] for digest in records.keys() - late}, self.fleet.consumers)
            self.pointers[version] = bucket.point(version, base, bucket.put_overlay(Overlay({**late}, {}, {})))
        self.objects = dict(bucket.objects)
        del self.objects[POINTER]

    @staticmethod
    def record(key: Key, version: int) -> Any:
        """What a version says of a key: each names it otherwise, and they do not enable the same keys."""
        return key.record._replace(name=f"in-{version}", enabled=(int(key.record.key_id[-1], 16) + version) % 3 > 0)

    def manifest(self, version: int) -> dict[str, Any]:
        """The inner object of a pointer."""
        inner: dict[str, Any] = json.loads(self.pointers[version])["manifest"]
        return inner

    def put(self, bucket: Bucket, version: int) -> None:
        """The bucket as it is after this publication."""
        bucket.objects = {**self.objects, POINTER: self.pointers[version]}


def signed(manifest: Any, key: bytes = MANIFEST_KEY) -> bytes:
    """A pointer with a right MAC under `key`."""
    body = manifest if isinstance(manifest, bytes) else json.dumps(manifest, separators=(",", ":")).encode()
    return b'{"mac":"' + hmac.digest(key, body, "sha256").hex().encode() + b'","manifest":' + body + b"}"


# Damages: each leaves in the bucket what must not be taken instead of version 5.

Damage = Callable[[random.Random, Library, Bucket], None]


def flipped(draw: random.Random, data: bytes, times: int = 1) -> bytes:
    raw = bytearray(data)
    for _ in range(times):
        raw[draw.randrange(len(raw))] ^= 1 << draw.randrange(8)
    return bytes(raw)


def torn(draw: random.Random, data: bytes, other: bytes) -> bytes:
    """The beginning of one and the end of the other."""
    at = draw.randrange(1, len(data))
    return data[:at] + other[at:]


def damaged(draw: random.Random, data: bytes, other: bytes) -> bytes:
    """Never equal to `data`."""
    kind = draw.randrange(9)
    made = (
        flipped(draw, data), flipped(draw, data, 9), data[: draw.randrange(len(data))], torn(draw, data, other), b"",
        draw.randbytes(len(data)), data + draw.randbytes(draw.choice((1, 9, 5000))), bytes(len(data)), other,
    )[kind]  # fmt: skip
    return made if made != data else data[:-1]


def spoil_pointer(draw: random.Random, library: Library, bucket: Bucket) -> None:
    other = library.pointers[draw.randrange(1, HELD)]
    bucket.objects[POINTER] = damaged(draw, library.pointers[NEXT], other)


def spoil_part(which: str) -> Damage:
    def spoil(draw: random.Random, library: Library, bucket: Bucket) -> None:
        name = library.manifest(NEXT)[which]["name"]
        other = library.manifest(draw.randrange(1, HELD))[draw.choice(("base", "overlay"))]["name"]
        bucket.objects[name] = damaged(draw, library.objects[name], library.objects[other])

    return spoil


def shrink_base(draw: random.Random, library: Library, bucket: Bucket) -> None:
    """Whole pages are missing: LMDB would run off the end of its file."""
    name = library.manifest(NEXT)["base"]["name"]
    pages = len(library.objects[name]) // 4096
    bucket.objects[name] = library.objects[name][: 4096 * draw.randrange(pages)]


def swap_objects(draw: random.Random, library: Library, bucket: Bucket) -> None:
    base, overlay = (library.manifest(NEXT)[which]["name"] for which in ("base", "overlay"))
    bucket.objects[base], bucket.objects[overlay] = bucket.objects[overlay], bucket.objects[base]


def lose_part(draw: random.Random, library: Library, bucket: Bucket) -> None:
    del bucket.objects[draw.choice([library.manifest(NEXT)[which]["name"] for which in ("base", "overlay")])]


def lose_pointer(draw: random.Random, library: Library, bucket: Bucket) -> None:
    del bucket.objects[POINTER]


def replay(draw: random.Random, library: Library, bucket: Bucket) -> None:
    """A whole older publication, rightly signed."""
    library.put(bucket, draw.randrange(1, HELD))


def mix(draw: random.Random, library: Library, bucket: Bucket) -> None:
    """Under the names of the new publication lie objects of an old one, whole and right in themselves."""
    for which in draw.choice((("base",), ("overlay",), ("base", "overlay"))):
        old = library.manifest(draw.randrange(1, HELD + 1))[which]["name"]
        bucket.objects[library.manifest(NEXT)[which]["name"]] = library.objects[old]


def unsigned(draw: random.Random, library: Library, bucket: Bucket) -> None:
    """Somebody who may write the bucket but knows no key."""
    manifest = library.manifest(NEXT)
    other = library.manifest(draw.randrange(1, HELD))
    manifest[draw.choice(("base", "overlay"))] = other["base"]
    key = draw.choice((b"x" * 32, b"", bytes(32), hashlib.sha256(MANIFEST_KEY).digest(), b"l" * 32))
    mac = json.loads(library.pointers[NEXT])["mac"]
    bucket.objects[POINTER] = draw.choice(
        (signed(manifest, key), json.dumps({"manifest": manifest}).encode(), json.dumps(manifest).encode(),
         json.dumps({"mac": mac, "manifest": manifest}).encode(), signed(manifest).replace(b'"mac"', b'"MAC"'))
    )  # fmt: skip


def rightly_signed(draw: random.Random, library: Library, bucket: Bucket) -> None:
    """What only a faulty publisher could write: the MAC is right and the content is not."""
    manifest = library.manifest(NEXT)
    which = draw.choice(("base", "overlay"))
    part, old = manifest[which], library.manifest(draw.randrange(1, HELD))
    size, entries = part["size"], part["entries"]
    changes: list[dict[str, Any]] = [
        {"environment": draw.choice(("test", "", "PROD", "prod "))},
        {"created_at_ms": int(START * 1000) + draw.choice((301_000 + 10**8, 10**11, 2**62))},
        {"schema": draw.choice((0, 1, "2", None, 1.5))},
        {"version": draw.choice((0, 1, HELD - 1, -NEXT, "6", 6.0, True))},
        {which: {**part, "size": draw.choice((size + 1, size - 1, 0, -1, -size, size * 2, 1 << 40, 1 << 70))}},
        {which: {**part, "entries": draw.choice((entries + 1, entries - 1, 0, -1, entries * 1000, 1 << 70))}},
        {which: {**part, "sha256": draw.choice(("", "0" * 64, "é" * 64, part["sha256"].upper()))}},
        {which: {**part, "sha256": old[which]["sha256"]}},
        {which: {**part, "name": draw.choice(("", "/", "../base", POINTER, old[which]["name"], "no\x00thing"))}},
        {which: {**part, "more": 1}}, {which: None}, {which: [*part.values()]}, {which: {**part, "size": str(size)}},
        {"base": manifest["overlay"], "overlay": manifest["base"]}, {which: {**old[which], "name": part["name"]}},
        {"revision": draw.choice((None, "6", 1.5))}, {"root_version": "v" * 20_000},
    ]  # fmt: skip
    changed = {**manifest, **draw.choice(changes)}
    if draw.random() < 0.1:
        del changed[draw.choice(list(changed))]
    texts = (b"", b"null", b"[]", b"{", b"[" * 8000, b'{"a":' * 3000, draw.randbytes(99))
    bucket.objects[POINTER] = signed(draw.choice(texts) if draw.random() < 0.1 else changed)


def other_of_same_version(draw: random.Random, library: Library, bucket: Bucket) -> None:
    """A second publication with the number of the one in force: two publishers at once."""
    old = library.manifest(draw.randrange(1, HELD))
    bucket.objects[POINTER] = signed({**old, "version": HELD})


def rightly_named_nonsense(draw: random.Random, library: Library, bucket: Bucket) -> None:
    """Hash, size and name fit; it is still no overlay and no LMDB file."""
    manifest, which = library.manifest(NEXT), draw.choice(("base", "overlay"))
    overlay = library.objects[manifest["overlay"]["name"]]
    data = draw.choice(
        (b"", b"{}", b"null", b"[" * 50_000, draw.randbytes(8192), bytes(8192), overlay[:-1],
         overlay.replace(b'"', b"'"), overlay.replace(b"true", b"1"), overlay.replace(b"secret-", b"s\xffcret-"),
         overlay.replace(b'"in-6"', b'"\\ud800"'))
    )  # fmt: skip
    sha256 = hashlib.sha256(data).hexdigest()
    bucket.objects["nonsense"] = data
    manifest[which] = {**manifest[which], "name": "nonsense", "size": len(data), "sha256": sha256}
    bucket.objects[POINTER] = signed(manifest)


def failing_reads(draw: random.Random, library: Library, bucket: Bucket) -> None:
    """The bucket breaks off at the first, second or third read."""
    left = [draw.randrange(3)]
    fault = draw.choice(
        (Unavailable("SnapshotUnavailable", "cos", "GetObject", "500"), OSError("disk full"), TimeoutError("slow"),
         Gone("SnapshotUnavailable", "cos", "GetObject", "404"), SnapshotError("x"), ConnectionResetError("gone"))
    )  # fmt: skip

    def before(_name: str) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise fault

    bucket.before = before


DAMAGES: tuple[Damage, ...] = (
    spoil_pointer, spoil_pointer, spoil_part("base"), spoil_part("base"), spoil_part("overlay"), spoil_part("overlay"),
    shrink_base, swap_objects, lose_part, lose_pointer, replay, mix, unsigned, rightly_signed, rightly_signed,
    other_of_same_version, rightly_named_nonsense, failing_reads,
)  # fmt: skip


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    return Library(tmp_path_factory.mktemp("library"))


@pytest.fixture
def bucket(library: Library, tmp_path: Path) -> Bucket:
    made = Bucket(tmp_path / "bucket")
    library.put(made, HELD)
    return made


@pytest.fixture
def instance(bucket: Bucket, tmp_path: Path) -> Iterator[Instance]:
    made = Instance(bucket, tmp_path / "cache")
    yield made
    made.cache.close()


def verdicts(instance: Instance, library: Library, count: int = 12) -> Verdicts:
    """What is said about a sample of keys, and about one that nobody has; refusals look at the pointer once more."""
    asked = [*(key.value for key in library.fleet.keys[::3][:count]), "nobodys-value"]
    answers = [instance.validator.judge(GATEWAY, value.encode())[0] for value in asked]
    return [(answer.code, answer.key_id, answer.key_name) for answer in answers]


def repaired(library: Library, bucket: Bucket, version: int) -> None:
    library.put(bucket, version)
    bucket.before = lambda _name: None


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_ten_thousand_damages_change_no_verdict_of_a_warm_instance(
    chunk: int, library: Library, bucket: Bucket, instance: Instance
) -> None:
    seed = 3_000 + chunk
    draw = random.Random(seed)
    before = verdicts(instance, library)
    assert {code for code, _, _ in before} >= {"Valid", "KeyDisabled", "UnknownKey"}
    for number in range(DAMAGES_EACH):
        spoil = DAMAGES[number % len(DAMAGES)]
        repaired(library, bucket, NEXT)
        spoil(draw, library, bucket)
        instance.now += POLL / 10 if number % 3 else POLL
        instance.now = min(instance.now, START + 3000)
        place = f"seed {seed}, number {number}: {spoil.__name__}"
        assert verdicts(instance, library) == before, place
        assert instance.cache.current().manifest.version == HELD, place
        assert instance.files() == [], place
    assert len(instance.reports) > DAMAGES_EACH // 2
    assert all(isinstance(error, (SnapshotError, Unavailable, Gone, OSError)) for error in instance.reports)
    repaired(library, bucket, NEXT)
    instance.now += POLL
    after = verdicts(instance, library)
    assert instance.cache.current().manifest.version == NEXT
    assert after != before
    assert {name for _, _, name in after} == {f"in-{NEXT}", None}


@pytest.mark.parametrize("spoil", dict.fromkeys(DAMAGES), ids=lambda spoil: spoil.__qualname__)
def test_a_good_snapshot_is_taken_right_after_any_damage(
    spoil: Damage, library: Library, bucket: Bucket, instance: Instance
) -> None:
    verdicts(instance, library)
    repaired(library, bucket, NEXT)
    spoil(random.Random(1), library, bucket)
    instance.now += POLL
    verdicts(instance, library)
    repaired(library, bucket, NEXT)
    instance.now += POLL
    verdicts(instance, library)
    assert instance.cache.current().manifest.version == NEXT
    assert instance.files() == []


@pytest.mark.parametrize("chunk", range(4))
def test_a_cold_instance_on_a_damaged_bucket_answers_from_a_whole_publication_or_not_at_all(
    chunk: int, library: Library, bucket: Bucket, tmp_path: Path
) -> None:
    """A replayed publication cannot be told from the newest by somebody who has seen neither; a damaged one can."""
    seed = 4_000 + chunk
    draw = random.Random(seed)
    refused = 0
    for number in range(250):
        spoil = DAMAGES[number % len(DAMAGES)]
        repaired(library, bucket, NEXT)
        bucket.forget_pointer()
        spoil(draw, library, bucket)
        cold = Instance(bucket, tmp_path / "cold")
        try:
            answers = verdicts(cold, library)
        except Problem as problem:
            if problem.code != "SnapshotUnavailable":
                raise
            refused += 1
        else:
            names = {name for _, _, name in answers} - {None}
            assert len(names) == 1, f"seed {seed}, number {number}: {spoil.__name__} gave {names}"
            assert spoil in (spoil_pointer, replay, other_of_same_version, rightly_signed, failing_reads), spoil
        assert cold.files() == []
        cold.cache.close()
    assert refused > 150


def test_no_flipped_byte_of_any_object_is_taken(library: Library, bucket: Bucket, instance: Instance) -> None:
    before = verdicts(instance, library)
    names = [POINTER, library.manifest(NEXT)["overlay"]["name"]]
    for name in names:
        repaired(library, bucket, NEXT)
        whole = bucket.objects[name]
        for position in range(len(whole)):
            bucket.objects[name] = whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1 :]
            instance.cache.recheck()
            instance.now = START + position % 3000
    assert instance.cache.current().manifest.version == HELD
    assert verdicts(instance, library) == before


def test_each_cut_of_a_pointer_and_of_an_overlay_is_refused(
    library: Library, bucket: Bucket, instance: Instance
) -> None:
    before = verdicts(instance, library)
    for name in (POINTER, library.manifest(NEXT)["overlay"]["name"]):
        repaired(library, bucket, NEXT)
        whole = bucket.objects[name]
        for length in range(len(whole)):
            bucket.objects[name] = whole[:length]
            instance.cache.recheck()
            instance.now = START + length % 3000
    assert instance.cache.current().manifest.version == HELD
    assert verdicts(instance, library) == before
