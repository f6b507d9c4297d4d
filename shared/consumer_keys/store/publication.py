"""What the publisher and the timer read and write besides changes: snapshot rows, leases, reports."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from typing import Any, NamedTuple

import sqlalchemy as sa

from consumer_keys.roots import Alive
from consumer_keys.snapshot import ConsumerRecord, KeyRecord, OperatorRecord, Part, id_bytes
from consumer_keys.store import dialect
from consumer_keys.store.reads import KmsKey, split_gateways
from consumer_keys.store.rotation import RootRows
from consumer_keys.store.schema import (
    IDEMPOTENCY_MS,
    SIGNATURE_MS,
    changes,
    deployment,
    former_secrets,
    idempotency,
    key_values,
    leases,
    operators,
    publications,
    signatures,
)
from consumer_keys.store.schema import consumer_groups as g
from consumer_keys.store.schema import consumer_keys as k
from consumer_keys.store.schema import consumers as c
from consumer_keys.store.schema import group_members as m
from consumer_keys.store.sealed import SealedRows

# No lease is longer than the longest run of a function, 15 minutes; clocks of two instances may differ by one.
LEASE_MS_MAX, CLOCK_LEEWAY_MS = 900_000, 60_000
UNRECORDED = -1  # the revision of a publication that was begun and not (yet) recorded


class Published(NamedTuple):
    """What the database knows of the last publication, beside its own state.

    `base_is_old`: only readers of the present version of the root secret may still use what builds upon the base.
    """

    revision: int
    entry_count: int
    published_version: int
    published_revision: int
    published_count: int
    base: Part | None
    base_revision: int
    root_version: str | None
    root_coming: str | None
    root_complete: int
    base_is_old: bool

    def alive(self, default: str) -> Alive:
        """The versions of the root secret that are in force."""
        return Alive(self.root_version or default, self.root_coming)

    def readers(self, default: str) -> tuple[str, ...]:
        """The versions whose readers find every value in a base that is built now."""
        return self.alive(default).newest_first if self.root_complete else (self.root_version or default,)


class SnapshotReads(SealedRows, RootRows):
    """Everything that a snapshot holds, in one consistent state."""

    def published(self) -> Published:
        """The counters."""
        row = self.status()
        base = None if row["base"] is None else Part(**json.loads(row["base"]))
        names = [name for name in Published._fields if name not in ("base", "base_is_old")]
        old = row["base_revision"] < row["base_floor"]
        return Published(base=base, base_is_old=old, **{name: row[name] for name in names})

    def holds_lease(self, name: str, token: int, now_ms: int) -> bool:
        """Whether the lease claimed with this token is still running."""
        expires_at = self.connection.execute(_LEASE_END, {"lease": name, "claimed": token}).scalar()
        return expires_at is not None and expires_at > now_ms

    def change_count(self) -> int:
        """How many entries differ from the base."""
        return self.connection.execute(_CHANGE_COUNT).scalar_one()

    def lasting_count(self) -> int:
        """How many values the keys accept without an end, counted."""
        return self.connection.execute(_LASTING_COUNT).scalar_one()

    def changed_keys(self, after_revision: int) -> dict[bytes, KeyRecord | None]:
        """Changed digests and their records; None for a value that is gone."""
        rows = self.connection.execute(_CHANGED_KEYS, {"after": after_revision})
        found = {bytes(row.ref): None if row.key_id is None else _record(row) for row in rows}
        if self.root_state().coming is not None:
            coming = self.connection.execute(_CHANGED_COMING_KEYS, {"after": after_revision})
            found |= {bytes(row.ref): _record(row) for row in coming}
        return found

    def changed_consumers(self, after_revision: int) -> dict[bytes, ConsumerRecord | None]:
        """Changed consumers; None for one that is gone."""
        changed = self.connection.execute(_CHANGED_CONSUMERS, {"after": after_revision}).scalars()
        refs = [bytes(ref) for ref in changed]
        found: dict[bytes, ConsumerRecord] = {}
        ids = ["consumer-" + ref.hex() for ref in refs]
        for start in range(0, len(ids), 500):
            query = _CONSUMERS.where(c.c.consumer_id.in_(ids[start : start + 500]))
            found |= dict(_consumers(self.connection.execute(query)))
        return {ref: found.get(ref) for ref in refs}

    def all_keys(self) -> Iterator[tuple[bytes, KeyRecord]]:
        """Every digest in ascending order, without holding them all in memory."""
        values = key_values.join(k, k.c.key_id == key_values.c.key_id)
        query: Any = sa.select(key_values.c.digest.label("ref"), *_RECORD).select_from(values)
        if self.root_state().coming is not None:
            coming = sa.select(key_values.c.coming_digest.label("ref"), *_RECORD).select_from(values)
            query = query.union_all(coming.where(key_values.c.coming_digest.is_not(None)))
        query = query.order_by(sa.text("ref"))
        with dialect.streamed(self.connection, query) as rows:
            for row in rows:
                yield bytes(row.ref), _record(row)

    def all_consumers(self) -> Iterator[tuple[bytes, ConsumerRecord]]:
        """Every consumer, by id."""
        with dialect.streamed(self.connection, _CONSUMERS) as rows:
            yield from _consumers(rows)

    def all_operators(self) -> dict[bytes, OperatorRecord]:
        """Every operator who may ask /verify, by the digest of each secret, former ones with their end."""
        rows = [*self.connection.execute(_FORMER_OPERATORS), *self.connection.execute(_OPERATORS)]
        return {
            bytes(digest): OperatorRecord(row.secret_id, row.role, split_gateways(row.gateways), row.ends_at // 1000)
            for row in rows
            for digest in (row.digest, row.coming_digest)
            if digest is not None
        }

    def due_kms_keys(self, now_ms: int, longest_wait_ms: int, limit: int) -> list[KmsKey]:
        """KMS keys whose credential is to be looked at, the one seen longest ago first.

        A time further ahead than the longest wait was noted under a clock that was ahead: such a key is due, and
        counts as never seen.
        """
        seen = sa.case((k.c.sync_checked_at > now_ms + CLOCK_LEEWAY_MS, 0), else_=k.c.sync_checked_at)
        query = sa.select(k).where(*_due(now_ms, longest_wait_ms)).order_by(seen, k.c.key_id).limit(limit)
        rows = self.connection.execute(query).all()
        return [self._kms_key(row) for row in rows]

    def due_count(self, now_ms: int, longest_wait_ms: int) -> int:
        """How many keys `due_kms_keys` would name without its limit."""
        query = sa.select(sa.func.count()).select_from(k).where(*_due(now_ms, longest_wait_ms))
        return self.connection.execute(query).scalar_one()

    def failing_keys(self, failures: int, limit: int) -> tuple[int, list[str]]:
        """How many KMS keys failed at least so many times in a row, and the first ids."""
        failing = (k.c.generation == "KMS", k.c.sync_failures >= failures)
        number = self.connection.execute(sa.select(sa.func.count()).select_from(k).where(*failing)).scalar_one()
        query = sa.select(k.c.key_id).where(*failing).order_by(k.c.key_id).limit(limit)
        return number, list(self.connection.execute(query).scalars())

    def values_ending_after(self, end_ms: int, limit: int) -> list[tuple[str, str, bytes]]:
        """(gateway id, key id, digest) of values of KMS keys whose end lies further ahead."""
        query = (
            sa.select(k.c.gateway_id, k.c.key_id, key_values.c.digest)
            .select_from(key_values.join(k, k.c.key_id == key_values.c.key_id))
            .where(key_values.c.ends_at > end_ms, k.c.generation == "KMS")
            .limit(limit)
        )
        return [(row.gateway_id, row.key_id, bytes(row.digest)) for row in self.connection.execute(query)]

    def ended_values(self, before_ms: int, limit: int) -> list[tuple[str, str, bytes]]:
        """(gateway id, key id, digest) of former contents whose overlap is over while the key accepts another one."""
        other = key_values.alias()
        query = (
            sa.select(k.c.gateway_id, k.c.key_id, key_values.c.digest)
            .select_from(key_values.join(k, k.c.key_id == key_values.c.key_id))
            .where(
                key_values.c.ends_at < before_ms,
                sa.exists().where(other.c.key_id == key_values.c.key_id, other.c.ends_at.is_(None)),
            )
            .limit(limit)
        )
        return [(row.gateway_id, row.key_id, bytes(row.digest)) for row in self.connection.execute(query)]

    def overlay_of(self, version: int) -> str | None:
        """The overlay's name of a recorded publication."""
        return self.connection.execute(
            sa.select(publications.c.overlay).where(publications.c.version == version)
        ).scalar()

    def old_publications(self, before_ms: int, keep: int, limit: int) -> list[sa.RowMapping]:
        """Publications, failed ones too, made before this time and before the newest `keep` that succeeded."""
        given = {"before_ms": before_ms, "kept": keep - 1, "most": limit}
        return list(self.connection.execute(_OLD_PUBLICATIONS, given).mappings().all())

    def objects_only_of(self, versions: list[int]) -> set[str]:
        """Names of objects that these publications and no others name."""
        old = publications.c.version.in_(versions)
        columns = (publications.c.base, publications.c.overlay)
        found: set[str] = set()
        for column in columns:
            named = set(self.connection.execute(sa.select(column).where(old)).scalars())
            kept = sa.select(column).where(column.in_(named), sa.not_(old))
            found |= named - set(self.connection.execute(kept).scalars())
        return found


