"""Snapshots as bytes: round trips, and that nothing damaged, foreign, old or ill-formed is ever taken for one."""

from __future__ import annotations

import hashlib
import hmac
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer_keys import snapshot_base
from consumer_keys.snapshot import (
    CREATED_AHEAD_MS_MAX,
    MANIFEST_BYTES_MAX,
    SCHEMA,
    ConsumerRecord,
    KeyRecord,
    Manifest,
    OperatorRecord,
    Overlay,
    SnapshotError,
    consumer_groups_of,
    consumer_name_of,
    decode_overlay,
    encode_overlay,
    id_bytes,
    is_enabled,
    is_stopped_by_group,
    open_manifest,
    pack_consumer,
    pack_key,
    part,
    seal_manifest,
    unpack_consumer,
    unpack_key,
)

NOW_MS = 1_800_000_000_000
KEY = b"k" * 32
BASE = part("base", ".lmdb", "b" * 64, 12_288, 10)
OVERLAY = part("overlay", ".json", "c" * 64, 100, 2)
MANIFEST = Manifest("prod", 7, 12, NOW_MS, "v1", BASE, OVERLAY)

text = st.text(st.characters(codec="utf-8"), max_size=60)
hex_ids = st.binary(min_size=7, max_size=7).map(bytes.hex)
consumer_ids = hex_ids.filter(lambda text: text != "0" * 14).map("consumer-{}".format)
keys = st.builds(
    KeyRecord, hex_ids.map("secret-{}".format), text, st.booleans(), st.none() | consumer_ids, st.integers(0, 2**32 - 1)
)
names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=60)
groups = st.lists(names, max_size=3).map(tuple)
consumers = st.builds(ConsumerRecord, names, st.booleans(), groups, st.booleans())
operators = st.builds(
    OperatorRecord, text, text, st.none() | st.lists(text, max_size=3).map(tuple), st.integers(0, 2**32 - 1)
)
digests = st.binary(min_size=32, max_size=32)
overlays = st.builds(
    Overlay,
    st.dictionaries(digests, st.none() | keys, max_size=5),
    st.dictionaries(st.binary(min_size=7, max_size=7), st.none() | consumers, max_size=5),
    st.dictionaries(digests, operators, max_size=3),
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)

ONE_KEY = KeyRecord("secret-" + "01" * 7, "name-一", True, "consumer-" + "02" * 7, 5)
ONE_CONSUMER = ConsumerRecord("app", True)
ONE = Overlay(
    {b"\x01" * 32: ONE_KEY, b"\x02" * 32: None}, {b"\x03" * 7: ONE_CONSUMER},
    {b"\x04" * 32: OperatorRecord("operator-1", "viewer", ("default",))},
)  # fmt: skip


def opened(data: bytes, **options: Any) -> Manifest:
    given_now = {"manifest_key": KEY, "environment": "prod", "version_min": 0, "now_ms": NOW_MS, **options}
    return open_manifest(data, given_now.pop("manifest_key"), **given_now)


def sealed_body(body: bytes) -> bytes:
    """Any bytes with a right MAC: what only a faulty publisher with the key could write."""
    mac = hmac.digest(KEY, body, hashlib.sha256).hex().encode()
    return b'{"mac":"' + mac + b'","manifest":' + body + b"}"


def document_of(manifest: Manifest) -> dict[str, Any]:
    inner: dict[str, Any] = json.loads(seal_manifest(manifest, KEY))["manifest"]
    return inner


def each_flip(data: bytes) -> Iterator[bytes]:
    for position in range(len(data)):
        for bit in range(8):
            yield data[:position] + bytes([data[position] ^ 1 << bit]) + data[position + 1 :]


# Records


@given(keys)
def test_a_key_record_comes_back_as_it_was(record: KeyRecord) -> None:
    assert unpack_key(pack_key(record)) == record


@given(consumers)
def test_a_consumer_record_comes_back_as_it_was(record: ConsumerRecord) -> None:
    assert unpack_consumer(pack_consumer(record)) == record


@given(consumers)
def test_a_consumer_is_enabled_only_without_a_disabled_group(record: ConsumerRecord) -> None:
    data = pack_consumer(record)
    assert is_enabled(data) is (record.enabled and not record.in_disabled_group)
    assert is_stopped_by_group(data) is (record.enabled and record.in_disabled_group)
    assert (consumer_name_of(data), consumer_groups_of(data)) == (record.name, record.groups)


def test_a_consumer_record_without_groups_is_as_it_was_before_there_were_groups() -> None:
    assert pack_consumer(ConsumerRecord("应用", True)) == b"\x01" + "应用".encode()


