"""A threaded HTTP/1.1 server on 127.0.0.1 that leaves nothing behind when it closes."""

from __future__ import annotations

import selectors
import socket
import socketserver
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from types import TracebackType
from typing import TYPE_CHECKING, Any

from tencent_emulator.gateway import Gateway
from tencent_emulator.wire import ConnectionDropped, Reply, Request

if TYPE_CHECKING:
    from tencent_emulator.cloud import Cloud

DRAIN_BYTES_MAX = 64 * 1024 * 1024
CLOSE_S_MAX = 5.0


class Server:
    """Serves one Cloud until `close`; usable as a context manager."""

    def __init__(self, cloud: Cloud, port: int, on_close: Callable[[Server], None]) -> None:
        """Listen at once, so that the port is known and the first request can come."""
        self._closing = threading.Event()
        self._on_close = on_close
        self._http = _Listener(Gateway(cloud, self._closing.wait), port)
        self.port: int = self._http.server_address[1]
        self.endpoint = f"127.0.0.1:{self.port}"
        self._wake, self._woken = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name=f"emulator-{self.port}", daemon=True)
        self._thread.start()

    def __enter__(self) -> Server:
        """Close at the end of the block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def close(self) -> None:
        """Stop listening, end open connections and join their threads; closing twice is harmless."""
        if self._closing.is_set():
            return
        self._closing.set()
        self._wake.send(b"x")
        self._thread.join(CLOSE_S_MAX)
        self._http.server_close()
        self._http.end_connections()
        self._wake.close()
        self._woken.close()
        self._on_close(self)

    def _run(self) -> None:
        """Accept connections until woken; a selector, because polling would make every close wait."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._http, selectors.EVENT_READ)
            selector.register(self._woken, selectors.EVENT_READ)
            while True:
                ready = [key.fileobj for key, _ in selector.select()]
                if self._woken in ready:
                    return
                self._http.handle_request()


class _Listener(socketserver.TCPServer):
    """One thread per connection, each known, so that they can be ended and joined."""

    allow_reuse_address = True
    request_queue_size = 1024  # the default of 5 makes a burst of clients fail
    timeout = 0

    def __init__(self, gateway: Gateway, port: int) -> None:
        self.gateway = gateway
        self._lock = threading.Lock()
        self._open: dict[threading.Thread, socket.socket] = {}
        super().__init__(("127.0.0.1", port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        thread = threading.Thread(target=self._converse, args=(request, client_address), daemon=True)
        with self._lock:
            # Ended threads are forgotten here and not by themselves, so that closing can join every one.
            self._open = {other: used for other, used in self._open.items() if other.is_alive()}
            self._open[thread] = request
            thread.start()

    def _converse(self, request: socket.socket, client_address: Any) -> None:
        try:
            with suppress(OSError):  # the client went away: nobody is left to be told
                self.finish_request(request, client_address)
        finally:
            request.close()

    def end_connections(self) -> None:
        with self._lock:
            left, self._open = self._open, {}
        for connection in left.values():
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in left:
            if thread is not threading.current_thread():
                thread.join(CLOSE_S_MAX)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 65536  # headers and body leave together; the base class flushes after each request
    server: _Listener

    def _serve(self) -> None:
        request, refusal = self._read()
        try:
            reply = refusal or self.server.gateway.answer(request)
        except ConnectionDropped:
            self._reset()
            return
        self._write(reply)

    do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = do_PATCH = do_OPTIONS = _serve  # noqa: N815

    def handle_expect_100(self) -> bool:
        """Let the client send its body, which it does not before it has seen this line."""
        proceed = super().handle_expect_100()
        self.wfile.flush()
        return proceed

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is the base class's
        """Say nothing: request lines of presigned URLs hold signatures."""

    def _read(self) -> tuple[Request, Reply | None]:
        """The request, and the refusal of a body that must not or cannot be read."""
        # Not self.path: the standard library shortens a leading "//", which would change a COS key.
        target = self.requestline.split()[1]
        if not target.startswith("/"):
            target = "/" + target.partition("://")[2].partition("/")[2]
        path, _, query = target.partition("?")
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.command, path, query, headers, b"")
        lengths = self.headers.get_all("content-length", ["0"])
        if "transfer-encoding" in headers or len(set(lengths)) > 1 or not lengths[0].strip().isdecimal():
            return request, self.server.gateway.no_length(request)._replace(close=True)
        length = int(lengths[0])
        if length > self.server.gateway.body_bytes_max(headers):
            drained = length <= DRAIN_BYTES_MAX and self._drain(length)
            return request, self.server.gateway.too_large(request)._replace(close=not drained)
        body = self.rfile.read(length) if length else b""
        if len(body) < length:
            raise ConnectionAbortedError("the client hung up in the middle of its request")
        return request._replace(body=body), None

    def _drain(self, length: int) -> bool:
        """Read and forget, so that the client gets to read the refusal."""
        while length > 0:
            chunk = self.rfile.read(min(length, 65536))
            if not chunk:
                return False
            length -= len(chunk)
        return True

    def _write(self, reply: Reply) -> None:
        headers = dict(reply.headers)
        if not reply.bare and reply.status != 204:
            headers.setdefault("Content-Length", str(len(reply.body)))
        body = b"" if self.command == "HEAD" else reply.body
        if reply.truncate:
            body = body[: len(body) // 2]
        if reply.close or reply.truncate:
            headers["Connection"] = "close"
            self.close_connection = True
        self.send_response_only(reply.status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _reset(self) -> None:
        """Close so that the client sees a reset instead of an orderly end."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
