"""Use cases of consumer keys. Collaborators and time come in `app`; every change is one transaction, then published."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

from consumer_keys import deletion
from consumer_keys.deletion import blocker
from consumer_keys.errors import CloudFailure, Problem, SealBroken, invalid
from consumer_keys.keytext import MASK, foreign_fault, make_system_value, masked, new_id
from consumer_keys.model import BindConsumer, Caller, CreateKey, Credential, Key, ListKeys, RevealKey, UpdateKey
from consumer_keys.paging import list_page
from consumer_keys.secret import Secret
from consumer_keys.strength import custom_mask, weakness

if TYPE_CHECKING:
    from consumer_keys.store.change import Change
    from consumer_keys.store.reads import Reads
    from consumer_keys.wiring import Services


class NewKey(NamedTuple):
    """A key that is made but not stored: `value` is what callers will present, `sealed` (bytes, data key id)."""

    key_id: str
    value: Secret
    sealed: tuple[bytes | None, str | None]


def create(app: Services, caller: Caller, gateway_id: str, given: CreateKey) -> tuple[Key, Secret | None]:
    """The new key, and its value for System (this once). Raises NameInUse, ValueInUse, WeakValue, Credential*."""
    app.store.raise_if_replayed(caller, app.now_ms())
    new = prepare(app, gateway_id, given)

    def work(db: Change) -> Key:
        key = insert(app, db, gateway_id, given, new)
        db.remember(key.model_dump(mode="json"))
        return key

    key = app.change(caller, work)
    return key, new.value if given.generation == "System" else None


def prepare(app: Services, gateway_id: str, given: CreateKey) -> NewKey:
    """Everything about a new key that needs a service, so that no transaction waits for one."""
    value = _value(app, given)
    key_id = new_id("secret", os.urandom)
    sealed: tuple[bytes | None, str | None] = (None, None)
    if given.generation != "KMS":
        sealed = app.key_vault.seal(app.place_of_key(gateway_id, key_id), value.reveal())
    return NewKey(key_id, value, sealed)


def insert(app: Services, db: Change, gateway_id: str, given: CreateKey, new: NewKey, **columns: str) -> Key:
    """Stores a new key; `columns` say how it came to be and whose it is. Raises NameInUse, ValueInUse."""
    db.insert_key(
        {
            "key_id": new.key_id, "gateway_id": gateway_id, "name": given.name, "description": given.description,
            "type": given.type, "generation": given.generation, "status": given.status,
            "masked_value": _mask(app, given, new.value),
            **_credential_columns(given.credential, db.now_ms), **columns,
        }
    )  # fmt: skip
    roots = app.roots(db)
    if db.operator_by_digest(roots.token(new.value).present, db.now_ms) is not None:
        raise Problem("ValueInUse")  # a secret that opens the management must never open the gateway
    db.add_value(new.key_id, roots.lookup(gateway_id, new.value), *new.sealed)
    key = db.key(gateway_id, new.key_id)
    db.audit("key.create", gateway_id, new.key_id, None, key)
    return key


def _value(app: Services, given: CreateKey) -> Secret:
    prefix = app.settings.key_prefix
    if given.credential is not None:
        return read_credential(app, given.credential)
    if given.value is None:
        return Secret(make_system_value(prefix, os.urandom).encode())
    text = given.value.text()
    fault = foreign_fault(text, prefix)
    if fault:
        raise invalid("value", fault)
    weak = weakness(text, app.settings.custom_value_min_bits)
    if weak:
        problem = invalid("value", weak)
        raise Problem("WeakValue", problem.detail, errors=problem.errors)
    return given.value


def read_credential(app: Services, credential: Credential) -> Secret:
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


def credential_fault(content: Secret, prefix: str) -> str | None:
    """Why a credential's content cannot be a key value, or None."""
    try:
        return foreign_fault(content.reveal().decode("ascii"), prefix)
    except UnicodeDecodeError:
        return "may only contain letters, digits and - . _ ~ + / ="


def _mask(app: Services, given: CreateKey, value: Secret) -> str:
    """A KMS key keeps no part of its value, so its mask shows none."""
    if given.generation == "KMS":
        return MASK
    text = value.text()
    return masked(text) if given.generation == "System" else custom_mask(text, app.settings.custom_value_min_bits)


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
    now_ms = app.now_ms()
    return app.read(lambda db: list_page(app.roots(db).cursor_keys, "keys", gateway_id, given, db.keys, now_ms))


def update(app: Services, caller: Caller, gateway_id: str, key_id: str, given: UpdateKey) -> Key:
    """Changes name and description; nothing else can be edited."""
    return _change(app, caller, "key.update", gateway_id, key_id, given.model_dump(exclude_unset=True))