@given(st.binary(max_size=80))
def test_any_bytes_as_a_record_are_a_record_or_a_snapshot_error(data: bytes) -> None:
    for unpack in (unpack_key, unpack_consumer):
        try:
            unpack(data)
        except SnapshotError:
            continue


def test_a_key_record_of_any_shorter_length_is_refused() -> None:
    data = pack_key(ONE_KEY._replace(name=""))
    assert len(data) == 19
    for length in range(len(data)):
        with pytest.raises(SnapshotError):
            unpack_key(data[:length])


@pytest.mark.parametrize("flags", [4, 128, 255])
def test_an_unknown_status_is_refused_and_not_taken_for_enabled(flags: int) -> None:
    with pytest.raises(SnapshotError):
        unpack_key(bytes([flags]) + pack_key(ONE_KEY)[1:])
    for unknown in (2, 3):  # of a consumer: in a disabled group
        with pytest.raises(SnapshotError):
            unpack_key(bytes([unknown]) + pack_key(ONE_KEY)[1:])
    with pytest.raises(SnapshotError):
        unpack_consumer(bytes([flags]) + pack_consumer(ONE_CONSUMER)[1:])


# Overlay


@given(overlays)
def test_an_overlay_comes_back_as_it_was(overlay: Overlay) -> None:
    assert decode_overlay(encode_overlay(overlay), len(overlay.keys) + len(overlay.consumers)) == overlay


@given(overlays, st.randoms())
def test_equal_overlays_have_equal_bytes_and_so_equal_names(overlay: Overlay, shuffle: random.Random) -> None:
    def shuffled(mapping: dict[bytes, Any]) -> dict[bytes, Any]:
        return dict(shuffle.sample(list(mapping.items()), len(mapping)))

    other = Overlay(shuffled(overlay.keys), shuffled(overlay.consumers), shuffled(overlay.operators))
    assert encode_overlay(other) == encode_overlay(overlay)


@pytest.mark.parametrize("entries", [-1, 0, 2, 4, "3", None])
def test_a_wrong_number_of_entries_is_refused(entries: Any) -> None:
    with pytest.raises(SnapshotError):
        decode_overlay(encode_overlay(ONE), entries)


def test_a_cut_overlay_is_refused_at_every_length() -> None:
    data = encode_overlay(ONE)
    for length in range(len(data)):
        with pytest.raises(SnapshotError):
            decode_overlay(data[:length], 3)


def test_an_overlay_with_a_flipped_bit_is_an_overlay_or_a_snapshot_error() -> None:
    """The hash in the manifest catches every flip before this; here it is only that nothing else is raised."""
    for data in each_flip(encode_overlay(ONE)):
        try:
            decode_overlay(data, 3)
        except SnapshotError:
            continue


@pytest.mark.parametrize("tail", [b"x", b"{}", b"\x00", b","])
def test_a_byte_behind_the_overlay_is_refused(tail: bytes) -> None:
    with pytest.raises(SnapshotError):
        decode_overlay(encode_overlay(ONE) + tail, 3)


def test_an_entry_given_twice_is_refused_in_every_section() -> None:
    digest, ident = "01" * 32, "03" * 7
    row = json.dumps(list(ONE_KEY))
    for keys_text, consumers_text, operators_text in (
        (f'"{digest}":{row},"{digest}":null', "", ""),
        ("", f'"{ident}":null,"{ident}":["app",true,[],false]', ""),
        ("", "", f'"{digest}":["a","admin",null],"{digest}":["b","viewer",null]'),
    ):
        document = (
            f'{{"schema":{SCHEMA},"keys":{{{keys_text}}},"consumers":{{{consumers_text}}},'
            f'"operators":{{{operators_text}}}}}'
        )
        for entries in (0, 1, 2):
            with pytest.raises(SnapshotError):
                decode_overlay(document.encode(), entries)


@pytest.mark.parametrize("digest", ["AB" * 32, "ab " * 32, " " + "ab" * 32, "ab" * 31, "ab" * 33, "", "xy" * 32])
def test_a_digest_in_another_spelling_is_refused(digest: str) -> None:
    """`bytes.fromhex` takes capitals and spaces: two spellings would be two entries for one digest."""
    for section in ("keys", "consumers", "operators"):
        sections: dict[str, Any] = {"keys": {}, "consumers": {}, "operators": {}}
        sections[section] = {digest: None if section != "operators" else ["a", "admin", None, 0]}
        for entries in (0, 1):
            with pytest.raises(SnapshotError):
                decode_overlay(json.dumps({"schema": SCHEMA, **sections}).encode(), entries)


