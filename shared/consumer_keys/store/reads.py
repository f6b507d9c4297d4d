"""Reading keys, consumers and operators."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from consumer_keys.errors import Problem
from consumer_keys.model import (
    Consumer,
    Group,
    GroupRef,
    Resource,
    timestamp,
)
from consumer_keys.roots import Alive
from consumer_keys.store.dialect import contains
from consumer_keys.store.key_lists import KeyLists, Page
from consumer_keys.store.schema import (
    audit,
    data_keys,
    deployment,
    former_secrets,
    idempotency,
    key_facets,
    key_values,
    leases,
    operators,
    reveals,
)
from consumer_keys.store.schema import consumer_groups as g
from consumer_keys.store.schema import consumer_keys as k
from consumer_keys.store.schema import consumers as c
from consumer_keys.store.schema import group_members as m
from consumer_keys.store.schema import group_resources as r


class Operator(NamedTuple):
    """Who may call; `gateways` None means all."""

    secret_id: str
    role: str
    gateways: tuple[str, ...] | None
    status: str


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


class Reads(KeyLists):
    """Queries inside one transaction."""

    def consumer(self, gateway_id: str, consumer_id: str) -> Consumer:
        """One consumer. Raises ConsumerNotFound, also when it belongs to another gateway."""
        query = _consumers_query().where(c.c.gateway_id == gateway_id, c.c.consumer_id == consumer_id)
        row = self.connection.execute(query).mappings().first()
        if row is None:
            raise Problem("ConsumerNotFound")
        return self._consumers([row])[0]

    def consumers(
        self, gateway_id: str, filters: Mapping[str, Any], limit: int, offset: int, after: tuple[int, str] | None
    ) -> Page:
        """Consumers of a gateway, newest first. `resource` is (type, id) of what their groups may use; None is any."""
        where = [c.c.gateway_id == gateway_id]
        for name, value in filters.items():
            if name == "keyword":
                where.append(contains(self.connection, c.c.name, value))
            elif name == "group_id":
                where.append(sa.exists().where(m.c.consumer_id == c.c.consumer_id, m.c.group_id == value))
            elif name == "resource":
                through = [m.c.consumer_id == c.c.consumer_id, m.c.group_id == r.c.group_id]
                given = zip((r.c.type, r.c.resource_id), value, strict=True)
                through += [column == part for column, part in given if part is not None]
                where.append(sa.exists().where(*through))
            else:
                where.append(c.c[name] == value)
        query = _consumers_query().where(*where)
        return self._page(query, c, c.c.consumer_id, where, limit, offset, after, self._consumers)

    def _consumers(self, rows: Sequence[sa.RowMapping]) -> list[Consumer]:
        groups = self._groups_of([row["consumer_id"] for row in rows])
        return [_consumer(row, groups.get(row["consumer_id"], [])) for row in rows]

    def _groups_of(self, consumer_ids: list[str]) -> dict[str, list[GroupRef]]:
        query = (
            sa.select(m.c.consumer_id, g.c.group_id, g.c.name, g.c.status)
            .select_from(m.join(g, g.c.group_id == m.c.group_id))
            .where(m.c.consumer_id.in_(consumer_ids))
        )
        found: dict[str, list[GroupRef]] = {}
        for row in sorted(self.connection.execute(query), key=lambda row: str(row.name)):
            ref = GroupRef(group_id=row.group_id, name=row.name, status=row.status)
            found.setdefault(row.consumer_id, []).append(ref)
        return found

    def group(self, gateway_id: str, group_id: str) -> Group:
        """One group. Raises GroupNotFound, also when it belongs to another gateway."""
        query = _groups_query().where(g.c.gateway_id == gateway_id, g.c.group_id == group_id)
        row = self.connection.execute(query).mappings().first()
        if row is None:
            raise Problem("GroupNotFound")
        return self._groups([row])[0]

    def groups(
        self, gateway_id: str, filters: Mapping[str, Any], limit: int, offset: int, after: tuple[int, str] | None
    ) -> Page:
        """Groups of a gateway, newest first."""
        where = [g.c.gateway_id == gateway_id]
        for name, value in filters.items():
            where.append(contains(self.connection, g.c.name, value) if name == "keyword" else g.c[name] == value)
        query = _groups_query().where(*where)
        return self._page(query, g, g.c.group_id, where, limit, offset, after, self._groups)

    def _groups(self, rows: Sequence[sa.RowMapping]) -> list[Group]:
        query = sa.select(r).where(r.c.group_id.in_([row["group_id"] for row in rows]))
        resources: dict[str, list[Resource]] = {}
        for row in sorted(self.connection.execute(query), key=lambda row: (str(row.type), str(row.resource_id))):
            resources.setdefault(row.group_id, []).append(Resource(type=row.type, id=row.resource_id))
        return [_group(row, resources.get(row["group_id"], [])) for row in rows]

    def consumers_of_group(self, group_id: str, limit: int | None = None) -> list[tuple[str, str]]:
        """(id, name) of the consumers in a group."""
        members = m.join(c, c.c.consumer_id == m.c.consumer_id)
        query = sa.select(c.c.consumer_id, c.c.name).select_from(members).where(m.c.group_id == group_id)
        rows = self.connection.execute(query.order_by(c.c.consumer_id).limit(limit))
        return [(row.consumer_id, row.name) for row in rows]

    def members_among(self, group_id: str, consumer_ids: Iterable[str]) -> set[str]:
        """Those of the consumers that are in the group."""
        query = sa.select(m.c.consumer_id).where(m.c.group_id == group_id, m.c.consumer_id.in_(list(consumer_ids)))
        return set(self.connection.execute(query).scalars())

    def keys_of_consumer(self, consumer_id: str, limit: int = 1000) -> list[tuple[str, str]]:
        """(id, name) of the keys bound to a consumer."""
        query = sa.select(k.c.key_id, k.c.name).where(k.c.consumer_id == consumer_id).order_by(k.c.key_id).limit(limit)
        return [(row.key_id, row.name) for row in self.connection.execute(query)]

    def keys_among(self, gateways: Iterable[str], key_ids: Iterable[str]) -> list[str]:
        """Those of the keys that belong to one of the gateways, by id."""
        query = sa.select(k.c.key_id).where(k.c.gateway_id.in_(list(gateways)), k.c.key_id.in_(list(key_ids)))
        return list(self.connection.execute(query.order_by(k.c.key_id)).scalars())

    def sealed_value(self, key_id: str) -> bytes:
        """The sealed value of a System or Custom key; nothing, which no vault opens, unless it has exactly one."""
        query = sa.select(key_values.c.sealed).where(key_values.c.key_id == key_id)
        found = list(self.connection.execute(query).scalars())
        return bytes(found[0] or b"") if len(found) == 1 else b""

    def alive(self, default: str) -> Alive:
        """The versions of the root secret that are in force; `default` until it is rotated for the first time."""
        return alive(self.connection, default)

    def digest_owner(self, *digests: bytes | None) -> str | None:
        """The id of the key that accepts a value, by its digests under the versions that are alive."""
        return self.connection.execute(sa.select(key_values.c.key_id).where(has_digest(digests))).scalar()

    def kms_key(self, key_id: str) -> KmsKey | None:
        """A KMS key; None when there is none, or the key is of another kind."""
        query = sa.select(k).where(k.c.key_id == key_id, k.c.generation == "KMS")
        row = self.connection.execute(query).first()
        return None if row is None else self._kms_key(row)

    def _kms_key(self, row: Any) -> KmsKey:
        return KmsKey(
            row.key_id, row.gateway_id, row.credential_name, row.credential_version, row.sync_status, row.sync_error,
            row.sync_failures, row.gone_at, self.values_of(row.key_id),
        )  # fmt: skip

    def values_of(self, key_id: str) -> dict[bytes, int | None]:
        """The digests that a key accepts, each with its end (ms) or None."""
        query = sa.select(key_values.c.digest, key_values.c.ends_at).where(key_values.c.key_id == key_id)
        return {bytes(row.digest): row.ends_at for row in self.connection.execute(query)}

    def is_latest(self, lease: str, token: int) -> bool:
        """Whether nobody has claimed the lease since; in a write transaction nobody will before it ends."""
        return self.latest_token(lease) == token

    def latest_token(self, lease: str) -> int | None:
        """The token of the last claim of a lease."""
        token: int | None = self.connection.execute(_LEASE_TOKEN, {"lease": lease}).scalar()
        return token

    def data_key(self, data_key_id: str) -> sa.RowMapping | None:
        """A wrapped data key."""
        query = sa.select(data_keys).where(data_keys.c.data_key_id == data_key_id)
        return self.connection.execute(query).mappings().first()

    def operator_by_digest(self, digest: bytes, now_ms: int) -> Operator | None:
        """The operator whose secret, or former secret that is still accepted, has this digest."""
        former = sa.select(former_secrets.c.secret_id).where(
            former_secrets.c.digest == digest, former_secrets.c.ends_at > now_ms
        )
        row = self.connection.execute(sa.select(operators).where(operators.c.digest == digest)).first()
        if row is None:
            row = self.connection.execute(sa.select(operators).where(operators.c.secret_id.in_(former))).first()
        return None if row is None else _operator(row)

    def operator_secrets(self, secret_id: str, now_ms: int) -> tuple[Operator, list[bytes]] | None:
        """An operator by id, with the sealed secrets that are accepted: the present one, then former ones."""
        row = self.connection.execute(sa.select(operators).where(operators.c.secret_id == secret_id)).first()
        if row is None:
            return None
        former = sa.select(former_secrets.c.sealed).where(
            former_secrets.c.secret_id == secret_id, former_secrets.c.ends_at > now_ms
        )
        sealed = [row.sealed, *self.connection.execute(former).scalars()]
        return _operator(row), [bytes(each) for each in sealed]

    def operator_rows(self) -> list[dict[str, Any]]:
        """Every operator by name, with `former_ends_at`, the end of the former secret that is accepted longest."""
        latest = sa.select(sa.func.max(former_secrets.c.ends_at)).where(
            former_secrets.c.secret_id == operators.c.secret_id
        )
        query = sa.select(operators, latest.scalar_subquery().label("former_ends_at")).order_by(operators.c.name)
        return [dict(row) for row in self.connection.execute(query).mappings()]

    def reveals_since(self, actor: str, since_ms: int) -> list[int]:
        """When an operator was given a value after a moment, oldest first."""
        query = sa.select(reveals.c.at).where(reveals.c.actor == actor, reveals.c.at > since_ms)
        return sorted(self.connection.execute(query).scalars())

    def status(self) -> sa.RowMapping:
        """The deployment row."""
        return self.connection.execute(_STATUS).mappings().one()

    def keys_by_gateway(self) -> dict[str, int]:
        """Gateway id -> how many keys it has, if any."""
        total = sa.func.sum(key_facets.c.key_count)
        query = sa.select(key_facets.c.gateway_id, total).group_by(key_facets.c.gateway_id).having(total > 0)
        return {gateway_id: int(count) for gateway_id, count in self.connection.execute(query)}

    def was_disabled(self, gateway_id: str, key_id: str, after_revision: int) -> bool:
        """Whether a key was disabled by a change after this revision."""
        query = sa.select(audit.c.revision).where(
            audit.c.gateway_id == gateway_id, audit.c.target == key_id, audit.c.action == "key.disable",
            audit.c.revision > after_revision,
        )  # fmt: skip
        return self.connection.execute(query.limit(1)).first() is not None

    def replay(self, actor: str, idempotency_key: str, since_ms: int) -> tuple[str, str] | None:
        """(fingerprint, stored body) of an earlier request with this Idempotency-Key."""
        query = sa.select(idempotency.c.fingerprint, idempotency.c.body).where(
            idempotency.c.actor == actor,
            idempotency.c.idempotency_key == idempotency_key,
            idempotency.c.created_at >= since_ms,
        )
        row = self.connection.execute(query).first()
        return None if row is None else (row.fingerprint, row.body)


# Read in every transaction: SQLAlchemy works out a statement's cache key once for a statement that is kept.
_STATUS = sa.select(deployment)
_ALIVE = sa.select(deployment.c.root_version, deployment.c.root_coming)
_LEASE_TOKEN = sa.select(leases.c.token).where(leases.c.name == sa.bindparam("lease"))


def alive(connection: sa.Connection, default: str) -> Alive:
    """`Reads.alive` for any connection."""
    version, coming = connection.execute(_ALIVE).one()
    return Alive(version or default, coming)


def has_digest(digests: Iterable[bytes | None]) -> sa.ColumnElement[bool]:
    """Whether a row of key_values is that of the value with these digests."""
    return key_values.c.digest.in_([digest for digest in digests if digest is not None])


def _operator(row: Any) -> Operator:
    return Operator(row.secret_id, row.role, split_gateways(row.gateways), row.status)


def split_gateways(text: str | None) -> tuple[str, ...] | None:
    """The stored form of an operator's gateways."""
    return None if text is None else tuple(text.split(","))


def _consumers_query() -> sa.Select[Any]:
    bound = sa.select(sa.func.count()).where(k.c.consumer_id == c.c.consumer_id).scalar_subquery()
    return sa.select(c, bound.label("key_count"))


def _groups_query() -> sa.Select[Any]:
    members = sa.select(sa.func.count()).where(m.c.group_id == g.c.group_id).scalar_subquery()
    return sa.select(g, members.label("consumer_count"))


def _consumer(row: sa.RowMapping, groups: list[GroupRef]) -> Consumer:
    names = ("consumer_id", "gateway_id", "name", "description", "status", "key_count", "revision")
    return Consumer(
        groups=groups,
        created_at=timestamp(row["created_at"]),
        modified_at=timestamp(row["modified_at"]),
        **{name: row[name] for name in names},
    )


def _group(row: sa.RowMapping, resources: list[Resource]) -> Group:
    names = ("group_id", "gateway_id", "name", "description", "status", "consumer_count", "revision")
    return Group(
        resources=resources,
        created_at=timestamp(row["created_at"]),
        modified_at=timestamp(row["modified_at"]),
        **{name: row[name] for name in names},
    )
