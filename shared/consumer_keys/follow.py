"""What becomes of KMS keys when the credentials that they refer to are looked at.

*Gone* is a fact and ends a value after the cache time; *unknown* changes nothing: unknown is never gone. Every write
sees that the run's lease is nobody else's yet, so a run that was overtaken changes nothing with what it read long ago.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from consumer_keys.errors import CloudFailure, Gone, Problem, Unavailable
from consumer_keys.keys import credential_fault
from consumer_keys.model import timestamp
from consumer_keys.secret import Secret

if TYPE_CHECKING:
    from consumer_keys.model import Caller
    from consumer_keys.roots import Digests, Roots
    from consumer_keys.store.change import Change
    from consumer_keys.store.publication import Housekeeping, SnapshotReads
    from consumer_keys.store.reads import KmsKey
    from consumer_keys.wiring import Services

_T = TypeVar("_T")
_Value = tuple[str, str, bytes]  # gateway id, key id, digest
LEASE = "sync"
QUARANTINE_AFTER = 5
QUARANTINE_MS_FIRST, QUARANTINE_MS_MAX = 120_000, 600_000
BACKOFF_SECONDS_FIRST, BACKOFF_SECONDS_MAX = 0.2, 20.0
RETRY_SHARE = 0.10
CLOCK_LEEWAY_MS = 60_000


class Overtaken(Exception):  # noqa: N818 - not an error: the other run does the rest
    """The lease ran out and another run has claimed it."""


class Pace(NamedTuple):
    """For how long credentials are polled, the run's steady time and its sleep, and its randomness in [0, 1)."""

    seconds: float
    monotonic: Callable[[], float]
    sleep: Callable[[float], None]
    random: Callable[[], float]


class Credentials:
    """Contents of credentials: each read once per run, through the rate limit, with back-off while SSM is in trouble.

    After failures in a row that may pass (no answer, throttled, 5xx) the whole run slows down, by full jitter, for at
    most a quarter of its time: credentials that fail one after the other must not hold back the rest. A read that
    failed so is repeated at once only while such repetitions are at most a tenth of the calls.
    """

    def __init__(self, app: Services, pace: Pace) -> None:
        self._ssm, self._pace = app.ssm, pace
        self._step = 1 / app.settings.ssm_requests_per_second
        self._seen: dict[tuple[str, str], Secret | CloudFailure] = {}
        self.ends_at = pace.monotonic() + pace.seconds
        self._next_call, self._streak, self._backoff_left = 0.0, 0, pace.seconds / 4
        self.calls = self.retries = self.throttled = 0

    def content(self, key: KmsKey) -> Secret | CloudFailure | None:
        """The content or why there is none; None when the run's time is over."""
        name = (key.name, key.version)
        if name not in self._seen:
            found = self._read(*name)
            if found is None:
                return None
            self._seen[name] = found
        return self._seen[name]

    def time_is_over(self) -> bool:
        """Whether polling must stop."""
        return max(self._pace.monotonic(), self._next_call) >= self.ends_at

    def _read(self, name: str, version: str) -> Secret | CloudFailure | None:
        found = self._call(name, version)
        if isinstance(found, Unavailable) and found.passing and self.retries + 1 <= RETRY_SHARE * self.calls:
            again = self._call(name, version)
            if again is not None:
                self.retries += 1
                found = again
        return found

    def _call(self, name: str, version: str) -> Secret | CloudFailure | None:
        now = self._pace.monotonic()
        at = max(now, self._next_call)
        if at >= self.ends_at:
            return None
        if at > now:
            self._pace.sleep(at - now)
        self._next_call = at + self._step
        self.calls += 1
        try:
            content: Secret = self._ssm.secret_value(name, version, attempts=1)
        except CloudFailure as failure:
            self._note(failure)
            return failure
        self._streak = 0
        return content

    def _note(self, failure: CloudFailure) -> None:
        self.throttled += failure.cloud_code.startswith("RequestLimitExceeded")
        if isinstance(failure, Unavailable) and failure.passing:
            longest = min(BACKOFF_SECONDS_MAX, BACKOFF_SECONDS_FIRST * 2.0 ** min(self._streak, 10))
            self._streak += 1
            wait = min(longest * self._pace.random(), self._backoff_left)
            self._backoff_left -= wait
            self._next_call = max(self._next_call, self._pace.monotonic() + wait)
        else:
            self._streak = 0


class _Move(NamedTuple):
    """A key, and what its credential holds now."""

    key: KmsKey
    content: Secret


