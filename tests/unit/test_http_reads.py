"""The small HTTP client against a raw server: every framing, every way to be cut, nothing unbounded."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from consumer_keys.http_reads import Connection, HttpError

Serve = Callable[..., Connection]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts a server that answers each request of each connection with the given bytes, then closes."""
    listeners: list[socket.socket] = []
    threads: list[threading.Thread] = []
    connections: list[Connection] = []

    def start(*answers: bytes, per_connection: int = 1_000) -> Connection:
        listener = socket.create_server(("127.0.0.1", 0))
        left = list(answers)

        def run() -> None:
            while left:
                try:
                    accepted, _ = listener.accept()
                except OSError:
                    return
                with accepted:
                    for _ in range(min(per_connection, len(left))):
                        if not _request(accepted):
                            break
                        accepted.sendall(left.pop(0))

        thread = threading.Thread(target=run)
        thread.start()
        listeners.append(listener)
        threads.append(thread)
        connection = Connection("127.0.0.1", listener.getsockname()[1], tls=False, timeout=5)
        connections.append(connection)
        return connection

    yield start
    for connection in connections:
        connection.close()
    for listener in listeners:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
    for thread in threads:
        thread.join()


def _request(accepted: socket.socket) -> bool:
    data = b""
    while b"\r\n\r\n" not in data:
        part = accepted.recv(65536)
        if not part:
            return False
        data += part
    return True


OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    "answer",
    [
        OK + b"Content-Length: 5\r\n\r\nhello",
        OK + b"content-length:5\r\nX: y\r\n\r\nhello",
        OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\nTrailer: t\r\n\r\n",
        OK + b"Connection: close\r\n\r\nhello",
        b"HTTP/1.0 200 OK\r\n\r\nhello",
        b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"Content-Length: 5\r\n\r\nhello",
    ],
)
def test_every_framing_gives_the_body(serve: Serve, answer: bytes) -> None:
    response = serve(answer).request("GET", "/", {"Host": "h"})
    assert (response.status, response.read(100)) == (200, b"hello")


def test_a_kept_connection_serves_the_next_request_and_a_304_has_no_body(serve: Serve) -> None:
    connection = serve(
        OK + b"Content-Length: 1\r\n\r\na", b"HTTP/1.1 304 Not Modified\r\n\r\n", OK + b"Content-Length: 1\r\n\r\nb"
    )
    seen = []
    for _ in range(3):
        response = connection.request("GET", "/", {"Host": "h"})
        seen.append((response.status, response.read(10)))
    assert seen == [(200, b"a"), (304, b""), (200, b"b")]
    assert connection.is_open


def test_a_body_that_was_not_read_closes_the_connection(serve: Serve) -> None:
    connection = serve(OK + b"Content-Length: 10\r\n\r\n0123456789")
    body = connection.request("GET", "/", {"Host": "h"}).body
    next(body)
    body.close()  # type: ignore[attr-defined]
    assert not connection.is_open


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"garbage\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        OK + b"no colon\r\n\r\n",
        OK + b"X: " + b"a" * 20_000 + b"\r\n\r\n",
        OK + b"X: y\r\n" * 101 + b"\r\n",
        OK + b"Content-Length: 5\r\n\r\nhel",
        OK + b"Content-Length: -5\r\n\r\nhello",
        OK + b"Content-Length: \xd9\xa3\r\n\r\nhel",
        OK + b"Content-Length: 9999999999999999\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhello\r\n0\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhel",
        OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"T: t\r\n" * 101,
        OK[:-2],
    ],
)
def test_what_is_cut_or_no_http_is_an_error_and_closes_the_connection(serve: Serve, answer: bytes) -> None:
    connection = serve(answer)
    with pytest.raises(HttpError):
        connection.request("GET", "/", {"Host": "h"}).read(100)
    assert not connection.is_open


def test_a_body_over_the_limit_is_an_error(serve: Serve) -> None:
    connection = serve(
        OK + b"Content-Length: 101\r\n\r\n" + b"x" * 101, OK + b"Content-Length: 100\r\n\r\n" + b"x" * 100
    )
    with pytest.raises(HttpError):
        connection.request("GET", "/", {"Host": "h"}).read(100)


def test_no_server_is_an_os_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(OSError):
        Connection("127.0.0.1", port, tls=False, timeout=2).request("GET", "/", {})
