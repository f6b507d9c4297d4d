"""Use case of the deployment's status."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from consumer_keys.model import Caller, timestamp

if TYPE_CHECKING:
    from consumer_keys.store.reads import Reads
    from consumer_keys.wiring import Services


def show(app: Services, caller: Caller) -> dict[str, Any]:
    """Gateways of the caller, database and published revision, snapshot version and age, last sync report.

    The report names no key of another gateway than those of the caller; its numbers are the deployment's.
    """

    def read(db: Reads) -> tuple[Any, Any]:
        row = db.status()
        report = None if row["sync_report"] is None else json.loads(row["sync_report"])
        if report is not None and caller.gateways is not None:
            report["quarantined_keys"] = db.keys_among(caller.gateways, report.get("quarantined_keys", []))
        return row, report

    row, report = app.store.read(read)
    now = app.now_ms()
    mine = [
        gateway for gateway in app.settings.gateways if caller.gateways is None or gateway.gateway_id in caller.gateways
    ]
    published_at = row["published_at"]
    return {
        "environment": app.settings.environment,
        "gateways": [gateway._asdict() for gateway in mine],
        "revision": row["revision"],
        "snapshot": {
            "version": row["published_version"],
            "revision": row["published_revision"],
            "published_at": timestamp(published_at) if published_at else None,
            "age_seconds": round((now - published_at) / 1000, 3) if published_at else None,
            "values": row["published_count"],
        },
        "last_sync": report,
    }
