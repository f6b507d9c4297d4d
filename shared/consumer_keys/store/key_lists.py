"""Lists of keys, whose cost stays flat as keys grow: every filter has an index or a counter of its own.

A *facet* is what the filters of a list tell apart: gateway, type, generation, creation source, status, bound or not.
Each key names its facet, and each facet counts its keys; `Change` keeps both, in the change's own transaction. So the
total of any combination of these filters is a sum over a few rows, and a page is the newest part of a few sorted lists.
Keyword and consumer have indexes; their matches are counted one by one. See docs/decisions/0011.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import sqlalchemy as sa

from consumer_keys.errors import Problem
from consumer_keys.model import ConsumerRef, Credential, Key, Sync, timestamp
from consumer_keys.store.dialect import contains, materialized
from consumer_keys.store.schema import consumer_keys as k
from consumer_keys.store.schema import consumers as c
from consumer_keys.store.schema import key_facets as f

_FEW = 1000
_COUNTED = ("type", "generation", "creation_source", "status", "bound", "stored_generation")


class Page(NamedTuple):
    """Part of a list: items, the number of all matches if it was counted, and where the next part begins or None."""

    items: list[Any]
    total_count: int | None
    last: tuple[int, str] | None


class KeyLists:
    """Queries for keys as callers see them, inside one transaction; and how any list is cut into pages."""

    def __init__(self, connection: sa.Connection) -> None:
        self.connection = connection

    def key(self, gateway_id: str, key_id: str) -> Key:
        """One key. Raises KeyNotFound, also when it belongs to another gateway."""
        return _key(self.key_row(gateway_id, key_id))

    def key_row(self, gateway_id: str, key_id: str) -> sa.RowMapping:
        """One key's row with its consumer's name."""
        given = {"of_gateway": gateway_id, "of_key": key_id}
        row = self.connection.execute(_KEY, given).mappings().first()
        if row is None:
            raise Problem("KeyNotFound")
        return row

    def keys(
        self, gateway_id: str, filters: Mapping[str, Any], limit: int, offset: int, after: tuple[int, str] | None
    ) -> Page:
        """Keys of a gateway, newest first. A tuple allows each of its values."""
        facets = self.connection.execute(_FACETS, {"of_gateway": gateway_id}).all()
        asked = {name: value for name, value in filters.items() if name in _COUNTED}
        chosen = [row for row in facets if _has(row, asked)]
        total = sum(row.key_count for row in chosen)
        if total == 0:
            return Page([], 0, None)
        ids, every = [row.facet_id for row in chosen], len(chosen) == len(facets)
        if len(asked) < len(filters):
            own = [k.c.gateway_id == gateway_id, *([] if every else [k.c.facet_id.in_(ids)])]
            return self._searched(filters, own, max(_FEW, total // 100), limit, offset, after)
        given: dict[str, Any] = {"window": limit + offset + 1, "count": limit + 1, "offset": offset}
        given |= {"part_0": gateway_id} if every else {f"part_{number}": each for number, each in enumerate(ids)}
        if after is not None:
            given |= {"created": after[0], "last": after[1]}
        query = _newest(k.c.gateway_id if every else k.c.facet_id, 1 if every else len(ids), after is not None)
        rows = self.connection.execute(query, given).mappings().all()
        return _cut(rows, "key_id", limit, total, _keys)

    def _searched(
        self, filters: Mapping[str, Any], own: list[Any], few: int, limit: int, offset: int,
        after: tuple[int, str] | None,
    ) -> Page:  # fmt: skip
        """A page of the keys that match the filters that are no facet's; so few matches are all read, then sorted."""
        if "consumer_id" in filters:
            own.append(k.c.consumer_id == filters["consumer_id"])
        where = list(own)
        if "keyword" in filters:
            where.append(contains(self.connection, k.c.name, filters["keyword"]))
        total = self._count(k, where)
        if total == 0:
            return Page([], 0, None)
        if total > few and "keyword" in filters:  # then the first ones are found soon along the order
            where = [*own, contains(self.connection, k.c.name, filters["keyword"], common=True)]
        if after is not None:
            where += _older(k, k.c.key_id, *after)
        columns: Any = k.c
        query = _KEYS.where(*where)
        if total <= few:
            # PostgreSQL guesses badly how many match, and would look for a handful along the whole order.
            matches = materialized(query)
            query, columns = sa.select(matches), matches.c
        query = query.order_by(columns.created_at.desc(), columns.key_id.desc()).limit(limit + 1).offset(offset)
        return _cut(self.connection.execute(query).mappings().all(), "key_id", limit, total, _keys)

    def _count(self, table: sa.Table, where: list[Any]) -> int:
        query = sa.select(sa.func.count()).select_from(table).where(*where)
        count: int = self.connection.execute(query).scalar_one()
        return count

    def _page(
        self, query: sa.Select[Any], table: sa.Table, ident: sa.Column[str], where: list[Any], limit: int, offset: int,
        after: tuple[int, str] | None, build: Any,
    ) -> Page:  # fmt: skip
        total = self._count(table, where)
        if after is not None:
            query = query.where(*_older(table, ident, *after))
        query = query.order_by(table.c.created_at.desc(), ident.desc()).limit(limit + 1).offset(offset)
        return _cut(self.connection.execute(query).mappings().all(), ident.name, limit, total, build)


