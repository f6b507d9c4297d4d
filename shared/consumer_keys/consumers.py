"""Use cases of consumers: who calls the gateway."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from consumer_keys import deletion, keys
from consumer_keys.deletion import blocker
from consumer_keys.keytext import new_id
from consumer_keys.model import Caller, Consumer, CreateConsumer, CreateKey, ListConsumers, UpdateConsumer
from consumer_keys.paging import list_page

if TYPE_CHECKING:
    from consumer_keys.store.change import Change
    from consumer_keys.store.reads import Reads
    from consumer_keys.wiring import Services


def create(
    app: Services, caller: Caller, gateway_id: str, given: CreateConsumer, key: CreateKey | str | None = None
) -> Consumer:
    """A new consumer, with a new key or the key of this id bound to it: both or none.

    Raises NameInUse, also for the key's name; KeyNotFound, and AlreadyBound for a key of somebody else.
    """
    app.store.raise_if_replayed(caller, app.now_ms())
    consumer_id = new_id("consumer", os.urandom)
    new = keys.prepare(app, gateway_id, key) if isinstance(key, CreateKey) else None

    def work(db: Change) -> Consumer:
        db.insert_consumer({"consumer_id": consumer_id, "gateway_id": gateway_id, **given.model_dump()})
        db.audit("consumer.create", gateway_id, consumer_id, None, db.consumer(gateway_id, consumer_id))
        if new is not None and isinstance(key, CreateKey):
            keys.insert(app, db, gateway_id, key, new, consumer_id=consumer_id, creation_source="AutoWithConsumer")
        elif isinstance(key, str):
            before = db.key(gateway_id, key)
            keys.check_bindable(before, consumer_id)
            db.update_key(key, consumer_id=consumer_id)
            db.audit("key.bind", gateway_id, key, before, db.key(gateway_id, key))
        consumer = db.consumer(gateway_id, consumer_id)
        db.remember(consumer.model_dump(mode="json"))
        return consumer

    return app.change(caller, work)


def get(app: Services, gateway_id: str, consumer_id: str) -> Consumer:
    """One consumer. Raises ConsumerNotFound."""
    return app.store.read(lambda db: db.consumer(gateway_id, consumer_id))


def find(app: Services, gateway_id: str, given: ListConsumers) -> dict[str, Any]:
    """A page of consumers: items, total_count of all matches, next_cursor or null."""
    now_ms = app.now_ms()
    return app.read(
        lambda db: list_page(app.roots(db).cursor_keys, "consumers", gateway_id, given, db.consumers, now_ms)
    )


def update(app: Services, caller: Caller, gateway_id: str, consumer_id: str, given: UpdateConsumer) -> Consumer:
    """Changes name, description and status. Disabling a consumer stops all its keys."""
    values = given.model_dump(exclude_unset=True)

    def edit(db: Change) -> Consumer:
        before = db.consumer(gateway_id, consumer_id)
        db.check_revision(before.revision)
        after = before
        if any(getattr(before, name) != value for name, value in values.items()):
            db.update_consumer(consumer_id, **values)
            after = db.consumer(gateway_id, consumer_id)
            db.audit("consumer.update", gateway_id, consumer_id, before, after)
        db.remember(after.model_dump(mode="json"))
        return after

    return app.change(caller, edit)


def blockers(db: Reads, consumer: Consumer) -> list[dict[str, Any]]:
    """Everything that stands in the way of deleting a consumer: each key that is bound to it, each group with it."""
    keys = db.keys_of_consumer(consumer.consumer_id)
    bound = [blocker("ConsumerHasKey", "key", key_id, name) for key_id, name in keys]
    return bound + [blocker("ConsumerInGroup", "group", group.group_id, group.name) for group in consumer.groups]


def delete(app: Services, caller: Caller, gateway_id: str, consumer_id: str, *, dry_run: bool) -> dict[str, Any] | None:
    """Deletes a consumer without keys and groups, as `deletion.delete` does."""

    def remove(db: Change, consumer: Consumer) -> None:
        db.delete_consumer(consumer_id)
        db.audit("consumer.delete", gateway_id, consumer_id, consumer)

    def find(db: Reads) -> Consumer:
        return db.consumer(gateway_id, consumer_id)

    return deletion.delete(app, caller, find, blockers, remove, dry_run=dry_run)
