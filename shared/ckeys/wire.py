"""HTTP/1.1 as the local front speaks it: bytes to requests, and what functions return to bytes.

It is read here and not by http.server, whose parser folds a leading `//` and stops at a malformed header line as if the
head had ended there. Before functions that judge paths and credentials, both would hide what a caller really sent.
"""

import base64
import json
import re
from collections.abc import Callable, Iterable, Mapping
from email.utils import formatdate
from http import HTTPStatus
from io import BufferedIOBase
from typing import Any, NamedTuple

BODY_BYTES_MAX = 6 * 1024 * 1024  # of a request and of a response (Tencent document 583/11637)
HEAD_BYTES_MAX = 64 * 1024
HEADERS_MAX = 100

_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_TARGET = re.compile(rb"/[\x21-\x7e\x80-\xff]*")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_FRAMING = (b"content-length", b"transfer-encoding")
_OURS = {"connection", "content-length", "date", "transfer-encoding"}  # written by this server, never by a function


class RequestError(Exception):
    """The request is no acceptable HTTP; it is answered, and the connection is closed."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        """`detail` goes to the client as it is."""
        super().__init__(detail)
        self.status, self.code, self.detail = status, code, detail


class Request(NamedTuple):
    """One request as read from the wire: the target undecoded, header names in lower case, the body whole."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes
    keep_alive: bool


