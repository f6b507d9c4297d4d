"""Deleting, the same for keys, consumers and groups: what stands in the way is looked up, told whole, and rechecked."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from consumer_keys.errors import Problem

if TYPE_CHECKING:
    from consumer_keys.model import Caller, Consumer, Group, Key
    from consumer_keys.store.change import Change
    from consumer_keys.store.reads import Reads
    from consumer_keys.wiring import Services

    Found = TypeVar("Found", Key, Consumer, Group)


def blocker(code: str, kind: str, resource_id: str, name: str) -> dict[str, Any]:
    """One reason why something cannot be deleted, as the answer tells it."""
    return {"code": code, "resource": {"type": kind, "id": resource_id, "name": name}}


def delete(
    app: Services, caller: Caller, find: Callable[[Reads], Found],
    blockers: Callable[[Reads, Found], list[dict[str, Any]]], remove: Callable[[Change, Found], None], *, dry_run: bool,
) -> dict[str, Any] | None:  # fmt: skip
    """Removes what `find` finds if nothing blocks it, in the transaction that looked. Raises UnresolvedDependencies.

    A dry run changes nothing and returns {deletable, blockers}.
    """
    if dry_run:
        found = app.store.read(lambda db: blockers(db, find(db)))
        return {"deletable": not found, "blockers": found}

    def check_and_remove(db: Change) -> None:
        doomed = find(db)
        db.check_revision(doomed.revision)
        if found := blockers(db, doomed):
            raise Problem("UnresolvedDependencies", members={"blockers": found})
        remove(db, doomed)

    app.change(caller, check_and_remove)
    return None
