"""Verification of TC3-HMAC-SHA256 request signatures (document 382/52072) against operators' secrets.

The canonical request is built from the request as it came: method, raw path, every query parameter, the signed headers
and the body's hash. Nothing is taken from `X-Forwarded-*`. Values of headers are accepted as sent, which is what the
Python SDK and tccli sign, or in lower case, which is what the document asks for.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote, quote_plus

from consumer_keys.signing import tc3_signature

SKEW_SECONDS_MAX = 300  # document 1209/56023, AuthFailure.SignatureExpire
HEADER_CHARS_MAX = 2048
SCHEME = "TC3-HMAC-SHA256"
_FORM = re.compile(
    rf"{SCHEME} +Credential=([A-Za-z0-9_-]{{1,64}})/([0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}})/([a-z0-9-]{{1,32}})/tc3_request"
    r" *, *SignedHeaders=([a-z0-9;-]+) *, *Signature=([0-9a-f]{64})"
)
# Nothing that is signed may hold a line feed: the canonical request is lines, and each must stay what it is.
_PATH, _VALUE = re.compile(r"/[!-~]*"), re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*")
_SIGNED_AT_LEAST = {"content-type", "host"}
_NOBODY = "no operator has this secret key"

MALFORMED, EXPIRED, UNKNOWN_ID, DISABLED = "Malformed", "Expired", "UnknownId", "Disabled"
MISMATCH, TOKEN, UNSIGNED_PAYLOAD, FOREIGN_SERVICE = "Mismatch", "Token", "UnsignedPayload", "ForeignService"
DAMAGED = "Damaged"
# Reason -> what the sender may be told. Unknown or disabled id, wrong signature and a stored secret that does not open
# say the same, so that nobody learns who exists.
REASONS = {
    MALFORMED: "Sign the request with TC3-HMAC-SHA256 and an operator's pair; X-TC-Timestamp, Content-Type and Host are"
    " needed, each once.",
    EXPIRED: "X-TC-Timestamp differs from the server's time by more than 5 minutes.",
    FOREIGN_SERVICE: "The signature is for another service.",
    UNSIGNED_PAYLOAD: "The body must be part of the signature; UNSIGNED-PAYLOAD is not accepted.",
    TOKEN: "Operators have no temporary credentials; send no X-TC-Token.",
    UNKNOWN_ID: "A valid operator credential is required.",
    DISABLED: "A valid operator credential is required.",
    MISMATCH: "A valid operator credential is required.",
    DAMAGED: "A valid operator credential is required.",
}


class SignatureRefused(Exception):  # noqa: N818 - a refusal
    """A signature that does not hold. `reason` is a key of REASONS; only REASONS[reason] is meant for the sender."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class SignedRequest(NamedTuple):
    """A request as it came. Header names are lower case; a header that came twice has a list. The path is raw."""

    method: str
    path: str
    query: Mapping[str, Any]
    headers: Mapping[str, Any]
    body: bytes

    def __repr__(self) -> str:
        """The method alone, as `web.Request` does: a body may hold a value."""
        return f"SignedRequest(method={self.method!r})"


class Signature(NamedTuple):
    """The parts of an Authorization header; `verify` returns it once it holds."""

    secret_id: str
    date: str
    service: str
    signed_headers: tuple[str, ...]
    hex: str
    timestamp: int


def is_tc3(authorization: object) -> bool:
    """Whether a value of Authorization claims this scheme."""
    return isinstance(authorization, str) and authorization.lower().startswith(SCHEME.lower())


