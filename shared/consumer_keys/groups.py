"""Use cases of consumer groups: consumers that are named and stopped together."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from consumer_keys import deletion
from consumer_keys.deletion import blocker
from consumer_keys.keytext import new_id
from consumer_keys.model import Caller, CreateGroup, Group, ListGroups, Resource, UpdateGroup
from consumer_keys.paging import list_page

if TYPE_CHECKING:
    from consumer_keys.store.change import Change
    from consumer_keys.store.reads import Reads
    from consumer_keys.wiring import Services

BLOCKERS_MAX = 1000


def create(app: Services, caller: Caller, gateway_id: str, given: CreateGroup) -> Group:
    """A new group without consumers. Raises NameInUse."""
    group_id = new_id("cg", os.urandom)  # the vendor's ids of groups begin so

    def insert(db: Change) -> Group:
        db.insert_group({"group_id": group_id, "gateway_id": gateway_id, **given.model_dump()})
        group = db.group(gateway_id, group_id)
        db.audit("group.create", gateway_id, group_id, None, group)
        db.remember(group.model_dump(mode="json"))
        return group

    return app.change(caller, insert)


def get(app: Services, gateway_id: str, group_id: str) -> Group:
    """One group. Raises GroupNotFound."""
    return app.store.read(lambda db: db.group(gateway_id, group_id))


def find(app: Services, gateway_id: str, given: ListGroups) -> dict[str, Any]:
    """A page of groups: items, total_count of all matches, next_cursor or null."""
    now_ms = app.now_ms()
    return app.read(lambda db: list_page(app.roots(db).cursor_keys, "groups", gateway_id, given, db.groups, now_ms))


def update(app: Services, caller: Caller, gateway_id: str, group_id: str, given: UpdateGroup) -> Group:
    """Changes name, description and status. Disabling a group stops the keys of every consumer in it."""
    values = given.model_dump(exclude_unset=True)

    def apply(db: Change, group: Group) -> None:
        changed = {name: value for name, value in values.items() if getattr(group, name) != value}
        if changed:
            db.update_group(group_id, **changed)

    return _change(app, caller, "group.update", gateway_id, group_id, apply)


def add_consumers(app: Services, caller: Caller, gateway_id: str, group_id: str, consumer_ids: Iterable[str]) -> Group:
    """Puts consumers of the same gateway into the group, all or none; one that is in it already stays."""
    wanted = sorted(set(consumer_ids))

    def apply(db: Change, _group: Group) -> None:
        for consumer_id in wanted:
            db.consumer(gateway_id, consumer_id)
        members = db.members_among(group_id, wanted)
        if new := [consumer_id for consumer_id in wanted if consumer_id not in members]:
            db.add_members(group_id, new)

    return _change(app, caller, "group.add", gateway_id, group_id, apply, {"consumers": wanted})


def remove_consumers(
    app: Services, caller: Caller, gateway_id: str, group_id: str, consumer_ids: Iterable[str]
) -> Group:
    """Takes consumers out of the group, all or none; one that is not in it is no error."""
    wanted = sorted(set(consumer_ids))

    def apply(db: Change, _group: Group) -> None:
        for consumer_id in wanted:
            db.consumer(gateway_id, consumer_id)
        if members := sorted(db.members_among(group_id, wanted)):
            db.remove_members(group_id, members)

    return _change(app, caller, "group.remove", gateway_id, group_id, apply, {"consumers": wanted})


def authorise(
    app: Services, caller: Caller, gateway_id: str, group_ids: Iterable[str], resource: Resource, *, allowed: bool
) -> None:
    """Notes that groups may use a resource of the gateway, or no longer; all or none, and repeating is no error.

    The gateway enforces it, by the groups that validation names: a key is not good for one resource alone.
    """

    def note(db: Change) -> None:
        for group_id in sorted(set(group_ids)):
            before = db.group(gateway_id, group_id)
            if (resource in before.resources) is allowed:
                continue
            (db.add_resource if allowed else db.remove_resource)(group_id, resource)
            action = "group.authorise" if allowed else "group.revoke"
            db.audit(action, gateway_id, group_id, before, db.group(gateway_id, group_id))
        db.remember({})

    app.change(caller, note)


def _change(
    app: Services, caller: Caller, action: str, gateway_id: str, group_id: str,
    apply: Callable[[Change, Group], None], noted: dict[str, Any] | None = None,
) -> Group:  # fmt: skip
    def edit(db: Change) -> Group:
        before = db.group(gateway_id, group_id)
        db.check_revision(before.revision)
        apply(db, before)
        after = before
        if db.changed:
            after = db.group(gateway_id, group_id)
            db.audit(action, gateway_id, group_id, before, {**after.model_dump(mode="json"), **(noted or {})})
        db.remember(after.model_dump(mode="json"))
        return after

    return app.change(caller, edit)


def blockers(db: Reads, group: Group) -> list[dict[str, Any]]:
    """Everything that stands in the way of deleting a group: its consumers, and what it is authorised on."""
    members = db.consumers_of_group(group.group_id, BLOCKERS_MAX)
    consumers = [blocker("GroupHasConsumer", "consumer", consumer_id, name) for consumer_id, name in members]
    return consumers + [blocker("GroupAuthorised", one.type, one.id, one.id) for one in group.resources]


def delete(app: Services, caller: Caller, gateway_id: str, group_id: str, *, dry_run: bool) -> dict[str, Any] | None:
    """Deletes a group that is empty and authorised on nothing, as `deletion.delete` does."""

    def remove(db: Change, group: Group) -> None:
        db.delete_group(group_id)
        db.audit("group.delete", gateway_id, group_id, group)

    return deletion.delete(app, caller, lambda db: db.group(gateway_id, group_id), blockers, remove, dry_run=dry_run)
