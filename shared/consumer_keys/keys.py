"""Use cases of consumer keys. Collaborators and time come in `app`; every change is one transaction, then published."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from consumer_keys.access import token_digest
from consumer_keys.errors import CloudFailure, Problem, invalid
from consumer_keys.keytext import MASK, foreign_fault, lookup_digest, make_system_value, masked, new_id
from consumer_keys.model import BindConsumer, Caller, CreateKey, Credential, Key, ListKeys, RevealKey, UpdateKey
from consumer_keys.paging import list_page
from consumer_keys.strength import weakness

if TYPE_CHECKING:
    from consumer_keys.store.change import Change
    from consumer_keys.store.reads import Reads
    from consumer_keys.wiring import Services


def create(app: Services, caller: Caller, gateway_id: str, given: CreateKey) -> tuple[Key, str | None]:
    """The new key, and its value for System (this once). Raises NameInUse, ValueInUse, WeakValue, Credential*."""
    app.store.raise_if_replayed(caller, app.now_ms())
    value = _value(app, given)
    digest = lookup_digest(app.root.lookup_key, gateway_id, value)
    key_id = new_id("secret", os.urandom)
    sealed: tuple[bytes | None, str | None] = (None, None)
    if given.generation != "KMS":
        sealed = app.key_vault.seal(app.place_of_key(gateway_id, key_id), value)

    def insert(db: Change) -> Key:
        db.insert_key(
            {
                "key_id": key_id, "gateway_id": gateway_id, "name": given.name, "description": given.description,
                "type": given.type, "generation": given.generation, "status": given.status,
                # A KMS key keeps no part of its value, so its mask shows none.
                "masked_value": MASK if given.generation == "KMS" else masked(value.decode()),
                **_credential_columns(given.credential, db.now_ms),
            }
        )  # fmt: skip
        if db.operator_by_digest(token_digest(app.root.operator_key, value.decode())) is not None:
            raise Problem("ValueInUse")  # a secret that opens the management must never open the gateway
        db.add_value(key_id, digest, *sealed)
        key = db.key(gateway_id, key_id)
        db.audit("key.create", gateway_id, key_id, None, key)
        db.remember(key.model_dump(mode="json"))
        return key

    key = app.change(caller, insert)
    return key, value.decode() if given.generation == "System" else None


def _value(app: Services, given: CreateKey) -> bytes:
    prefix = app.settings.key_prefix
    if given.credential is not None:
        return read_credential(app, given.credential)
    if given.value is None:
        return make_system_value(prefix, os.urandom).encode()
    text = given.value.get_secret_value()
    fault = foreign_fault(text, prefix)
    if fault:
        raise invalid("value", fault)
    weak = weakness(text, app.settings.custom_value_min_bits)
    if weak:
        problem = invalid("value", weak)
        raise Problem("WeakValue", problem.detail, errors=problem.errors)
    return text.encode()


def read_credential(app: Services, credential: Credential) -> bytes:
    """The content of a credential, if it can be a key value. Raises Problem with the credential's own code."""
    root = app.settings.root_secret_name
    if not credential.name.startswith(app.settings.credential_prefix) or f"{credential.name}-".startswith(f"{root}-"):
        raise invalid("credential.name", "names a secret that keys may not refer to")
    try:
        content = app.ssm.secret_value(credential.name, credential.version)
    except CloudFailure as failure:
        raise Problem(failure.code, errors=invalid("credential", Problem(failure.code).title).errors) from None
    fault = credential_fault(content, app.settings.key_prefix)
    if fault:
        raise Problem("CredentialInvalid", f"The content {fault}.", errors=invalid("credential", fault).errors)
    return content


def credential_fault(content: bytes, prefix: str) -> str | None:
    """Why a credential's content cannot be a key value, or None."""
    try:
        return foreign_fault(content.decode("ascii"), prefix)
    except UnicodeDecodeError:
        return "may only contain letters, digits and - . _ ~ + / ="


def _credential_columns(credential: Credential | None, now_ms: int) -> dict[str, Any]:
    if credential is None:
        return {}
    return {
        "credential_name": credential.name, "credential_version": credential.version, "sync_status": "Success",
        "sync_checked_at": now_ms, "sync_next_at": now_ms,
    }  # fmt: skip


def get(app: Services, gateway_id: str, key_id: str) -> Key:
    """One key. Raises KeyNotFound."""
    return app.store.read(lambda db: db.key(gateway_id, key_id))


