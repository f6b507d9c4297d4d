"""The XML API of COS: requests to the bucket host in, replies with real statuses and vendor headers out."""

from __future__ import annotations

import base64
import re
import uuid
from collections.abc import Callable
from datetime import datetime, timezone
from email.utils import formatdate, parsedate_to_datetime
from html import escape
from typing import NamedTuple
from urllib.parse import parse_qsl, quote, unquote

from tencent_emulator import cos_sign
from tencent_emulator.cos import LIST_MAX, Cos
from tencent_emulator.errors import CloudError
from tencent_emulator.storage import Doc
from tencent_emulator.wire import Reply, Request

# CNapi 436/7730
STATUSES = {
    **dict.fromkeys(("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "RequestTimeTooSkewed"), 403),
    **dict.fromkeys(("NoSuchBucket", "NoSuchKey"), 404),
    "MethodNotAllowed": 405,
    **dict.fromkeys(("BucketAlreadyOwnedByYou", "BucketNotEmpty", "FileAlreadyExists"), 409),
    "MissingContentLength": 411,
    "PreconditionFailed": 412,
    "InvalidRange": 416,
    "InternalError": 500,
    "NotImplemented": 501,
    **dict.fromkeys(("ServiceUnavailable", "SlowDown"), 503),
}
_HOST = re.compile(r"([a-z0-9-]+)\.cos\.([a-z0-9-]+)\.(?:myqcloud|tencentcos)\.(?:com|cn)(?::\d+)?", re.IGNORECASE)
_ACTIONS = {
    (True, "PUT"): "PutObject",
    (True, "GET"): "GetObject",
    (True, "HEAD"): "HeadObject",
    (True, "DELETE"): "DeleteObject",
    (False, "PUT"): "PutBucket",
    (False, "GET"): "ListObjects",
    (False, "HEAD"): "HeadBucket",
    (False, "DELETE"): "DeleteBucket",
}
_LIST_PARAMETERS = {"prefix", "delimiter", "marker", "max-keys", "encoding-type"}
_UNEMULATED_HEADERS = ("x-cos-copy-source",)


class Target(NamedTuple):
    """What a request is about."""

    bucket: str
    region: str
    key: str
    action: str  # "" if the method is not supported


def target(request: Request) -> Target | None:
    """The target of a request whose Host names a bucket; None if it does not."""
    match = _HOST.fullmatch(request.headers.get("host", ""))
    if match is None:
        return None
    key = unquote(request.path)[1:]
    return Target(match[1].lower(), match[2].lower(), key, _ACTIONS.get((bool(key), request.method), ""))


class CosApi:
    """Answers one request whose signature has been verified; refusals are raised as CloudError."""

    def __init__(self, cos: Cos, clock: Callable[[], float]) -> None:
        """Serve this object store."""
        self._cos = cos
        self._clock = clock

    def answer(self, request: Request, aim: Target) -> Reply:
        """Carry out the request."""
        query = {
            name: value
            for name, value in parse_qsl(request.query, keep_blank_values=True)
            if name not in cos_sign.FIELDS and name != "x-cos-security-token"
        }
        _refuse_unemulated(request, aim, query)
        if aim.action == "PutObject":
            return self._put(request, aim)
        if aim.action in ("GetObject", "HeadObject"):
            return self._read(request, aim, query)
        if aim.action == "DeleteObject":
            self._cos.delete_object(aim.bucket, aim.key)
            return self._reply(204)
        if aim.action == "ListObjects":
            return self._list(aim.bucket, query)
        return self._bucket(aim)

    def refusal(self, request: Request, aim: Target, error: CloudError, status: int | None = None) -> Reply:
        """The XML error with all five members filled, since the SDK ignores the whole text otherwise."""
        request_id = _request_id()
        members = {
            "Code": error.code,
            "Message": error.message,
            "Resource": f"/{aim.key}",
            "RequestId": request_id,
            "TraceId": base64.b64encode(uuid.uuid4().hex.encode()).decode(),
        }
        inner = "".join(f"<{name}>{escape(value, quote=False)}</{name}>" for name, value in members.items())
        body = f"<?xml version='1.0' encoding='utf-8' ?>\n<Error>{inner}</Error>".encode("utf-8", "replace")
        headers = {"Content-Type": "application/xml", "x-cos-request-id": request_id}
        if request.method == "HEAD":
            body = b""
        return self._reply(status or STATUSES.get(error.code, 400), headers, body)

    def _bucket(self, aim: Target) -> Reply:
        if aim.action == "PutBucket":
            if self._cos.has_bucket(aim.bucket):
                raise CloudError("BucketAlreadyOwnedByYou", "The bucket exists and belongs to you.")
            self._cos.create_bucket(aim.bucket)
            return self._reply(200)
        if aim.action == "DeleteBucket":
            self._cos.delete_bucket(aim.bucket)
            return self._reply(204)
        self._cos.check_bucket(aim.bucket)
        return self._reply(200, {"x-cos-bucket-region": aim.region})

    def _put(self, request: Request, aim: Target) -> Reply:
        doc = self._cos.put_object(aim.bucket, aim.key, request.body, request.headers)
        headers = {"ETag": doc["ETag"], "x-cos-hash-crc64ecma": doc["Crc64"]}
        return self._reply(200, {**headers, **_encryption(doc)})

    def _read(self, request: Request, aim: Target, query: dict[str, str]) -> Reply:
        if aim.action == "HeadObject":
            doc, data = self._cos.head_object(aim.bucket, aim.key), b""
        else:
            doc, data = self._cos.read_object(aim.bucket, aim.key)
        modified = formatdate(doc["LastModified"], usegmt=True)
        known = {"ETag": doc["ETag"], "Last-Modified": modified, "x-cos-hash-crc64ecma": doc["Crc64"]}
        if not _changed(request.headers, doc):
            return self._not_modified(known)
        headers = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes", **known, **_stored(doc)}
        for name, value in query.items():
            if name.startswith("response-"):
                headers[name.removeprefix("response-").title()] = value
        span = _span(request.headers.get("range", ""), doc["Size"])
        if span is None:
            headers["Content-Length"] = str(doc["Size"])
            return self._reply(200, headers, data)
        start, end = span
        headers["Content-Range"] = f"bytes {start}-{end}/{doc['Size']}"
        headers["Content-Length"] = str(end - start + 1)
        return self._reply(206, headers, data[start : end + 1])

    def _not_modified(self, known: dict[str, str]) -> Reply:
        reply = self._reply(304, known)
        return reply._replace(bare=not self._cos.not_modified_length)

    def _list(self, bucket: str, query: dict[str, str]) -> Reply:
        limit_text = query.get("max-keys", str(LIST_MAX))
        if not re.fullmatch(r"\d{1,9}", limit_text) or int(limit_text) == 0:
            raise CloudError("InvalidArgument", "max-keys must be a positive number.")
        limit = min(int(limit_text), LIST_MAX)
        asked = {name: query.get(name, "") for name in ("prefix", "delimiter", "marker")}
        page = self._cos.list_page(bucket, asked["prefix"], asked["delimiter"], asked["marker"], limit)
        by_url = query.get("encoding-type") == "url"

        def text(value: str) -> str:
            return quote(value, safe="/") if by_url else escape(value, quote=False)

        parts = [f"<Name>{bucket}</Name>", f"<MaxKeys>{limit}</MaxKeys>"]
        parts += [f"<{name.title()}>{text(value)}</{name.title()}>" for name, value in asked.items()]
        parts += ["<EncodingType>url</EncodingType>"] if by_url else []
        parts.append(f"<IsTruncated>{'true' if page.next_marker else 'false'}</IsTruncated>")
        parts += [f"<NextMarker>{text(page.next_marker)}</NextMarker>"] if page.next_marker else []
        parts += [_contents(text(name), doc) for name, doc in page.objects]
        parts += [f"<CommonPrefixes><Prefix>{text(group)}</Prefix></CommonPrefixes>" for group in page.prefixes]
        body = f"<?xml version='1.0' encoding='utf-8' ?>\n<ListBucketResult>{''.join(parts)}</ListBucketResult>"
        return self._reply(200, {"Content-Type": "application/xml"}, body.encode("utf-8", "replace"))

    def _reply(self, status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> Reply:
        common = {
            "Server": "tencent-cos",
            "Date": formatdate(self._clock(), usegmt=True),
            "x-cos-request-id": _request_id(),
        }
        return Reply(status, {**common, **(headers or {})}, body)


def _refuse_unemulated(request: Request, aim: Target, query: dict[str, str]) -> None:
    """Say so, instead of quietly treating `?uploads` or a copy as a plain request."""
    if not aim.action:
        raise CloudError("MethodNotAllowed", "The method is not allowed against this resource.")
    known = _LIST_PARAMETERS if aim.action == "ListObjects" else set()
    for name in query:
        if name not in known and not (aim.action in ("GetObject", "HeadObject") and name.startswith("response-")):
            raise CloudError("NotImplemented", f"The parameter {name[:64]!r} is not emulated.")
    for name in _UNEMULATED_HEADERS:
        if name in request.headers:
            raise CloudError("NotImplemented", f"The header {name} is not emulated.")


def _request_id() -> str:
    # As COS's own: base64 of hexadecimal numbers. A plus sign in it could make a client take the text for UTF-7.
    first, second, third = uuid.uuid4().hex[:8], uuid.uuid4().hex[:5], uuid.uuid4().hex[:8]
    return base64.b64encode(f"{first}_{second}_{third}".encode()).decode()


def _contents(name: str, doc: Doc) -> str:
    when = datetime.fromtimestamp(doc["LastModified"], tz=timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.000Z")
    return (
        f"<Contents><Key>{name}</Key><LastModified>{when}</LastModified><ETag>{escape(doc['ETag'])}</ETag>"
        f"<Size>{doc['Size']}</Size><Owner><ID>1250000000</ID><DisplayName>1250000000</DisplayName></Owner>"
        "<StorageClass>STANDARD</StorageClass></Contents>"
    )


def _stored(doc: Doc) -> dict[str, str]:
    return {name if name.startswith("x-cos-") else name.title(): value for name, value in doc["Headers"].items()}


def _encryption(doc: Doc) -> dict[str, str]:
    return {name: value for name, value in _stored(doc).items() if name.startswith("x-cos-server-side-encryption")}


def _changed(headers: dict[str, str], doc: Doc) -> bool:
    """False for 304; PreconditionFailed is raised.  CNapi 436/7753: the ETag conditions win over the dates."""
    modified = doc["LastModified"]
    if "if-match" in headers:
        if not _names(headers["if-match"], doc["ETag"]):
            raise CloudError("PreconditionFailed", "The ETag does not match.")
    elif "if-unmodified-since" in headers and modified > _seconds(headers["if-unmodified-since"], modified):
        raise CloudError("PreconditionFailed", "The object was modified.")
    if "if-none-match" in headers:
        return not _names(headers["if-none-match"], doc["ETag"])
    since = headers.get("if-modified-since")
    return since is None or modified > _seconds(since, modified - 1)


def _names(condition: str, etag: str) -> bool:
    listed = [part.strip().removeprefix("W/").strip('"') for part in condition.split(",")]
    return "*" in listed or etag.strip('"') in listed


def _seconds(date: str, otherwise: float) -> float:
    """An HTTP date in Unix time; a date that cannot be read has no effect, as RFC 9110 13.1.3 demands."""
    try:
        return parsedate_to_datetime(date).timestamp()
    except (TypeError, ValueError):
        return otherwise


def _span(header: str, size: int) -> tuple[int, int] | None:
    """First and last byte of a single range; None for the whole object."""
    match = re.fullmatch(r"bytes=(\d{0,18})-(\d{0,18})", header.strip())
    if match is None or match[0].endswith("=-"):
        return None
    first, last = match.groups()
    if not first:
        start, end = max(0, size - int(last)), size - 1
    else:
        start, end = int(first), min(int(last) if last else size - 1, size - 1)
        if last and int(last) < start:
            return None
    if start >= size or start > end:
        raise CloudError("InvalidRange", "The requested range cannot be satisfied.")
    return start, end
