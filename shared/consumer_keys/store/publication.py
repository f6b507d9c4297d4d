"""What the publisher and the timer read and write besides changes: snapshot rows, leases, reports."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import sqlalchemy as sa

from consumer_keys.snapshot import ConsumerRecord, KeyRecord, OperatorRecord, Part, id_bytes
from consumer_keys.store.reads import Reads, split_gateways
from consumer_keys.store.schema import changes, deployment, former_secrets, key_values, leases, operators, publications
from consumer_keys.store.schema import consumer_keys as k
from consumer_keys.store.schema import consumers as c

_FETCH_ROWS = 2000


class Published(NamedTuple):
    """What the database knows of the last publication, beside its own state."""

    revision: int
    entry_count: int
    published_version: int
    published_revision: int
    published_count: int
    base: Part | None
    base_revision: int


class KmsKey(NamedTuple):
    """A KMS key as the timer needs it. `digests` maps each accepted digest to its end (ms) or None."""

    key_id: str
    gateway_id: str
    name: str
    version: str
    status: str
    error: str | None
    failures: int
    gone_at: int | None
    digests: dict[bytes, int | None]


class SnapshotReads(Reads):
    """Everything that a snapshot holds, in one consistent state."""

    def published(self) -> Published:
        """The counters."""
        row = self.status()
        base = None if row["base"] is None else Part(**json.loads(row["base"]))
        names = [name for name in Published._fields if name != "base"]
        return Published(base=base, **{name: row[name] for name in names})

    def holds_lease(self, name: str, token: int, now_ms: int) -> bool:
        """Whether the lease claimed with this token is still running."""
        query = sa.select(leases.c.expires_at).where(leases.c.name == name, leases.c.token == token)
        expires_at = self.connection.execute(query).scalar()
        return expires_at is not None and expires_at > now_ms

    def change_count(self) -> int:
        """How many entries differ from the base."""
        return self.connection.execute(sa.select(sa.func.count()).select_from(changes)).scalar_one()

    def value_count(self) -> int:
        """How many values the keys accept, counted."""
        return self.connection.execute(sa.select(sa.func.count()).select_from(key_values)).scalar_one()

    def changed_keys(self, after_revision: int) -> dict[bytes, KeyRecord | None]:
        """Changed digests and their records; None for a value that is gone."""
        query = (
            sa.select(changes.c.ref, *_RECORD)
            .select_from(
                changes.outerjoin(key_values, key_values.c.digest == changes.c.ref).outerjoin(
                    k, k.c.key_id == key_values.c.key_id
                )
            )
            .where(changes.c.kind == "value", changes.c.revision > after_revision)
        )
        rows = self.connection.execute(query)
        return {bytes(row.ref): None if row.key_id is None else _record(row) for row in rows}

    def changed_consumers(self, after_revision: int) -> dict[bytes, ConsumerRecord | None]:
        """Changed consumers; None for one that is gone."""
        query = sa.select(changes.c.ref).where(changes.c.kind == "consumer", changes.c.revision > after_revision)
        refs = [bytes(ref) for ref in self.connection.execute(query).scalars()]
        found: dict[bytes, ConsumerRecord] = {}
        ids = ["consumer-" + ref.hex() for ref in refs]
        for start in range(0, len(ids), 500):
            query = sa.select(c.c.consumer_id, c.c.name, c.c.status).where(
                c.c.consumer_id.in_(ids[start : start + 500])
            )
            found |= {id_bytes(row.consumer_id): _consumer(row) for row in self.connection.execute(query)}
        return {ref: found.get(ref) for ref in refs}

    def all_keys(self) -> Iterator[tuple[bytes, KeyRecord]]:
        """Every digest in ascending order, without holding them all in memory."""
        query = (
            sa.select(key_values.c.digest.label("ref"), *_RECORD)
            .select_from(key_values.join(k, k.c.key_id == key_values.c.key_id))
            .order_by(key_values.c.digest)
        )
        for row in self.connection.execution_options(yield_per=_FETCH_ROWS).execute(query):
            yield bytes(row.ref), _record(row)

    def all_consumers(self) -> Iterator[tuple[bytes, ConsumerRecord]]:
        """Every consumer, by id."""
        query = sa.select(c.c.consumer_id, c.c.name, c.c.status).order_by(c.c.consumer_id)
        for row in self.connection.execution_options(yield_per=_FETCH_ROWS).execute(query):
            yield id_bytes(row.consumer_id), _consumer(row)

    def all_operators(self) -> dict[bytes, OperatorRecord]:
        """Every operator who may ask /verify, by the digest of each secret, former ones with their end."""
        enabled = operators.c.status == "Enable"
        former = (
            sa.select(former_secrets.c.digest, former_secrets.c.ends_at, operators.c.role, operators.c.gateways)
            .add_columns(operators.c.secret_id)
            .join(operators, operators.c.secret_id == former_secrets.c.secret_id)
            .where(enabled)
        )
        present = sa.select(operators, sa.literal(0).label("ends_at")).where(enabled)
        rows = [*self.connection.execute(former), *self.connection.execute(present)]
        return {
            bytes(row.digest): OperatorRecord(
                row.secret_id, row.role, split_gateways(row.gateways), row.ends_at // 1000
            )
            for row in rows
        }

    def due_kms_keys(self, now_ms: int, limit: int) -> list[KmsKey]:
        """KMS keys whose credential is to be looked at, the one seen longest ago first."""
        query = (
            sa.select(k)
            .where(k.c.generation == "KMS", k.c.sync_next_at <= now_ms)
            .order_by(k.c.sync_checked_at, k.c.key_id)
            .limit(limit)
        )
        rows = self.connection.execute(query).all()
        return [self._kms_key(row) for row in rows]

    def _kms_key(self, row: Any) -> KmsKey:
        values = sa.select(key_values.c.digest, key_values.c.ends_at).where(key_values.c.key_id == row.key_id)
        digests = {bytes(value.digest): value.ends_at for value in self.connection.execute(values)}
        return KmsKey(
            row.key_id, row.gateway_id, row.credential_name, row.credential_version, row.sync_status, row.sync_error,
            row.sync_failures, row.gone_at, digests,
        )  # fmt: skip

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

    def old_publications(self, before_ms: int, keep: int) -> list[sa.RowMapping]:
        """Publications from before this time, without the last few."""
        version_below = self.published().published_version - keep
        query = sa.select(publications).where(
            publications.c.created_at < before_ms, publications.c.version < version_below
        )
        return list(self.connection.execute(query).mappings().all())

    def object_in_use(self, column: str, name: str) -> bool:
        """Whether a publication that is kept still names this object."""
        query = sa.select(publications.c.version).where(publications.c[column] == name).limit(1)
        return self.connection.execute(query).first() is not None


class Housekeeping(SnapshotReads):
    """Writes that are no changes: they have no revision and no audit row."""

    def claim_lease(self, name: str, holder: str, now_ms: int, ttl_ms: int) -> int | None:
        """The lease's token when it was free or over, else None. One holder at a time, tokens only grow."""
        free = sa.update(leases).where(
            leases.c.name == name, sa.or_(leases.c.expires_at <= now_ms, leases.c.holder == holder)
        )
        claimed = self.connection.execute(
            free.values(holder=holder, expires_at=now_ms + ttl_ms, token=leases.c.token + 1)
        )
        if claimed.rowcount != 1:
            return None
        token: int = self.connection.execute(sa.select(leases.c.token).where(leases.c.name == name)).scalar_one()
        return token

    def release_lease(self, name: str, token: int) -> None:
        """Gives a lease back; one that somebody else holds by now is left alone."""
        own = sa.update(leases).where(leases.c.name == name, leases.c.token == token)
        self.connection.execute(own.values(expires_at=0))

    def record_publication(
        self, version: int, revision: int, count: int, base: Part, base_revision: int, overlay: Part, now_ms: int
    ) -> None:
        """What was published. Changes that the base holds are forgotten."""
        self.connection.execute(
            sa.update(deployment)
            .where(deployment.c.published_version < version)
            .values(
                published_version=version, published_revision=revision, published_at=now_ms, published_count=count,
                base=json.dumps(base._asdict()), base_revision=base_revision,
            )
        )  # fmt: skip
        self.connection.execute(
            sa.insert(publications).values(
                version=version, revision=revision, created_at=now_ms, base=base.name, overlay=overlay.name
            )
        )
        self.connection.execute(sa.delete(changes).where(changes.c.revision <= base_revision))

    def forget_publications(self, old: list[sa.RowMapping]) -> set[str]:
        """Removes rows of publications; returns the objects that none of the remaining ones names."""
        versions = [row["version"] for row in old]
        self.connection.execute(sa.delete(publications).where(publications.c.version.in_(versions)))
        objects = {(column, row[column]) for row in old for column in ("base", "overlay")}
        return {name for column, name in objects if not self.object_in_use(column, name)}

    def note_checked(self, key_ids: list[str], now_ms: int) -> None:
        """Credentials that were read and had not changed."""
        for start in range(0, len(key_ids), 500):
            chunk = k.c.key_id.in_(key_ids[start : start + 500])
            self.connection.execute(sa.update(k).where(chunk).values(sync_checked_at=now_ms, sync_next_at=now_ms))

    def note_sync(self, key_id: str, **values: Any) -> None:
        """What the timer saw of one credential, when that changes nothing for callers."""
        self.connection.execute(sa.update(k).where(k.c.key_id == key_id).values(**values))

    def save_report(self, report: Mapping[str, Any]) -> None:
        """The timer's last report."""
        self.connection.execute(sa.update(deployment).values(sync_report=json.dumps(report)))


_RECORD = (k.c.key_id, k.c.name, k.c.status, k.c.consumer_id, key_values.c.ends_at)


def _record(row: Any) -> KeyRecord:
    # Rounded down: a value is never accepted longer than it should be.
    ends_at = 0 if row.ends_at is None else max(1, row.ends_at // 1000)
    return KeyRecord(row.key_id, row.name, row.status == "Enable", row.consumer_id, ends_at)


def _operator(row: Any) -> OperatorRecord:
    return OperatorRecord(row.secret_id, row.role, split_gateways(row.gateways), row.ends_at // 1000)


def _consumer(row: Any) -> ConsumerRecord:
    return ConsumerRecord(row.name, row.status == "Enable")
