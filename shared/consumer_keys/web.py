"""Events in, responses out: the only place where requests are parsed and where exceptions become answers.

Three shapes are accepted: the API Gateway event (document 583/12513), the Function URL event (583/96099), and direct
invocation, whose event is the call's own fields. Standard library only: validation imports this module.
"""

from __future__ import annotations

import json
import re
import time
from base64 import b64decode
from collections.abc import Callable, Mapping

from consumer_keys import log
from consumer_keys.errors import CloudFailure, Problem, field_name, invalid
from consumer_keys.light_typing import Any, NamedTuple

BODY_BYTES_MAX = 65_536
DEPTH_MAX = 20
ID_CHARS_MAX = 64
_NOTHING: Mapping[str, Any] = {}
JSON_TYPE, PROBLEM_TYPE = "application/json", "application/problem+json"
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
# An event with one of these is HTTP, whatever else it holds: nobody outside may pass for a direct invocation.
_HTTP_MARKS = frozenset(
    {"httpMethod", "headers", "path", "queryString", "requestContext", "queryStringParameters", "payload", "body"}
)


class Request(NamedTuple):
    """One call, whatever its shape. Header names are lower case; several lines of one name make a list.

    `context` is the event's `requestContext` as it came, which only an API Gateway event has.
    """

    kind: str
    method: str
    path: str
    params: Mapping[str, Any]
    query: Mapping[str, Any]
    headers: Mapping[str, Any]
    body: str
    fields: Mapping[str, Any]
    request_id: str
    context: Any = None

    def __repr__(self) -> str:
        """What the log says of it: no header, path, query or body, any of which may hold a secret."""
        return f"Request(kind={self.kind!r}, method={self.method!r}, request_id={self.request_id!r})"

    def header(self, name: str) -> str | None:
        """The value of a header that came once, else None; a header that came twice has no value."""
        value = self.headers.get(name)
        return value if isinstance(value, str) else None


class Reply(NamedTuple):
    """An answer: status, body, headers, and what its line in the log says besides.

    The body is JSON-ready; None is no body, and a str is JSON text already.
    """

    status: int
    body: Any
    headers: Mapping[str, str] = {}
    noted: Mapping[str, Any] = {}

    def __repr__(self) -> str:
        """The status alone: a body may hold a value."""
        return f"Reply(status={self.status!r})"


def parse_event(event: Any, context: Any) -> Request:
    """Raises MalformedEvent for what is no event at all; says nothing yet about bodies and paths."""
    request_id = _request_id(None, context)
    if not isinstance(event, dict):
        raise Problem("MalformedEvent")
    if "httpMethod" not in event and not _HTTP_MARKS & event.keys():
        kind = "timer" if event.get("Type") == "Timer" and "TriggerName" in event else "direct"
        return Request(kind, "", "", event, {}, {}, "", event, request_id)
    method, path = event.get("httpMethod"), event.get("path")
    if not isinstance(method, str) or not isinstance(path, str):
        raise Problem("MalformedEvent")
    query = event.get("queryString") or event.get("queryStringParameters") or {}
    params = event.get("pathParameters") or {}
    if not isinstance(query, dict) or not isinstance(params, dict):
        raise Problem("MalformedEvent")
    headers = _headers(event.get("headers"))
    return Request(
        "http",
        method.upper(),
        path,
        params,
        query,
        headers,
        _body_text(event),
        {},
        request_id,
        event.get("requestContext"),
    )


def _headers(given: Any) -> dict[str, Any]:
    headers: dict[str, Any] = {}
    for name, value in (given if isinstance(given, dict) else {}).items():
        # `lower` maps the Kelvin sign to k: no other spelling may become one of the names that count.
        lower = name.lower() if isinstance(name, str) and name.isascii() else str(name)
        if lower not in headers and isinstance(value, str):
            headers[lower] = value
            continue
        values = value if isinstance(value, list) else [value]
        if lower in headers:
            before = headers[lower]
            values = (before if isinstance(before, list) else [before]) + values
        headers[lower] = values[0] if len(values) == 1 and not isinstance(values[0], list) else values
    return headers


def _body_text(event: Mapping[str, Any]) -> str:
    body = event.get("body")
    if body is None:
        return ""
    if not isinstance(body, str):
        raise Problem("MalformedEvent")
    if event.get("isBase64Encoded") in (True, "true"):
        try:
            # Whether it is text is for those who read it to say: forward auth takes requests with any body.
            return b64decode(body, validate=True).decode("utf-8", "surrogateescape")
        except ValueError:
            raise Problem("MalformedEvent") from None
    return body


def parse_json(text: str) -> dict[str, Any]:
    """One JSON object without duplicate names, NaN, infinities or deep nesting. Raises MalformedJson, BodyTooLarge."""
    if len(text.encode("utf-8", "surrogatepass")) > BODY_BYTES_MAX:
        raise Problem("BodyTooLarge")
    try:
        text.encode()  # what is no UTF-8 is no JSON
        value = json.loads(text, object_pairs_hook=_object, parse_constant=_no_constant, parse_float=_finite)
    except (ValueError, RecursionError):
        raise Problem("MalformedJson") from None
    if not isinstance(value, dict):
        raise Problem("MalformedJson", "The body must be a JSON object.")
    if _depth(value) > DEPTH_MAX:
        raise Problem("MalformedJson", "The body is nested too deeply.")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, value in pairs:
        if name in result:
            raise invalid(field_name(name), "is given twice")
        result[name] = value
    return result


