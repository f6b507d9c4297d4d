"""Sealed values and the data keys that they are sealed under: what the rotation of data keys reads and writes."""

from __future__ import annotations

from typing import Any, NamedTuple

import sqlalchemy as sa

from consumer_keys.store.reads import Reads
from consumer_keys.store.schema import consumer_keys, data_keys, former_secrets, key_values, metadata, operators

# Everything that refers to a data key, whatever tables there will be.
_REFERRING = [
    column
    for table in metadata.tables.values()
    for column in table.c
    if any(key.column is data_keys.c.data_key_id for key in column.foreign_keys)
]


class SealedRow(NamedTuple):
    """One sealed value. `gateway_id` and `owner_id` are the place that it is bound to."""

    table: str
    ref: Any
    gateway_id: str
    owner_id: str
    sealed: bytes
    data_key_id: str


class SealedRows(Reads):
    """Part of `Housekeeping` and `Change`, which alone may call what writes: re-sealing changes no key, so it has no
    revision; what becomes of a data key is audited, in a `Change`.
    """

    def sealed_rows(self, purpose: str, made_before_ms: int, after: SealedRow | None, limit: int) -> list[SealedRow]:
        """Values sealed under data keys of this purpose that were made before a moment, by data key, behind `after`."""
        found: list[SealedRow] = []
        for table, query in _QUERIES.items():
            ref, sealed_under = _REFS[table], metadata.tables[table].c.data_key_id
            rows = query.join(data_keys, data_keys.c.data_key_id == sealed_under).where(
                data_keys.c.purpose == purpose, data_keys.c.created_at < made_before_ms
            )
            if after is not None and after.table == table:
                same = sa.and_(sealed_under == after.data_key_id, ref > after.ref)
                rows = rows.where(sa.or_(sealed_under > after.data_key_id, same))
            elif after is not None and list(_QUERIES).index(table) < list(_QUERIES).index(after.table):
                continue
            rows = rows.order_by(sealed_under, ref).limit(limit - len(found))
            found += [
                SealedRow(table, row.ref, row.gateway_id, row.owner_id, bytes(row.sealed), row.data_key_id)
                for row in self.connection.execute(rows)
            ]
            if len(found) == limit:
                break
        return found

    def replace_sealed(self, row: SealedRow, sealed: bytes, data_key_id: str) -> bool:
        """Puts the same value under another data key; False when it was changed or removed meanwhile.

        What counts are the sealed bytes: another value may well be under the same data key.
        """
        table = metadata.tables[row.table]
        unchanged = (table.c.sealed == row.sealed, table.c.data_key_id == row.data_key_id)
        own = sa.update(table).where(_REFS[row.table] == row.ref, *unchanged)
        return self.connection.execute(own.values(sealed=sealed, data_key_id=data_key_id)).rowcount == 1

    def data_key_rows(self, after_id: str, limit: int) -> list[sa.RowMapping]:
        """Wrapped data keys by id."""
        query = sa.select(data_keys).where(data_keys.c.data_key_id > after_id).order_by(data_keys.c.data_key_id)
        return list(self.connection.execute(query.limit(limit)).mappings())

    def replace_blob(self, data_key_id: str, old: str, new: str, kms_key_id: str) -> bool:
        """The same data key, wrapped anew; False when somebody else has done it."""
        own = sa.update(data_keys).where(data_keys.c.data_key_id == data_key_id, data_keys.c.blob == old)
        return self.connection.execute(own.values(blob=new, kms_key_id=kms_key_id)).rowcount == 1

    def note_used_again(self, purpose: str) -> None:
        """A data key that is referred to again is no longer unused."""
        marked = data_keys.c.purpose == purpose, data_keys.c.unused_since.is_not(None)
        self.connection.execute(sa.update(data_keys).where(*marked, sa.not_(_UNUSED)).values(unused_since=None))

    def retire_data_keys(self, purpose: str, made_before_ms: int, now_ms: int, limit: int) -> list[str]:
        """Marks data keys, made before a moment, that nothing refers to, as unused from now on; their ids."""
        fresh = data_keys.c.unused_since.is_(None), data_keys.c.created_at < made_before_ms
        idents = self._unused(purpose, limit, *fresh)
        own = data_keys.c.data_key_id.in_(idents)
        self.connection.execute(sa.update(data_keys).where(own).values(unused_since=now_ms))
        return idents

    def destroy_data_keys(self, purpose: str, unused_since_ms: int, limit: int) -> list[str]:
        """Removes data keys that nothing has referred to since a moment; their ids.

        The foreign keys refuse to destroy one in use in any case.
        """
        idents = self._unused(purpose, limit, data_keys.c.unused_since <= unused_since_ms)
        self.connection.execute(sa.delete(data_keys).where(data_keys.c.data_key_id.in_(idents)))
        return idents

    def _unused(self, purpose: str, limit: int, *which: sa.ColumnElement[bool]) -> list[str]:
        query = sa.select(data_keys.c.data_key_id).where(data_keys.c.purpose == purpose, *which, _UNUSED)
        return list(self.connection.execute(query.order_by(data_keys.c.data_key_id).limit(limit)).scalars())


_UNUSED = sa.and_(*(~sa.exists().where(column == data_keys.c.data_key_id) for column in _REFERRING))
_REFS: dict[str, sa.Column[Any]] = {
    "key_values": key_values.c.digest, "operators": operators.c.secret_id, "former_secrets": former_secrets.c.digest,
}  # fmt: skip
_QUERIES: dict[str, sa.Select[Any]] = {
    "key_values": sa.select(
        key_values.c.digest.label("ref"), consumer_keys.c.gateway_id, key_values.c.key_id.label("owner_id"),
        key_values.c.sealed, key_values.c.data_key_id,
    ).join(consumer_keys, consumer_keys.c.key_id == key_values.c.key_id),
    "operators": sa.select(
        operators.c.secret_id.label("ref"), sa.literal("").label("gateway_id"),
        operators.c.secret_id.label("owner_id"), operators.c.sealed, operators.c.data_key_id,
    ),
    "former_secrets": sa.select(
        former_secrets.c.digest.label("ref"), sa.literal("").label("gateway_id"),
        former_secrets.c.secret_id.label("owner_id"), former_secrets.c.sealed, former_secrets.c.data_key_id,
    ),
}  # fmt: skip