def set_status(app: Services, caller: Caller, gateway_id: str, key_id: str, status: str) -> Key:
    """Enables or disables. Repeating it is no error and no change.

    A disable wins over an enable that is under way at the same time: whoever enables a key has not seen that somebody
    disables it, and gets RevisionMismatch.
    """
    action = f"key.{status.lower()}"
    if status != "Enable":
        return _change(app, caller, action, gateway_id, key_id, {"status": status})
    seen = get(app, gateway_id, key_id).revision

    def check(db: Change, key: Key) -> None:
        if key.status == "Disable" and key.revision > seen and db.was_disabled(gateway_id, key_id, seen):
            db.refuse_revision(key.revision, "The key was disabled while this request was under way.")

    return _change(app, caller, action, gateway_id, key_id, {"status": status}, check)


def bind(app: Services, caller: Caller, gateway_id: str, key_id: str, given: BindConsumer) -> Key:
    """Binds to a consumer of the same gateway. Raises AlreadyBound, naming the other consumer."""

    def check(db: Change, key: Key) -> None:
        db.consumer(gateway_id, given.consumer_id)
        check_bindable(key, given.consumer_id)

    return _change(app, caller, "key.bind", gateway_id, key_id, {"consumer_id": given.consumer_id}, check)


def check_bindable(key: Key, consumer_id: str) -> None:
    """Raises AlreadyBound when the key is another consumer's."""
    if key.consumer is not None and key.consumer.consumer_id != consumer_id:
        raise Problem("AlreadyBound", members={"consumer": key.consumer.model_dump()})


def unbind(app: Services, caller: Caller, gateway_id: str, key_id: str, consumer_id: str | None = None) -> Key:
    """Unbinds from its consumer, or only from this one. Repeating it is no error and no change.

    With a consumer: raises ConsumerNotFound, and AlreadyBound when the key is another one's.
    """

    def check(db: Change, key: Key) -> None:
        if consumer_id is not None:
            db.consumer(gateway_id, consumer_id)
            check_bindable(key, consumer_id)

    return _change(app, caller, "key.unbind", gateway_id, key_id, {"consumer_id": None}, check)


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


def blockers(_db: Reads, key: Key) -> list[dict[str, Any]]:
    """Everything that stands in the way of deleting a key."""
    found: list[dict[str, Any]] = []
    if key.status == "Enable":
        found.append(blocker("KeyEnabled", "key", key.key_id, key.name))
    if key.consumer is not None:
        found.append(blocker("KeyBound", "consumer", key.consumer.consumer_id, key.consumer.name))
    return found


def delete(app: Services, caller: Caller, gateway_id: str, key_id: str, *, dry_run: bool) -> dict[str, Any] | None:
    """Deletes a key that is disabled and unbound, as `deletion.delete` does."""

    def remove(db: Change, key: Key) -> None:
        db.delete_key(key_id)
        db.audit("key.delete", gateway_id, key_id, key)

    return deletion.delete(app, caller, lambda db: db.key(gateway_id, key_id), blockers, remove, dry_run=dry_run)


def reveal(app: Services, caller: Caller, gateway_id: str, key_id: str, given: RevealKey) -> Secret:
    """The value of a System or Custom key. The audit row is committed before the value leaves.

    Raises RevealDisabled, RevealLimitExceeded, KeyNotFound, ManagedByKms and ValueDamaged.
    """
    if not app.settings.reveal_enabled:
        raise Problem("RevealDisabled")
    app.store.raise_if_replayed(caller, app.now_ms())

    def find_sealed(db: Reads) -> bytes:
        if db.key(gateway_id, key_id).generation == "KMS":
            raise Problem("ManagedByKms")
        _check_reveals(app, db, caller.actor, app.now_ms())
        return db.sealed_value(key_id)

    def record(db: Change) -> None:
        db.key(gateway_id, key_id)  # still there
        _check_reveals(app, db, caller.actor, db.now_ms)  # again, now that nobody else reveals at the same time
        db.audit("key.reveal", gateway_id, key_id, None, {"reason": given.reason})
        db.count_reveal()
        db.remember({"key_id": key_id, "value": None})

    sealed = app.store.read(find_sealed)
    try:
        value = app.key_vault.open(app.place_of_key(gateway_id, key_id), sealed)
    except SealBroken as broken:
        raise Problem("ValueDamaged", reason=str(broken)) from None
    app.change(caller, record)
    return value


def _check_reveals(app: Services, db: Reads, actor: str, now_ms: int) -> None:
    """Raises RevealLimitExceeded, with the time until an earlier reveal of the operator counts no longer."""
    settings = app.settings
    for span_ms, most in ((60_000, settings.reveals_per_minute), (86_400_000, settings.reveals_per_day)):
        given = db.reveals_since(actor, now_ms - span_ms)
        if len(given) >= int(most):
            wait_ms = given[len(given) - int(most)] + span_ms - now_ms
            raise Problem("RevealLimitExceeded", headers={"Retry-After": str(-(-wait_ms // 1000))})