def _no_constant(_text: str) -> None:
    raise ValueError("not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if number - number != 0:
        raise ValueError("not finite")
    return number


def _depth(value: Any) -> int:
    """The nesting of containers, level by level: no recursion on hostile input."""
    depth, level = 0, [value]
    while level and depth <= DEPTH_MAX:
        depth += 1
        level = [
            child
            for item in level
            for child in (item.values() if isinstance(item, dict) else item)
            if isinstance(child, (dict, list))
        ]
    return depth


def allowed_methods(method: str) -> tuple[str, ...]:
    """A route for GET serves HEAD too (RFC 9110 section 9.3.2)."""
    return ("GET", "HEAD") if method == "GET" else (method,)


def plain_id(text: str) -> str:
    """The text, or one that no id equals: what no id can look like is unknown, and never reaches a database."""
    return text if len(text) <= ID_CHARS_MAX and text.isascii() and text.isprintable() else "\ufffd"


def revisions(request: Request) -> frozenset[int] | None:
    """If-Match as revisions (RFC 9110 section 13.1.1); None for no condition and for `*`."""
    text = request.headers.get("if-match")
    if text is None or text == "*":
        return None
    tags = re.fullmatch(r'"[0-9]{1,18}"( *, *"[0-9]{1,18}")*', text) if isinstance(text, str) else None
    if tags is None:
        raise invalid("If-Match", 'must be "<revision>" as ETag gave it')
    return frozenset(int(number) for number in re.findall(r"[0-9]+", tags[0]))


def idempotency_key(request: Request) -> str | None:
    """Idempotency-Key: 1 to 255 printable ASCII characters."""
    text = request.headers.get("idempotency-key")
    if text is not None and (not isinstance(text, str) or not re.fullmatch(r"[!-~]{1,255}", text)):
        raise invalid("Idempotency-Key", "must be 1 to 255 printable ASCII characters without spaces")
    return text


def bearer_token(request: Request) -> str | None:
    """The token after `Bearer`, exactly as it came; None for anything else."""
    match = re.fullmatch(r"(?i:bearer) ([\x21-\x7e]{1,256})", request.header("authorization") or "")
    return match[1] if match else None


def source_address(request: Request) -> str:
    """Where the platform says that a request came from; nothing that a client can choose, "" if it says nothing.

    An API Gateway event has `requestContext.sourceIp`; a Function URL event has a header, which the platform sets.
    """
    address = request.context.get("sourceIp") if isinstance(request.context, dict) else None
    return address if isinstance(address, str) else request.header("x-scf-remote-addr") or ""


def respond(function: str, event: Any, context: Any, answer: Callable[[Request], Reply]) -> Any:
    """Parses the event, runs `answer`, logs one line and renders. Nothing but a response leaves a function."""
    started, request = time.perf_counter(), None
    try:
        request = parse_event(event, context)
        reply = answer(request)
    except Problem as problem:
        reply = problem_reply(problem, _request_id(request, context))
    except CloudFailure as failure:
        log.emit_exception("cloud_failure", failure, function=function, code=failure.cloud_code, stage=failure.action)
        reply = problem_reply(Problem(failure.code), _request_id(request, context))
    except Exception as error:  # noqa: BLE001 - the edge: whatever happened inside, callers get a clean answer
        log.emit_exception("internal_error", error, function=function, request_id=_request_id(request, context))
        reply = problem_reply(Problem("InternalError"), _request_id(request, context))
    kind, method = (request.kind, request.method or None) if request else (None, None)
    log.emit(
        "request", function=function, request_id=_request_id(request, context), kind=kind, method=method,
        status=reply.status, duration_ms=round((time.perf_counter() - started) * 1000, 3), **reply.noted,
    )  # fmt: skip
    return render(reply, direct=request is not None and kind != "http")


def _request_id(request: Request | None, context: Any) -> str:
    if request is not None:
        return request.request_id
    return str(context.get("request_id") or "")[:ID_CHARS_MAX] if isinstance(context, dict) else ""


def problem_reply(problem: Problem, request_id: str, noted: Mapping[str, Any] = _NOTHING) -> Reply:
    """A problem document as an answer; its code goes into the log, and its reason if it has one."""
    headers = {"Content-Type": PROBLEM_TYPE, **problem.headers}
    if problem.status == 401:
        headers.setdefault("WWW-Authenticate", 'Bearer realm="consumer-keys"')
    if problem.status == 503:
        headers.setdefault("Retry-After", "5")
    why = {} if problem.reason is None else {"reason": problem.reason}
    return Reply(problem.status, problem.body(request_id), headers, {"code": problem.code, **why, **noted})


def same_every_time(problem: Problem) -> Callable[[str, Mapping[str, Any]], Reply]:
    """`problem_reply` for a problem that is answered often: the document is encoded once, around its request id."""
    head, tail = _encode(problem.body("\0")).split("\\u0000")
    headers = problem_reply(problem, "").headers

    def answer(request_id: str, noted: Mapping[str, Any]) -> Reply:
        body = head + _encode(request_id)[1:-1] + tail
        return Reply(problem.status, body, headers, {"code": problem.code, **noted})

    return answer


def render(reply: Reply, *, direct: bool) -> Any:
    """The value that the function returns: the body itself for direct invocation, else the integrated response."""
    if direct:
        return reply.body
    headers = {"Content-Type": JSON_TYPE, "Cache-Control": "no-store", **reply.headers}
    body = "" if reply.body is None else reply.body if isinstance(reply.body, str) else _encode(reply.body)
    if reply.body is None:
        del headers["Content-Type"]
    return {"isBase64Encoded": False, "statusCode": reply.status, "headers": headers, "body": body}