def _cut(rows: Sequence[sa.RowMapping], ident: str, limit: int, total: int, build: Any) -> Page:
    """A page of rows of which there is one more than its limit when another page follows."""
    last = (rows[limit - 1]["created_at"], rows[limit - 1][ident]) if len(rows) > limit else None
    return Page(build(rows[:limit]), total, last)


def _older(table: sa.Table, ident: sa.Column[str], created_at: Any, last_id: Any) -> tuple[Any, ...]:
    """What comes after a place in the order. The first condition alone is a range of the index."""
    older = sa.or_(table.c.created_at < created_at, sa.and_(table.c.created_at == created_at, ident < last_id))
    return table.c.created_at <= created_at, older


def _has(facet: Any, asked: Mapping[str, Any]) -> bool:
    """Whether keys of this facet match the filters."""
    for name, value in asked.items():
        if name == "stored_generation":
            # How a key came to be, in one word: a generated key that was made together with its consumer is told apart.
            found = facet.generation if facet.creation_source == "Manual" else facet.creation_source
        else:
            found = getattr(facet, name)
        if found not in value if isinstance(value, tuple) else found != value:
            return False
    return True


_KEYS = sa.select(k, c.c.name.label("consumer_name")).select_from(k.outerjoin(c, k.c.consumer_id == c.c.consumer_id))
_KEY = _KEYS.where(k.c.gateway_id == sa.bindparam("of_gateway"), k.c.key_id == sa.bindparam("of_key"))
_FACETS = sa.select(f).where(f.c.gateway_id == sa.bindparam("of_gateway"), f.c.key_count > 0)
_NEWEST_FIRST = (k.c.created_at.desc(), k.c.key_id.desc())


@cache
def _newest(column: sa.Column[Any], parts: int, after: bool) -> sa.Select[Any]:
    """A page of the keys that have one of so many values in a column, each of which is a range of an index.

    Of each range the newest part is read, and the index alone: MariaDB begins at a cursor's place only then.
    """
    older = _older(k, k.c.key_id, sa.bindparam("created"), sa.bindparam("last")) if after else ()
    window, count, offset = (sa.bindparam(name, type_=sa.Integer) for name in ("window", "count", "offset"))
    ranges = []
    for number in range(parts):
        rows = sa.select(k.c.key_id, k.c.created_at).where(column == sa.bindparam(f"part_{number}"), *older)
        ranges.append(sa.select(rows.order_by(*_NEWEST_FIRST).limit(window).subquery()))
    merged = sa.union_all(*ranges).subquery()
    page = sa.select(merged.c.key_id).order_by(merged.c.created_at.desc(), merged.c.key_id.desc())
    shown = page.limit(count).offset(offset).subquery()
    return _KEYS.where(k.c.key_id == shown.c.key_id).order_by(*_NEWEST_FIRST)


def _keys(rows: Sequence[sa.RowMapping]) -> list[Key]:
    return [_key(row) for row in rows]


def _key(row: sa.RowMapping) -> Key:
    kms = row["generation"] == "KMS"
    return Key(
        credential=Credential(name=row["credential_name"], version=row["credential_version"]) if kms else None,
        consumer=ConsumerRef(consumer_id=row["consumer_id"], name=row["consumer_name"]) if row["consumer_id"] else None,
        sync=Sync(status=row["sync_status"], checked_at=timestamp(row["sync_checked_at"]), error=row["sync_error"])
        if kms
        else None,
        created_at=timestamp(row["created_at"]),
        modified_at=timestamp(row["modified_at"]),
        **{name: row[name] for name in _KEY_COLUMNS},
    )


_KEY_COLUMNS = (
    "key_id", "gateway_id", "name", "description", "type", "generation", "creation_source", "status", "masked_value",
    "revision",
)  # fmt: skip