ROWS: dict[str, list[Any]] = {
    "keys": [
        [], ["a"], "abcde", 1, {}, [*ONE_KEY, 1], ["secret-zz", "n", True, None, 0], [None, "n", True, None, 0],
        ["secret-" + "01" * 7, None, True, None, 0], ["secret-" + "01" * 7, "n", 1, None, 0],
        ["secret-" + "01" * 7, "n", "yes", None, 0], ["secret-" + "01" * 7, "n", None, None, 0],
        ["secret-" + "01" * 7, "n", True, 5, 0], ["secret-" + "01" * 7, "n", True, "", 0],
        ["secret-" + "01" * 7, "n", True, "consumer-" + "00" * 7, 0], ["secret-" + "01" * 7, "n", True, None, -1],
        ["secret-" + "01" * 7, "n", True, None, 2**32], ["secret-" + "01" * 7, "n", True, None, 1.5],
        ["secret-" + "01" * 7, "n", True, None, True], ["secret-" + "01" * 7, "n", True, None, None],
        ["secret-" + "01" * 7, "n", True, None, "0"], ["secret-" + "01" * 7, "\ud800", True, None, 0],
        ["01" * 7, "n", True, None, 0], ["consumer-" + "01" * 7, "n", True, None, 0],
        ["secret-" + "01" * 6, "n", True, None, 0], ["secret-" + "01" * 8, "n", True, None, 0],
    ],
    "consumers": [
        [], ["a"], "ab", 1, {}, ["a", True, 1], ["a", True], [None, True, [], False], ["a", 1, [], False],
        ["a", None, [], False],
        ["\ud800", True, [], False], [["a"], True, [], False], ["a", True, [], 0], ["a", True, [1], False],
        ["a", True, ["b\0c"], False], ["a\0b", True, [], False], ["a", True, "b", False], ["a", True, {}, False],
        ["a", True, None, False], ["a", True, [], False, 1], ["a", True, [["b"]], False],
    ],
    "operators": [
        None, [], ["a"], "abcd", 1, {}, ["a", "b"], ["a", "b", None], ["a", "b", None, 1, 1],
        [None, "admin", None, 0], ["a", 1, None, 0], ["a", "admin", "default", 0], ["a", "admin", [1], 0],
        ["a", "admin", [None], 0], ["a", "admin", {"default": 1}, 0], ["a", "admin", False, 0],
        ["a", "admin", 0, 0], ["a", "admin", "", 0], ["a", "admin", None, None], ["a", "admin", None, -1],
        ["a", "admin", None, 2**32], ["a", "admin", None, 1.0], ["a", "admin", None, True], ["a", "admin", None, "0"],
    ],
}  # fmt: skip


@pytest.mark.parametrize(("section", "row"), [(name, row) for name, rows in ROWS.items() for row in rows])
def test_a_row_of_the_wrong_shape_or_type_is_refused(section: str, row: Any) -> None:
    sections: dict[str, Any] = {"keys": {}, "consumers": {}, "operators": {}}
    sections[section] = {("01" * 7 if section == "consumers" else "01" * 32): row}
    with pytest.raises(SnapshotError):
        decode_overlay(json.dumps({"schema": SCHEMA, **sections}).encode(), 0 if section == "operators" else 1)


@given(json_values)
def test_any_json_as_an_overlay_raises_nothing_but_a_snapshot_error(value: Any) -> None:
    documents = [value]
    for section in ("keys", "consumers", "operators"):
        empty: dict[str, Any] = {"schema": SCHEMA, "keys": {}, "consumers": {}, "operators": {}}
        documents += [empty | {section: value}, empty | {section: {"01" * 32: value}}]
    for document in documents:
        try:
            decode_overlay(json.dumps(document).encode(), 1)
        except SnapshotError:
            continue


@pytest.mark.parametrize(
    "data",
    [
        b"", b"null", b"[]", b"1", b'"x"', b"{}", b'{"schema":1}', b"\xff\xfe", b"[" * 100_000, b'{"a":' * 100_000,
        b'{"schema":2,"keys":[],"consumers":{},"operators":{}}', b'{"schema":2,"keys":{},"consumers":{}}',
        b'{"schema":1,"keys":{},"consumers":{},"operators":{}}',
    ],
    ids=range(13),
)  # fmt: skip
def test_what_is_no_overlay_at_all_is_refused(data: bytes) -> None:
    with pytest.raises(SnapshotError):
        decode_overlay(data, 0)