def verify(
    request: SignedRequest, now: float, services: Iterable[str], secret_keys: Callable[[str], Sequence[str]]
) -> Signature:
    """The signature, when one of the id's secret keys made it, for one of `services`, within 5 minutes of `now`.

    `secret_keys` gives what an id may sign with, nothing for an unknown or disabled one; it is asked last, so that a
    request which is wrong in itself costs no look-up. Raises SignatureRefused.
    """
    signature = parse(request.headers)
    if not re.fullmatch("[A-Z]+", request.method) or not _PATH.fullmatch(request.path):
        raise SignatureRefused(MALFORMED)
    if abs(now - signature.timestamp) > SKEW_SECONDS_MAX:
        raise SignatureRefused(EXPIRED)
    if signature.date != time.strftime("%Y-%m-%d", time.gmtime(signature.timestamp)):
        raise SignatureRefused(MALFORMED)
    if signature.service not in services:
        raise SignatureRefused(FOREIGN_SERVICE)
    if request.headers.get("x-tc-content-sha256") is not None:
        raise SignatureRefused(UNSIGNED_PAYLOAD)
    if request.headers.get("x-tc-token"):
        raise SignatureRefused(TOKEN)
    known = secret_keys(signature.secret_id)
    # An unknown id costs the same work as a wrong signature.
    matching = [_made_by(key, signature, request) for key in known or [_NOBODY]]
    if not known:
        raise SignatureRefused(UNKNOWN_ID)
    if not any(matching):
        raise SignatureRefused(MISMATCH)
    return signature


def parse(headers: Mapping[str, Any]) -> Signature:
    """The signature's parts, nothing of them verified. Raises SignatureRefused(MALFORMED)."""
    text, stamp = headers.get("authorization"), headers.get("x-tc-timestamp")
    if not isinstance(text, str) or len(text) > HEADER_CHARS_MAX or not isinstance(stamp, str):
        raise SignatureRefused(MALFORMED)
    match = _FORM.fullmatch(text)
    if match is None or not re.fullmatch(r"[0-9]{1,11}", stamp):
        raise SignatureRefused(MALFORMED)
    secret_id, date, service, names, signature = match.groups()
    signed = tuple(names.split(";"))
    values = [headers.get(name) for name in signed]
    once = all(isinstance(value, str) and _VALUE.fullmatch(value) for value in values)
    if len(set(signed)) != len(signed) or not once or not set(signed).issuperset(_SIGNED_AT_LEAST):
        raise SignatureRefused(MALFORMED)
    return Signature(secret_id, date, service, signed, signature, int(stamp))


def _made_by(secret_key: str, signature: Signature, request: SignedRequest) -> bool:
    expected = [
        tc3_signature(secret_key, signature.date, signature.service, signature.timestamp, canonical)
        for canonical in canonical_requests(request, signature.signed_headers)
    ]
    return any(hmac.compare_digest(each.encode(), signature.hex.encode()) for each in expected)


def canonical_requests(request: SignedRequest, signed_headers: Sequence[str]) -> list[bytes]:
    """The forms in which a client may have signed this request; each of them fixes method, path, query, headers, body.

    An event holds the query as names and values, no longer as text, so its form is free where it does not matter: in
    the order of the event or sorted, spaces as `%20` (the document) or `+` (the SDK).
    """
    values = [(name, str(request.headers[name]).strip()) for name in signed_headers]
    digest = hashlib.sha256(request.body).hexdigest()
    forms = {
        "\n".join((request.method, request.path, query, *lines, "", ";".join(signed_headers), digest))
        for query in _query_forms(request.query)
        for lines in (
            tuple(f"{name}:{value}" for name, value in values),
            tuple(f"{name}:{value.lower()}" for name, value in values),
        )
    }
    return [form.encode("utf-8", "surrogatepass") for form in sorted(forms)]


def _query_forms(query: Mapping[str, Any]) -> list[str]:
    pairs = [
        (name, str(value)) for name, given in query.items() for value in (given if isinstance(given, list) else [given])
    ]
    return [
        "&".join(f"{_escaped(name, plus)}={_escaped(value, plus)}" for name, value in order)
        for order in (pairs, sorted(pairs))
        for plus in (False, True)
    ]


def _escaped(text: str, plus: bool) -> str:
    raw = text.encode("utf-8", "surrogatepass")
    return quote_plus(raw, safe="-_.~") if plus else quote(raw, safe="-_.~")
