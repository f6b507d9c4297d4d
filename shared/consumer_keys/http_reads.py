"""A small HTTP/1.1 client for validation: one kept connection, whole responses, everything bounded.

`http.client` would do, but it brings the `email` package and `ssl` along, which is a third of validation's cold start
(docs/decisions/0005). `ssl` is imported here only when a connection needs it.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping

from consumer_keys.light_typing import Any

LINE_BYTES_MAX, HEADERS_MAX = 16_384, 100
_CHUNK = 1 << 18


class HttpError(OSError):
    """The other side did not speak HTTP/1.1, or stopped in the middle."""


class Response:
    """A status, headers with lower-case names, and a body that is read once, to its end."""

    def __init__(self, status: int, headers: Mapping[str, str], body: Iterator[bytes]) -> None:
        self.status, self.headers, self.body = status, headers, body

    def read(self, size_max: int) -> bytes:
        """The whole body. Raises HttpError when it has more than `size_max` bytes."""
        parts, total = [], 0
        for part in self.body:
            total += len(part)
            if total > size_max:
                raise HttpError("the body is too large")
            parts.append(part)
        return b"".join(parts)


class Connection:
    """One connection to one host, opened at the first request and kept as long as the server keeps it."""

    def __init__(self, host: str, port: int, *, tls: bool, timeout: float) -> None:
        self._host, self._port, self._tls, self._timeout = host, port, tls, timeout
        self._socket: Any = None
        self._reader: Any = None

    def request(self, method: str, path: str, headers: Mapping[str, str], body: bytes = b"") -> Response:
        """Sends a request and reads the head of the answer. Raises OSError; then the connection is closed."""
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        if body:
            lines.append(f"Content-Length: {len(body)}")
        try:
            if self._socket is None:
                self._open()
            self._socket.sendall("\r\n".join([*lines, "", ""]).encode("ascii") + body)
            return self._response()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Closes the connection; the next request opens a new one."""
        for held in (self._reader, self._socket):
            if held is not None:
                held.close()
        self._socket = self._reader = None

    @property
    def is_open(self) -> bool:
        """Whether a request would go over a kept connection, which the server may have closed meanwhile."""
        return self._socket is not None

    def _open(self) -> None:
        # As bytes, so that the name is not taken through the IDNA codec, whose tables cost a millisecond.
        connected: Any = socket.create_connection((self._host.encode(), self._port), self._timeout)  # type: ignore[arg-type]
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._tls:
            import ssl

            connected = ssl.create_default_context().wrap_socket(connected, server_hostname=self._host)
        self._socket, self._reader = connected, connected.makefile("rb", _CHUNK)

    def _response(self) -> Response:
        status = 100
        while 100 <= status < 200:
            version, _, rest = self._line().partition(b" ")
            if version not in (b"HTTP/1.1", b"HTTP/1.0") or not rest[:3].isdigit():
                raise HttpError("no HTTP response")
            status, headers = int(rest[:3]), self._headers()
        keeps = version == b"HTTP/1.1" and headers.get("connection", "").lower() != "close"
        return Response(status, headers, self._body(status, headers, keeps))

    def _headers(self) -> dict[str, str]:
        headers: dict[str, str] = {}
        for _ in range(HEADERS_MAX):
            line = self._line()
            if not line:
                return headers
            name, colon, value = line.partition(b":")
            if not colon:
                raise HttpError("a header line without a colon")
            headers[name.decode("latin-1").lower()] = value.strip().decode("latin-1")
        raise HttpError("too many headers")

    def _line(self) -> bytes:
        line: bytes = self._reader.readline(LINE_BYTES_MAX)
        if not line.endswith(b"\n"):
            raise HttpError("the head of the response is cut or too long")
        return line.rstrip(b"\r\n")

    def _body(self, status: int, headers: Mapping[str, str], keeps: bool) -> Iterator[bytes]:
        """Closes the connection unless the body was read to its end and the server keeps it open."""
        whole = False
        try:
            if status in (204, 304):
                pass
            elif headers.get("transfer-encoding", "").lower() == "chunked":
                yield from self._chunks()
            elif "content-length" in headers:
                yield from self._exactly(_number(headers["content-length"], 10))
            else:
                keeps = False  # the end of the connection is the end of the body
                while part := self._reader.read(_CHUNK):
                    yield part
            whole = True
        finally:
            if not (whole and keeps):
                self.close()

    def _chunks(self) -> Iterator[bytes]:
        while size := _number(self._line().partition(b";")[0].decode("latin-1").strip(), 16):
            yield from self._exactly(size)
            if self._line():
                raise HttpError("a chunk is longer than it says")
        for _ in range(HEADERS_MAX):
            if not self._line():
                return
        raise HttpError("too many trailers")

    def _exactly(self, size: int) -> Iterator[bytes]:
        while size:
            part = self._reader.read(min(size, _CHUNK))
            if not part:
                raise HttpError("the body is cut")
            size -= len(part)
            yield part


def _number(text: str, base: int) -> int:
    digits = "0123456789abcdef"[:base]
    if not 0 < len(text) <= 15 or any(char not in digits for char in text.lower()):
        raise HttpError("a length is no number")
    return int(text, base)
