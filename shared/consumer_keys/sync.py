"""The timer: follow the credentials that KMS keys refer to, and publish. One step is one call.

At-least-once, overlapping and late runs are normal, so a run works only from current state and under a lease.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from consumer_keys import audit
from consumer_keys.errors import CloudFailure
from consumer_keys.follow import (
    CLOCK_LEEWAY_MS,
    LEASE,
    QUARANTINE_AFTER,
    QUARANTINE_MS_MAX,
    Credentials,
    Follower,
    Overtaken,
    Pace,
)
from consumer_keys.model import milliseconds, timestamp
from consumer_keys.operators import system_caller
from consumer_keys.publish import LEASE_MS_CHANGE, Outcome, PublicationRefused

if TYPE_CHECKING:
    from consumer_keys.store.publication import Housekeeping
    from consumer_keys.wiring import Services

FUNCTION = "sync_credentials"
# Renewed while the run lives; a run that died holds the next one up for no longer than a tick.
LEASE_MS, LEASE_RENEWED_SECONDS = 60_000, 15.0
BATCH = 500
# Polling takes turns with publishing, so that neither a change whose publication failed nor new content has to wait
# for the last of ten thousand credentials.
SLICE_SECONDS = 45.0
RESERVE_SECONDS = 10.0  # of the function's time: for publishing and the report, when polling is over
WAIT_SECONDS, WAIT_STEP_SECONDS = LEASE_MS_CHANGE / 1000 + 2, 0.5
GAP_MS_MAX = 900_000
LISTED_MAX = 20
_COUNTS = ("polled", "changed", "unchanged", "ending", "failed", "unknown", "ended_values", "ends_corrected")


def run(app: Services, request_id: str, pace: Pace) -> dict[str, Any]:
    """One tick. Returns the report, which is also kept for /v1/status.

    `lease` is "busy" when another run holds it: then this one only publishes, for the other one may be dead. It is
    "lost" when this run outlived it and another one took over.
    """
    started = app.now_ms()
    holder = os.urandom(8).hex()
    token, before = app.store.housekeeping(
        "lease-claim", lambda db: (db.claim_lease(LEASE, holder, started, LEASE_MS), db.status()["sync_report"])
    )
    if token is None:
        published = _publish(lambda: app.publisher.publish(heartbeat=True))
        return {"lease": "busy", "started_at": timestamp(started), **published}
    try:
        return _Run(app, request_id, pace, token, started, None if before is None else json.loads(before)).report()
    finally:
        app.store.housekeeping("lease-release", lambda db: db.release_lease(LEASE, token))


class _Run:
    """One run that holds the lease."""

    def __init__(
        self, app: Services, request_id: str, pace: Pace, token: int, started: int, before: dict[str, Any] | None
    ) -> None:
        self._app, self._pace, self._token, self._started = app, pace, token, started
        finished = (before or {}).get("finished_at")
        last = milliseconds(finished) if finished else None
        self._since_ms = None if last is None else started - last
        # A clock that is behind the last run's cannot say when a value ends; after a gap it may be ahead.
        self._behind = self._since_ms is not None and self._since_ms < -CLOCK_LEEWAY_MS
        lately = self._since_ms is not None and not self._behind and self._since_ms <= GAP_MS_MAX
        self._credentials = Credentials(app, pace)
        self._follower = Follower(
            app, system_caller(FUNCTION, request_id), token, self._credentials, pace.random,
            may_end=not self._behind, may_drop=lately,
        )  # fmt: skip
        self._renew_at = pace.monotonic() + LEASE_RENEWED_SECONDS
        self._polled: set[str] = set()

    def report(self) -> dict[str, Any]:
        """Polls and publishes, and says what happened."""
        published = self._repair()
        try:
            self._follower.tidy(BATCH)
            while self._poll() and not self._credentials.time_is_over():
                published = _publish(lambda: self._app.publisher.publish(heartbeat=True))
            lost = False
        except Overtaken:
            lost = True
        report = self._counts(lost)
        publishing = self._app.now_ms()
        if not lost:
            published = _publish(self._wait_and_publish)
        report |= published | self._clean_up(lost)
        if not lost:
            report |= audit.write_head(self._app)
        finished = self._app.now_ms()
        report |= {
            "finished_at": timestamp(finished), "poll_ms": publishing - self._started,
            "publish_ms": finished - publishing,
        }  # fmt: skip
        self._app.store.housekeeping("sync-report", lambda db: self._save(db, report))
        return report

    def _save(self, db: Housekeeping, report: dict[str, Any]) -> None:
        if db.is_latest(LEASE, self._token):
            db.save_report(report)
            db.forget_requests(self._app.now_ms())

    def _counts(self, lost: bool) -> dict[str, Any]:
        """The report's numbers; every one is present, zero or not."""
        credentials, count = self._credentials, self._follower.count
        (quarantined, listed), deferred = self._app.store.snapshot(
            lambda db: (
                db.failing_keys(QUARANTINE_AFTER, LISTED_MAX),
                db.due_count(self._started, QUARANTINE_MS_MAX),
            )
        )
        return {
            "lease": "lost" if lost else "held", "started_at": timestamp(self._started),
            "seconds_since_last_run": None if self._since_ms is None else round(self._since_ms / 1000, 3),
            "clock": "behind" if self._behind else "ok",
            **{name: count[name] for name in _COUNTS}, "deferred": deferred,
            "errors": dict(self._follower.errors), "quarantined": quarantined, "quarantined_keys": listed,
            "calls": credentials.calls, "retries": credentials.retries, "throttled": credentials.throttled,
        }  # fmt: skip

    def _repair(self) -> dict[str, Any]:
        """A change whose publication failed is published before anything else: SSM may be slow."""
        state = self._app.store.snapshot(lambda db: db.published())
        if state.revision <= state.published_revision:
            return {"published": None, "publish_error": None}
        return _publish(self._app.publisher.publish)

    def _poll(self) -> bool:
        """Looks at due keys, the one seen longest ago first, for one slice. True when there are more."""
        slice_ends_at = self._pace.monotonic() + SLICE_SECONDS
        while True:
            due = self._app.store.snapshot(lambda db: db.due_kms_keys(self._started, QUARANTINE_MS_MAX, BATCH))
            fresh = [key for key in due if key.key_id not in self._polled]
            unchanged: list[str] = []
            over = False
            for key in fresh:
                self._stay()
                over = self._credentials.time_is_over() or self._pace.monotonic() >= slice_ends_at
                settled = None if over else self._follower.one(key)
                over = settled is None
                if over:
                    break
                self._polled.add(key.key_id)
                if settled:
                    unchanged.append(key.key_id)
            self._follower.note_checked(unchanged)
            if over or len(due) < BATCH or not fresh:
                return over

    def _stay(self) -> None:
        """Keeps the lease. Raises Overtaken."""
        if self._pace.monotonic() < self._renew_at:
            return
        self._renew_at = self._pace.monotonic() + LEASE_RENEWED_SECONDS
        if not self._app.store.housekeeping(
            "sync-note", lambda db: db.renew_lease(LEASE, self._token, self._app.now_ms(), LEASE_MS)
        ):
            raise Overtaken

    def _wait_and_publish(self) -> Outcome | None:
        """Also when another publisher is at it, or has died at it: its lease ends before this run's time does."""
        gives_up_at = self._pace.monotonic() + WAIT_SECONDS
        while True:
            outcome = self._app.publisher.publish(heartbeat=True)
            now = self._pace.monotonic()
            if outcome is not None or now >= min(gives_up_at, self._credentials.ends_at):
                return outcome
            self._pace.sleep(WAIT_STEP_SECONDS)

    def _clean_up(self, lost: bool) -> dict[str, Any]:
        if lost:
            return {"cleaned_objects": 0, "clean_up_error": None}
        try:
            return {"cleaned_objects": self._app.publisher.clean_up(), "clean_up_error": None}
        except (CloudFailure, PublicationRefused) as failure:
            reason = failure.code if isinstance(failure, CloudFailure) else str(failure)
            return {"cleaned_objects": 0, "clean_up_error": reason}


def _publish(publish: Callable[[], Outcome | None]) -> dict[str, Any]:
    try:
        outcome = publish()
    except CloudFailure as failure:
        return {"published": None, "publish_error": failure.code}
    except PublicationRefused as refusal:
        return {"published": None, "publish_error": str(refusal)}
    busy = None if outcome is not None else "another publisher is at it"
    return {"published": outcome and outcome._asdict(), "publish_error": busy}
