"""Which facet a key belongs to, and how many keys each facet has. See `key_lists`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from consumer_keys.store.schema import key_facets as f


def move_key(connection: sa.Connection, before: int | None, key: Mapping[str, Any] | None) -> int | None:
    """Counts a key that leaves the facet `before` and becomes `key`; returns the facet that it is in now.

    None is no facet: of a key that is not there yet, or no longer. The caller holds the lock of all writers.
    """
    after = None if key is None else _facet_id(connection, key)
    if after != before:
        for facet_id, difference in ((before, -1), (after, +1)):
            if facet_id is not None:
                connection.execute(_COUNT, {"of_facet": facet_id, "difference": difference})
    return after


def _facet_id(connection: sa.Connection, key: Mapping[str, Any]) -> int:
    names = ("gateway_id", "type", "generation", "status")
    facet = {name: key[name] for name in names}
    facet |= {"creation_source": key.get("creation_source", "Manual"), "bound": key.get("consumer_id") is not None}
    found: int | None = connection.execute(_FIND, {f"of_{name}": value for name, value in facet.items()}).scalar()
    if found is None:
        found = int(connection.execute(_NEXT).scalar_one())
        connection.execute(sa.insert(f).values(facet_id=found, key_count=0, **facet))
    return found


_IDENTITY = (f.c.gateway_id, f.c.type, f.c.generation, f.c.creation_source, f.c.status, f.c.bound)
_FIND = sa.select(f.c.facet_id).where(*(column == sa.bindparam(f"of_{column.name}") for column in _IDENTITY))
_NEXT = sa.select(sa.func.coalesce(sa.func.max(f.c.facet_id), 0) + 1)
_COUNT = (
    sa.update(f)
    .where(f.c.facet_id == sa.bindparam("of_facet"))
    .values(key_count=f.c.key_count + sa.bindparam("difference"))
)
