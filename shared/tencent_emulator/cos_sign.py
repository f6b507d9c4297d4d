"""Verification of the COS request signature (INTL 436/7778), in the header form and in the presigned query form."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from urllib.parse import parse_qsl, quote, unquote

from tencent_emulator.errors import CloudError
from tencent_emulator.tc3 import Credential
from tencent_emulator.wire import Request

FIELDS = (
    "q-sign-algorithm",
    "q-ak",
    "q-sign-time",
    "q-key-time",
    "q-header-list",
    "q-url-param-list",
    "q-signature",
)


def fields(request: Request) -> dict[str, str]:
    """The seven `q-*` items from the Authorization header or, for a presigned URL, from the query; {} without any."""
    header = request.headers.get("authorization")
    if header:
        # The header is not a URL: values stand as they are, so no percent or plus decoding.
        pairs = [item.partition("=") for item in header.split("&")]
        return {name.strip(): value for name, _, value in pairs if name.strip() in FIELDS}
    return {name: value for name, value in parse_qsl(request.query, keep_blank_values=True) if name in FIELDS}


def verify(request: Request, credentials: Mapping[str, Credential], now: float) -> None:
    """Return only if a known key signed this request and `now` lies inside its window; else a 403 of the cloud."""
    given = fields(request)
    if len(given) != len(FIELDS) or given["q-sign-algorithm"] != "sha1":
        raise CloudError("AccessDenied", "Access Denied.")
    credential = credentials.get(given["q-ak"])
    if credential is None:
        raise CloudError("InvalidAccessKeyId", "The access key Id you provided does not exist in our records.")
    _check_window(given["q-key-time"], now)
    _check_window(given["q-sign-time"], now)
    if not hmac.compare_digest(signature(request, given, credential.secret_key), given["q-signature"]):
        raise CloudError("SignatureDoesNotMatch", "The signature we calculated does not match the one you provided.")
    if not hmac.compare_digest(_token(request).encode(), (credential.token or "").encode()):
        raise CloudError("AccessDenied", "The security token does not belong to this access key Id.")


def signature(request: Request, given: Mapping[str, str], secret_key: str) -> str:
    """The hex signature over exactly the headers and parameters that the two lists name."""
    text = f"sha1\n{given['q-sign-time']}\n{_sha1(http_string(request, given))}\n"
    sign_key = hmac.digest(secret_key.encode(), given["q-key-time"].encode(), "sha1").hex()
    return hmac.digest(sign_key.encode(), text.encode(), "sha1").hex()


def http_string(request: Request, given: Mapping[str, str]) -> str:
    """Method, decoded path, signed parameters, signed headers: one line each, present even when empty."""
    query = {_encode(name).lower(): value for name, value in parse_qsl(request.query, keep_blank_values=True)}
    return (
        f"{request.method.lower()}\n{unquote(request.path)}\n"
        f"{_listed(given['q-url-param-list'], query)}\n{_listed(given['q-header-list'], request.headers)}\n"
    )


def _listed(names: str, values: Mapping[str, str]) -> str:
    wanted = sorted(name for name in names.lower().split(";") if name)
    return "&".join(f"{name}={_encode(values.get(name, '').strip())}" for name in wanted)


def _encode(text: str) -> str:
    return quote(text, safe="-_.~")


def _sha1(text: str) -> str:
    return hashlib.sha1(text.encode()).hexdigest()  # noqa: S324 - the vendor's protocol uses SHA-1


def _token(request: Request) -> str:
    in_query = dict(parse_qsl(request.query)).get("x-cos-security-token", "")
    return request.headers.get("x-cos-security-token", in_query)


def _check_window(window: str, now: float) -> None:
    match = re.fullmatch(r"(\d{1,12});(\d{1,12})", window)
    if match is None:
        raise CloudError("AccessDenied", "Access Denied.")
    if now < int(match[1]):
        raise CloudError("RequestTimeTooSkewed", "The request time is ahead of the server time.")
    if now > int(match[2]):
        raise CloudError("AccessDenied", "Request has expired")
