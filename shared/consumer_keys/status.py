"""Use case of the deployment's status."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from consumer_keys.model import Caller, timestamp

if TYPE_CHECKING:
    from consumer_keys.wiring import Services


def show(app: Services, caller: Caller) -> dict[str, Any]:
    """Gateways of the caller, database and published revision, snapshot version and age, last sync report.

    `undeclared` counts keys of gateways that the settings do not name: they are validated, and nobody can manage them.
    To a caller of some gateways it is empty, and the report names no key: it may be another gateway's.
    """
    row, counts = app.store.read(lambda db: (db.status(), db.keys_by_gateway()))
    now = app.now_ms()
    mine = [
        gateway for gateway in app.settings.gateways if caller.gateways is None or gateway.gateway_id in caller.gateways
    ]
    if caller.gateways is not None:
        counts = {}
    for gateway in app.settings.gateways:
        counts.pop(gateway.gateway_id, None)
    published_at, report = row["published_at"], json.loads(row["sync_report"] or "null")
    if report is not None and caller.gateways is not None:
        del report["quarantined_keys"]
    return {
        "environment": app.settings.environment,
        "gateways": [gateway._asdict() for gateway in mine],
        "undeclared": [{"gateway_id": gateway_id, "keys": count} for gateway_id, count in sorted(counts.items())],
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
