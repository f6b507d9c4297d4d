"""Writing, inside one serialised transaction: the rows, what the snapshot must take over, and the audit row."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

import sqlalchemy as sa

from consumer_keys.audit_chain import Entry, entry_hash
from consumer_keys.errors import Problem, Replayed
from consumer_keys.fields import AUDIT_ACTIONS
from consumer_keys.model import Caller, Resource
from consumer_keys.roots import Digests
from consumer_keys.snapshot import id_bytes
from consumer_keys.store.key_facets import move_key
from consumer_keys.store.reads import has_digest
from consumer_keys.store.rotation import RootRows
from consumer_keys.store.schema import (
    IDEMPOTENCY_MS,
    audit,
    changes,
    data_keys,
    deployment,
    former_secrets,
    idempotency,
    key_values,
    operators,
    reveals,
    signatures,
)
from consumer_keys.store.schema import consumer_groups as g
from consumer_keys.store.schema import consumer_keys as k
from consumer_keys.store.schema import consumers as c
from consumer_keys.store.schema import group_members as m
from consumer_keys.store.schema import group_resources as r
from consumer_keys.store.sealed import SealedRows

DAY_MS = 86_400_000
# TC3 has no nonce: a client that makes the same call twice within a second signs it twice alike.
SIGNATURE_REPEAT_MS = 2_000


class Change(RootRows, SealedRows):
    """One change to the deployment. Its revision is taken at the first write; without a write there is none."""

    def __init__(self, connection: sa.Connection, caller: Caller, now_ms: int) -> None:
        super().__init__(connection)
        self.caller, self.now_ms = caller, now_ms
        self._revision: int | None = None
        self.audited: tuple[int, bytes] | None = None  # sequence and hash of the last audit row

    @property
    def revision(self) -> int:
        """The revision that this change commits as."""
        if self._revision is None:
            self.connection.execute(_NEXT_REVISION)
            self._revision = self.connection.execute(_REVISION).scalar_one()
        return self._revision

    @property
    def changed(self) -> bool:
        """Whether anything was written."""
        return self._revision is not None

    def check_audited(self) -> None:
        """No audit row, no change: raises RuntimeError for a change without one, which undoes it."""
        if self.changed and self.audited is None:
            raise RuntimeError("a change without an audit row")

    def raise_if_replayed(self) -> None:
        """Raises Replayed, or IdempotencyKeyReused when the earlier request was another one."""
        if self.caller.idempotency_key is None:
            return
        earlier = self.replay(self.caller.actor, self.caller.idempotency_key, self.now_ms - IDEMPOTENCY_MS)
        if earlier is not None:
            if earlier[0] not in self.caller.fingerprints:
                raise Problem("IdempotencyKeyReused")
            raise Replayed(json.loads(earlier[1]))

    def use_signature(self) -> None:
        """Raises SignatureReused when the signed request was used before, except for a repetition within 2 s."""
        digest = self.caller.signature
        if digest is None:
            return
        seen = self.connection.execute(sa.select(signatures.c.seen_at).where(signatures.c.digest == digest)).scalar()
        if seen is None:
            self.connection.execute(sa.insert(signatures).values(digest=digest, seen_at=self.now_ms))
        elif abs(self.now_ms - seen) > SIGNATURE_REPEAT_MS:
            raise Problem("SignatureReused", reason="Replayed")

    def remember(self, body: Any) -> None:
        """Stores the answer, which must hold no secret, for repetitions of the request."""
        if self.caller.idempotency_key is None:
            return
        mine = {"actor": self.caller.actor, "idempotency_key": self.caller.idempotency_key}
        # One that is out of date may still be there: the timer removes them.
        self.connection.execute(sa.delete(idempotency).filter_by(**mine))
        kept = {"fingerprint": self.caller.fingerprints[0], "body": json.dumps(body), "created_at": self.now_ms}
        self.connection.execute(sa.insert(idempotency).values(**mine, **kept))

    def check_revision(self, current: int) -> None:
        """If-Match (RFC 9110 section 13.1.1). Raises RevisionMismatch with the current revision."""
        if self.caller.revisions is not None and current not in self.caller.revisions:
            self.refuse_revision(current, "")

    def refuse_revision(self, current: int, reason: str) -> NoReturn:
        """Raises RevisionMismatch with the current revision."""
        detail = f"{reason} The current revision is {current}.".strip()
        raise Problem("RevisionMismatch", detail, headers={"ETag": f'"{current}"'})

    def insert_key(self, values: dict[str, Any]) -> None:
        """A new key, without its values."""
        stamps = {"revision": self.revision, "created_at": self.now_ms, "modified_at": self.now_ms}
        facet_id = move_key(self.connection, None, values)
        self.connection.execute(sa.insert(k).values(sync_failures=0, facet_id=facet_id, **stamps, **values))

    def update_key(self, key_id: str, **values: Any) -> None:
        """Changes columns of a key; its values in the snapshot follow."""
        stamps: dict[str, Any] = {"revision": self.revision, "modified_at": self.now_ms}
        if values.keys() & {"status", "consumer_id"}:
            before = self.connection.execute(_FACET_OF, {"of_key": key_id}).mappings().one()
            stamps["facet_id"] = move_key(self.connection, before["facet_id"], {**before, **values})
        self.connection.execute(sa.update(k).where(k.c.key_id == key_id).values(**stamps, **values))
        self._touch_values(key_values.c.key_id == key_id)

    def delete_key(self, key_id: str) -> None:
        """Removes a key and its values."""
        for digest in self.values_of(key_id):
            self.remove_value(digest)
        before = self.connection.execute(_FACET_OF, {"of_key": key_id}).mappings().one()
        move_key(self.connection, before["facet_id"], None)
        self.connection.execute(sa.delete(k).where(k.c.key_id == key_id))

    def add_value(
        self, key_id: str, digests: Digests, sealed: bytes | None = None, data_key_id: str | None = None
    ) -> None:
        """A value that the key accepts from now on. Raises ValueInUse."""
        state = self.root_state()
        if (state.coming is None) != (digests.coming is None):
            raise RuntimeError("a value needs a digest under each version of the root secret that is alive")
        if self.digest_owner(*digests) is not None:
            raise Problem("ValueInUse")
        self.connection.execute(
            sa.insert(key_values).values(
                digest=digests.present, coming_digest=digests.coming, root_generation=state.generation,
                key_id=key_id, sealed=sealed, data_key_id=data_key_id, created_at=self.now_ms,
            )
        )  # fmt: skip
        self._count_entries(+1)
        self._touch_values(key_values.c.digest == digests.present)

    def end_value(self, digest: bytes, ends_at: int | None) -> None:
        """Sets or clears the time (ms) after which a value is refused."""
        self._update_value(key_values.c.digest == digest, ends_at=ends_at)

    def move_value(self, digests: Digests, key_id: str) -> None:
        """Another key accepts this value from now on, without an end; its former one does no longer."""
        self._update_value(has_digest(digests), key_id=key_id, ends_at=None, created_at=self.now_ms)

    def complete_value(self, digests: Digests) -> None:
        """A value that has no digest under the coming version of the root secret yet is given it."""
        if digests.coming is None:
            return
        bare = (key_values.c.digest == digests.present, key_values.c.coming_digest.is_(None))
        self.connection.execute(sa.update(key_values).where(*bare).values(coming_digest=digests.coming))
        self._touch_values(key_values.c.digest == digests.present)

    def remove_value(self, digest: bytes) -> None:
        """The key accepts this value no longer."""
        self._count_entries(-self._lasting(key_values.c.digest == digest))
        self._touch_values(key_values.c.digest == digest)
        self.connection.execute(sa.delete(key_values).where(key_values.c.digest == digest))

    def insert_consumer(self, values: dict[str, Any]) -> None:
        """A new consumer."""
        stamps = {"revision": self.revision, "created_at": self.now_ms, "modified_at": self.now_ms}
        self.connection.execute(sa.insert(c).values(**stamps, **values))
        self._touch("consumer", id_bytes(values["consumer_id"]))

    def update_consumer(self, consumer_id: str, **values: Any) -> None:
        """Changes columns of a consumer."""
        stamps = {"revision": self.revision, "modified_at": self.now_ms}
        self.connection.execute(sa.update(c).where(c.c.consumer_id == consumer_id).values(**stamps, **values))
        self._touch("consumer", id_bytes(consumer_id))

    def delete_consumer(self, consumer_id: str) -> None:
        """Removes a consumer that has no keys and is in no group."""
        self.connection.execute(sa.delete(c).where(c.c.consumer_id == consumer_id))
        self._touch("consumer", id_bytes(consumer_id))

    def insert_group(self, values: dict[str, Any]) -> None:
        """A new group, without consumers."""
        stamps = {"revision": self.revision, "created_at": self.now_ms, "modified_at": self.now_ms}
        self.connection.execute(sa.insert(g).values(**stamps, **values))

    def update_group(self, group_id: str, **values: Any) -> None:
        """Changes columns of a group; its consumers in the snapshot follow."""
        self._stamp_group(group_id, **values)
        if values.keys() & {"name", "status"}:
            self._touch_consumers(consumer_id for consumer_id, _ in self.consumers_of_group(group_id))

    def delete_group(self, group_id: str) -> None:
        """Removes a group that nothing refers to."""
        self.connection.execute(sa.delete(g).where(g.c.group_id == group_id))
        self.revision  # noqa: B018 - an empty group is in no snapshot, but its end is a change like any other

    def add_members(self, group_id: str, consumer_ids: list[str]) -> None:
        """Consumers that are not in the group yet."""
        rows = [{"group_id": group_id, "consumer_id": consumer_id} for consumer_id in consumer_ids]
        self.connection.execute(sa.insert(m), rows)
        self._stamp_group(group_id)
        self._touch_consumers(consumer_ids)

    def remove_members(self, group_id: str, consumer_ids: list[str]) -> None:
        """Takes consumers out of the group."""
        self.connection.execute(sa.delete(m).where(m.c.group_id == group_id, m.c.consumer_id.in_(consumer_ids)))
        self._stamp_group(group_id)
        self._touch_consumers(consumer_ids)

    def add_resource(self, group_id: str, resource: Resource) -> None:
        """Authorises the group on a resource that it is not authorised on yet."""
        self.connection.execute(sa.insert(r).values(group_id=group_id, type=resource.type, resource_id=resource.id))
        self._stamp_group(group_id)

    def remove_resource(self, group_id: str, resource: Resource) -> None:
        """Ends the authorisation on a resource."""
        these = (r.c.group_id == group_id, r.c.type == resource.type, r.c.resource_id == resource.id)
        self.connection.execute(sa.delete(r).where(*these))
        self._stamp_group(group_id)

    def _stamp_group(self, group_id: str, **values: Any) -> None:
        stamps = {"revision": self.revision, "modified_at": self.now_ms}
        self.connection.execute(sa.update(g).where(g.c.group_id == group_id).values(**stamps, **values))

    def add_data_key(self, values: dict[str, Any]) -> None:
        """A wrapped data key, unless it is there already: a commit whose answer was lost is made again."""
        if self.data_key(values["data_key_id"]) is None:
            self.connection.execute(sa.insert(data_keys).values(created_at=self.now_ms, **values))

    def set_root(self, **values: Any) -> None:
        """Goes on with the rotation of the root secret: columns of the deployment."""
        self.connection.execute(sa.update(deployment).values(**values))
        self.revision  # noqa: B018 - the pointer and the operators in the overlay follow

    def add_operator(self, values: dict[str, Any]) -> None:
        """A new operator; the revision makes the snapshot take it over."""
        self.connection.execute(sa.insert(operators).values(created_at=self.now_ms, **values))
        self.revision  # noqa: B018 - operators are in every overlay, so only the revision must move

    def update_operator(self, secret_id: str, **values: Any) -> None:
        """Changes columns of an operator."""
        self.connection.execute(sa.update(operators).where(operators.c.secret_id == secret_id).values(**values))
        self.revision  # noqa: B018 - as above

    def keep_former_secret(self, operator: Mapping[str, Any], ends_at: int) -> None:
        """The operator's present secret is accepted until a moment (ms) although another one takes its place.

        Former secrets never outlast it: a rotation that keeps nothing ends all of them.
        """
        mine = former_secrets.c.secret_id == operator["secret_id"]
        self.connection.execute(sa.delete(former_secrets).where(former_secrets.c.ends_at <= self.now_ms))
        self.connection.execute(
            sa.update(former_secrets).where(mine, former_secrets.c.ends_at > ends_at).values(ends_at=ends_at)
        )
        if ends_at <= self.now_ms:
            self.connection.execute(sa.delete(former_secrets).where(mine))
            return
        names = ("digest", "coming_digest", "secret_id", "sealed", "data_key_id")
        kept = {name: operator[name] for name in names}
        self.connection.execute(sa.insert(former_secrets).values(ends_at=ends_at, **kept))

    def count_reveal(self) -> None:
        """Counts a value that is about to be given to the caller, after its audit row; drops counts of former days."""
        old = sa.and_(reveals.c.actor == self.caller.actor, reveals.c.at <= self.now_ms - DAY_MS)
        self.connection.execute(sa.delete(reveals).where(old))
        row = {"sequence": self.status()["audit_sequence"], "actor": self.caller.actor, "at": self.now_ms}
        self.connection.execute(sa.insert(reveals).values(**row))

    def audit(self, action: str, gateway_id: str, target: str, before: Any, after: Any = None) -> None:
        """One row in the change's own transaction: who, what, before, after; never a value or a digest.

        `before` and `after` are a resource, other members, or None for what is not there.
        A row about something that changes nothing, such as a reveal, carries the revision that it saw. The row follows
        the last one in the hash chain: the deployment row is locked, so nobody comes in between.
        """
        if action not in AUDIT_ACTIONS:
            raise ValueError(f"{action} is not in the list of audited actions")
        last = self.status()
        entry = Entry(
            last["audit_sequence"] + 1, self.now_ms, self.caller.actor, action, gateway_id, target, _json(before),
            _json(after), self.caller.request_id, last["revision"],
        )  # fmt: skip
        chained = entry_hash(entry, bytes(last["audit_hash"]))
        self.connection.execute(_NEW_ENTRY, {"hash": chained, **entry._asdict()})
        self.connection.execute(_LAST_ENTRY, {"audit_sequence": entry.sequence, "audit_hash": chained})
        self.audited = entry.sequence, chained

    def _touch(self, kind: str, ref: bytes) -> None:
        touched = {"of_kind": kind, "of_ref": ref, "revision": self.revision}
        updated = self.connection.execute(_TOUCH, touched)
        # The deployment row is locked, so nobody inserts between the two statements. (The engine asks MySQL for the
        # rows that were found, not those that became different.)
        if updated.rowcount == 0:
            self.connection.execute(_NEW_CHANGE, {"kind": kind, "ref": ref, "revision": self.revision})

    def _touch_values(self, which: sa.ColumnElement[bool]) -> None:
        """Every entry that these values have in the snapshot: one per version of the root secret."""
        query = sa.select(key_values.c.digest, key_values.c.coming_digest).where(which)
        rows = self.connection.execute(query).all()
        self._touch_all("value", [bytes(digest) for row in rows for digest in row if digest is not None])

    def _update_value(self, which: sa.ColumnElement[bool], **values: Any) -> None:
        before = self._lasting(which)
        self.connection.execute(sa.update(key_values).where(which).values(**values))
        self._count_entries(self._lasting(which) - before)
        self._touch_values(which)

    def _lasting(self, which: sa.ColumnElement[bool]) -> int:
        """1 for a value that is accepted without an end, else 0."""
        query = sa.select(key_values.c.digest).where(which, key_values.c.ends_at.is_(None))
        return int(self.connection.execute(query).first() is not None)

    def _touch_consumers(self, consumer_ids: Iterable[str]) -> None:
        self._touch_all("consumer", [id_bytes(consumer_id) for consumer_id in consumer_ids])

    def _touch_all(self, kind: str, refs: list[bytes]) -> None:
        """`_touch` for many: the consumers of a group, the values of a key whose content changes often."""
        if len(refs) == 1:
            self._touch(kind, refs[0])
            return
        for start in range(0, len(refs), 500):
            chunk = refs[start : start + 500]
            self.connection.execute(sa.delete(changes).where(changes.c.kind == kind, changes.c.ref.in_(chunk)))
            rows = [{"kind": kind, "ref": ref, "revision": self.revision} for ref in chunk]
            self.connection.execute(sa.insert(changes), rows)

    def _count_entries(self, difference: int) -> None:
        if difference:
            self.connection.execute(sa.update(deployment).values(entry_count=deployment.c.entry_count + difference))


# Statements of every change. SQLAlchemy works out a statement's cache key once for a statement that is kept.
_NEXT_REVISION = sa.update(deployment).values(revision=deployment.c.revision + 1)
_REVISION = sa.select(deployment.c.revision)
_NEW_ENTRY, _LAST_ENTRY = sa.insert(audit), sa.update(deployment)
_NEW_CHANGE = sa.insert(changes)
_TOUCH = sa.update(changes).where(changes.c.kind == sa.bindparam("of_kind"), changes.c.ref == sa.bindparam("of_ref"))
_FACET_OF = sa.select(
    k.c.facet_id, k.c.gateway_id, k.c.type, k.c.generation, k.c.creation_source, k.c.status, k.c.consumer_id
).where(k.c.key_id == sa.bindparam("of_key"))


def _json(state: Any) -> str | None:
    if state is None:
        return None
    return json.dumps(state if isinstance(state, dict) else state.model_dump(mode="json"), ensure_ascii=False)
