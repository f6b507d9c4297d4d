"""Operators: who manages keys, and how a call is known to be theirs."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from consumer_keys.access import ROLES, authorise, token_digest
from consumer_keys.errors import Problem, invalid
from consumer_keys.keytext import new_id, random_base62
from consumer_keys.model import Caller
from consumer_keys.snapshot import OperatorRecord

if TYPE_CHECKING:
    from consumer_keys.store.change import Change
    from consumer_keys.store.database import Database

SECRET_CHARS = 40


def authenticate(
    function: str, request: Any, token: str | None, gateway_id: str | None, store: Database, operator_key: bytes
) -> OperatorRecord:
    """The operator behind a bearer token. A direct invocation is authenticated by CAM: it acts as the platform."""
    if request.kind != "http":
        return OperatorRecord("function-invoke", "admin", None)
    if token is None:
        raise Problem("Unauthenticated")
    with store.read() as db:
        found = db.operator_by_digest(token_digest(operator_key, token))
    active = found is not None and found.status == "Enable"
    record = OperatorRecord(found.secret_id, found.role, found.gateways) if found and active else None
    return authorise(function, record, gateway_id)


def add(
    change: Change, sealed: tuple[bytes, str], operator_key: bytes, *,
    name: str, role: str, gateways: tuple[str, ...] | None, pair: tuple[str, str],
) -> None:  # fmt: skip
    """A new operator. The secret is kept sealed (bytes, data key id), and as a digest for bearer calls."""
    if role not in ROLES:
        raise invalid("role", f"must be one of {', '.join(ROLES)}")
    secret_id, secret_key = pair
    change.add_operator(
        {
            "secret_id": secret_id, "name": name, "role": role, "status": "Enable",
            "gateways": None if gateways is None else ",".join(gateways),
            "digest": token_digest(operator_key, secret_key), "sealed": sealed[0], "data_key_id": sealed[1],
        }
    )  # fmt: skip
    change.audit("operator.create", "", secret_id, None, {"name": name, "role": role})


def new_pair() -> tuple[str, str]:
    """A fresh (secret id, secret key): 40 base62 characters, 238 bits."""
    return new_id("operator", os.urandom), random_base62(SECRET_CHARS, os.urandom)


def system_caller(function: str, request_id: str) -> Caller:
    """The caller of changes that the service makes by itself."""
    return Caller(function, "admin", None, function, request_id)