# Manifest


manifests = st.builds(
    Manifest,
    text,
    st.integers(0, 2**53),
    st.integers(0, 2**53),
    st.integers(0, NOW_MS),
    text,
    st.builds(part, st.just("base"), st.just(".lmdb"), st.just("0" * 64), st.integers(0), st.integers(0)),
    st.builds(part, st.just("overlay"), st.just(".json"), st.just("1" * 64), st.integers(0), st.integers(0)),
)


@given(manifests, st.binary(min_size=32, max_size=32))
def test_a_manifest_comes_back_as_it_was(manifest: Manifest, key: bytes) -> None:
    data = seal_manifest(manifest, key)
    assert len(data) <= MANIFEST_BYTES_MAX
    assert json.loads(data)["manifest"]["version"] == manifest.version
    assert opened(data, manifest_key=key, environment=manifest.environment) == manifest


def test_every_flipped_bit_of_a_manifest_is_refused() -> None:
    for data in each_flip(seal_manifest(MANIFEST, KEY)):
        with pytest.raises(SnapshotError):
            opened(data)


@given(manifests, st.lists(st.binary(min_size=32, max_size=32), min_size=3, max_size=3, unique=True))
def test_a_manifest_under_two_keys_opens_with_either_and_with_no_other(manifest: Manifest, keys: list[bytes]) -> None:
    data = seal_manifest(manifest, *keys[:2])
    for key in keys[:2]:
        assert opened(data, manifest_key=key, environment=manifest.environment) == manifest
    with pytest.raises(SnapshotError, match="signed"):
        opened(data, manifest_key=keys[2], environment=manifest.environment)


@pytest.mark.parametrize("place", [0, 1])
def test_under_two_keys_only_the_mac_for_the_other_readers_may_differ(place: int) -> None:
    keys = [b"other-key" * 4] * 2
    keys[place] = KEY
    data = seal_manifest(MANIFEST, *keys)
    start = len('{"mac":"') + 65 * (1 - place)
    for number, flipped in enumerate(each_flip(data)):
        if start <= number // 8 < start + 64:
            assert opened(flipped) == MANIFEST, "it is not this reader's"
        else:
            with pytest.raises(SnapshotError):
                opened(flipped)
    macs = data[len('{"mac":"') : data.index(b'","manifest"')].split(b",")
    longer = data.replace(b",".join(macs), b",".join([*macs, macs[place]]))
    for forged in (longer, data + b" ", *(data[:cut] for cut in range(len(data)))):
        with pytest.raises(SnapshotError):
            opened(forged)


def test_a_cut_or_longer_manifest_is_refused_at_every_length() -> None:
    data = seal_manifest(MANIFEST, KEY)
    for length in range(len(data)):
        with pytest.raises(SnapshotError):
            opened(data[:length])
    for tail in (b" ", b"\n", b"}", b"\x00"):
        with pytest.raises(SnapshotError):
            opened(data + tail)
        with pytest.raises(SnapshotError):
            opened(tail + data)


@given(st.binary(max_size=600))
def test_any_bytes_as_a_manifest_are_refused(data: bytes) -> None:
    with pytest.raises(SnapshotError):
        opened(data)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"manifest_key": b"K" * 32}, "signed"),
        ({"environment": "test"}, "environment"),
        ({"version_min": 8}, "older"),
        ({"now_ms": NOW_MS - CREATED_AHEAD_MS_MAX - 1}, "future"),
    ],
)
def test_a_foreign_older_or_future_manifest_is_refused_and_says_why(options: dict[str, Any], reason: str) -> None:
    data = seal_manifest(MANIFEST, KEY)
    with pytest.raises(SnapshotError, match=reason):
        opened(data, **options)


def test_the_limits_of_version_and_date_themselves_are_accepted() -> None:
    data = seal_manifest(MANIFEST, KEY)
    assert opened(data, version_min=7, now_ms=NOW_MS - CREATED_AHEAD_MS_MAX) == MANIFEST


def test_an_oversize_manifest_is_refused_even_with_a_right_mac() -> None:
    data = seal_manifest(MANIFEST._replace(root_version="v" * MANIFEST_BYTES_MAX), KEY)
    with pytest.raises(SnapshotError, match="large"):
        opened(data)


