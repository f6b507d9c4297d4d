"""Use cases of operators: add, rotate, enable, disable, list. Only `ckeys operators` offers them, no function does."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from consumer_keys.access import ROLES
from consumer_keys.errors import Problem, invalid
from consumer_keys.keytext import new_id, random_base62
from consumer_keys.model import Caller, timestamp
from consumer_keys.operators import system_caller
from consumer_keys.secret import Secret

if TYPE_CHECKING:
    from consumer_keys.store.change import Change
    from consumer_keys.store.reads import Reads
    from consumer_keys.wiring import Services

SECRET_CHARS = 40
KEEP_MS_MAX = 30 * 86_400_000
_CALLER = "ckeys"


def new_pair() -> tuple[str, str]:
    """A fresh (secret id, secret key): 40 base62 characters, 238 bits."""
    return new_id("operator", os.urandom), random_base62(SECRET_CHARS, os.urandom)


def add(
    app: Services, name: str, role: str, gateways: tuple[str, ...] | None = None, pair: tuple[str, str] | None = None
) -> tuple[str, str]:
    """A new operator: (secret id, secret key). The key is kept sealed and as a digest, and cannot be shown again.

    `gateways` None means all. Raises InvalidParameter and NameInUse.
    """
    if role not in ROLES:
        raise invalid("role", f"must be one of {', '.join(ROLES)}")
    if not 1 <= len(name) <= 60 or not name.isprintable():
        raise invalid("name", "must have 1 to 60 printable characters")
    unknown = set(gateways or ()) - {gateway.gateway_id for gateway in app.settings.gateways}
    if unknown or gateways == ():
        raise invalid("gateways", f"must be among those declared in GATEWAYS; {', '.join(sorted(unknown))} is not")
    secret_id, secret_key = chosen = pair or new_pair()
    sealed = _sealed(app, secret_id, secret_key)

    def insert(db: Change) -> None:
        if any(row["name"] == name for row in db.operator_rows()):
            raise Problem("NameInUse", "Another operator has this name.")
        restricted = None if gateways is None else ",".join(gateways)
        row = {"secret_id": secret_id, "name": name, "role": role, "status": "Enable", "gateways": restricted}
        db.add_operator({**row, **sealed, **_digests(app, db, secret_key)})
        db.audit("operator.create", "", secret_id, None, _shown(row))

    app.change(_caller(), insert)
    return chosen


def rotate(app: Services, wanted: str, keep_ms: int) -> tuple[str, str]:
    """A new secret key for an operator, named by name or secret id: (secret id, secret key).

    The former one is accepted for `keep_ms` more, at once no longer with 0; so are those before it at most.
    Raises InvalidParameter and OperatorNotFound.
    """
    if not 0 <= keep_ms <= KEEP_MS_MAX:
        raise invalid("keep", "must be from 0 to 30 days")
    secret_id = app.store.read(lambda db: _found(db, wanted)["secret_id"])
    secret_key = new_pair()[1]
    sealed = _sealed(app, secret_id, secret_key)

    def replace(db: Change) -> None:
        row = _found(db, secret_id)
        ends_at = db.now_ms + keep_ms
        db.keep_former_secret(row, ends_at)
        db.update_operator(secret_id, **sealed, **_digests(app, db, secret_key))
        kept = {"former_secret_until": timestamp(ends_at) if keep_ms else None}
        db.audit("operator.rotate", "", secret_id, _shown(row), {**_shown(row), **kept})

    app.change(_caller(), replace)
    return secret_id, secret_key


def set_status(app: Services, wanted: str, status: str, *, force: bool = False) -> str:
    """Enables or disables an operator, named by name or secret id; returns the secret id. Repeating it is no change.

    Raises OperatorNotFound, and LastAdmin for the last enabled admin of all gateways unless forced.
    """

    def change(db: Change) -> str:
        row = _found(db, wanted)
        others = [other for other in db.operator_rows() if other["secret_id"] != row["secret_id"]]
        if status == "Disable" and _rules(row) and not any(map(_rules, others)) and not force:
            raise Problem("LastAdmin")
        if row["status"] != status:
            db.update_operator(row["secret_id"], status=status)
            action = f"operator.{status.lower()}"
            db.audit(action, "", row["secret_id"], _shown(row), _shown({**row, "status": status}))
        return str(row["secret_id"])

    return app.change(_caller(), change)


def listed(app: Services) -> list[dict[str, Any]]:
    """Every operator by name; never a secret or a digest."""
    now_ms = app.now_ms()
    rows = app.store.read(lambda db: db.operator_rows())

    def former(row: Mapping[str, Any]) -> str | None:
        return timestamp(row["former_ends_at"]) if (row["former_ends_at"] or 0) > now_ms else None

    return [
        {**_shown(row), "created_at": timestamp(row["created_at"]), "former_secret_until": former(row)} for row in rows
    ]


def _caller() -> Caller:
    return system_caller(_CALLER, "")


def _sealed(app: Services, secret_id: str, secret_key: str) -> dict[str, Any]:
    sealed, data_key_id = app.operator_vault.seal(app.place_of_operator(secret_id), secret_key.encode())
    return {"sealed": sealed, "data_key_id": data_key_id}


def _digests(app: Services, db: Reads, secret_key: str) -> dict[str, Any]:
    """The digests of a secret. Raises ValueInUse: a text that opens a gateway must never open the management."""
    roots, gateways, secret = app.roots(db), app.settings.gateways, Secret(secret_key.encode())
    if any(db.digest_owner(*roots.lookup(gateway.gateway_id, secret)) for gateway in gateways):
        raise Problem("ValueInUse")
    digests = roots.token(secret)
    return {"digest": digests.present, "coming_digest": digests.coming}


def _found(db: Reads, wanted: str) -> Mapping[str, Any]:
    rows = db.operator_rows()
    for column in ("secret_id", "name"):
        for row in rows:
            if row[column] == wanted:
                return row
    raise Problem("OperatorNotFound")


def _rules(row: Mapping[str, Any]) -> bool:
    """Whether an operator may manage everything now."""
    return bool(row["role"] == "admin" and row["gateways"] is None and row["status"] == "Enable")


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    gateways = None if row["gateways"] is None else row["gateways"].split(",")
    return {**{name: row[name] for name in ("secret_id", "name", "role", "status")}, "gateways": gateways}
