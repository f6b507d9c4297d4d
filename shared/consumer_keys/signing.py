"""Request signatures of Tencent Cloud, by the standard library alone.

Validation reads one SSM secret and a few COS objects; the official SDKs would multiply its cold start. Tests hold
these signatures equal to what the official SDKs send.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Mapping

from consumer_keys import percent

_DIGEST = "sha256"


def tc3_authorization(secret_id: str, secret_key: str, *, service: str, host: str, body: bytes, timestamp: int) -> str:
    """The Authorization header of a POST to `/` with `content-type;host` signed (document 382/52072, TC3)."""
    date = time.strftime("%Y-%m-%d", time.gmtime(timestamp))
    canonical = (
        f"POST\n/\n\ncontent-type:application/json\nhost:{host}\n\ncontent-type;host\n"
        + hashlib.sha256(body).hexdigest()
    )
    signature = tc3_signature(secret_key, date, service, timestamp, canonical.encode())
    scope = f"{date}/{service}/tc3_request"
    return f"TC3-HMAC-SHA256 Credential={secret_id}/{scope}, SignedHeaders=content-type;host, Signature={signature}"


def tc3_signature(secret_key: str, date: str, service: str, timestamp: int, canonical: bytes) -> str:
    """The signature of a canonical request in hex (document 382/52072, TC3)."""
    scope, key = f"{date}/{service}/tc3_request", ("TC3" + secret_key).encode()
    text = f"TC3-HMAC-SHA256\n{timestamp}\n{scope}\n" + hashlib.sha256(canonical).hexdigest()
    for part in (date, service, "tc3_request"):
        key = hmac.digest(key, part.encode(), _DIGEST)
    return hmac.digest(key, text.encode(), _DIGEST).hex()


def cos_authorization(
    secret_id: str, secret_key: str, *, method: str, key: str, headers: Mapping[str, str], start: int, end: int
) -> str:
    """The Authorization header of a COS request (document 436/7778); `headers` must hold `host` and any token."""
    pairs = sorted((_escaped(name).lower(), _escaped(value)) for name, value in headers.items())
    span, names = f"{start};{end}", ";".join(name for name, _ in pairs)
    http = f"{method.lower()}\n/{key}\n\n" + "&".join(f"{name}={value}" for name, value in pairs) + "\n"
    text = f"sha1\n{span}\n{hashlib.sha1(http.encode()).hexdigest()}\n"  # noqa: S324 - the protocol's own choice
    sign_key = hmac.digest(secret_key.encode(), span.encode(), "sha1").hex().encode()
    signature = hmac.digest(sign_key, text.encode(), "sha1").hex()
    return (
        f"q-sign-algorithm=sha1&q-ak={secret_id}&q-sign-time={span}&q-key-time={span}"
        f"&q-header-list={names}&q-url-param-list=&q-signature={signature}"
    )


def _escaped(text: str) -> str:
    return percent.encode(text)
