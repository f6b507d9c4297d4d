"""Rotation of the root secret: which values lack their coming digest, and how the coming digest becomes the digest."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import sqlalchemy as sa

from consumer_keys.store.reads import Reads
from consumer_keys.store.schema import consumer_keys as k
from consumer_keys.store.schema import deployment, former_secrets, key_values, metadata, operators

# A value that ended so long ago is refused by every clock, so it needs no digest under the coming version.
ENDED_MS = 60_000


class RootState(NamedTuple):
    """Where a rotation stands. `complete` is the revision at which every value had its coming digest, or 0."""

    version: str | None
    coming: str | None
    generation: int
    complete: int
    published: bool


class BareValue(NamedTuple):
    """A value without a coming digest. `table` key_values: sealed, or the content of a credential."""

    table: str
    digest: bytes
    gateway_id: str
    owner_id: str
    sealed: bytes | None
    credential: tuple[str, str] | None
    ends_at: int | None


class RootRows(Reads):
    """Part of `Change` and `Housekeeping`, which alone may call what writes."""

    def root_state(self) -> RootState:
        """Where the rotation stands. `published`: the bucket has a base that was built since it was complete."""
        row = self.status()
        published = row["published_revision"] >= row["base_floor"] <= row["base_revision"]
        return RootState(
            row["root_version"], row["root_coming"], row["root_generation"], row["root_complete"], published
        )

    def bare_values(self, now_ms: int, after: bytes, limit: int) -> tuple[list[BareValue], bytes | None]:
        """Of the next values of keys behind `after`, by digest, those that lack their coming digest.

        And where to go on, None at the end. Always a walk along the primary key: a planner whose figures are from
        before the rotation takes what every value has for an exception, and would read the whole table for each batch.
        """
        digest, generation = key_values.c.digest, self.root_state().generation
        query = (
            sa.select(key_values, k.c.gateway_id, k.c.credential_name, k.c.credential_version)
            .join(k, k.c.key_id == key_values.c.key_id)
            .where(digest > after)
            .order_by(digest)
            .limit(limit)
        )
        rows = self.connection.execute(query).all()
        bare = [row for row in rows if row.root_generation == generation and row.coming_digest is None]
        alive = [row for row in bare if row.ends_at is None or row.ends_at > now_ms - ENDED_MS]
        return [_bare_value(row) for row in alive], bytes(rows[-1].digest) if rows else None

    def bare_secrets(self, now_ms: int) -> list[BareValue]:
        """Operators' secrets, former ones too, that lack their coming digest."""
        former = (_BARE_FORMER, former_secrets.c.ends_at > now_ms - ENDED_MS)
        queries = {"operators": sa.select(operators).where(operators.c.coming_digest.is_(None))}
        queries["former_secrets"] = sa.select(former_secrets).where(*former)
        return [
            BareValue(table, bytes(row.digest), "", row.secret_id, bytes(row.sealed), None, None)
            for table, query in queries.items()
            for row in self.connection.execute(query)
        ]

    def bare_counts(self, now_ms: int) -> tuple[int, int, int | None]:
        """How many values without an end lack their coming digest, how many with one, and the latest of those ends."""
        ends_at = key_values.c.ends_at
        query = sa.select(sa.func.count(), sa.func.count(ends_at), sa.func.max(ends_at)).where(*self._bare(now_ms))
        total, ending, latest = self.connection.execute(query).one()
        return total - ending, ending, latest

    def _bare(self, now_ms: int) -> tuple[sa.ColumnElement[bool], ...]:
        alive = sa.or_(key_values.c.ends_at.is_(None), key_values.c.ends_at > now_ms - ENDED_MS)
        return *self._unmoved(), key_values.c.coming_digest.is_(None), alive

    def _unmoved(self) -> tuple[sa.ColumnElement[bool], ...]:
        return (key_values.c.root_generation == self.root_state().generation,)

    def complete(self, coming: str, found: Iterable[tuple[BareValue, bytes]]) -> None:
        """Gives values their coming digest, unless they changed or the rotation has gone on meanwhile."""
        if self.root_state().coming != coming:
            return
        self.connection.execute(sa.update(deployment).values(root_complete=0))  # no base is known to hold these
        rows: dict[str, list[dict[str, bytes]]] = {}
        for value, digest in found:
            rows.setdefault(value.table, []).append({"was": value.digest, "coming": digest})
        for name, given in rows.items():
            table = metadata.tables[name]
            bare = (table.c.digest == sa.bindparam("was"), table.c.coming_digest.is_(None))
            # One call for all of them: the lock is held for a third of the time.
            self.connection.execute(sa.update(table).where(*bare).values(coming_digest=sa.bindparam("coming")), given)

    def unmoved_values(self, after: bytes, limit: int) -> tuple[list[bytes], bytes | None]:
        """Of the next values behind `after`, the digests of those whose coming digest is not their digest yet.

        And where to go on, None at the end; a walk as of `bare_values`.
        """
        digest, generation = key_values.c.digest, self.root_state().generation
        query = sa.select(digest, key_values.c.root_generation, key_values.c.coming_digest).where(digest > after)
        rows = self.connection.execute(query.order_by(digest).limit(limit)).all()
        mine = [row for row in rows if row.root_generation == generation and row.coming_digest is not None]
        return [bytes(row.digest) for row in mine], bytes(rows[-1].digest) if rows else None

    def move_values(self, coming: str, digests: list[bytes]) -> int:
        """For these values the coming digest becomes the digest, unless that is done or they are gone; how many.

        A value that was moved is still found by its digests, of which one is now this.
        """
        state, has_coming = self.root_state(), sa.func.length(key_values.c.coming_digest) > 0
        if state.coming != coming:
            return 0
        moved = self.connection.execute(
            # In this order: MySQL assigns from left to right. No `is not null`, for which there is an index: see above.
            sa.update(key_values)
            .where(key_values.c.digest.in_(digests), *self._unmoved(), has_coming)
            .ordered_values(
                (key_values.c.digest, key_values.c.coming_digest), (key_values.c.coming_digest, None),
                (key_values.c.root_generation, state.generation + 1),
            )
        )  # fmt: skip
        return int(moved.rowcount)

    def move_late(self, coming: str, limit: int) -> bool:
        """The same for values that were written behind the last look; False when there are more than `limit`."""
        mine = (*self._unmoved(), key_values.c.coming_digest.is_not(None))
        late = list(self.connection.execute(sa.select(key_values.c.digest).where(*mine).limit(limit + 1)).scalars())
        if late:
            self.move_values(coming, late[:limit])
        return len(late) <= limit

    def move_the_rest(self) -> None:
        """Ended values go, and operators' coming digests become their digests. Everything else was moved before."""
        self.connection.execute(sa.delete(key_values).where(*self._unmoved(), key_values.c.coming_digest.is_(None)))
        self.connection.execute(sa.delete(former_secrets).where(_BARE_FORMER))
        for table in (operators, former_secrets):
            swap = ((table.c.digest, table.c.coming_digest), (table.c.coming_digest, None))
            self.connection.execute(sa.update(table).ordered_values(*swap))


_BARE_FORMER = former_secrets.c.coming_digest.is_(None)


def _bare_value(row: Any) -> BareValue:
    credential = None if row.credential_name is None else (row.credential_name, row.credential_version)
    sealed = None if row.sealed is None else bytes(row.sealed)
    return BareValue("key_values", bytes(row.digest), row.gateway_id, row.key_id, sealed, credential, row.ends_at)
