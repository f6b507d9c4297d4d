"""The cheapest ASGI application that answers as validation does: what the server itself costs."""

from __future__ import annotations

from typing import Any

START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [
        (b"x-consumer-id", b"consumer-00000000000001"), (b"x-consumer-name", b"app-1"),
        (b"x-key-id", b"secret-00000000000001"), (b"x-key-name", b"key-0000001"),
    ],
}  # fmt: skip
BODY = {"type": "http.response.body", "body": b""}


async def app(scope: Any, _receive: Any, send: Any) -> None:
    if scope["type"] == "http":
        await send(START)
        await send(BODY)
