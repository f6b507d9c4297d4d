"""Reading the audit log: pages for people, the whole chain for its check."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import sqlalchemy as sa

from consumer_keys.audit_chain import Entry
from consumer_keys.model import AuditEntry, timestamp
from consumer_keys.roots import Alive
from consumer_keys.store import dialect
from consumer_keys.store.key_lists import Page
from consumer_keys.store.reads import alive
from consumer_keys.store.schema import audit as a
from consumer_keys.store.schema import deployment


class AuditLog:
    """The audit log in one consistent state."""

    def __init__(self, connection: sa.Connection) -> None:
        self.connection = connection

    def alive(self, default: str) -> Alive:
        """The versions of the root secret that are in force."""
        return alive(self.connection, default)

    def counted(self) -> tuple[int, bytes]:
        """(sequence, hash) of the last row, as the deployment row counts it."""
        row = self.connection.execute(sa.select(deployment.c.audit_sequence, deployment.c.audit_hash)).one()
        return row.audit_sequence, bytes(row.audit_hash)

    def hash_of(self, sequence: int) -> Any:
        """What is stored as the hash of a row, or None without such a row."""
        return self.connection.execute(sa.select(a.c.hash).where(a.c.sequence == sequence)).scalar()

    def rows(self, after_sequence: int | None = None) -> Iterator[tuple[Entry, Any]]:
        """Every row, or every later row, with its stored hash, in ascending order; a few thousand in memory."""
        query = sa.select(a).order_by(a.c.sequence)
        if after_sequence is not None:
            query = query.where(a.c.sequence > after_sequence)
        with dialect.streamed(self.connection, query) as rows:
            for row in rows:
                yield Entry(*(getattr(row, name) for name in Entry._fields)), row.hash

    def page(
        self, gateway_id: str | None, filters: Mapping[str, Any], limit: int, after: tuple[int, str] | None
    ) -> Page:
        """Rows of a gateway, or of the whole deployment, newest first. There is no count: the log only grows."""
        query = sa.select(a)
        if gateway_id is not None:
            query = query.where(a.c.gateway_id == gateway_id)
        for name, value in filters.items():
            bounds = {"from": a.c.at >= value, "to": a.c.at < value} if name in ("from", "to") else {}
            query = query.where(bounds[name] if bounds else a.c[name] == value)
        if after is not None:
            query = query.where(a.c.sequence < after[0])
        rows = self.connection.execute(query.order_by(a.c.sequence.desc()).limit(limit + 1)).mappings().all()
        last = (rows[limit - 1]["sequence"], "") if len(rows) > limit else None
        return Page([_entry(row) for row in rows[:limit]], None, last)


def _entry(row: sa.RowMapping) -> AuditEntry:
    names = ("sequence", "actor", "action", "gateway_id", "target", "request_id", "revision")
    return AuditEntry(
        at=timestamp(row["at"]), hash=bytes(row["hash"]).hex(), before=_state(row["before"]),
        after=_state(row["after"]), **{name: row[name] for name in names},
    )  # fmt: skip


def _state(text: str | None) -> Any:
    return None if text is None else json.loads(text)
