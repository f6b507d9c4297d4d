"""What passes between the HTTP server and the services: one request, one reply."""

from __future__ import annotations

from typing import NamedTuple


class Request(NamedTuple):
    """An HTTP request: `path` and `query` are raw as sent, header names are lower case, values as sent."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes


class Reply(NamedTuple):
    """An HTTP reply; `headers` keep this letter case on the wire, because the COS SDK hands it to its caller."""

    status: int
    headers: dict[str, str]
    body: bytes = b""
    truncate: bool = False  # announce the whole body, send half of it, hang up
    bare: bool = False  # send no Content-Length at all (a 304 as some front ends send it)
    close: bool = False


class ConnectionDropped(Exception):  # noqa: N818 - not an error of ours: the wire breaks because a test asked for it
    """Reset the connection instead of answering."""
