"""Verification of TC3-HMAC-SHA256, written from the vendor's documents (CN 213/30654, CNapi 382/52072).

The server decides from the request alone: which headers are signed is read from `SignedHeaders`.  Documents ask for
lower-cased header values while the official Python SDK signs them as sent, so both forms are accepted.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from collections.abc import Mapping
from typing import NamedTuple

from tencent_emulator.cam import Policy
from tencent_emulator.errors import CloudError
from tencent_emulator.wire import Request

SKEW_S_MAX = 300  # INTL 1209/56023: "the signature has expired", five minutes either way
_FORM = re.compile(
    r"TC3-HMAC-SHA256\s+Credential=([^/\s,]+)/(\d{4}-\d{2}-\d{2})/([a-z0-9]+)/tc3_request"
    r"\s*,\s*SignedHeaders=([A-Za-z0-9;_-]+)\s*,\s*Signature=([0-9a-fA-F]{64})\s*"
)


class Credential(NamedTuple):
    """A key pair the emulator knows; `token` is set for temporary credentials, `policy` limits what it may do."""

    secret_key: str
    token: str | None
    policy: Policy | None = None


class Authorization(NamedTuple):
    """The parts of the Authorization header."""

    secret_id: str
    date: str
    service: str
    signed_headers: list[str]
    signature: str


def parse(header: str | None) -> Authorization:
    """Split the header, or AuthFailure.InvalidAuthorization when it is absent or malformed."""
    match = _FORM.fullmatch(header or "")
    if match is None:
        raise CloudError("AuthFailure.InvalidAuthorization", "The Authorization header is missing or malformed.")
    secret_id, date, service, names, signature = match.groups()
    signed = names.lower().split(";")
    if not {"content-type", "host"} <= set(signed):
        raise CloudError("AuthFailure.InvalidAuthorization", "SignedHeaders must contain content-type and host.")
    return Authorization(secret_id, date, service, signed, signature.lower())


def verify(request: Request, auth: Authorization, credentials: Mapping[str, Credential], now: float) -> None:
    """Return only if a known key signed exactly this request within five minutes of `now`, with the right token."""
    credential = credentials.get(auth.secret_id)
    if credential is None:
        raise CloudError("AuthFailure.SecretIdNotFound", "The SecretId does not exist.")
    stamp = _timestamp(request)
    if abs(now - stamp) > SKEW_S_MAX:
        raise CloudError("AuthFailure.SignatureExpire", "The timestamp differs from the server time by over 5 minutes.")
    if not _matches(request, auth, credential.secret_key, stamp):
        raise CloudError("AuthFailure.SignatureFailure", "The signature does not match the request.")
    if not hmac.compare_digest(request.headers.get("x-tc-token", "").encode(), (credential.token or "").encode()):
        raise CloudError("AuthFailure.TokenFailure", "The token does not belong to this SecretId.")


def _timestamp(request: Request) -> int:
    text = request.headers.get("x-tc-timestamp")
    if text is None:
        raise CloudError("MissingParameter", "The header X-TC-Timestamp is missing.")
    if not re.fullmatch(r"\d{1,12}", text):
        raise CloudError("InvalidParameter", "The header X-TC-Timestamp is not a Unix time in seconds.")
    return int(text)


def _matches(request: Request, auth: Authorization, secret_key: str, stamp: int) -> bool:
    if request.path != "/":  # the canonical request always says "/"
        return False
    # The date is part of the key derivation; a date that is not the timestamp's day would widen a derived key's use.
    if auth.date != time.strftime("%Y-%m-%d", time.gmtime(stamp)):
        return False
    for lower in (False, True):
        canonical = canonical_request(request, auth.signed_headers, lower_values=lower)
        expected = sign(secret_key, auth.date, auth.service, stamp, canonical)
        if hmac.compare_digest(expected, auth.signature):
            return True
    return False


def canonical_request(request: Request, signed_headers: list[str], *, lower_values: bool) -> str:
    """Method, path, query, the signed headers with trimmed values, their names, and the hash of the payload."""
    lines = []
    for name in signed_headers:
        value = request.headers.get(name, "").strip()
        lines.append(f"{name}:{value.lower() if lower_values else value}\n")
    payload = b"" if request.method == "GET" else request.body
    if request.headers.get("x-tc-content-sha256") == "UNSIGNED-PAYLOAD":
        payload = b"UNSIGNED-PAYLOAD"
    digest = hashlib.sha256(payload).hexdigest()
    query = request.query if request.method == "GET" else ""
    return f"{request.method}\n/\n{query}\n{''.join(lines)}\n{';'.join(signed_headers)}\n{digest}"


def sign(secret_key: str, date: str, service: str, stamp: int, canonical: str) -> str:
    """The hex signature of a canonical request."""
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    text = f"TC3-HMAC-SHA256\n{stamp}\n{date}/{service}/tc3_request\n{digest}"
    key = ("TC3" + secret_key).encode()
    for part in (date, service, "tc3_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return hmac.digest(key, text.encode(), "sha256").hex()
