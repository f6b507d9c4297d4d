"""Use cases of the audit log: reading it, checking it, and putting its signed head where the database cannot reach."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from consumer_keys.audit_chain import GENESIS, Fault, Head, HeadError, first_fault, open_head, seal_head
from consumer_keys.errors import CloudFailure, Gone, Problem
from consumer_keys.failpoints import reach
from consumer_keys.keytext import is_id
from consumer_keys.model import Caller, ListAudit, timestamp
from consumer_keys.paging import list_page

if TYPE_CHECKING:
    from consumer_keys.store.audit import AuditLog
    from consumer_keys.store.change import Change
    from consumer_keys.wiring import Services

LATEST, HOURS = "head.json", "hours/"
RENEW_MS = 3_600_000


class Verified(NamedTuple):
    """What a check found: how many rows and heads it saw, and the first fault, None if there is none.

    `unknown_heads` were signed under a root secret that is gone; they prove nothing and are no fault.
    """

    rows: int
    heads: int
    unknown_heads: int
    fault: str | None


def find(app: Services, gateway_id: str | None, given: ListAudit) -> dict[str, Any]:
    """A page of rows, newest first: items, next_cursor or null. Without a gateway: of the whole deployment."""
    now_ms = app.now_ms()

    def page(log: AuditLog) -> dict[str, Any]:
        return list_page(
            app.roots(log).cursor_keys, "audit", gateway_id or "", given,
            lambda _gateway, filters, limit, _offset, after: log.page(gateway_id, filters, limit, after), now_ms,
        )  # fmt: skip

    return app.keyed(lambda: app.store.audit_log(page))


def note_denied_reveal(app: Services, actor: str, request_id: str, params: dict[str, str], problem: Problem) -> None:
    """The row of a reveal that a known operator was refused. What cannot be an id may be a value, and is left out."""
    gateway_id, key_id = params["gateway_id"], params["key_id"]
    declared = any(gateway.gateway_id == gateway_id for gateway in app.settings.gateways)

    def note(db: Change) -> None:
        db.audit(
            "key.reveal_denied", gateway_id if declared else "", key_id if is_id("secret", key_id) else "", None,
            {"code": problem.code},
        )  # fmt: skip

    app.store.change(Caller(actor, "", None, "reveal_key", request_id), app.now_ms(), note)


def verify(app: Services) -> Verified:
    """Checks every row and every head of the bucket. Rows without a head to hold them to are a fault as well."""
    heads, unknown, faults = _heads(app)
    counted, fault = app.store.audit_log(
        lambda log: (log.counted(), first_fault(log.rows(), (0, GENESIS), heads, log.counted()))
    )
    if fault is not None:
        faults.insert(0, fault.text)
    if counted[0] and not heads and not faults:
        faults.append(
            "There is no signed head in the bucket, so missing rows at the end would not be seen."
            " The timer's next tick writes one."
        )
    return Verified(counted[0], len(heads), unknown, faults[0] if faults else None)


def _heads(app: Services) -> tuple[list[Head], int, list[str]]:
    heads: list[Head] = []
    unknown, faults = 0, []
    for name in app.bucket.list(app.settings.audit_prefix):
        try:
            head = _open(app, app.bucket.get(name) or b"")
        except HeadError as error:
            faults.append(f"The object {name} {error}.")
            continue
        unknown += head is None
        heads += [] if head is None else [head]
    return heads, unknown, faults


def _open(app: Services, data: bytes) -> Head | None:
    def key_of(version: str) -> bytes | None:
        try:
            return app.root_keys(version).audit_key
        except Gone:
            return None

    return open_head(data, key_of, app.settings.environment)


def write_head(app: Services) -> dict[str, Any]:
    """Signs how far the log has come, when it has moved or an hour has gone by; for the timer's report.

    The rows since the last head are checked first: a head never vouches for rows that do not follow from it. Then
    nothing is written any more until a person has looked, and `audit_error` says why.
    """
    try:
        return _write_head(app)
    except CloudFailure as failure:
        return {"audit_head": None, "audit_error": failure.code}
    except HeadError as error:
        return {"audit_head": None, "audit_error": f"The last signed head {error}."}


def _write_head(app: Services) -> dict[str, Any]:
    name, now_ms = app.settings.audit_prefix + LATEST, app.now_ms()
    data = app.bucket.get(name)
    last = None if data is None else _open(app, data)
    if data is not None and last is None:
        raise HeadError("is signed under another root secret")
    default = app.settings.root_secret_version
    counted, fault, alive = app.store.audit_log(
        lambda log: (log.counted(), _fault_since(log, last, log.counted()), log.alive(default))
    )
    if fault is not None:
        return {"audit_head": None, "audit_error": fault.text}
    moved = counted[0] > (last.sequence if last else 0)
    if moved or (last is not None and now_ms - last.created_at_ms >= RENEW_MS):
        version = alive.newest_first[0]  # the coming one already, so that no head is left that needs the other
        head = Head(app.settings.environment, *counted, now_ms, version)
        sealed = seal_head(head, app.root_keys(version).audit_key)
        # The hour's copy stays, so that putting an old `head.json` back does not make later rows forgettable.
        hour = timestamp(now_ms)[:13]
        for place in (f"{HOURS}{hour}.json", LATEST):
            reach("head.before-write")
            app.bucket.put(app.settings.audit_prefix + place, sealed, "application/json")
            reach("head.after-write")
    return {"audit_head": counted[0], "audit_error": None}


def _fault_since(log: AuditLog, last: Head | None, counted: tuple[int, bytes]) -> Fault | None:
    if last is None:
        return first_fault(log.rows(), (0, GENESIS), [], counted)
    if log.hash_of(last.sequence) != last.hash:
        return Fault(last.sequence, f"Row {last.sequence} is missing, or is not the one that {last} names.")
    return first_fault(log.rows(last.sequence), (last.sequence, last.hash), [], counted)