class Follower:
    """Handles one key after the other and counts what happened. One that fails never stops the rest."""

    def __init__(
        self, app: Services, caller: Caller, token: int, credentials: Credentials, random: Callable[[], float], *,
        may_end: bool, may_drop: bool,
    ) -> None:  # fmt: skip
        """With `may_end` False no value gets an end, with `may_drop` False none is dropped: the clock may be wrong."""
        self._app, self._caller, self._token, self._credentials = app, caller, token, credentials
        self._random, self._may_end, self._may_drop = random, may_end, may_drop
        self._cache_ms = int(app.settings.credential_cache_seconds * 1000)
        self._not_before = app.now_ms()
        self._roots: Roots | None = None
        self.count: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()

    def one(self, key: KmsKey) -> bool | None:
        """Handles one key: True when nothing about it changed, None when there was no time left for it."""
        content = self._credentials.content(key)
        if content is None:
            return None
        self.count["polled"] += 1
        if isinstance(content, Gone):
            return self._gone(key, content.code)
        if isinstance(content, CloudFailure):
            return self._unknown(key, content.code)
        if credential_fault(content, self._app.settings.key_prefix):
            return self._unknown(key, "CredentialInvalid")
        try:
            return self._current(key, content)
        except Problem as problem:
            # The content is the value of another key of this gateway, or an operator's secret.
            return self._unknown(key, problem.code)

    def note_checked(self, key_ids: list[str]) -> None:
        """Keys whose credential was read and had not changed."""
        if key_ids:
            self._housekeeping(lambda db: db.note_checked(key_ids, self._app.now_ms(), self._next_at()))

    def tidy(self, limit: int) -> None:
        """Drops former contents whose overlap is over, and shortens ends that a clock ahead of ours had set."""
        now = self._app.now_ms()

        def find(db: SnapshotReads) -> tuple[list[_Value], list[_Value]]:
            far = db.values_ending_after(now + self._cache_ms + CLOCK_LEEWAY_MS, limit) if self._may_end else []
            return far, db.ended_values(now, limit) if self._may_drop else []

        def write(db: Change) -> None:
            for gateway_id, key_id, digest in far:
                ends_at = now + self._cache_ms
                db.end_value(digest, ends_at)
                db.audit("key.overlap_end", gateway_id, key_id, None, {"former_content_until": timestamp(ends_at)})
            for gateway_id, key_id, digest in ended:
                db.remove_value(digest)
                db.audit("key.overlap_end", gateway_id, key_id, None, {"former_content": "ended"})

        far, ended = self._app.store.snapshot(find)
        if far or ended:
            self._change(write)
        self.count["ended_values"] += len(ended)
        self.count["ends_corrected"] += len(far)

    def _current(self, key: KmsKey, content: Secret) -> bool:
        if self._roots is None:
            self._roots = self._app.read(self._app.roots)
        # With versions of the root secret that are out of date it looks new, and `_settle` finds that it is not.
        if _settled(key, self._roots.lookup(key.gateway_id, content)):
            self.count["unchanged"] += 1
            if key.error is None and key.failures == 0:
                return True
            self._note(key, sync_error=None, sync_failures=0)  # it could not be read for a while
            return False
        moves = self._moves(key, content)
        taken = self._change(lambda db: self._settle(db, moves))
        self.count["changed"] += taken or 0
        return taken is None

    def _moves(self, key: KmsKey, content: Secret) -> list[_Move]:
        """The key, and every key that must take over its own new content in the same change: they swap contents.

        A content belongs to the key whose credential holds it now. Raises ValueInUse when its present owner is no
        KMS key, still has it, or cannot be asked: then nothing changes.
        """
        moves = [_Move(key, content)]
        while True:
            owner_id, owner = self._owner(moves[-1])
            if owner_id is None or owner_id in [move.key.key_id for move in moves]:
                return moves
            new = None if owner is None else self._credentials.content(owner)
            if owner is None or not isinstance(new, Secret) or credential_fault(new, self._app.settings.key_prefix):
                raise Problem("ValueInUse")
            if new == moves[-1].content:
                raise Problem("ValueInUse")
            moves.append(_Move(owner, new))

    def _owner(self, move: _Move) -> tuple[str | None, KmsKey | None]:
        """The id of the key that accepts this content, and the key if it is a KMS key."""

        def find(db: SnapshotReads) -> tuple[str | None, KmsKey | None]:
            owner_id = db.digest_owner(*self._app.roots(db).lookup(move.key.gateway_id, move.content))
            return owner_id, None if owner_id is None else db.kms_key(owner_id)

        return self._app.keyed(lambda: self._app.store.snapshot(find))

    def _settle(self, db: Change, moves: list[_Move]) -> int | None:
        """Writes what the keys accept now: how many contents are new. None when all of it had been done before."""
        now, taken, roots = self._app.now_ms(), 0, self._app.roots(db)
        if any(db.operator_by_digest(roots.token(move.content).present, now) for move in moves):
            raise Problem("ValueInUse")  # a secret that opens the management must never open the gateway
        # As they are now, under the lock; one may have been deleted meanwhile, or settled together with another.
        found = [(db.kms_key(move.key.key_id), roots.lookup(move.key.gateway_id, move.content)) for move in moves]
        open_ones = [(key, digests) for key, digests in found if key is not None and not _settled(key, digests)]
        before = {key.key_id: db.key(key.gateway_id, key.key_id) for key, _ in open_ones}
        for key, digests in open_ones:
            owner = db.digest_owner(*digests)
            if owner not in (None, *(move.key.key_id for move in moves)):
                raise Problem("ValueInUse")
            if owner is not None and owner != key.key_id:
                db.move_value(digests, key.key_id)
            elif owner is None:
                db.add_value(key.key_id, digests)
            db.complete_value(digests)
            taken += owner != key.key_id or any(key.digests.get(own or b"") is not None for own in digests)
        for key, digests in open_ones:
            for other, ends_at in db.values_of(key.key_id).items():
                if other in digests:
                    db.end_value(other, None)
                elif ends_at is None and self._may_end:
                    db.end_value(other, now + self._cache_ms)
            self._write(db, key, "Success", None, gone_at=None)
            db.audit("key.sync", key.gateway_id, key.key_id, before[key.key_id], db.key(key.gateway_id, key.key_id))
        return taken if open_ones else None

    def _gone(self, key: KmsKey, code: str) -> bool:
        now = self._app.now_ms()
        self.errors[code] += 1
        if not self._may_end:
            self.count["ending"] += 1  # the next run, whose clock goes on from this one's, says until when
            self._note(key, sync_error=code)
            return False
        # A time in the future was taken under a clock that was ahead.
        gone_at = now if key.gone_at is None or key.gone_at > now + CLOCK_LEEWAY_MS else key.gone_at
        ends_at = gone_at + self._cache_ms
        status = "Fail" if now >= ends_at else key.status
        self.count["failed" if status == "Fail" else "ending"] += 1
        if (gone_at, status, code) == (key.gone_at, key.status, key.error):
            self._note(key, sync_failures=0)
            return False

        def end(db: Change) -> None:
            found = db.kms_key(key.key_id)
            if found is None:
                return  # deleted since this run read it
            before = db.key(key.gateway_id, key.key_id)
            for digest, end in found.digests.items():
                if end is None or end > ends_at:
                    db.end_value(digest, ends_at)
            self._write(db, key, status, code, gone_at=gone_at)
            db.audit("key.sync", key.gateway_id, key.key_id, before, db.key(key.gateway_id, key.key_id))

        self._change(end)
        return False

    def _unknown(self, key: KmsKey, code: str) -> bool:
        """Keeps everything; after five failures in a row the next look comes later each time (quarantine)."""
        now, failures = self._app.now_ms(), key.failures + 1
        if key.gone_at is not None and key.status == "Success" and now >= key.gone_at + self._cache_ms:
            return self._gone(key, key.error or code)  # it was seen gone before, and its time is over
        self.count["unknown"] += 1
        self.errors[code] += 1
        # That it is gone is a fact, and stays what is shown until something else is known.
        error = code if key.gone_at is None else key.error
        self._note(key, wait_ms=self._quarantine_ms(failures), sync_error=error, sync_failures=min(failures, 30))
        return False

    def _quarantine_ms(self, failures: int) -> int:
        if failures < QUARANTINE_AFTER:
            return 0
        longest = min(QUARANTINE_MS_MAX, QUARANTINE_MS_FIRST << (failures - QUARANTINE_AFTER))
        return int(longest * (1 + self._random()) / 2)

    def _note(self, key: KmsKey, wait_ms: int = 0, **values: object) -> None:
        at, next_at = self._app.now_ms(), self._next_at() + wait_ms
        self._housekeeping(lambda db: db.note_sync(key.key_id, sync_checked_at=at, sync_next_at=next_at, **values))

    def _write(self, db: Change, key: KmsKey, status: str, error: str | None, *, gone_at: int | None) -> None:
        db.update_key(
            key.key_id, sync_status=status, sync_error=error, sync_failures=0, sync_next_at=self._next_at(),
            sync_checked_at=self._app.now_ms(), gone_at=gone_at,
        )  # fmt: skip

    def _next_at(self) -> int:
        """Due again at once, but not in this run, also when the clock goes back while it works."""
        return max(self._app.now_ms(), self._not_before) + 1

    def _change(self, work: Callable[[Change], _T]) -> _T:
        def latest(db: Change) -> _T:
            if not db.is_latest(LEASE, self._token):
                raise Overtaken
            return work(db)

        return self._app.keyed(lambda: self._app.store.change(self._caller, self._app.now_ms(), latest)[0])

    def _housekeeping(self, work: Callable[[Housekeeping], None]) -> None:
        def latest(db: Housekeeping) -> None:
            if not db.is_latest(LEASE, self._token):
                raise Overtaken
            work(db)

        self._app.store.housekeeping("sync-note", latest)


def _settled(key: KmsKey, digests: Digests) -> bool:
    """Whether the key accepts this content without an end, and no other."""
    lasting = [other for other, ends_at in key.digests.items() if ends_at is None]
    accepted = len(lasting) == 1 and lasting[0] in digests
    return accepted and key.status == "Success" and key.gone_at is None