class Housekeeping(SnapshotReads):
    """Writes that are no changes: they have no revision and no audit row."""

    def claim_lease(
        self, name: str, holder: str, now_ms: int, ttl_ms: int, longest_ms: int = LEASE_MS_MAX
    ) -> int | None:
        """The lease's token when it was free or over, else None. One holder at a time, tokens only grow.

        A lease that would last longer than `longest_ms` and a minute from now was taken under a clock that was
        ahead; nobody waits for that.
        """
        claimed = self.connection.execute(
            _CLAIM,
            {
                "lease": name, "claimant": holder, "now_ms": now_ms, "end_ms": now_ms + ttl_ms,
                "implausible_ms": now_ms + longest_ms + CLOCK_LEEWAY_MS,
            },
        )  # fmt: skip
        return self.latest_token(name) if claimed.rowcount == 1 else None

    def renew_lease(self, name: str, token: int, now_ms: int, ttl_ms: int) -> bool:
        """Prolongs a lease; False when somebody else has claimed it since."""
        self.connection.execute(_OWN_LEASE, {"lease": name, "claimed": token, "expires_at": now_ms + ttl_ms})
        return self.is_latest(name, token)

    def release_lease(self, name: str, token: int) -> None:
        """Gives a lease back; one that somebody else holds by now is left alone."""
        self.connection.execute(_OWN_LEASE, {"lease": name, "claimed": token, "expires_at": 0})

    def raise_revision(self, revision: int) -> None:
        """Lifts the counter of a restored database above what was published before."""
        self.connection.execute(sa.update(deployment).where(deployment.c.revision < revision).values(revision=revision))

    def reserve_publication(
        self, lease: str, token: int, floor: int, base: str, overlay: str, now_ms: int
    ) -> int | None:
        """A version that nobody has had, above `floor`; None when the lease is somebody else's by now."""
        if not self.is_latest(lease, token):
            return None
        newest, published = self.connection.execute(_NEWEST_VERSIONS).one()
        version: int = max(newest or 0, published, floor) + 1
        row = {"version": version, "revision": UNRECORDED, "created_at": now_ms, "base": base, "overlay": overlay}
        self.connection.execute(_NEW_PUBLICATION, row)
        return version

    def record_publication(
        self, lease: str, token: int, version: int, revision: int, *, count: int, drift: int, base: Part,
        base_revision: int, now_ms: int,
    ) -> bool:  # fmt: skip
        """What was published under a reserved version. Changes that the base holds are forgotten.

        Not done, and False, when the lease is somebody else's by now: that one relies on the changes.
        """
        if not self.is_latest(lease, token):
            return False
        if self.published().published_version == version:
            return True  # it was committed, but the answer was lost
        self.connection.execute(
            _PUBLISHED,
            {
                "published_version": version, "published_revision": revision, "published_at": now_ms,
                "published_count": count, "base": json.dumps(base._asdict()), "base_revision": base_revision,
                "drift": drift,
            },
        )  # fmt: skip
        self.connection.execute(_RECORDED, {"of_version": version, "revision": revision})
        self.connection.execute(_FORGET_CHANGES, {"up_to": base_revision})
        return True

    def forget_publications(self, versions: list[int]) -> None:
        """Removes rows of publications whose objects have been deleted."""
        self.connection.execute(sa.delete(publications).where(publications.c.version.in_(versions)))

    def note_checked(self, key_ids: list[str], now_ms: int, next_ms: int) -> None:
        """Credentials that were read and had not changed."""
        for start in range(0, len(key_ids), 500):
            chunk = k.c.key_id.in_(key_ids[start : start + 500])
            self.connection.execute(sa.update(k).where(chunk).values(sync_checked_at=now_ms, sync_next_at=next_ms))

    def note_sync(self, key_id: str, **values: Any) -> None:
        """What the timer saw of one credential, when that changes nothing for callers."""
        self.connection.execute(sa.update(k).where(k.c.key_id == key_id).values(**values))

    def forget_requests(self, now_ms: int) -> None:
        """Removes what is kept of requests that can no longer be repeated."""
        self.connection.execute(sa.delete(idempotency).where(idempotency.c.created_at < now_ms - IDEMPOTENCY_MS))
        self.connection.execute(sa.delete(signatures).where(signatures.c.seen_at < now_ms - SIGNATURE_MS))

    def save_report(self, report: Mapping[str, Any]) -> None:
        """The timer's last report."""
        self.connection.execute(sa.update(deployment).values(sync_report=json.dumps(report)))