WRONG: dict[str, list[Any]] = {
    "schema": [1, "2", None], "environment": [1, None, ["prod"]], "version": ["7", None, 7.0, True, []],
    "revision": ["1", None, 1.5], "created_at_ms": ["now", None, 1.5, {}], "root_version": [1, None],
    "base": [None, [], "x", {}, {"name": "n"}, {**BASE._asdict(), "more": 1}, {**BASE._asdict(), "size": "1"}],
    "overlay": [None, 5, {**BASE._asdict(), "entries": None}, {**BASE._asdict(), "sha256": 5}],
}  # fmt: skip


@pytest.mark.parametrize(("field", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_a_manifest_with_a_right_mac_and_a_wrong_field_is_refused(field: str, value: Any) -> None:
    body = json.dumps(document_of(MANIFEST) | {field: value}).encode()
    with pytest.raises(SnapshotError):
        opened(sealed_body(body))


@pytest.mark.parametrize("field", [*Manifest._fields, "schema"])
def test_a_manifest_with_a_right_mac_and_a_missing_field_is_refused(field: str) -> None:
    document = document_of(MANIFEST)
    del document[field]
    with pytest.raises(SnapshotError):
        opened(sealed_body(json.dumps(document).encode()))


@given(json_values | st.dictionaries(st.sampled_from([*Manifest._fields, "schema"]), json_values))
def test_any_json_with_a_right_mac_raises_nothing_but_a_snapshot_error(value: Any) -> None:
    with pytest.raises(SnapshotError):
        opened(sealed_body(json.dumps(value).encode()))


@pytest.mark.parametrize("body", [b"", b"{", b"[" * 9_000, b"\xff", b"null"])
def test_a_right_mac_over_what_is_no_json_is_refused(body: bytes) -> None:
    with pytest.raises(SnapshotError):
        opened(sealed_body(body))


# Base file


def many(count: int, name: str = "consumer-key-%02d") -> list[tuple[bytes, KeyRecord]]:
    draw = random.Random(count)
    return sorted(
        (draw.randbytes(32), KeyRecord("secret-" + draw.randbytes(7).hex(), name % (number % 100), number % 3 > 0,
         "consumer-" + (number % 50 + 1).to_bytes(7, "big").hex(), number % 7))
        for number in range(count)
    )  # fmt: skip


def test_ten_thousand_keys_come_back_from_a_base_file(tmp_path: Path) -> None:
    path, entries = str(tmp_path / "base.lmdb"), many(10_000)
    people = [(number.to_bytes(7, "big"), ConsumerRecord(f"应用-{number}", number % 2 == 0)) for number in range(1, 51)]
    sha256, size, count = snapshot_base.build(path, entries, people)
    assert (count, size) == (10_050, Path(path).stat().st_size)
    assert sha256 == hashlib.sha256(Path(path).read_bytes()).hexdigest() == snapshot_base.sha256_of(path)
    base = snapshot_base.Base(path)
    try:
        assert base.entry_count() == 10_050
        assert all(unpack_key(base.find(digest) or b"") == record for digest, record in entries)
        assert all(unpack_consumer(base.find(ident) or b"") == record for ident, record in people)
        assert base.find(bytes(32)) is None
        assert base.find(id_bytes("consumer-" + "ff" * 7)) is None
    finally:
        base.close()
    assert [file.name for file in tmp_path.iterdir()] == ["base.lmdb"]


def test_an_empty_base_file_holds_nothing(tmp_path: Path) -> None:
    path = str(tmp_path / "base.lmdb")
    assert snapshot_base.build(path, [], [])[2] == 0
    base = snapshot_base.Base(path)
    assert (base.entry_count(), base.find(bytes(32)), base.find(bytes(7))) == (0, None, None)
    base.close()


@pytest.mark.parametrize("order", [[1, 0], [0, 0], [0, 2, 1]])
def test_unsorted_or_repeated_digests_are_refused_and_leave_nothing(tmp_path: Path, order: list[int]) -> None:
    entries = many(3)
    with pytest.raises(ValueError, match="ascending"):
        snapshot_base.build(str(tmp_path / "base.lmdb"), [entries[number] for number in order], [])
    assert list(tmp_path.iterdir()) == []


def test_a_key_takes_less_than_100_bytes_of_a_base_file(tmp_path: Path) -> None:
    _, size, count = snapshot_base.build(str(tmp_path / "base.lmdb"), many(50_000), [])
    assert size / count < 100


@pytest.mark.parametrize("content", [b"", b"x", b"\x00" * 8192, b"not a database" * 1000])
def test_what_is_no_base_file_cannot_be_opened(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "base.lmdb"
    path.write_bytes(content)
    with pytest.raises(SnapshotError):
        snapshot_base.Base(str(path))
