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

    `undeclared` counts keys of gateways that the settings do not name: they are validated, and nobody can manage them.
    A caller of some gateways is told of none, and of no key of another gateway by the report; the report's numbers are
    the deployment's.
    """
    mine = caller.gateways

    def read(db: Reads) -> tuple[Any, Any, dict[str, int]]:
        row = db.status()
        report = json.loads(row["sync_report"] or "null")
        if report is not None and mine is not None:
            report["quarantined_keys"] = db.keys_among(mine, report.get("quarantined_keys", []))
        return row, report, db.keys_by_gateway() if mine is None else {}

    row, report, counts = app.store.read(read)
    now, published_at = app.now_ms(), row["published_at"]
    declared = {gateway.gateway_id: gateway for gateway in app.settings.gateways}
    return {
        "environment": app.settings.environment,
        "gateways": [gateway._asdict() for ident, gateway in declared.items() if mine is None or ident in mine],
        "undeclared": [
            {"gateway_id": ident, "keys": count} for ident, count in sorted(counts.items()) if ident not in declared
        ],
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