class Response(NamedTuple):
    """What will be written; the framing headers are added by the writer."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


def read_request(stream: BufferedIOBase, proceed: Callable[[], None]) -> Request | None:
    """Read one request, or None where the client has closed; RequestError for what HTTP or this server does not allow.

    `proceed` is called before the body if the client waits for "100 Continue".
    """
    lines = _read_head(stream)
    if not lines:
        return None
    method, target, version = _request_line(lines[0])
    fields = _header_fields(lines[1:])
    connection = {token.strip().lower() for value in fields.get("connection", []) for token in value.split(",")}
    keep_alive = "close" not in connection if version == b"HTTP/1.1" else "keep-alive" in connection
    length = _content_length(fields)
    if length != 0 and fields.get("expect", [""])[0].lower() == "100-continue":
        proceed()
    body = _read_chunks(stream) if length is None else _read_exactly(stream, length)
    if length is None:
        del fields["transfer-encoding"]
        fields["content-length"] = [str(len(body))]
    headers = {name: ", ".join(values) for name, values in fields.items()}
    path, _, query = target.partition("?")
    return Request(method, path, query, headers, body, keep_alive)


def _read_head(stream: BufferedIOBase) -> list[bytes]:
    lines: list[bytes] = []
    left = HEAD_BYTES_MAX
    while True:
        line = stream.readline(left + 1)
        left -= len(line)
        if left < 0 or len(lines) > HEADERS_MAX + 1:
            detail = f"The head is over {HEAD_BYTES_MAX} bytes or {HEADERS_MAX} fields."
            raise RequestError(431, "HeadersTooLarge", detail)
        if not line.endswith(b"\n"):
            if not lines and not line:
                return []
            raise _bad("The head is incomplete.")
        line = line.removesuffix(b"\n").removesuffix(b"\r")
        if line:
            lines.append(line)
        elif lines:  # an empty line before the request line is allowed (RFC 9112, 2.2)
            return lines


def _request_line(line: bytes) -> tuple[str, str, bytes]:
    parts = line.split(b" ")
    if len(parts) != 3 or _TOKEN.fullmatch(parts[0]) is None or _TARGET.fullmatch(parts[1]) is None:
        raise _bad("The request line is malformed.")
    method, target, version = parts
    if version not in (b"HTTP/1.1", b"HTTP/1.0"):
        raise RequestError(505, "VersionNotSupported", "This server speaks HTTP/1.1 and HTTP/1.0.")
    # Some clients send UTF-8 as it is; from here on it looks as if they had escaped it.
    return method.decode(), "".join(chr(byte) if byte < 128 else f"%{byte:02X}" for byte in target), version


def _header_fields(lines: Iterable[bytes]) -> dict[str, list[str]]:
    """Header fields by lower-case name. A name with `_` or with spaces around it is dropped, as by careful proxies: a
    server behind might read it as another name. On a framing header that would be smuggling, so it is refused there.
    """
    fields: dict[str, list[str]] = {}
    for line in lines:
        raw_name, colon, raw_value = line.partition(b":")
        name, value = raw_name.strip(b" \t").lower(), raw_value.strip(b" \t").decode("latin-1")
        well_formed = _TOKEN.fullmatch(name) and _HEADER_VALUE.fullmatch(value)
        if line[:1] in (b" ", b"\t") or not colon or not well_formed:
            raise _bad("A header line is malformed.")
        padded = name != raw_name.lower()
        if padded and name in _FRAMING:
            raise _bad("There is a space around the name of a framing header.")
        if not padded and b"_" not in name:
            fields.setdefault(name.decode(), []).append(value)
    return fields


def _content_length(fields: Mapping[str, list[str]]) -> int | None:
    """The length of the body; None for a chunked one."""
    lengths, encodings = fields.get("content-length", []), fields.get("transfer-encoding", [])
    if encodings:
        if lengths:
            raise _bad("Content-Length and Transfer-Encoding exclude each other.")
        if [encoding.lower() for encoding in encodings] != ["chunked"]:
            raise RequestError(501, "EncodingNotSupported", "The only transfer encoding served here is chunked.")
        return None
    if not lengths:
        return 0
    if len(set(lengths)) != 1 or re.fullmatch("[0-9]{1,18}", lengths[0]) is None:
        raise _bad("Content-Length is malformed.")
    return _capped(int(lengths[0]))


def _read_chunks(stream: BufferedIOBase) -> bytes:
    body = bytearray()
    while True:
        line = stream.readline(256)
        size = re.fullmatch(rb"([0-9A-Fa-f]{1,8})[ \t]*(;[^\r\n]*)?\r\n", line)
        if size is None:
            raise _bad("A chunk size is malformed.")
        length = int(size[1], 16)
        if length == 0:
            break
        _capped(len(body) + length)
        body += _read_exactly(stream, length)
        if _read_exactly(stream, 2) != b"\r\n":
            raise _bad("A chunk does not end where its size says.")
    left = HEAD_BYTES_MAX
    while (line := stream.readline(left + 1)) not in (b"\r\n", b"\n"):  # trailers are read and dropped
        left -= len(line)
        if not line.endswith(b"\n") or left < 0:
            raise _bad("The end of the chunked body is malformed.")
    return bytes(body)


def _read_exactly(stream: BufferedIOBase, length: int) -> bytes:
    data = stream.read(length)
    if len(data) != length:
        raise _bad("The body is incomplete.")
    return data


def _capped(length: int) -> int:
    if length > BODY_BYTES_MAX:
        raise RequestError(413, "BodyTooLarge", f"A body may have at most {BODY_BYTES_MAX} bytes.")
    return length


def _bad(detail: str) -> RequestError:
    return RequestError(400, "BadRequest", detail)


def text_of(body: bytes) -> str:
    """The body as text; a Function URL has no way to carry anything else (Tencent document 583/96099)."""
    try:
        return body.decode()
    except UnicodeDecodeError as fault:
        raise RequestError(400, "MalformedJson", "The body is not UTF-8 text.") from fault


def problem(status: int, code: str, detail: str, request_id: str, headers: Iterable[tuple[str, str]] = ()) -> Response:
    """An answer of this server itself, in the one error shape of the service (RFC 9457)."""
    body = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status}
    text = json.dumps({**body, "code": code, "detail": detail, "request_id": request_id})
    return Response(status, [("Content-Type", "application/problem+json"), *headers], text.encode())


def response_of(result: Any) -> Response:
    """The HTTP response that a function's return value stands for (Tencent documents 583/96099 and 583/12513).

    A value without `statusCode` is the body of a 200, as on the platform; ValueError where the shape is wrong.
    """
    if not isinstance(result, dict) or "statusCode" not in result:
        return Response(200, [("Content-Type", "application/json")], json.dumps(result, ensure_ascii=False).encode())
    status, body, headers = result["statusCode"], result.get("body"), result.get("headers")
    body, headers = "" if body is None else body, {} if headers is None else headers
    if (
        type(status) is not int
        or not 200 <= status <= 599
        or not isinstance(body, str)
        or not isinstance(headers, dict)
    ):
        raise ValueError("the response needs an integer statusCode, a mapping of headers and a text body")
    pairs = [(name, one) for name, value in headers.items() for one in (value if isinstance(value, list) else [value])]
    for name, value in pairs:
        if not isinstance(value, str) or not (_TOKEN.fullmatch(name.encode()) and _HEADER_VALUE.fullmatch(value)):
            raise ValueError(f"the response has a malformed header {name!r}")
    data = base64.b64decode(body, validate=True) if result.get("isBase64Encoded") is True else body.encode()
    if len(data) > BODY_BYTES_MAX:
        raise ValueError("the response is larger than the platform allows")
    return Response(status, [pair for pair in pairs if pair[0].lower() not in _OURS], data)


def encode(response: Response, *, head_only: bool, keep_alive: bool) -> bytes:
    """The bytes of a response; `head_only` is for HEAD, which announces the body and does not send it."""
    phrase = HTTPStatus(response.status).phrase if response.status in set(HTTPStatus) else ""
    lines = [f"HTTP/1.1 {response.status} {phrase}", f"Date: {formatdate(usegmt=True)}"]
    lines += [f"{name}: {value}" for name, value in response.headers]
    bodiless = response.status in (204, 304)
    if not bodiless:
        lines.append(f"Content-Length: {len(response.body)}")
    lines.append(f"Connection: {'keep-alive' if keep_alive else 'close'}")
    head = "\r\n".join([*lines, "", ""]).encode("latin-1")
    return head if head_only or bodiless else head + response.body
