"""What clocks, outages, late answers and floods can do to validation: delay a change, and nothing else."""

from __future__ import annotations

import contextlib
import gc
import io
import os
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ckeys.deployment import Deployment
from consumer_keys import validate_wiring
from consumer_keys.errors import Problem, Unavailable
from consumer_keys.keytext import make_system_value
from consumer_keys.snapshot import POINTER, Overlay
from tencent_emulator.pytest_plugin import TestClock
from tests.conftest import Api
from tests.functions.helpers import (
    STRONG,
    database_down,
    objects,
    pointer,
    problem,
    put_object,
)
from tests.safety.fleet import GATEWAY, MAX_AGE, POLL, PREFIX, START, Bucket, Fleet, Instance

HOUR, DAY = 3600.0, 86400.0
WAIT_SECONDS = 30  # how long a thread may take to arrive where it is expected


class World:
    """One key, valid in the base; publications that enable or disable it; a clock per instance."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.fleet, self.version = folder, Fleet(20), 1
        self.bucket = Bucket(folder / "bucket")
        self.key = self.fleet.valid[0]
        self.base = self.bucket.put_base(self.fleet.records, self.fleet.consumers)
        self.publish(enabled=True)
        self._made: list[Instance] = []

    def publish(self, *, enabled: bool, now: float = START, ends_at: int = 0) -> bytes:
        """The next version; only the one key differs."""
        self.version += 1
        record = self.key.record._replace(enabled=enabled, ends_at=ends_at)
        overlay = self.bucket.put_overlay(Overlay({self.key.digest: record}, {}, {}))
        return self.bucket.point(self.version, self.base, overlay, now=now)

    def instance(self, now: float = START, poll: float = POLL) -> Instance:
        """A cold instance whose clock shows `now`."""
        self.bucket.forget_pointer()
        self._made.append(Instance(self.bucket, self.folder / f"cache{len(self._made)}", now=now, poll=poll))
        return self._made[-1]

    def close(self) -> None:
        for made in self._made:
            made.cache.close()

    def outage(self) -> None:
        """From now on the bucket answers nothing."""

        def fail(_name: str) -> None:
            raise Unavailable("SnapshotUnavailable", "cos", "GetObject", "500")

        self.bucket.before = fail

    def recover(self) -> None:
        self.bucket.before = lambda _name: None


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.close()


def code(instance: Instance, world: World) -> str:
    """The verdict on the one key, or the code of the refused request."""
    try:
        return instance.code(world.key.value)
    except Problem as refused:
        return refused.code


# Clocks

TABLE = [  # how far the reader's clock is from the publisher's; cold; warm, while nothing new can be read
    (0, "Valid", "Valid"), (61, "Valid", "Valid"), (-61, "Valid", "Valid"), (300, "Valid", "Valid"),
    (-300, "Valid", "Valid"), (-301, "SnapshotUnavailable", "Valid"), (600, "Valid", "Valid"),
    (-600, "SnapshotUnavailable", "Valid"), (HOUR, "Valid", "Valid"), (-HOUR, "SnapshotUnavailable", "Valid"),
    (HOUR + 1, "SnapshotUnavailable", "SnapshotUnavailable"), (DAY, "SnapshotUnavailable", "SnapshotUnavailable"),
    (-DAY, "SnapshotUnavailable", "Valid"),
]  # fmt: skip


@pytest.mark.parametrize(("skew", "cold", "warm"), TABLE)
def test_a_clock_that_is_wrong_never_turns_a_good_key_into_a_refused_one(
    world: World, skew: float, cold: str, warm: str
) -> None:
    assert code(world.instance(START + skew), world) == cold
    running = world.instance()
    assert code(running, world) == "Valid"
    world.outage()
    running.now += skew
    for _ in range(3):
        assert code(running, world) == warm
    world.recover()
    running.now = START
    world.publish(enabled=True, now=START + max(skew, 0))
    running.now = START + max(skew, 0) + POLL
    assert code(running, world) == "Valid"


@pytest.mark.parametrize("skew", [row[0] for row in TABLE])
def test_a_revocation_is_seen_within_the_interval_whatever_jump_the_clock_makes(world: World, skew: float) -> None:
    running = world.instance()
    assert code(running, world) == "Valid"
    running.now += skew
    world.publish(enabled=False, now=max(START, running.now))
    seen = []
    for _ in range(3):
        running.now += POLL
        seen.append(code(running, world))
    assert seen == ["KeyDisabled"] * 3


@pytest.mark.parametrize("back", [1, 61, 600, HOUR, DAY])
def test_a_value_that_has_ended_stays_ended_when_the_clock_goes_back(world: World, back: float) -> None:
    world.publish(enabled=True, ends_at=int(START) + 100)
    running = world.instance()
    assert code(running, world) == "Valid"
    running.now += 99.999
    assert code(running, world) == "Valid"
    running.now = START + 100
    assert code(running, world) == "KeyEnded"
    running.now -= back
    for _ in range(3):
        assert code(running, world) == "KeyEnded"
        running.now += POLL


def test_a_frozen_clock_bounds_the_looks_and_changes_no_verdict(world: World) -> None:
    running = world.instance()
    for _ in range(1000):
        assert code(running, world) == "Valid"
        assert running.code("nobodys-value") == "UnknownKey"
    assert world.bucket.pointer_reads <= 1 + 10


@pytest.mark.parametrize("asleep", [POLL, 600, HOUR, DAY])
def test_an_instance_that_was_frozen_looks_before_its_first_answer(world: World, asleep: float) -> None:
    running = world.instance()
    assert code(running, world) == "Valid"
    running.now += asleep
    world.publish(enabled=False, now=running.now)
    assert code(running, world) == "KeyDisabled"


@pytest.mark.parametrize("asleep", [HOUR + 1, DAY])
def test_an_instance_that_was_frozen_over_the_limit_and_can_read_nothing_answers_503(
    world: World, asleep: float
) -> None:
    running = world.instance()
    assert code(running, world) == "Valid"
    world.outage()
    running.now += asleep
    assert code(running, world) == "SnapshotUnavailable"


@pytest.mark.parametrize("seed", range(40))
def test_random_clocks_and_outages_never_revive_a_revoked_key_nor_lose_a_good_one(world: World, seed: int) -> None:
    """Whatever the clock does, each verdict is that of one version, and the versions never go back."""
    draw = random.Random(seed)
    running, states, seen = world.instance(), {world.version: "Valid"}, world.version
    assert code(running, world) == "Valid"
    for number in range(300):
        place = f"seed {seed}, number {number}"
        running.now += draw.choice((0, 0.1, 1, POLL, 61, -61, -1, 600, -600))
        if draw.random() < 0.2:
            enabled = draw.random() < 0.5
            world.publish(enabled=enabled, now=max(START, running.cache.now_seconds()))
            states[world.version] = "Valid" if enabled else "KeyDisabled"
        (world.outage if draw.random() < 0.3 else world.recover)()
        try:
            verdict, snapshot = running.validator.judge(GATEWAY, world.key.value.encode())
        except Problem as refused:
            if refused.code != "SnapshotUnavailable":
                raise
            continue
        assert verdict.code == states[snapshot.manifest.version], place
        assert seen <= snapshot.manifest.version <= world.version, place
        seen = snapshot.manifest.version
    assert seen > 20, f"seed {seed}"


# Outages of the cloud, through the whole function


def cold_start() -> None:
    validate_wiring.close()


@pytest.fixture
def make_api(make_deployment: Callable[..., Deployment]) -> Callable[..., Api]:
    def make(**settings: str) -> Api:
        deployment = make_deployment(**settings)
        return Api(deployment, deployment.operator[1])

    return make


@pytest.mark.parametrize("start", ["warm", "cold"])
def test_an_hour_without_database_kms_and_ssm_changes_nothing_and_then_it_is_503(
    make_api: Callable[..., Api], clock: TestClock, start: str
) -> None:
    """A cold instance needs the root secret once; then it goes on as a warm one does."""
    api = make_api(SNAPSHOT_POLL_SECONDS="10")
    key, disabled = api.bound_key(), api.bound_key("disabled", status="Disable")
    assert api.validate(key["value"]).status == 200
    cloud = api.deployment.cloud
    with database_down(api.deployment), cloud.outage("kms"), contextlib.ExitStack() as without_ssm:
        if start == "cold":
            cold_start()
            assert api.validate(key["value"]).status == 200
        without_ssm.enter_context(cloud.outage("ssm"))
        for _ in range(60):
            clock.shift(60)
            assert api.validate(key["value"]).status == 200
            assert api.validate(disabled["value"]).status == 401
            assert api.validate(STRONG).status == 401
        clock.shift(1)
        for value in (key["value"], disabled["value"], STRONG, "", None):
            refused = api("validate_key", "GET", "/validate", token=value)
            problem(refused, 503, "SnapshotUnavailable")
            assert int(refused.headers["Retry-After"]) > 0
    api.tick()
    clock.shift(POLL)
    assert (api.validate(key["value"]).status, api.validate(disabled["value"]).status) == (200, 401)


def test_a_cold_start_without_the_root_secret_is_503_and_never_401(api: Api, clock: TestClock) -> None:
    key = api.bound_key()
    cold_start()
    with api.deployment.cloud.outage("ssm"):
        for value in (key["value"], STRONG, "", "x", None):
            refused = api("validate_key", "GET", "/validate", token=value)
            assert refused.status == 503
            assert int(refused.headers["Retry-After"]) > 0
            clock.shift(2)
    assert (api.validate(key["value"]).status, api.validate(STRONG).status) == (200, 401)


@pytest.mark.parametrize("limit", [60, 600, 3600])
def test_without_cos_every_minute_is_answered_until_the_limit_and_none_after_it(
    make_api: Callable[..., Api], clock: TestClock, limit: int
) -> None:
    api = make_api(SNAPSHOT_POLL_SECONDS="10", SNAPSHOT_MAX_AGE_SECONDS=str(limit))
    key = api.bound_key()
    assert api.validate(key["value"]).status == 200
    with api.deployment.cloud.outage("cos"):
        for _ in range(limit // 10):
            clock.shift(10)
            assert (api.validate(key["value"]).status, api.validate(STRONG).status) == (200, 401)
        for later in (1, 61, 600, HOUR, DAY):
            clock.shift(later)
            for value in (key["value"], STRONG, "x"):
                assert api.validate(value).status == 503
    api.tick()
    clock.shift(POLL)
    assert (api.validate(key["value"]).status, api.validate(STRONG).status) == (200, 401)


@pytest.mark.parametrize("lost", ["pointer", "overlay", "cos"])
def test_a_failed_look_is_never_remembered_as_not_found(
    make_api: Callable[..., Api], clock: TestClock, lost: str
) -> None:
    """A key made while nothing can be read is unknown for just so long."""
    api = make_api(SNAPSHOT_POLL_SECONDS="3600")
    old = api.bound_key("old")
    assert api.validate(old["value"]).status == 200
    new = api.bound_key("new")
    name = {"pointer": POINTER, "overlay": pointer(api.deployment)["overlay"]["name"]}.get(lost)
    with contextlib.ExitStack() as outage:
        if name is None:
            outage.enter_context(api.deployment.cloud.outage("cos"))
        else:
            whole = objects(api.deployment)[f"consumer-keys/{name}"]
            put_object(api.deployment, f"consumer-keys/{name}", b"")
            outage.callback(put_object, api.deployment, f"consumer-keys/{name}", whole)
        for _ in range(20):
            assert (api.validate(new["value"]).status, api.validate(old["value"]).status) == (401, 200)
    clock.shift(1)
    assert (api.validate(new["value"]).status, api.validate(old["value"]).status) == (200, 200)


def test_a_failed_look_of_a_cold_instance_is_never_remembered(world: World) -> None:
    world.outage()
    running = world.instance()
    for _ in range(20):
        assert code(running, world) == "SnapshotUnavailable"
    world.recover()
    running.now += 1
    assert code(running, world) == "Valid"


# Late answers


class Gate:
    """Holds up the thread that reads a name for the first time after `close`, with the bytes already in its hand."""

    def __init__(self, bucket: Bucket, name: str) -> None:
        self.arrived, self.open = threading.Event(), threading.Event()
        self._name, self._used = name, threading.Lock()
        bucket.before = self._before

    def _before(self, name: str) -> None:
        if name == self._name and self._used.acquire(blocking=False):
            self.arrived.set()
            assert self.open.wait(WAIT_SECONDS)


@pytest.mark.parametrize("slow", ["pointer", "overlay"])
def test_a_slow_read_of_an_older_state_cannot_undo_a_revocation_seen_meanwhile(world: World, slow: str) -> None:
    """One thread reads version 3 slowly while version 4 revokes the key; another thread asks all the time."""
    running = world.instance(poll=1e6)
    assert code(running, world) == "Valid"
    world.publish(enabled=True, ends_at=int(START) + 5000)
    gate = Gate(world.bucket, POINTER if slow == "pointer" else running_overlay(world))
    with ThreadPoolExecutor(2) as pool:
        late = pool.submit(running.code, "nobodys-value")
        assert gate.arrived.wait(WAIT_SECONDS)
        world.publish(enabled=False)
        # Whoever needs no look is not held up by the slow one.
        assert code(running, world) == "Valid"
        newer = pool.submit(running.code, "another-value")
        gate.open.set()
        assert late.result(WAIT_SECONDS) == newer.result(WAIT_SECONDS) == "UnknownKey"
    for _ in range(20):
        running.now += 1
        assert code(running, world) == "KeyDisabled"
    assert running.cache.current().manifest.version == world.version


def running_overlay(world: World) -> str:
    """The name of the overlay that the pointer names now."""
    names = [name for name in world.bucket.objects if name.startswith("overlay")]
    return names[-1]


def test_an_old_pointer_that_arrives_after_a_newer_one_changes_nothing(world: World) -> None:
    """A stale cache on the way, or a paused publisher: the old bytes come again after the new ones."""
    old = world.bucket.objects[POINTER]
    running = world.instance()
    assert code(running, world) == "Valid"
    new = world.publish(enabled=False)
    running.now += POLL
    assert code(running, world) == "KeyDisabled"
    draw = random.Random(3)
    for number in range(300):
        world.bucket.objects[POINTER] = draw.choice((old, new, old))
        running.now += draw.choice((0.5, 1, POLL))
        assert code(running, world) == "KeyDisabled", f"seed 3, number {number}"


def test_two_threads_on_one_cache_never_see_a_revoked_key_again(world: World) -> None:
    """The bucket gives old and new pointers in any order; once one thread was told no, no later call says yes."""
    old = world.bucket.objects[POINTER]
    running = world.instance(poll=0)
    assert code(running, world) == "Valid"
    new = world.publish(enabled=False)
    flips, revoked, failures = random.Random(11), threading.Event(), []

    def mix(name: str) -> None:
        if name == POINTER:
            world.bucket.objects[POINTER] = flips.choice((old, new))

    world.bucket.before = mix

    def ask() -> None:
        for _ in range(1500):
            before = revoked.is_set()
            answer = running.code(world.key.value)
            if answer == "KeyDisabled":
                revoked.set()
            elif before:
                failures.append(answer)

    with ThreadPoolExecutor(2) as pool:
        for asked in [pool.submit(ask) for _ in range(2)]:
            asked.result(WAIT_SECONDS)
    assert revoked.is_set()
    assert failures == []


# Floods


def resident_bytes() -> int:
    """The memory of this process that is in use."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def test_300_000_unknown_keys_cost_no_memory_and_few_looks(world: World) -> None:
    running = world.instance(poll=HOUR)
    draw = random.Random(17)
    judge = running.validator.judge
    assert code(running, world) == "Valid"

    def flood(count: int) -> None:
        for number in range(count):
            running.now += 0.001
            value = make_system_value(PREFIX, draw.randbytes) if number % 2 else draw.randbytes(12).hex()
            gateway_id = GATEWAY if number % 3 else f"gateway-{draw.getrandbits(60)}"
            assert judge(gateway_id, value.encode())[0].code == "UnknownKey"

    flood(30_000)
    before, reads, began = resident_bytes(), world.bucket.pointer_reads, running.now
    flood(300_000)
    growth = resident_bytes() - before
    assert growth < 5_000_000, f"{growth} bytes after 300,000 unknown keys"
    assert world.bucket.pointer_reads - reads <= 10 + (running.now - began)
    assert code(running, world) == "Valid"


