"""Validation as a server beside a gateway: an ASGI application over `embedded`.

ASGI, because it alone hands on the header lines as they came: WSGI reads `X_Api_Key` as `X-Api-Key` and joins lines,
RSGI drops a line whose value is not ASCII. A good key is answered on the event loop; whatever may wait for COS or is
worth a line in the log goes to a thread and through the function's own code.
"""

from __future__ import annotations

import asyncio
import uuid
from base64 import b64encode
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import parse_qsl

from consumer_keys import web
from consumer_keys.config import ConfigError
from consumer_keys.embedded import Embedded
from consumer_keys.errors import CloudFailure, Problem
from consumer_keys.presented import KEY_HEADERS, presented_key
from consumer_keys.validate_wiring import FUNCTION, IDENTITY_HEADERS, answer, identity_headers
from consumer_keys.verdict import VALID

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

HEALTH_PATH = b"/healthz"
# Headers up to this size are within every limit of the function, however they are counted.
PLAIN_HEADER_BYTES_MAX = 3_000
THREADS = 32  # refusals wait here for their look at the pointer; a slow COS makes them wait, but nobody else
_NAMES = {name.encode(): name for name in ("authorization", *KEY_HEADERS)}
_LINE_NAMES = {name: name.lower().encode() for name in IDENTITY_HEADERS}
_NO_STORE = (b"cache-control", b"no-store")
_NO_BODY: dict[str, Any] = {"type": "http.response.body", "body": b""}


class Application:
    """The function's paths, with its answers, and `GET /healthz`. Built by the server in each worker.

    Logs a line per request that is refused, goes to /verify, fails or is out of the ordinary (a repeated header, an
    escaped gateway, large headers); with `log_all`, per request.
    """

    def __init__(self, *, log_all: bool) -> None:
        self._log_all = log_all
        self._embedded: Embedded | None = None
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="validate")
        # By the path's own bytes: only what was sent without escapes is taken the short way.
        self._gateways: dict[bytes, str] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or the life of the worker (ASGI)."""
        if scope["type"] == "http":
            headers = None if self._log_all else self._granted(scope)
            if headers is not None:
                await send({"type": "http.response.start", "status": 200, "headers": headers})
                await send(_NO_BODY)
            elif scope["raw_path"] == HEALTH_PATH and scope["method"] in ("GET", "HEAD"):
                await _send(send, await self._in_thread(self._health))
            else:
                await self._as_the_function(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._live(receive, send)

    def _granted(self, scope: Scope) -> list[tuple[bytes, bytes]] | None:
        """The headers of a 200, when that is the answer and can be given at once; else None."""
        # /v1/gateways/{gateway_id}/validate and whatever a gateway appends to it
        segments = scope["raw_path"].split(b"/", 5)
        gateway_id = self._gateways.get(b"/".join(segments[:5]))
        embedded = self._embedded
        if gateway_id is None or embedded is None:
            return None
        validation = embedded.validation
        if validation.settings.key_in_query or not validation.cache.holds_one():
            return None
        size, found = 0, {}
        for name, value in scope["headers"]:
            size += len(value)
            if name in _NAMES:
                if name in found:
                    return None
                found[name] = value
        if size > PLAIN_HEADER_BYTES_MAX:
            return None
        try:
            headers = {_NAMES[name]: value.decode("latin-1") for name, value in found.items()}
            presented = presented_key(headers, {}, key_in_query=False)
            verdict = validation.validator.at_once(gateway_id, presented)
        except Problem:
            return None
        if verdict.code != VALID:
            return None
        lines = [(_LINE_NAMES[name], text.encode()) for name, text in identity_headers(verdict).items()]
        return [_NO_STORE, *lines]

    async def _as_the_function(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await _body(receive) if scope["raw_path"].endswith(b"/verify") else b""
        event, context = _event(scope, body), {"request_id": str(uuid.uuid4())}
        await _send(send, await self._in_thread(lambda: web.respond(FUNCTION, event, context, self._answer)))

    def _answer(self, request: web.Request) -> web.Reply:
        if self._embedded is None:
            raise Problem("SnapshotUnavailable")
        return answer(self._embedded.validation, request)

    def _health(self) -> dict[str, Any]:
        try:
            if self._embedded is None:
                raise Problem("SnapshotUnavailable")
            snapshot = self._embedded.snapshot()
        except Problem as problem:
            reply = web.problem_reply(problem, "")
        else:
            age = round(self._embedded.validation.cache.age_seconds(snapshot), 3)
            manifest = snapshot.manifest
            body = {"version": manifest.version, "revision": manifest.revision, "age_seconds": age}
            reply = web.Reply(200, {"snapshot": body})
        rendered: dict[str, Any] = web.render(reply, direct=False)
        return rendered

    async def _in_thread(self, work: Callable[[], Any]) -> dict[str, Any]:
        result: dict[str, Any] = await asyncio.get_running_loop().run_in_executor(self._threads, work)
        return result

    async def _live(self, receive: Receive, send: Send) -> None:
        """Start and end of a worker. Without settings or root secret it does not start."""
        while True:
            kind = (await receive())["type"]
            if kind == "lifespan.startup":
                try:
                    self._embedded = await asyncio.get_running_loop().run_in_executor(None, Embedded.from_environment)
                except (ConfigError, CloudFailure) as error:
                    await send({"type": "lifespan.startup.failed", "message": str(error)})
                    return
                gateways = self._embedded.validation.gateway_ids
                self._gateways = {f"/v1/gateways/{name}/validate".encode(): name for name in gateways}
                await send({"type": "lifespan.startup.complete"})
            else:
                self._threads.shutdown()
                if self._embedded is not None:
                    self._embedded.close()
                await send({"type": "lifespan.shutdown.complete"})
                return


def application() -> Application:
    """For the server: logs what is refused."""
    return Application(log_all=False)


def application_logging_all() -> Application:
    """For the server: logs every request."""
    return Application(log_all=True)


async def _body(receive: Receive) -> bytes:
    """The body, read no further than what already is too much."""
    body = b""
    while len(body) <= web.BODY_BYTES_MAX:
        message = await receive()
        if message["type"] != "http.request":
            break
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    return body


def _event(scope: Scope, body: bytes) -> dict[str, Any]:
    """The request as a Function URL event; several lines of one header or parameter are a list."""
    headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]
    query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True, errors="replace")
    return {
        "httpMethod": scope["method"], "path": scope["raw_path"].decode("latin-1"), "headers": _lists(headers),
        "queryString": _lists(query), "body": b64encode(body).decode(), "isBase64Encoded": True,
        # The peer itself: a header that names another address counts for nothing here.
        "requestContext": {"sourceIp": (scope.get("client") or ("",))[0]},
    }  # fmt: skip


def _lists(pairs: list[tuple[str, str]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, value in pairs:
        result.setdefault(name, []).append(value)
    return {name: values[0] if len(values) == 1 else values for name, values in result.items()}


def _header_lines(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode(), value.encode()) for name, value in headers.items()]


async def _send(send: Send, response: Mapping[str, Any]) -> None:
    body, headers = response["body"].encode(), _header_lines(response["headers"])
    await send({"type": "http.response.start", "status": response["statusCode"], "headers": headers})
    await send({"type": "http.response.body", "body": body})