def find(app: Services, gateway_id: str, given: ListKeys) -> dict[str, Any]:
    """A page of keys: items, total_count of all matches, next_cursor or null."""
    cursor_key, now_ms = app.root.cursor_key, app.now_ms()
    return app.store.read(lambda db: list_page(cursor_key, "keys", gateway_id, given, db.keys, now_ms))


def update(app: Services, caller: Caller, gateway_id: str, key_id: str, given: UpdateKey) -> Key:
    """Changes name and description; nothing else can be edited."""
    return _change(app, caller, "key.update", gateway_id, key_id, given.model_dump(exclude_unset=True))


def set_status(app: Services, caller: Caller, gateway_id: str, key_id: str, status: str) -> Key:
    """Enables or disables. Repeating it is no error and no change."""
    return _change(app, caller, f"key.{status.lower()}", gateway_id, key_id, {"status": status})


def bind(app: Services, caller: Caller, gateway_id: str, key_id: str, given: BindConsumer) -> Key:
    """Binds to a consumer of the same gateway. Raises AlreadyBound, naming the other consumer."""

    def check(db: Change, key: Key) -> None:
        db.consumer(gateway_id, given.consumer_id)
        if key.consumer is not None and key.consumer.consumer_id != given.consumer_id:
            raise Problem("AlreadyBound", members={"consumer": key.consumer.model_dump()})

    return _change(app, caller, "key.bind", gateway_id, key_id, {"consumer_id": given.consumer_id}, check)


def unbind(app: Services, caller: Caller, gateway_id: str, key_id: str) -> Key:
    """Unbinds from its consumer. Repeating it is no error and no change."""
    return _change(app, caller, "key.unbind", gateway_id, key_id, {"consumer_id": None})


def _change(
    app: Services, caller: Caller, action: str, gateway_id: str, key_id: str, values: dict[str, Any], check: Any = None
) -> Key:
    def edit(db: Change) -> Key:
        row, before = db.key_row(gateway_id, key_id), db.key(gateway_id, key_id)
        db.check_revision(before.revision)
        if check is not None:
            check(db, before)
        after = before
        if any(row[name] != value for name, value in values.items()):
            db.update_key(key_id, **values)
            after = db.key(gateway_id, key_id)
            db.audit(action, gateway_id, key_id, before, after)
        db.remember(after.model_dump(mode="json"))
        return after

    return app.change(caller, edit)


def blockers(key: Key) -> list[dict[str, Any]]:
    """Everything that stands in the way of deleting a key."""
    found: list[dict[str, Any]] = []
    if key.status == "Enable":
        found.append({"code": "KeyEnabled", "resource": {"type": "key", "id": key.key_id, "name": key.name}})
    if key.consumer is not None:
        bound = {"type": "consumer", "id": key.consumer.consumer_id, "name": key.consumer.name}
        found.append({"code": "KeyBound", "resource": bound})
    return found


def delete(app: Services, caller: Caller, gateway_id: str, key_id: str, *, dry_run: bool) -> dict[str, Any] | None:
    """Deletes a key that is disabled and unbound; raises UnresolvedDependencies with every blocker.

    A dry run changes nothing and returns {deletable, blockers}.
    """
    if dry_run:
        found = blockers(get(app, gateway_id, key_id))
        return {"deletable": not found, "blockers": found}

    def remove(db: Change) -> None:
        key = db.key(gateway_id, key_id)
        db.check_revision(key.revision)
        if found := blockers(key):
            raise Problem("UnresolvedDependencies", members={"blockers": found})
        db.delete_key(key_id)
        db.audit("key.delete", gateway_id, key_id, key)

    app.change(caller, remove)
    return None


def reveal(app: Services, caller: Caller, gateway_id: str, key_id: str, given: RevealKey) -> str:
    """The value of a System or Custom key. The audit row is committed before the value leaves."""
    app.store.raise_if_replayed(caller, app.now_ms())

    def find_sealed(db: Reads) -> bytes:
        if db.key(gateway_id, key_id).generation == "KMS":
            raise Problem("ManagedByKms")
        return db.sealed_value(key_id)

    def record(db: Change) -> None:
        db.key(gateway_id, key_id)  # still there
        db.audit("key.reveal", gateway_id, key_id, None, {"reason": given.reason})
        db.remember({"key_id": key_id, "value": None})

    sealed = app.store.read(find_sealed)
    value = app.key_vault.open(app.place_of_key(gateway_id, key_id), sealed).decode()
    app.change(caller, record)
    return value
