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

    def bare_values(self, now_ms: int, after: bytes, limit: int) -> list[BareValue]:
        """Values of keys that lack their coming digest, by digest, behind `after`."""
        query = (
            sa.select(key_values, k.c.gateway_id, k.c.credential_name, k.c.credential_version)
            .join(k, k.c.key_id == key_values.c.key_id)
            .where(*self._bare(now_ms), key_values.c.digest > after)
            .order_by(key_values.c.digest)
            .limit(limit)
        )
        return [_bare_value(row) for row in self.connection.execute(query)]

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
        for value, digest in found:
            table = metadata.tables[value.table]
            bare = (table.c.digest == value.digest, table.c.coming_digest.is_(None))
            self.connection.execute(sa.update(table).where(*bare).values(coming_digest=digest))

    def move_values(self, coming: str, after: bytes, limit: int) -> list[bytes]:
        """For the next values behind `after` the coming digest becomes the digest; the former digests in order.

        A value that was moved is still found by its digests, of which one is now this.
        """
        state = self.root_state()
        if state.coming != coming:
            return []
        mine = (*self._unmoved(), key_values.c.coming_digest.is_not(None))
        order = sa.select(key_values.c.digest).where(*mine, key_values.c.digest > after).order_by(key_values.c.digest)
        digests = [bytes(digest) for digest in self.connection.execute(order.limit(limit)).scalars()]
        if digests:
            self._move(state, *mine, key_values.c.digest.between(digests[0], digests[-1]))
        return digests

    def move_late(self, limit: int) -> bool:
        """The same for values that were written behind the last look; False when there are more than `limit`."""
        mine = (*self._unmoved(), key_values.c.coming_digest.is_not(None))
        late = list(self.connection.execute(sa.select(key_values.c.digest).where(*mine).limit(limit + 1)).scalars())
        if late:
            self._move(self.root_state(), *mine, key_values.c.digest.in_(late[:limit]))
        return len(late) <= limit

    def _move(self, state: RootState, *which: sa.ColumnElement[bool]) -> None:
        self.connection.execute(
            # In this order: MySQL assigns from left to right.
            sa.update(key_values)
            .where(*which)
            .ordered_values(
                (key_values.c.digest, key_values.c.coming_digest), (key_values.c.coming_digest, None),
                (key_values.c.root_generation, state.generation + 1),
            )
        )  # fmt: skip

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
