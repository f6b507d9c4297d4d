"""Rotation of data keys: values are sealed anew in batches, and a data key goes when nothing has used it for a while.

Everything can be stopped at any point and begun again: what is to be done is read from the database each time, each
batch is one transaction, and a value that changed meanwhile is left to the next run. The audit log has a row for each
data key that a rotation begins, wraps anew, sees unused and destroys, written with it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from consumer_keys.errors import SealBroken
from consumer_keys.operators import system_caller

if TYPE_CHECKING:
    from consumer_keys.store.change import Change
    from consumer_keys.store.publication import Housekeeping
    from consumer_keys.store.sealed import SealedRow
    from consumer_keys.vault import DataKey, Place, Vault
    from consumer_keys.wiring import Services

DAY_MS = 86_400_000
# A request that has read a sealed value ends long before this, and so does the memory of an instance that seals.
GRACE_MS = 900_000
AT_ONCE_MAX = 500  # data keys, and rows of the audit log, per transaction
_CALLER = system_caller("ckeys", "")


def rotate(
    app: Services, older_than_days: float, batch: int, *, progress: Callable[[int], None] = lambda _count: None
) -> dict[str, Any]:
    """Seals anew what is under older data keys, then retires those: a report per purpose, without any value.

    `broken` names owners whose value does not open; it stays as it is, and so does its data key. Raises Unavailable.
    """
    before_ms = app.now_ms() - int(older_than_days * DAY_MS)
    report = {}
    for purpose in ("values", "operators"):
        vault = app.vault(purpose, partial(_begin, app))
        resealed, broken = _reseal(app, purpose, vault, before_ms, batch, progress)
        keys = _retire(app, purpose, before_ms, min(batch, AT_ONCE_MAX))
        report[purpose] = {"resealed": resealed, "broken": broken, "data_keys": keys}
    return report


def _begin(app: Services, data_key: DataKey) -> None:
    def add(db: Change) -> None:
        db.add_data_key(data_key._asdict())
        after = {"purpose": data_key.purpose, "kms_key_id": data_key.kms_key_id}
        db.audit("data_key.begin", "", data_key.data_key_id, None, after)

    app.store.change(_CALLER, app.now_ms(), add)


def _retire(app: Services, purpose: str, before_ms: int, batch: int) -> dict[str, int]:
    app.store.housekeeping("reseal", lambda db: db.note_used_again(purpose))

    def destroy(db: Change) -> list[str]:
        return db.destroy_data_keys(purpose, db.now_ms - GRACE_MS, batch)

    def retire(db: Change) -> list[str]:
        return db.retire_data_keys(purpose, before_ms, db.now_ms, batch)

    destroyed = _all(app, "data_key.destroy", purpose, destroy)
    return {"unused": _all(app, "data_key.retire", purpose, retire), "destroyed": destroyed}


def _all(app: Services, action: str, purpose: str, work: Callable[[Change], list[str]]) -> int:
    """Does `work`, which gives the data keys that it was about, until there are none; how many there were."""

    def audited(db: Change) -> int:
        idents = work(db)
        for data_key_id in idents:
            db.audit(action, "", data_key_id, None, {"purpose": purpose})
        return len(idents)

    total = 0
    while count := app.store.change(_CALLER, app.now_ms(), audited)[0]:
        total += count
    return total


def _reseal(
    app: Services, purpose: str, vault: Vault, before_ms: int, batch: int, progress: Callable[[int], None]
) -> tuple[int, list[str]]:
    def rows_behind(after: SealedRow | None) -> list[SealedRow]:
        return app.store.snapshot(lambda db: db.sealed_rows(purpose, before_ms, after, batch))

    count, broken, rows = 0, list[str](), rows_behind(None)
    while rows:
        anew: list[tuple[SealedRow, bytes, str]] = []
        for row in rows:
            place = _place(app, row)
            try:
                anew.append((row, *vault.seal(place, vault.open(place, row.sealed).reveal())))
            except SealBroken:
                broken.append(row.owner_id)
        count += app.store.housekeeping("reseal", partial(_replace, anew=anew))
        progress(count)
        rows = rows_behind(rows[-1])
    return count, broken


def _replace(db: Housekeeping, anew: list[tuple[SealedRow, bytes, str]]) -> int:
    return sum(db.replace_sealed(*one) for one in anew)


def _place(app: Services, row: SealedRow) -> Place:
    if row.table == "key_values":
        return app.place_of_key(row.gateway_id, row.owner_id)
    return app.place_of_operator(row.owner_id)


def rewrap(app: Services, batch: int) -> int:
    """Wraps every data key with its KMS key's newest material, or with the KMS key that the settings name now.

    Returns how many. The data keys, and so every sealed value, stay what they are. Raises Unavailable.
    """
    wraps = {
        "values": (app.key_vault, app.settings.kms_key_id or ""),
        "operators": (app.operator_vault, app.settings.kms_operator_key_id or ""),
    }

    def rows_behind(after: str) -> list[Any]:
        return app.store.snapshot(lambda db: db.data_key_rows(after, batch))

    count, rows = 0, rows_behind("")
    while rows:
        for row in rows:
            (vault, target), ident, old = wraps[row["purpose"]], row["data_key_id"], row["blob"]
            blob = app.kms.re_encrypt(old, vault.context(ident), target)
            if blob != old:
                write = partial(
                    _replace_blob, purpose=row["purpose"], data_key_id=ident, old=old, new=blob, kms_key_id=target
                )
                app.store.change(_CALLER, app.now_ms(), write)
                count += 1
        rows = rows_behind(rows[-1]["data_key_id"])
    return count


def _replace_blob(db: Change, *, purpose: str, data_key_id: str, old: str, new: str, kms_key_id: str) -> None:
    if db.replace_blob(data_key_id, old, new, kms_key_id):
        db.audit("data_key.rewrap", "", data_key_id, None, {"purpose": purpose, "kms_key_id": kms_key_id})
