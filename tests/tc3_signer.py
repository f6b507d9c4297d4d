"""Signs requests as a careful client would: TC3-HMAC-SHA256 written from document 382/52072, not from our own code."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from typing import Any
from urllib.parse import quote


def signed_headers(
    pair: tuple[str, str], method: str, path: str, body: str = "", *, query: dict[str, Any] | None = None,
    service: str = "ckeys", host: str = "keys.example.com", at: float | None = None, sign: tuple[str, ...] = (),
    **more: str,
) -> dict[str, str]:  # fmt: skip
    """The headers of a signed request; `sign` names further headers of `more` that the signature covers."""
    stamp = int(time.time() if at is None else at)
    date = time.strftime("%Y-%m-%d", time.gmtime(stamp))
    headers = {"content-type": "application/json", "host": host, "x-tc-timestamp": str(stamp)}
    headers |= {name.replace("_", "-"): value for name, value in more.items()}
    names = sorted({"content-type", "host", *sign})
    pairs = sorted((name, str(value)) for name, value in (query or {}).items())
    canonical = "\n".join(
        [
            method,
            path,
            "&".join(f"{quote(name, safe='-_.~')}={quote(value, safe='-_.~')}" for name, value in pairs),
            *(f"{name}:{headers[name].strip().lower()}" for name in names),
            "",
            ";".join(names),
            hashlib.sha256(body.encode()).hexdigest(),
        ]
    )
    scope = f"{date}/{service}/tc3_request"
    text = f"TC3-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    key = f"TC3{pair[1]}".encode()
    for part in scope.split("/"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    signature = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
    headers["authorization"] = (
        f"TC3-HMAC-SHA256 Credential={pair[0]}/{scope}, SignedHeaders={';'.join(names)}, Signature={signature}"
    )
    return headers


def signed_event(
    pair: tuple[str, str], method: str, path: str, body: Any = None, *, query: dict[str, Any] | None = None, **more: Any
) -> dict[str, Any]:
    """A Function URL event of a signed request."""
    text = "" if body is None else body if isinstance(body, str) else json.dumps(body)
    headers = signed_headers(pair, method, path, text, query=query, **more)
    return {"httpMethod": method, "path": path, "headers": headers, "queryString": query or {}, "body": text}
