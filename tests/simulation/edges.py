"""The edges of the simulated world: a bucket and a database that misbehave, and the reader's side of the bucket."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from consumer_keys import snapshot_base
from consumer_keys.errors import Unavailable
from consumer_keys.failpoints import Commit
from consumer_keys.model import Caller
from consumer_keys.publish import Publisher
from consumer_keys.snapshot import POINTER
from consumer_keys.snapshot_base import Base
from consumer_keys.snapshot_cache import SnapshotCache
from tests.simulation.oracle import PREFIX, Violation, revision_of
from tests.simulation.scheduler import Task

if TYPE_CHECKING:
    from tests.simulation.world import World

ENVIRONMENT, MANIFEST_KEY = "simulation", b"m" * 32


class Late(NamedTuple):
    """A write that was given up by its sender and is still on its way."""

    key: str
    data: bytes | None


class Bucket:
    """The publisher's bucket: each call may fail before or after its effect, or take effect later."""

    def __init__(self, world: World) -> None:
        self._world = world

    def put(self, key: str, data: bytes, _content_type: str) -> None:
        """Writes."""
        world = self._world
        if key.endswith(POINTER):
            world.oracle.note_pointer(data, world.objects, may_shrink=world.is_operator())
        world.step(f"put {key[-14:]}")
        if world.faults.strike():
            if world.choices.chance("takes effect later", 0.5):
                world.late.append(Late(key, data))
            else:
                world.write(key, data)
            raise Unavailable("DependencyUnavailable", "cos", "PutObject", "AnswerLost")
        world.write(key, data)
        world.step(f"has put {key[-14:]}")

    def get(self, key: str) -> bytes | None:
        """Reads; an object that was overwritten may still be seen as it was."""
        world = self._world
        world.step(f"get {key[-14:]}")
        past = world.past.get(key)
        if world.stale_reads and past and world.choices.chance("stale", 0.2):
            return past[-1]
        return world.objects.get(key)

    def exists(self, key: str) -> bool:
        """Looks."""
        self._world.step(f"head {key[-14:]}")
        return key in self._world.objects

    def delete(self, key: str) -> None:
        """Deletes."""
        world = self._world
        world.step(f"delete {key[-14:]}")
        if world.faults.strike():
            world.objects.pop(key, None)
            raise Unavailable("DependencyUnavailable", "cos", "DeleteObject", "AnswerLost")
        world.objects.pop(key, None)


class Store:
    """The database: each transaction is one step, may fail before it, be undone, or be committed unheard of."""

    def __init__(self, world: World) -> None:
        self._world = world

    def snapshot(self, work: Callable[[Any], Any]) -> Any:
        """A read."""
        self._world.step("read")
        return self._world.store.snapshot(work)

    def audit_log(self, work: Callable[[Any], Any]) -> Any:
        """A read of the audit log."""
        self._world.step("read audit")
        return self._world.store.audit_log(work)

    def housekeeping(self, purpose: Commit, work: Callable[[Any], Any]) -> Any:
        """A short write."""
        return self._write(purpose, work, lambda done: self._world.store.housekeeping(purpose, done))

    def change(self, caller: Caller, now_ms: int, work: Callable[[Any], Any]) -> Any:
        """A change."""
        return self._write("change", work, lambda done: self._world.store.change(caller, now_ms, done))

    def _write(self, purpose: str, work: Callable[[Any], Any], run: Callable[[Callable[[Any], Any]], Any]) -> Any:
        world = self._world
        world.step(f"begin {purpose}")
        changed = False

        def done(db: Any) -> Any:
            nonlocal changed
            connection = db.connection.connection.driver_connection
            before = revision_of(connection)
            result = work(db)
            changed = revision_of(connection) != before
            if world.faults.strike():
                raise Unavailable("DependencyUnavailable", "database", "commit", "Undone")
            return result

        result = run(done)
        if changed:
            world.oracle.note_state()
        if world.faults.strike():
            raise Unavailable("DependencyUnavailable", "database", "commit", "AnswerLost")
        world.step(f"committed {purpose}")
        return result


class Source:
    """The reader's side of the bucket."""

    def __init__(self, world: World) -> None:
        self._world, self._last = world, b""

    def pointer(self, name: str) -> bytes | None:
        """The pointer; None when it is the one read last."""
        data = Bucket(self._world).get(PREFIX + name)
        if data is None:
            raise Unavailable("SnapshotUnavailable", "cos", "GetObject", "404")
        if data == self._last:
            return None
        self._last = data
        return data

    def forget_pointer(self) -> None:
        """Read it anew."""
        self._last = b""

    def object(self, name: str, size_max: int) -> bytes:
        """An object."""
        data = Bucket(self._world).get(PREFIX + name)
        if data is None:
            raise Unavailable("SnapshotUnavailable", "cos", "GetObject", "404")
        return data

    def download(self, name: str, size_max: int, path: str) -> None:
        """An object into a file."""
        Path(path).write_bytes(self.object(name, size_max))


class Reader:
    """A validator that looks at the bucket now and then; it may never go back."""

    def __init__(self, world: World, cache: type[SnapshotCache] = SnapshotCache) -> None:
        self._world = world
        self.cache = cache(
            Source(world), Base, lambda _error: None, manifest_key=MANIFEST_KEY, environment=ENVIRONMENT,
            folder=str(world.folder / "reader"), poll_seconds=0, max_age_seconds=3600,
            clock=lambda: world.now_ms / 1000,
        )  # fmt: skip
        self.version = self.revision = 0

    def age_ms(self) -> int:
        """How old the snapshot is that it holds."""
        snapshot = self.cache._snapshot
        return self._world.now_ms if snapshot is None else self._world.now_ms - snapshot.manifest.created_at_ms

    def look(self) -> None:
        """One look, and whether what it holds now is a whole state, and none before the last one."""
        self.cache.look()
        snapshot = self.cache._snapshot  # also one that is too old to answer
        if snapshot is None:
            return
        manifest = snapshot.manifest
        older = manifest.revision < self.revision
        if manifest.version < self.version or (
            older and not self._world.oracle.is_excused(self.version, manifest.version)
        ):
            raise Violation(f"a reader went from {self.version, self.revision} back to {manifest[1:3]}")
        if manifest.version > self.version:
            self._world.oracle.check(snapshot)
        self.version, self.revision = manifest.version, manifest.revision


def publisher_of(world: World, task: Task | None, kind: type[Publisher] = Publisher) -> Publisher:
    """The publisher of one process, with that process's clock."""
    offset = 0 if task is None else task.clock_offset_ms

    def sleep(seconds: float) -> None:
        world.now_ms += int(seconds * 1000)
        world.step("sleep")

    return kind(
        cast(Any, Store(world)), Bucket(world), snapshot_base.build, prefix=PREFIX, environment=ENVIRONMENT,
        manifest_key=lambda _version: MANIFEST_KEY, root_version="v1",
        now_ms=lambda: world.now_ms + offset, sleep=sleep,
    )  # fmt: skip