def test_a_flood_through_the_whole_function_costs_no_memory_and_few_looks(
    make_api: Callable[..., Api], clock: TestClock
) -> None:
    api = make_api(SNAPSHOT_POLL_SECONDS="3600")
    key = api.bound_key()
    assert api.validate(key["value"]).status == 200
    cloud, draw = api.deployment.cloud, random.Random(19)

    class Nowhere(io.TextIOBase):
        def write(self, text: str) -> int:
            return len(text)

    def flood(count: int) -> None:
        for number in range(count):
            clock.shift(0.01)
            event = {
                "httpMethod": "GET", "queryString": {draw.randbytes(4).hex(): "x"}, "body": "",
                "path": f"/v1/gateways/{'default' if number % 2 else draw.randbytes(8).hex()}/validate/{number}",
                "headers": {"x-api-key": draw.randbytes(16).hex(), f"x-{draw.randbytes(4).hex()}": "1"},
            }  # fmt: skip
            assert api.deployment.call("validate_key", event)["statusCode"] == 401

    with contextlib.redirect_stdout(Nowhere()):
        flood(5_000)
        cloud.clear_calls()
        before, began = resident_bytes(), clock.now()
        flood(20_000)
        growth = resident_bytes() - before
    looks = [call for call in cloud.calls if call.service == "cos"]
    assert len(looks) == len(cloud.calls) <= 10 + (clock.now() - began)
    assert growth < 5_000_000, f"{growth} bytes after 20,000 requests"


def test_a_flood_during_an_outage_is_answered_from_the_last_snapshot_with_few_looks(world: World) -> None:
    running = world.instance()
    assert code(running, world) == "Valid"
    world.outage()
    began, reads = running.now, world.bucket.pointer_reads
    for number in range(20_000):
        running.now += 0.01
        assert running.code(f"nobodys-value-{number}") == "UnknownKey"
        if number % 100 == 0:
            assert code(running, world) == "Valid"
    assert world.bucket.pointer_reads - reads <= 10 + (running.now - began) * (1 + 1 / POLL) + 1
    assert running.now - START < MAX_AGE
