"""Lists in pages: by offset, or by a sealed cursor that is bound to its list, gateway and filters."""

from __future__ import annotations

import hashlib
import hmac
import json
from base64 import b64decode, urlsafe_b64encode
from collections.abc import Callable, Sequence
from typing import Any

from consumer_keys.errors import invalid
from consumer_keys.model import Cursored, Page

CURSOR_MS = 86_400_000
_MAC_BYTES = 16


def list_page(
    cursor_keys: Sequence[bytes], kind: str, gateway_id: str, given: Cursored, query: Callable[..., Any], now_ms: int
) -> dict[str, Any]:
    """{items, total_count where matches are counted, next_cursor}. The first key seals, each of them opens.

    Raises InvalidParameter for a cursor that is forged, foreign or too old.
    """
    filters = given.filters()
    scope = json.dumps([kind, gateway_id, filters], sort_keys=True).encode()
    after = None if given.cursor is None else _opened(cursor_keys, scope, given.cursor, now_ms)
    offset = given.offset if isinstance(given, Page) else 0
    page = query(gateway_id, filters, given.limit, offset, after)
    counted = {} if page.total_count is None else {"total_count": page.total_count}
    return {
        "items": [item.model_dump(mode="json") for item in page.items],
        **counted,
        "next_cursor": None if page.last is None else _sealed(cursor_keys[0], scope, page.last, now_ms),
    }


def _sealed(cursor_key: bytes, scope: bytes, last: tuple[int, str], now_ms: int) -> str:
    body = json.dumps([*last, now_ms + CURSOR_MS], separators=(",", ":")).encode()
    return _encoded(_mac(cursor_key, scope, body) + body)


def _opened(cursor_keys: Sequence[bytes], scope: bytes, cursor: str, now_ms: int) -> tuple[int, str]:
    try:
        data = b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
    except ValueError:
        data = b""
    mac, body = data[:_MAC_BYTES], data[_MAC_BYTES:]
    # Several texts decode to the same bytes; only the one that was given out counts.
    ours = any(hmac.compare_digest(mac, _mac(key, scope, body)) for key in cursor_keys)
    if _encoded(data) != cursor or not ours:
        raise invalid("cursor", "is not a cursor of this list with these filters")
    created_at, last_id, expires_at = json.loads(body)
    if expires_at < now_ms:
        raise invalid("cursor", "is too old; begin again without one")
    return created_at, last_id


def _encoded(data: bytes) -> str:
    return urlsafe_b64encode(data).decode().rstrip("=")


def _mac(cursor_key: bytes, scope: bytes, body: bytes) -> bytes:
    return hmac.digest(cursor_key, len(scope).to_bytes(4, "big") + scope + body, hashlib.sha256)[:_MAC_BYTES]
