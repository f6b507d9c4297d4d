"""What operators change: drawn when the transaction sees what there is, and made by the store's own methods."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from consumer_keys.roots import Digests
from consumer_keys.store.change import Change
from tests.simulation.choices import Choices

GATEWAY = "default"
# So few that a value which was removed is soon given again, perhaps to another key.
VALUES = 40
# The end of a value (ms from now): none, soon, or after the overlap.
ENDS = (None, 1_000, 300_000)


def value(number: int) -> Digests:
    """One of the values that the keys of the simulation may have."""
    return Digests(bytes([number]) * 32, None)


def new_key(db: Change, key_id: str, name: str, consumer_id: str | None) -> None:
    """A key without a value."""
    db.insert_key(
        {
            "key_id": key_id, "gateway_id": GATEWAY, "name": name, "description": "", "type": "ApiKey",
            "generation": "Custom", "status": "Enable", "masked_value": "****", "consumer_id": consumer_id,
        }
    )  # fmt: skip


def new_consumer(db: Change, consumer_id: str, name: str) -> None:
    """A consumer."""
    names = {"consumer_id": consumer_id, "gateway_id": GATEWAY, "name": name, "description": "", "status": "Enable"}
    db.insert_consumer(names)


class Edit:
    """One change. `text` says afterwards what it was."""

    def __init__(self, choices: Choices, number: int) -> None:
        """`number` is that of no other edit."""
        self._choices, self._number, self.text = choices, number, ""

    def __call__(self, db: Change) -> None:
        """Makes it."""
        keys = _found(db, "SELECT key_id FROM consumer_keys WHERE generation = 'Custom' ORDER BY key_id")
        consumers = _found(db, "SELECT consumer_id FROM consumers ORDER BY consumer_id")
        kind = self._choices.of("kind", KINDS)
        if "consumer" in kind:
            target = self._consumer(db, kind, consumers)
        else:
            target = self._key(db, kind if keys else "create key", keys, [None, *consumers])
        db.audit("consumer.update" if "consumer" in kind else "key.update", GATEWAY, target, None)
        self.text = f"{kind} {target}"

    def _consumer(self, db: Change, kind: str, consumers: list[Any]) -> str:
        name = f"consumer-{self._number}"
        if kind == "create consumer" or not consumers:
            consumer_id = f"consumer-{self._number << 16:014x}"
            new_consumer(db, consumer_id, name)
            return consumer_id
        consumer_id = self._choices.of("consumer", consumers)
        if kind == "delete consumer":
            for key_id in _found(db, "SELECT key_id FROM consumer_keys WHERE consumer_id = ?", consumer_id):
                db.update_key(key_id, consumer_id=None)
            db.delete_consumer(consumer_id)
        else:
            db.update_consumer(consumer_id, name=name, status=self._status())
        return str(consumer_id)

    def _key(self, db: Change, kind: str, keys: list[Any], consumers: list[Any]) -> str:
        name = f"name-{self._number}"
        if kind == "create key":
            key_id = f"secret-{self._number << 16:014x}"
            new_key(db, key_id, name, self._choices.of("consumer", consumers))
            self._add_value(db, key_id)
            return key_id
        key_id = self._choices.of("key", keys)
        if kind == "delete key":
            db.delete_key(key_id)
        elif kind == "bind key":
            db.update_key(key_id, consumer_id=self._choices.of("consumer", consumers))
        elif kind == "edit key":
            db.update_key(key_id, name=name, status=self._status())
        else:
            self._value(db, kind, key_id)
        return str(key_id)

    def _value(self, db: Change, kind: str, key_id: str) -> None:
        values = _found(db, "SELECT hex(digest) FROM key_values WHERE key_id = ? ORDER BY digest", key_id)
        if kind == "add value" or not values:
            self._add_value(db, key_id)
            return
        digest = bytes.fromhex(self._choices.of("value", values))
        if kind == "remove value":
            db.remove_value(digest)
        else:
            ends_in = self._choices.of("end", ENDS)
            db.end_value(digest, None if ends_in is None else db.now_ms + ends_in)

    def _add_value(self, db: Change, key_id: str) -> None:
        taken = {bytes(digest) for digest in _found(db, "SELECT digest FROM key_values")}
        free = [number for number in range(1, VALUES + 1) if value(number).present not in taken]
        if free:
            db.add_value(key_id, value(self._choices.of("new value", free)))
        else:
            db.update_key(key_id, name=f"name-{self._number}")

    def _status(self) -> str:
        return self._choices.of("status", ("Enable", "Disable"))


class MassRemoval(Edit):
    """All values but those of a few keys are gone at once, or end."""

    def __call__(self, db: Change) -> None:
        keys = _found(db, "SELECT key_id FROM consumer_keys WHERE generation = 'Custom' ORDER BY key_id")
        if not keys:
            super().__call__(db)
            return
        how, left = self._choices.of("how", ("end", "end", "delete")), self._choices.of("left", (3, 8))
        for key_id in keys[left:]:
            if how == "delete":
                db.delete_key(key_id)
                continue
            for digest in db.values_of(key_id):
                db.end_value(digest, db.now_ms + 300_000)
        db.update_key(keys[0], name=f"name-{self._number}")
        db.audit("key.update", GATEWAY, keys[0], None)
        self.text = f"{how} all keys but {left}"


def bring_back(digests: set[bytes]) -> Callable[[Change], None]:
    """The change that undoes a removal: the values have no end any more, or are given to some key."""

    def work(db: Change) -> None:
        key_id = _found(db, "SELECT min(key_id) FROM consumer_keys WHERE generation = 'Custom'")[0]
        if key_id is None:
            key_id = "secret-ffffffffffffff"
            new_key(db, key_id, "brought-back", None)
        there = {bytes(digest) for digest in _found(db, "SELECT digest FROM key_values")}
        for digest in sorted(digests):
            if digest in there:
                db.end_value(digest, None)
            else:
                db.add_value(key_id, Digests(digest, None))
        db.audit("key.update", GATEWAY, key_id, None)

    return work


KINDS = (
    "edit consumer", "edit consumer", "create consumer", "delete consumer", "edit key", "edit key", "bind key",
    "bind key", "create key", "delete key", "delete key", "add value", "add value", "remove value", "end value",
)  # fmt: skip


def _found(db: Change, query: str, *given: Any) -> list[Any]:
    connection: Any = db.connection.connection.driver_connection
    return [row[0] for row in connection.execute(query, given)]
