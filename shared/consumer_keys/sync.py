"""The timer: follow the credentials that KMS keys refer to, then publish. One step is one call.

At-least-once, overlapping and late runs are normal, so a run works only from current state and under a lease.
*Gone* is a fact and ends a value after the cache time; *unknown* changes nothing: unknown is never gone.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from consumer_keys import audit
from consumer_keys.errors import CloudFailure, Gone, Problem
from consumer_keys.keys import credential_fault
from consumer_keys.keytext import lookup_digest
from consumer_keys.model import timestamp
from consumer_keys.operators import system_caller
from consumer_keys.publish import PublicationRefused

if TYPE_CHECKING:
    from consumer_keys.store.change import Change
    from consumer_keys.store.publication import KmsKey
    from consumer_keys.wiring import Services

LEASE, FUNCTION = "sync", "sync_credentials"
BATCH = 500
BACKOFF_MS_FIRST, BACKOFF_MS_MAX = 60_000, 600_000
QUARANTINE_AFTER = 5


class Pace(NamedTuple):
    """When the run must end (ms), and the time source and sleep of its rate limiter."""

    deadline_ms: int
    monotonic: Callable[[], float]
    sleep: Callable[[float], None]


def run(app: Services, request_id: str, pace: Pace) -> dict[str, Any]:
    """One tick. Returns the report, which is also kept for /v1/status; `lease` is "busy" when another run holds it."""
    started = app.now_ms()
    holder, ttl = os.urandom(8).hex(), max(pace.deadline_ms - started, 1000) + 5000
    token = app.store.housekeeping("lease-claim", lambda db: db.claim_lease(LEASE, holder, started, ttl))
    if token is None:
        return {"lease": "busy", "started_at": timestamp(started)}
    try:
        tick = _Tick(app, request_id, pace)
        tick.poll()
        polled = app.now_ms()
        report: dict[str, Any] = {"lease": "held", "started_at": timestamp(started), **tick.counts()}
        report |= _publish(app)
        report |= audit.write_head(app)
        finished = app.now_ms()
        report |= {
            "finished_at": timestamp(finished), "poll_ms": polled - started, "publish_ms": finished - polled,
        }  # fmt: skip
        app.store.housekeeping("sync-report", lambda db: db.save_report(report))
        return report
    finally:
        app.store.housekeeping("lease-release", lambda db: db.release_lease(LEASE, token))


def _publish(app: Services) -> dict[str, Any]:
    try:
        outcome = app.publisher.publish(heartbeat=True)
        cleaned = app.publisher.clean_up()
    except CloudFailure as failure:
        return {"published": None, "publish_error": failure.code}
    except PublicationRefused as refusal:
        return {"published": None, "publish_error": str(refusal)}
    return {"published": outcome and outcome._asdict(), "publish_error": None, "cleaned_objects": cleaned}


class _Tick:
    """One run over every due credential; one that fails never stops the rest."""

    def __init__(self, app: Services, request_id: str, pace: Pace) -> None:
        self._app, self._pace = app, pace
        self._caller = system_caller(FUNCTION, request_id)
        self._seen: dict[tuple[str, str], bytes | CloudFailure] = {}
        self._next_call = 0.0
        self._count: Counter[str] = Counter()
        self._errors: Counter[str] = Counter()

    def counts(self) -> dict[str, Any]:
        """The report's numbers; every one is present, zero or not."""
        names = ("polled", "changed", "unchanged", "ending", "failed", "unknown", "ended_values", "deferred")
        return {**{name: self._count[name] for name in names}, "errors": dict(self._errors)}

    def poll(self) -> None:
        """Looks at every due key, the one seen longest ago first, until the deadline."""
        self._drop_ended_values()
        started = self._app.now_ms()
        while True:
            due = self._app.store.snapshot(lambda db: db.due_kms_keys(started, BATCH))
            unchanged: list[str] = []
            for position, key in enumerate(due):
                if self._app.now_ms() >= self._pace.deadline_ms:
                    self._count["deferred"] += len(due) - position
                    self._note(unchanged)
                    return
                self._count["polled"] += 1
                if self._one(key):
                    unchanged.append(key.key_id)
            self._note(unchanged)
            if len(due) < BATCH:
                return

    def _note(self, unchanged: list[str]) -> None:
        if unchanged:
            # One millisecond on, so that this run does not see them as due again.
            checked_at = self._app.now_ms() + 1
            self._app.store.housekeeping("sync-note", lambda db: db.note_checked(unchanged, checked_at))

    def _drop_ended_values(self) -> None:
        now = self._app.now_ms()
        ended = self._app.store.snapshot(lambda db: db.ended_values(now, BATCH))

        def drop(change: Change) -> None:
            for gateway_id, key_id, digest in ended:
                change.remove_value(digest)
                change.audit("key.overlap_end", gateway_id, key_id, None)

        if ended:
            self._app.store.change(self._caller, now, drop)
            self._count["ended_values"] += len(ended)

    def _one(self, key: KmsKey) -> bool:
        """Handles one key; True when nothing about it changed."""
        content = self._content(key)
        try:
            if isinstance(content, Gone):
                return self._gone(key, content.code)
            if isinstance(content, CloudFailure):
                return self._unknown(key, content.code)
            if credential_fault(content, self._app.settings.key_prefix):
                return self._unknown(key, "CredentialInvalid")
            return self._current(key, lookup_digest(self._app.root.lookup_key, key.gateway_id, content))
        except Problem as problem:
            if problem.code == "KeyNotFound":  # deleted since this run read it
                return False
            # The content is already the value of another key of this gateway.
            return self._unknown(key, problem.code)

    def _content(self, key: KmsKey) -> bytes | CloudFailure:
        """A credential is read once per run, however many keys refer to it."""
        name = (key.name, key.version)
        if name not in self._seen:
            self._wait()
            try:
                self._seen[name] = self._app.ssm.secret_value(*name, attempts=1)
            except CloudFailure as failure:
                self._seen[name] = failure
        return self._seen[name]

    def _wait(self) -> None:
        now = self._pace.monotonic()
        if now < self._next_call:
            self._pace.sleep(self._next_call - now)
        self._next_call = max(now, self._next_call) + 1 / self._app.settings.ssm_requests_per_second

    def _current(self, key: KmsKey, digest: bytes) -> bool:
        now = self._app.now_ms()
        if key.digests.get(digest, 0) is None and key.status == "Success":
            self._count["unchanged"] += 1
            if key.error is not None:  # it could not be read for a while: only the report has changed
                self._note_sync(key, sync_error=None, sync_failures=0, sync_checked_at=now, sync_next_at=now + 1)
                return False
            return True

        def take_over(db: Change) -> None:
            before = db.key(key.gateway_id, key.key_id)
            for other, ends_at in key.digests.items():
                if other != digest and ends_at is None:
                    db.end_value(other, now + self._cache_ms())
            if digest not in key.digests:
                db.add_value(key.key_id, digest)
            elif key.digests[digest] is not None:
                db.end_value(digest, None)
            self._write(db, key, "Success", None, failures=0, next_at=now + 1, gone_at=None)
            db.audit("key.sync", key.gateway_id, key.key_id, before, db.key(key.gateway_id, key.key_id))

        self._app.store.change(self._caller, now, take_over)
        if key.digests.get(digest, 0) is not None:
            self._count["changed"] += 1
        return False

    def _gone(self, key: KmsKey, code: str) -> bool:
        now = self._app.now_ms()
        gone_at = now if key.gone_at is None else key.gone_at
        ends_at = gone_at + self._cache_ms()
        status = "Fail" if now >= ends_at else key.status
        self._count["failed" if status == "Fail" else "ending"] += 1
        self._errors[code] += 1
        if key.gone_at is not None and (status, code) == (key.status, key.error):
            self._note_sync(key, sync_checked_at=now, sync_next_at=now + 1)
            return False

        def end(db: Change) -> None:
            before = db.key(key.gateway_id, key.key_id)
            for digest, end in key.digests.items():
                if end is None:
                    db.end_value(digest, ends_at)
            self._write(db, key, status, code, failures=0, next_at=now + 1, gone_at=gone_at)
            db.audit("key.sync", key.gateway_id, key.key_id, before, db.key(key.gateway_id, key.key_id))

        self._app.store.change(self._caller, now, end)
        return False

    def _unknown(self, key: KmsKey, code: str) -> bool:
        """Keeps everything; the next look comes later with each failure in a row."""
        now, failures = self._app.now_ms(), key.failures + 1
        if key.gone_at is not None and key.status == "Success" and now >= key.gone_at + self._cache_ms():
            return self._gone(key, key.error or code)  # it was seen gone before, and its time is over
        self._count["unknown"] += 1
        self._errors[code] += 1
        wait = (
            0 if failures < QUARANTINE_AFTER else min(BACKOFF_MS_FIRST << (failures - QUARANTINE_AFTER), BACKOFF_MS_MAX)
        )
        self._note_sync(
            key, sync_error=code, sync_checked_at=now, sync_failures=min(failures, 30), sync_next_at=now + 1 + wait
        )
        return False

    def _note_sync(self, key: KmsKey, **values: Any) -> None:
        self._app.store.housekeeping("sync-note", lambda db: db.note_sync(key.key_id, **values))

    def _write(
        self,
        db: Change,
        key: KmsKey,
        status: str,
        error: str | None,
        *,
        failures: int,
        next_at: int,
        gone_at: int | None,
    ) -> None:
        db.update_key(
            key.key_id, sync_status=status, sync_error=error, sync_failures=failures, sync_next_at=next_at,
            sync_checked_at=self._app.now_ms(), gone_at=gone_at,
        )  # fmt: skip

    def _cache_ms(self) -> int:
        return int(self._app.settings.credential_cache_seconds * 1000)
