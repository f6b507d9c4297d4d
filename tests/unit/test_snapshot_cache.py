"""Which snapshot answers: with real manifests, overlays and base files, a bucket in memory, a clock driven by hand."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from consumer_keys import snapshot_base
from consumer_keys.errors import Problem, Unavailable
from consumer_keys.snapshot import (
    POINTER,
    ConsumerRecord,
    KeyRecord,
    Manifest,
    Overlay,
    Part,
    SnapshotError,
    encode_overlay,
    part,
    seal_manifest,
    unpack_consumer,
    unpack_key,
)
from consumer_keys.snapshot_base import Base
from consumer_keys.snapshot_cache import RECHECKS_BURST, RETRY_SECONDS, Snapshot, SnapshotCache

KEY, START = b"m" * 32, 1_800_000_000.0
POLL, MAX_AGE = 10.0, 3600.0
DIGEST, CONSUMER = b"\x11" * 32, b"\x22" * 7
RECORD = KeyRecord("secret-00000000000001", "one", True, "consumer-" + "22" * 7, 0)


class Bucket:
    """A `Source` in memory. It counts what is read, and `fault` is raised instead of an answer."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.objects: dict[str, bytes] = {}
        self.reads: list[str] = []
        self.fault: Exception | None = None
        self._etag: bytes | None = None

    def pointer(self, name: str) -> bytes | None:
        data = self._read(name)
        if data == self._etag:
            return None
        self._etag = data
        return data

    def forget_pointer(self) -> None:
        self._etag = None

    def object(self, name: str, size_max: int) -> bytes:
        return self._limited(name, size_max)

    def download(self, name: str, size_max: int, path: str) -> None:
        data = self.objects.get(name, b"")
        Path(path).write_bytes(data[: len(data) // 2])  # what is left if the connection breaks
        Path(path).write_bytes(self._limited(name, size_max))

    def looks(self) -> int:
        """How often the pointer was looked at since the last time."""
        count = self.reads.count(POINTER)
        self.reads.clear()
        return count

    def _limited(self, name: str, size_max: int) -> bytes:
        data = self._read(name)
        if len(data) > size_max:
            raise Unavailable("SnapshotUnavailable", "cos", "GetObject", "TooLarge")
        return data

    def _read(self, name: str) -> bytes:
        self.reads.append(name)
        if self.fault is not None:
            raise self.fault
        if name not in self.objects:
            raise Unavailable("SnapshotUnavailable", "cos", "GetObject", "404")
        return self.objects[name]

    def put_base(self, keys: dict[bytes, KeyRecord]) -> Part:
        """Builds and stores a base file."""
        path = str(self._folder / "new.lmdb")
        sha256, size, count = snapshot_base.build(path, sorted(keys.items()), [(CONSUMER, ConsumerRecord("app", True))])
        named = part("base", ".lmdb", sha256, size, count)
        self.objects[named.name] = Path(path).read_bytes()
        return named

    def put_overlay(self, keys: dict[bytes, KeyRecord | None]) -> Part:
        """Stores an overlay of these keys."""
        data = encode_overlay(Overlay(keys, {}, {}))
        named = part("overlay", ".json", hashlib.sha256(data).hexdigest(), len(data), len(keys))
        self.objects[named.name] = data
        return named

    def point(self, version: int, base: Part, overlay: Part, *, now: float = START, **other: Any) -> None:
        """Writes the pointer."""
        manifest = Manifest("prod", version, version, int(now * 1000), "v1", base, overlay)
        self.objects[POINTER] = seal_manifest(manifest._replace(**other), KEY)


class World:
    """A bucket with version 1 in it (one key, enabled), a clock, and a cache."""

    def __init__(self, folder: Path) -> None:
        self.now, self.folder = START, folder / "cache"
        self.bucket = Bucket(folder)
        self.reports: list[Exception] = []
        self.opened: list[Base] = []
        self.base = self.bucket.put_base({DIGEST: RECORD})
        self.empty = self.bucket.put_overlay({})
        self.bucket.point(1, self.base, self.empty)
        self.cache = self.new_cache()

    def new_cache(self, open_base: Callable[[str], Base] | None = None, poll: float = POLL) -> SnapshotCache:
        """A cold instance."""
        return SnapshotCache(
            self.bucket, open_base or self._open, self.reports.append, manifest_key=KEY, environment="prod",
            folder=str(self.folder), poll_seconds=poll, max_age_seconds=MAX_AGE, clock=lambda: self.now,
        )  # fmt: skip

    def _open(self, path: str) -> Base:
        self.opened.append(Base(path))
        return self.opened[-1]

    def disable(self, version: int, **other: Any) -> None:
        """Publishes the key as disabled."""
        overlay = self.bucket.put_overlay({DIGEST: RECORD._replace(enabled=False)})
        self.bucket.point(version, self.base, overlay, now=self.now, **other)

    def files(self) -> list[str]:
        """What lies in the cache's folder."""
        return [file.name for file in self.folder.iterdir()] if self.folder.exists() else []


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    built = World(tmp_path)
    yield built
    built.cache.close()


def key_in(snapshot: Snapshot, digest: bytes) -> KeyRecord | None:
    packed = snapshot.find(digest)
    return None if packed is None else unpack_key(packed)


def consumer_in(snapshot: Snapshot, ident: bytes) -> ConsumerRecord | None:
    packed = snapshot.find_consumer(ident)
    return None if packed is None else unpack_consumer(packed)


def enabled(snapshot: Snapshot) -> bool:
    record = key_in(snapshot, DIGEST)
    assert record is not None
    return record.enabled


def unavailable(call: Callable[[], Any]) -> None:
    with pytest.raises(Problem) as caught:
        call()
    assert caught.value.code == "SnapshotUnavailable"


def test_the_first_question_loads_the_snapshot_and_leaves_no_file(world: World) -> None:
    snapshot = world.cache.current()
    assert key_in(snapshot, DIGEST) == RECORD
    assert consumer_in(snapshot, CONSUMER) == ConsumerRecord("app", True)
    assert (key_in(snapshot, bytes(32)), consumer_in(snapshot, bytes(7)), snapshot.operator(DIGEST)) == (
        None,
        None,
        None,
    )
    assert world.files() == []
    assert world.reports == []


def test_an_overlay_is_asked_before_the_base_and_can_remove(world: World) -> None:
    other = b"\x33" * 32
    overlay = world.bucket.put_overlay({DIGEST: None, other: RECORD._replace(name="two")})
    world.bucket.point(2, world.base, overlay)
    snapshot = world.cache.current()
    found = key_in(snapshot, other)
    assert key_in(snapshot, DIGEST) is None
    assert found is not None
    assert found.name == "two"


def test_the_pointer_is_looked_at_once_per_poll_interval(world: World) -> None:
    for _ in range(100):
        world.cache.current()
    assert world.bucket.looks() == 1
    world.now += POLL - 0.001
    world.cache.current()
    assert world.bucket.looks() == 0
    world.now += 0.001
    world.cache.current()
    world.cache.current()
    assert world.bucket.looks() == 1


def test_a_disabled_key_is_disabled_after_one_poll_interval(world: World) -> None:
    assert enabled(world.cache.current())
    world.disable(2)
    assert enabled(world.cache.current())
    world.now += POLL
    assert not enabled(world.cache.current())


def test_a_recheck_looks_at_once_ten_times_in_a_row_and_then_once_a_second(world: World) -> None:
    world.cache.current()
    world.bucket.looks()
    for _ in range(50):
        world.cache.recheck()
    assert world.bucket.looks() == RECHECKS_BURST == 10
    for _ in range(5):
        world.now += 1
        for _ in range(10):
            world.cache.recheck()
        assert world.bucket.looks() == 1
    world.now += 0.5
    world.cache.recheck()
    assert world.bucket.looks() == 0
    world.now += 1_000
    for _ in range(50):
        world.cache.recheck()
    assert world.bucket.looks() == RECHECKS_BURST


def test_a_recheck_finds_what_was_published_meanwhile(world: World) -> None:
    world.cache.current()
    world.disable(2)
    assert not enabled(world.cache.recheck())


def test_a_snapshot_that_is_too_old_is_refused_and_the_next_heartbeat_heals_it(world: World) -> None:
    world.cache.current()
    world.now += MAX_AGE
    assert enabled(world.cache.current())
    world.now += 0.001
    unavailable(world.cache.current)
    unavailable(world.cache.recheck)
    world.bucket.point(2, world.base, world.empty, now=world.now)
    world.now += POLL
    assert enabled(world.cache.current())


def test_the_age_counts_from_publication_and_not_from_reading(world: World) -> None:
    world.now += 100
    snapshot = world.cache.current()
    assert world.cache.age_seconds(snapshot) == 100
    world.now = START - 60
    assert world.cache.age_seconds(snapshot) >= 0


def test_an_outage_of_the_bucket_keeps_the_last_good_snapshot(world: World) -> None:
    world.cache.current()
    for fault in (
        Unavailable("SnapshotUnavailable", "cos", "GetObject", "500"), SnapshotError("x"), OSError("disk full"),
    ):  # fmt: skip
        world.bucket.fault = fault
        world.now += POLL
        assert enabled(world.cache.current())
        assert world.reports[-1] is fault
    assert world.bucket.looks() == 1 + 3
    world.bucket.fault = None
    world.disable(2)
    world.now += POLL
    assert not enabled(world.cache.current())


def test_a_late_old_pointer_cannot_undo_a_revocation(world: World) -> None:
    """A publisher that was paused writes its older pointer last; a reader that saw the newer one ignores it."""
    world.cache.current()
    before = world.bucket.objects[POINTER]
    world.disable(2)
    world.now += POLL
    assert not enabled(world.cache.current())
    world.bucket.objects[POINTER] = before
    for _ in range(5):
        world.now += POLL
        assert not enabled(world.cache.current())
        assert not enabled(world.cache.recheck())
    assert "older" in str(world.reports[0])
    world.bucket.point(3, world.base, world.empty, now=world.now)
    world.now += POLL
    assert enabled(world.cache.current())


def test_another_pointer_of_the_same_version_changes_nothing(world: World) -> None:
    world.cache.current()
    world.disable(1)
    world.now += POLL
    assert enabled(world.cache.current())


def corrupt_pointer(world: World) -> None:
    world.bucket.objects[POINTER] = world.bucket.objects[POINTER][:-5] + b"x" * 5


def foreign_pointer(world: World) -> None:
    world.disable(2, environment="test")


def future_pointer(world: World) -> None:
    world.disable(2, created_at_ms=int((world.now + 400) * 1000))


def missing_overlay(world: World) -> None:
    world.bucket.point(2, world.base, part("overlay", ".json", "0" * 64, 10, 0), now=world.now)


def corrupt_overlay(world: World) -> None:
    world.disable(2)
    for name in world.bucket.objects:
        if name.startswith("overlay") and name != world.empty.name:
            world.bucket.objects[name] = world.bucket.objects[name].replace(b"false", b"true ")


def longer_overlay(world: World) -> None:
    world.disable(2)
    for name in world.bucket.objects:
        if name.startswith("overlay"):
            world.bucket.objects[name] += b" "


def overlay_with_a_wrong_count(world: World) -> None:
    world.bucket.point(2, world.base, world.bucket.put_overlay({DIGEST: None})._replace(entries=2), now=world.now)


def corrupt_base(world: World) -> None:
    base = world.bucket.put_base({DIGEST: RECORD._replace(enabled=False)})
    world.bucket.objects[base.name] = world.bucket.objects[base.name][:-1] + b"\x01"
    world.bucket.point(2, base, world.empty, now=world.now)


def short_base(world: World) -> None:
    base = world.bucket.put_base({DIGEST: RECORD._replace(enabled=False)})
    world.bucket.objects[base.name] = world.bucket.objects[base.name][:-4096]
    world.bucket.point(2, base, world.empty, now=world.now)


def missing_base(world: World) -> None:
    base = world.bucket.put_base({DIGEST: RECORD._replace(enabled=False)})
    del world.bucket.objects[base.name]
    world.bucket.point(2, base, world.empty, now=world.now)


def base_with_a_wrong_count(world: World) -> None:
    base = world.bucket.put_base({DIGEST: RECORD._replace(enabled=False)})
    world.bucket.point(2, base._replace(entries=base.entries + 1), world.empty, now=world.now)


def base_that_is_no_database(world: World) -> None:
    data = b"no database at all" * 1000
    named = part("base", ".lmdb", hashlib.sha256(data).hexdigest(), len(data), 2)
    world.bucket.objects[named.name] = data
    world.bucket.point(2, named, world.empty, now=world.now)


def huge_base(world: World) -> None:
    world.bucket.point(2, world.base._replace(name="base-huge", size=1 << 40), world.empty, now=world.now)


def mixed_parts(world: World) -> None:
    """The base of one publication with the hash of another."""
    other = world.bucket.put_base({})
    world.bucket.point(2, other._replace(name=world.base.name), world.empty, now=world.now)


CORRUPTIONS = [
    corrupt_pointer, foreign_pointer, future_pointer, missing_overlay, corrupt_overlay, longer_overlay,
    overlay_with_a_wrong_count, corrupt_base, short_base, missing_base, base_with_a_wrong_count,
    base_that_is_no_database, huge_base, mixed_parts,
]  # fmt: skip


@pytest.mark.parametrize("corrupt", CORRUPTIONS, ids=lambda corrupt: corrupt.__name__)
def test_a_damaged_publication_keeps_the_last_good_one_and_the_next_sound_one_is_taken(
    world: World, corrupt: Callable[[World], None]
) -> None:
    world.cache.current()
    good = dict(world.bucket.objects)
    corrupt(world)
    for _ in range(3):
        world.now += POLL
        snapshot = world.cache.current()
        assert (snapshot.manifest.version, enabled(snapshot)) == (1, True)
        assert consumer_in(snapshot, CONSUMER) is not None
    assert len(world.reports) == 3
    assert world.files() == []
    world.bucket.objects.update(good)
    world.disable(3)
    world.now += POLL
    assert not enabled(world.cache.current())


@pytest.mark.parametrize("corrupt", CORRUPTIONS, ids=lambda corrupt: corrupt.__name__)
def test_a_cold_instance_serves_nothing_from_a_damaged_publication(
    world: World, corrupt: Callable[[World], None]
) -> None:
    good = dict(world.bucket.objects)
    corrupt(world)
    unavailable(world.cache.current)
    assert len(world.reports) == 1
    assert world.files() == []
    world.bucket.objects.update(good)
    world.now += RETRY_SECONDS
    assert enabled(world.cache.current())


def test_a_failed_first_load_is_tried_again_every_second_and_recovers(world: World) -> None:
    world.bucket.fault = Unavailable("SnapshotUnavailable", "cos", "GetObject", "500")
    for _ in range(20):
        unavailable(world.cache.current)
    assert world.bucket.looks() == 1
    world.now += RETRY_SECONDS
    unavailable(world.cache.current)
    assert world.bucket.looks() == 1
    world.bucket.fault = None
    unavailable(world.cache.current)
    world.now += RETRY_SECONDS
    assert enabled(world.cache.current())


def test_a_clock_that_goes_back_stops_neither_looks_nor_ageing(world: World) -> None:
    """A revocation must be seen although the clock is an hour behind where it was."""
    world.cache.current()
    world.now -= 3600
    world.disable(2, created_at_ms=int(START * 1000))
    assert not enabled(world.cache.current())
    assert world.cache.now_seconds() == START
    world.bucket.point(3, world.base, world.empty)
    world.now += POLL
    assert enabled(world.cache.current())
    world.bucket.looks()
    for _ in range(5):
        world.now += POLL
        world.cache.current()
    assert world.bucket.looks() == 5


def test_a_clock_that_goes_back_does_not_stop_rechecks(world: World) -> None:
    world.cache.current()
    for _ in range(20):
        world.cache.recheck()
    world.now -= 3600
    world.cache.recheck()
    world.bucket.looks()
    for _ in range(5):
        world.now += 1
        world.cache.recheck()
    assert world.bucket.looks() == 5


@pytest.mark.parametrize("ahead", [400, MAX_AGE + 1, 86_400, 10 * 365 * 86_400])
def test_a_clock_that_ran_ahead_and_came_back_is_forgotten_with_the_next_heartbeat(world: World, ahead: float) -> None:
    world.cache.current()
    world.now += ahead
    if ahead > MAX_AGE:
        unavailable(world.cache.current)
    world.cache.now_seconds()
    world.now = START + 60
    if ahead > MAX_AGE:
        unavailable(world.cache.current)  # nothing new has been published: the time seen may be right
    world.now += POLL
    world.bucket.point(2, world.base, world.empty, now=START + 60)
    snapshot = world.cache.current()
    assert enabled(snapshot)
    assert world.cache.age_seconds(snapshot) == POLL
    assert world.cache.now_seconds() == world.now


def test_time_seen_is_kept_when_only_the_clock_says_that_it_was_wrong(world: World) -> None:
    """The clock is turned back; the pointers that still come are of the time that was seen before."""
    world.now += 7200
    world.bucket.point(2, world.base, world.empty, now=world.now)
    world.cache.current()
    world.now -= 7200
    for version in (3, 4, 5):
        world.now += POLL
        world.bucket.point(version, world.base, world.empty, now=world.now + 7200)
        world.cache.current()
        assert world.cache.now_seconds() >= START + 7200


def test_time_seen_is_kept_when_an_old_pointer_comes_again_under_a_clock_turned_back(world: World) -> None:
    world.bucket.point(2, world.base, world.empty)
    old = world.bucket.objects[POINTER]
    world.cache.current()
    world.now += 7200
    world.bucket.point(3, world.base, world.empty, now=world.now)
    world.cache.current()
    world.now = START
    world.bucket.objects[POINTER] = old
    for _ in range(3):
        world.now += POLL
        world.cache.current()
        assert world.cache.now_seconds() == START + 7200


def test_a_publisher_whose_clock_is_behind_makes_no_snapshot_older(world: World) -> None:
    """Its content is taken over, and the answer to how old it is counts from the newest date seen."""
    world.cache.current()
    world.disable(2, created_at_ms=int((START - 86_400) * 1000))
    world.now += POLL
    snapshot = world.cache.current()
    assert not enabled(snapshot)
    assert world.cache.age_seconds(snapshot) == POLL
    world.now = START + MAX_AGE + 1
    unavailable(world.cache.current)


def test_the_time_of_judgement_never_goes_back(world: World) -> None:
    world.now = START + 100
    assert world.cache.now_seconds() == START + 100
    world.now = START
    assert world.cache.now_seconds() == START + 100


def test_an_unchanged_base_is_not_read_again_and_an_unchanged_overlay_neither(world: World) -> None:
    first = world.cache.current()
    world.disable(2)
    world.now += POLL
    second = world.cache.current()
    assert second.base is first.base
    overlay_name = second.manifest.overlay.name
    world.disable(3)
    world.now += POLL
    third = world.cache.current()
    assert third.overlay is second.overlay
    assert third.manifest.version == 3
    assert len(world.opened) == 1
    assert [world.bucket.reads.count(name) for name in (world.base.name, overlay_name)] == [1, 1]


def test_a_new_base_takes_over_and_the_old_snapshot_still_answers_who_holds_it(world: World) -> None:
    first = world.cache.current()
    base = world.bucket.put_base({DIGEST: RECORD._replace(enabled=False)})
    world.bucket.point(2, base, world.empty)
    world.now += POLL
    assert not enabled(world.cache.current())
    assert enabled(first)
    assert world.files() == []


def test_a_failure_to_open_the_base_leaves_no_file(world: World) -> None:
    def fail(path: str) -> Base:
        raise SnapshotError("no memory for the mapping")

    unavailable(world.new_cache(fail).current)
    assert world.files() == []


def test_a_closed_cache_can_be_closed_again(world: World) -> None:
    world.cache.current()
    world.cache.close()
    world.cache.close()


def test_one_slow_look_does_not_hold_up_the_others(world: World) -> None:
    """While one thread waits for the bucket, the rest answer from what there is."""
    cache = world.new_cache(poll=0)
    cache.current()
    entered, release = threading.Event(), threading.Event()
    sound = world.bucket.pointer

    def slow(name: str) -> bytes | None:
        entered.set()
        assert release.wait(20)
        return sound(name)

    world.bucket.pointer = slow  # type: ignore[method-assign]
    world.disable(2)
    with ThreadPoolExecutor(1) as pool:
        looking = pool.submit(cache.current)
        assert entered.wait(20)
        started = time.monotonic()
        assert enabled(cache.current())
        assert time.monotonic() - started < 5
        release.set()
        assert not enabled(looking.result(20))
    cache.close()


def test_sixteen_threads_never_go_back_and_never_see_half_a_snapshot(world: World) -> None:
    """In every publication base and overlay agree with the version; a mixture would show."""
    cache = world.new_cache(poll=0)
    other = b"\x44" * 32
    versions = 30
    for version in range(1, versions + 1):
        record = RECORD._replace(name=str(version), ends_at=version)
        base = world.bucket.put_base({DIGEST: record})
        overlay = world.bucket.put_overlay({other: record})
        world.bucket.point(version, base, overlay)
        world.bucket.objects[f"pointer-{version}"] = world.bucket.objects[POINTER]
    world.bucket.objects[POINTER] = world.bucket.objects["pointer-1"]
    failures: list[str] = []
    done = threading.Event()

    def read() -> int:
        highest = rounds = 0
        while not done.is_set() or rounds < 20:
            snapshot = cache.recheck() if rounds % 7 == 0 else cache.current()
            version = snapshot.manifest.version
            for digest in (DIGEST, other):
                record = key_in(snapshot, digest)
                if record is None or record.name != str(version):
                    failures.append(f"{record} in version {version}")
            if version < highest:
                failures.append(f"{version} after {highest}")
            highest, rounds = version, rounds + 1
        return highest

    with ThreadPoolExecutor(16) as pool:
        readers = [pool.submit(read) for _ in range(16)]
        for version in range(2, versions + 1):
            world.bucket.objects[POINTER] = world.bucket.objects[f"pointer-{version}"]
            for _ in range(20):
                cache.current()
        done.set()
        reached = [reader.result(60) for reader in readers]
    assert failures == []
    assert world.reports == []
    assert cache.current().manifest.version == versions
    assert min(reached) >= 1
    assert world.files() == []
    cache.close()