def _due(now_ms: int, longest_wait_ms: int) -> tuple[sa.ColumnElement[bool], ...]:
    far = k.c.sync_next_at > now_ms + longest_wait_ms + CLOCK_LEEWAY_MS
    return k.c.generation == "KMS", sa.or_(k.c.sync_next_at <= now_ms, far)


_OPERATORS = sa.select(operators, sa.literal(0).label("ends_at")).where(operators.c.status == "Enable")
_FORMER_OPERATORS = (
    sa.select(former_secrets.c.digest, former_secrets.c.coming_digest, former_secrets.c.ends_at)
    .add_columns(operators.c.secret_id, operators.c.role, operators.c.gateways)
    .join(operators, operators.c.secret_id == former_secrets.c.secret_id)
    .where(operators.c.status == "Enable")
)
_RECORD = (k.c.key_id, k.c.name, k.c.status, k.c.consumer_id, key_values.c.ends_at)


# Statements of every publication. SQLAlchemy works out a statement's cache key once for a statement that is kept.
_of_lease, _claimed = leases.c.name == sa.bindparam("lease"), leases.c.token == sa.bindparam("claimed")
_LEASE_END = sa.select(leases.c.expires_at).where(_of_lease, _claimed)
_OWN_LEASE = sa.update(leases).where(_of_lease, _claimed)
_CLAIM = (
    sa.update(leases)
    .where(
        _of_lease,
        sa.or_(
            leases.c.expires_at <= sa.bindparam("now_ms"),
            leases.c.holder == sa.bindparam("claimant"),
            leases.c.expires_at > sa.bindparam("implausible_ms"),
        ),
    )
    .values(holder=sa.bindparam("claimant"), expires_at=sa.bindparam("end_ms"), token=leases.c.token + 1)
)
_CHANGE_COUNT = sa.select(sa.func.count()).select_from(changes)
_LASTING_COUNT = sa.select(sa.func.count()).select_from(key_values).where(key_values.c.ends_at.is_(None))
_later = changes.c.revision > sa.bindparam("after")
_CHANGED_CONSUMERS = sa.select(changes.c.ref).where(changes.c.kind == "consumer", _later)
_CHANGED_KEYS = (
    sa.select(changes.c.ref, *_RECORD)
    .select_from(
        changes.outerjoin(key_values, key_values.c.digest == changes.c.ref).outerjoin(
            k, k.c.key_id == key_values.c.key_id
        )
    )
    .where(changes.c.kind == "value", _later)
)
_CHANGED_COMING_KEYS = (
    sa.select(changes.c.ref, *_RECORD)
    .select_from(
        changes.join(key_values, key_values.c.coming_digest == changes.c.ref).join(k, k.c.key_id == key_values.c.key_id)
    )
    .where(changes.c.kind == "value", _later)
)
_NEWEST_VERSIONS = sa.select(
    sa.select(sa.func.max(publications.c.version)).scalar_subquery(), deployment.c.published_version
)
_NEW_PUBLICATION = sa.insert(publications)
_RECORDED = sa.update(publications).where(publications.c.version == sa.bindparam("of_version"))
_OLD_PUBLICATIONS = (
    sa.select(publications)
    .where(
        publications.c.created_at < sa.bindparam("before_ms"),
        publications.c.version
        < sa.select(publications.c.version)
        .where(publications.c.revision != UNRECORDED)
        .order_by(publications.c.version.desc())
        .offset(sa.bindparam("kept"))
        .limit(1)
        .scalar_subquery(),
    )
    .order_by(publications.c.version)
    .limit(sa.bindparam("most"))
)
_PUBLISHED = sa.update(deployment).values(entry_count=deployment.c.entry_count + sa.bindparam("drift"))
_FORGET_CHANGES = sa.delete(changes).where(changes.c.revision <= sa.bindparam("up_to"))


def _record(row: Any) -> KeyRecord:
    # Rounded down: a value is never accepted longer than it should be.
    ends_at = 0 if row.ends_at is None else max(1, row.ends_at // 1000)
    return KeyRecord(row.key_id, row.name, row.status == "Enable", row.consumer_id, ends_at)


# A row per consumer and group of it, or one without a group.
_CONSUMERS = (
    sa.select(c.c.consumer_id, c.c.name, c.c.status, g.c.name.label("group"), g.c.status.label("group_status"))
    .select_from(c.outerjoin(m, m.c.consumer_id == c.c.consumer_id).outerjoin(g, g.c.group_id == m.c.group_id))
    .order_by(c.c.consumer_id)
)


def _consumers(rows: Iterable[Any]) -> Iterator[tuple[bytes, ConsumerRecord]]:
    for consumer_id, of_one in groupby(rows, key=lambda row: row.consumer_id):
        lines = list(of_one)
        groups = tuple(sorted(line.group for line in lines if line.group is not None))
        stopped = any(line.group_status == "Disable" for line in lines)
        yield id_bytes(consumer_id), ConsumerRecord(lines[0].name, lines[0].status == "Enable", groups, stopped)
