"""One event is one line of JSON on standard output; fields come from an allow-list.

SCF collects standard output. `logging` is not used: it costs 10 ms of every cold start of validation.
"""

from __future__ import annotations

import json
import sys
import time

from consumer_keys.light_typing import Any

# ASCII escapes keep CR, LF and ANSI codes out of the log.
_encode = json.JSONEncoder(ensure_ascii=True, default=str).encode
FIELDS = frozenset(
    {
        "event", "function", "action", "request_id", "kind", "method", "status", "code", "duration_ms", "gateway_id",
        "key_id", "consumer_id", "operator", "verdict", "snapshot_version", "snapshot_revision",
        "snapshot_age_seconds", "cold", "error", "frames", "detail", "stage", "version", "revision", "report",
        "credential", "attempt", "count", "reason",
    }
)  # fmt: skip


def emit(event: str, **fields: Any) -> None:
    """Writes one line. Raises KeyError for a field outside the list, so that nothing slips into the log."""
    if not FIELDS.issuperset(fields):
        raise KeyError(f"not a log field: {sorted(fields.keys() - FIELDS)}")
    if None in fields.values():
        fields = {name: value for name, value in fields.items() if value is not None}
    line = {"time": round(time.time(), 3), "event": event, **fields}
    # One write call: lines of concurrent threads never mix.
    sys.stdout.write(_encode(line) + "\n")
    sys.stdout.flush()


def emit_exception(event: str, error: BaseException, **fields: Any) -> None:
    """The type and the places of an exception; its text, which may hold a value that somebody sent, only if it is ours.

    An exception class says so by `safe_to_log = True`.
    """
    frames, trace = [], error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        frames.append(f"{code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}:{code.co_name}")
        trace = trace.tb_next
    detail = str(error) if getattr(error, "safe_to_log", False) else None
    emit(event, error=type(error).__name__, detail=detail, frames=frames[-12:], **fields)
