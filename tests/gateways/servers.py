"""What stands around a gateway: the API behind it, and a relay that shows what the validator is asked."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

CREDENTIAL_HEADERS = ("authorization", "x-api-key", "api-key", "apikey")
IDENTITY_HEADERS = ("x-consumer-id", "x-consumer-name", "x-consumer-groups", "x-key-id", "x-key-name")
MODEL = "small-model"


class Seen(NamedTuple):
    """One request as it arrived; header names in lower case, several lines of one name apart."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> list[str]:
        """Every value of a header."""
        return [value for one, value in self.headers if one == name]

    def identity(self) -> dict[str, list[str]]:
        """All that an API could take for an identity header: `_` is `-` to many of them."""
        found: dict[str, list[str]] = {}
        for name, value in self.headers:
            plain = name.replace("_", "-")
            if plain.startswith(("x-consumer-", "x-key-")):
                found.setdefault(plain, []).append(value)
        return found


class Recorder(ThreadingHTTPServer):
    """A server on 127.0.0.1 that remembers every request."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, handler: type[Handler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.seen: list[Seen] = []
        self._acceptor = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)
        self._acceptor.start()

    def stop(self) -> None:
        """Accept nothing more."""
        self.shutdown()
        self._acceptor.join()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A peer that hangs up is no news."""


class Handler(BaseHTTPRequestHandler):
    """Reads a request whole, whatever its method, remembers it, and lets `answer` reply."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 30
    server: Recorder

    def serve(self) -> None:
        """One request."""
        headers = [(name.lower(), value) for name, value in self.headers.items()]
        seen = Seen(self.command, self.requestline.split(" ")[1], headers, self._body())
        self.server.seen.append(seen)
        self.answer(seen)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = serve  # noqa: N815

    def answer(self, seen: Seen) -> None:
        """Reply."""
        raise NotImplementedError

    def reply(self, status: int, body: bytes, headers: list[tuple[str, str]]) -> None:
        """Send a whole response."""
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", "0")))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Nothing: the tests look at what was seen."""


class Upstream(Recorder):
    """An API as OpenAI's: GET /v1/models, POST /v1/chat/completions (also streamed); anything else is 200 too."""

    def __init__(self) -> None:
        super().__init__(_UpstreamHandler)
        # A stream goes on after its first event when this is set: whoever got the first one sets it.
        self.first_event_arrived = threading.Event()


class _UpstreamHandler(Handler):
    server: Upstream

    def answer(self, seen: Seen) -> None:
        asked = json.loads(seen.body) if seen.target == "/v1/chat/completions" and seen.method == "POST" else None
        if asked and asked.get("stream"):
            self._stream()
            return
        if asked:
            choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "pong"}}
            body = _completion("chat.completion", choice)
        else:
            model = {"id": MODEL, "object": "model", "created": 0, "owned_by": "test"}
            body = {"object": "list", "data": [model]}
        self.reply(200, json.dumps(body).encode(), [("Content-Type", "application/json")])

    def _stream(self) -> None:
        self.send_response_only(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for text in ("po", "ng"):
            choice = {"index": 0, "delta": {"role": "assistant", "content": text}, "finish_reason": None}
            self._event(json.dumps(_completion("chat.completion.chunk", choice)))
            self.server.first_event_arrived.wait(10)
        self._event("[DONE]")
        self.wfile.write(b"0\r\n\r\n")

    def _event(self, data: str) -> None:
        event = f"data: {data}\n\n".encode()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(event), event))
        self.wfile.flush()


def _completion(kind: str, choice: dict[str, Any]) -> dict[str, Any]:
    return {"id": "c-1", "object": kind, "created": 0, "model": MODEL, "choices": [choice]}


class Relay(Recorder):
    """Passes the gateway's questions on to the validator, or answers them as told."""

    def __init__(self, validator_port: int) -> None:
        super().__init__(_RelayHandler)
        self.validator_port = validator_port
        self.mode: int | str = "pass"
        self._release = threading.Event()

    @contextmanager
    def answering(self, mode: int | str) -> Iterator[None]:
        """A status, bare; `silent` never answers; `broken` hangs up. Back to normal afterwards."""
        self.mode = mode
        self._release.clear()
        try:
            yield
        finally:
            self.mode = "pass"
            self._release.set()

    def wait_for_release(self) -> None:
        """Until the end of `answering`."""
        self._release.wait(30)


class _RelayHandler(Handler):
    server: Relay

    def answer(self, seen: Seen) -> None:
        mode = self.server.mode
        if mode == "pass":
            self._pass(seen)
        elif isinstance(mode, int):
            self.reply(mode, b"", [])
        else:
            self.close_connection = True
            if mode == "silent":
                self.server.wait_for_release()

    def _pass(self, seen: Seen) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.validator_port, timeout=20)
        try:
            connection.putrequest(seen.method, seen.target, skip_host=True, skip_accept_encoding=True)
            for name, value in seen.headers:
                connection.putheader(name, value)
            connection.endheaders(seen.body)
            response = connection.getresponse()
            drop = ("content-length", "connection")
            headers = [(name, value) for name, value in response.getheaders() if name.lower() not in drop]
            self.reply(response.status, response.read(), headers)
        finally:
            connection.close()
