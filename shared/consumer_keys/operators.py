"""Operators: who manages keys, and how a call is known to be theirs."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from consumer_keys import tc3
from consumer_keys.access import authorise
from consumer_keys.errors import Problem, SealBroken
from consumer_keys.model import Caller
from consumer_keys.secret import Secret
from consumer_keys.snapshot import OperatorRecord

if TYPE_CHECKING:
    from consumer_keys.store.reads import Operator
    from consumer_keys.wiring import Services

# The service in the credential scope of a signed call of ours: `<date>/ckeys/tc3_request`.
SIGNED_SERVICE = "ckeys"
# Reasons of an unsigned call, for the log alone, beside those of `tc3`.
MISSING, UNKNOWN_SECRET = "Missing", "UnknownSecret"
_SCHEMES = {"WWW-Authenticate": 'Bearer realm="consumer-keys", TC3-HMAC-SHA256 realm="consumer-keys"'}


def authenticate(
    app: Services, function: str, request: Any, token: str | None, gateway_id: str | None
) -> tuple[OperatorRecord, bytes | None]:
    """The operator behind a bearer token or a signature, and what stands for the signed request (else None).

    A direct invocation is authenticated by CAM: it acts as the platform. Raises Unauthenticated, whose reason only the
    log is told, Forbidden and GatewayNotFound.
    """
    if request.kind != "http":
        return OperatorRecord("function-invoke", "admin", None), None
    if tc3.is_tc3(request.header("authorization")):
        try:
            operator, signature = signed_by(app, signed_request(request), (SIGNED_SERVICE,))
        except tc3.SignatureRefused as refused:
            raise _unauthenticated(refused.reason, tc3.REASONS[refused.reason]) from None
        return authorise(function, operator, gateway_id), signed_use(function, signature)
    if token is None:
        raise _unauthenticated(MISSING if request.headers.get("authorization") is None else tc3.MALFORMED)
    now_ms, secret_key = app.now_ms(), Secret(token.encode())
    found = app.read(lambda db: db.operator_by_digest(app.roots(db).token(secret_key).present, now_ms))
    if found is None or found.status != "Enable":
        raise _unauthenticated(UNKNOWN_SECRET if found is None else tc3.DISABLED)
    return authorise(function, _record(found), gateway_id), None


def _unauthenticated(reason: str, detail: str | None = None) -> Problem:
    return Problem("Unauthenticated", detail, headers=_SCHEMES, reason=reason)


def signed_by(
    app: Services, request: tc3.SignedRequest, services: Iterable[str]
) -> tuple[OperatorRecord, tc3.Signature]:
    """The enabled operator who signed exactly this request for one of `services`. Raises tc3.SignatureRefused.

    Secrets are opened with data keys that the vault keeps for at most 15 minutes. A stored secret that does not open
    signs nothing; that is a matter of this operator alone, whose other secrets count as ever.
    """
    known: list[Operator] = []
    damaged: list[str] = []
    now_ms = app.now_ms()

    def secret_keys(secret_id: str) -> list[str]:
        found = app.store.read(lambda db: db.operator_secrets(secret_id, now_ms))
        if found is None:
            return []
        known.append(found[0])
        if found[0].status != "Enable":
            return []
        place, secrets = app.place_of_operator(secret_id), list[str]()
        for sealed in found[1]:
            try:
                secrets.append(app.operator_vault.open(place, sealed).text())
            except SealBroken:
                damaged.append(secret_id)
        return secrets

    try:
        signature = tc3.verify(request, now_ms / 1000, services, secret_keys)
    except tc3.SignatureRefused as refused:
        if refused.reason in (tc3.UNKNOWN_ID, tc3.MISMATCH) and damaged:
            raise tc3.SignatureRefused(tc3.DAMAGED) from None
        if refused.reason == tc3.UNKNOWN_ID and known:
            raise tc3.SignatureRefused(tc3.DISABLED) from None
        raise
    return _record(known[0]), signature


def _record(found: Operator) -> OperatorRecord:
    return OperatorRecord(found.secret_id, found.role, found.gateways)


def signed_request(request: Any) -> tc3.SignedRequest:
    """An HTTP request (web.Request) as its signature covers it. Raises tc3.SignatureRefused for a body of no bytes."""
    try:
        body = request.body.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise tc3.SignatureRefused(tc3.MALFORMED) from None
    return tc3.SignedRequest(request.method, request.path, request.query, request.headers, body)


def signed_use(function: str, signature: tc3.Signature) -> bytes:
    """32 bytes for `Caller.signature`. The function is part of it: TC3 as the SDK signs leaves X-TC-Action out."""
    return hashlib.sha256(f"{function}\0{signature.hex}".encode()).digest()


def system_caller(function: str, request_id: str) -> Caller:
    """The caller of changes that the service makes by itself; without a request, an id of its own."""
    return Caller(function, "admin", None, function, request_id or str(uuid.uuid4()))
