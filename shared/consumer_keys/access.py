"""Who may do what: roles, and the digest by which an operator's token is known. Default deny, decided per function."""

from __future__ import annotations

import hashlib
import hmac

from consumer_keys.errors import Problem
from consumer_keys.snapshot import OperatorRecord

# Functions that change nothing.
READING = {
    "list_keys", "get_key", "list_consumers", "get_consumer", "list_groups", "get_group", "get_status", "list_audit",
    "verify",
}  # fmt: skip
_WRITE = {
    "create_key", "update_key", "enable_key", "disable_key", "delete_key", "bind_consumer", "unbind_consumer",
    "create_consumer", "update_consumer", "delete_consumer", "create_group", "update_group", "delete_group",
    "add_to_group", "remove_from_group",
}  # fmt: skip
# Functions that act on every gateway at once: they are not for operators of some.
_EVERYWHERE = {"sync_credentials"}
# Role -> functions; a function that is not named here may be called by nobody.
ROLES: dict[str, frozenset[str]] = {
    "verifier": frozenset({"verify"}),
    "viewer": frozenset(READING),
    "editor": frozenset(READING | _WRITE),
    "revealer": frozenset({"reveal_key", "verify"}),
    "admin": frozenset(READING | _WRITE | {"reveal_key", "sync_credentials"}),
}


def token_digest(operator_key: bytes, token: str) -> bytes:
    """32 bytes under a label of their own: an operator's secret is never taken for a key value, nor the reverse."""
    return hmac.digest(operator_key, token.encode(), hashlib.sha256)


def authorise(function: str, operator: OperatorRecord | None, gateway_id: str | None) -> OperatorRecord:
    """The operator, when the role allows the function and the gateway is one of theirs.

    Raises Unauthenticated, Forbidden, or GatewayNotFound: a gateway that is not theirs looks like none.
    """
    if operator is None:
        raise Problem("Unauthenticated")
    if function not in ROLES.get(operator.role, frozenset()):
        raise Problem("Forbidden", actor=operator.secret_id)
    if function in _EVERYWHERE and operator.gateways is not None:
        raise Problem("Forbidden", actor=operator.secret_id)
    if gateway_id is not None and operator.gateways is not None and gateway_id not in operator.gateways:
        raise Problem("GatewayNotFound", actor=operator.secret_id)
    return operator
