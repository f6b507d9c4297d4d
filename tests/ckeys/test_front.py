"""The local HTTP front, over real sockets: what reaches a function, what comes back, and what is refused."""

import io
import json
import re
import socket
import struct
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from typing import Any
from urllib.request import urlopen
from uuid import UUID

import pytest

from ckeys.events import Context, Event
from ckeys.front import Front
from ckeys.template import Function, Route, Template
from ckeys.wire import BODY_BYTES_MAX, HEAD_BYTES_MAX

CONNECTIONS = 64


def function(name: str, *routes: tuple[str, str]) -> Function:
    made = tuple(Route(method, path, name) for method, path in routes)
    return Function(name, "index.main_handler", f"{name}/", "Python3.10", 128, 7, {}, "role", "", made, (), False)


TEMPLATE = Template(
    "space",
    (
        function("echo", ("ANY", "/echo"), ("ANY", "/echo/{rest}"), ("GET", "/things/{thing_id}")),
        function("mirror", ("POST", "/mirror"), ("GET", "/greeting")),
        function("broken", ("GET", "/broken")),
        function("meet", ("GET", "/meet")),
    ),
)


def echo(event: Event, context: Context) -> Any:
    return {"statusCode": 200, "body": json.dumps({"event": event, "context": context})}


def mirror(event: Event, context: Context) -> Any:
    """Returns what the body says, so that a test can choose the function's response."""
    return json.loads(event["body"]) if event["body"] else {"greeting": "你好"}


def broken(event: Event, context: Context) -> Any:
    raise RuntimeError("text that must not leave")


@pytest.fixture
def meeting() -> threading.Barrier:
    return threading.Barrier(CONNECTIONS, timeout=20)


@pytest.fixture
def log() -> io.StringIO:
    return io.StringIO()


def entries(log: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.getvalue().splitlines()]


@pytest.fixture
def front(meeting: threading.Barrier, log: io.StringIO) -> Iterator[Front]:
    def meet(event: Event, context: Context) -> Any:
        return {"statusCode": 200, "body": str(meeting.wait())}

    handlers = {"echo": echo, "mirror": mirror, "broken": broken, "meet": meet}
    with Front(TEMPLATE, handlers, local_routes={("POST", "/_local/ping"): lambda event: event["body"]}, log=log) as it:
        yield it


def raw(front: Front, data: bytes) -> bytes:
    """Send bytes as they are, and read to the end of the connection."""
    with socket.create_connection(("127.0.0.1", front.server_port), timeout=10) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def ask(front: Front, head: str, body: bytes = b"") -> tuple[int, dict[str, str], Any]:
    """Send a head line by line, and read one response: status, headers, body from JSON where there is one."""
    lines = head.strip().split("\n")
    answer = raw(front, "\r\n".join([*lines, "Connection: close", "", ""]).encode() + body)
    top, _, rest = answer.partition(b"\r\n\r\n")
    status, *fields = top.decode("latin-1").split("\r\n")
    return int(status.split(" ")[1]), dict(field.split(": ", 1) for field in fields), json.loads(rest) if rest else None


def event_of(front: Front, head: str, body: bytes = b"") -> Event:
    status, _, answer = ask(front, head, body)
    assert status == 200
    event: Event = answer["event"]
    return event


# What a function receives.


def test_a_request_becomes_a_function_url_event(front: Front) -> None:
    event = event_of(front, "POST /echo?a=1&b=2 HTTP/1.1\nHost: h\nAccept: */*\nContent-Length: 4", b'"\xc2\xa3"')
    assert event == {
        "body": '"£"',
        "headers": {
            "accept": "*/*",
            "connection": "close",
            "content-length": "4",
            "host": "h",
            "x-scf-remote-addr": "127.0.0.1",
        },
        "httpMethod": "POST",
        "path": "/echo",
        "queryString": {"a": "1", "b": "2"},
        "pathParameters": {},
    }


def test_the_context_is_the_platform_s_and_holds_no_credentials(front: Front) -> None:
    _, _, answer = ask(front, "GET /echo HTTP/1.1")
    context = answer["context"]
    assert UUID(context["request_id"]).version == 4
    assert (context["function_name"], context["namespace"]) == ("echo", "space")
    assert (context["memory_limit_in_mb"], context["time_limit_in_ms"]) == (128, 7000)
    assert json.loads(context["environment"]) == {"SCF_NAMESPACE": "space"}
    assert context["environ"] == "SCF_NAMESPACE=space"


def test_headers_of_one_name_are_joined_in_their_order(front: Front) -> None:
    event = event_of(front, "GET /echo HTTP/1.1\nX-Api-Key: one\nx-api-key: two\nX-API-KEY:three")
    assert event["headers"]["x-api-key"] == "one, two, three"


def test_header_names_that_another_server_might_rewrite_are_dropped(front: Front) -> None:
    event = event_of(front, "GET /echo HTTP/1.1\nX_Api_Key: a\nX-Api-Key : b\nX-Scf_Remote-Addr: c\ncontent_length: 9")
    assert event["headers"].keys() == {"connection", "x-scf-remote-addr"}


def test_the_remote_address_is_never_the_client_s_word(front: Front) -> None:
    event = event_of(front, "GET /echo HTTP/1.1\nX-Scf-Remote-Addr: 1.2.3.4\nx-scf-remote-addr: 5.6.7.8")
    assert event["headers"]["x-scf-remote-addr"] == "127.0.0.1"


def test_query_values_are_text_and_a_repeated_key_is_a_list(front: Front) -> None:
    event = event_of(front, "GET /echo?a=1&a=&a=%E4%B8%AD+x&b&c=%ff HTTP/1.1")
    assert event["queryString"] == {"a": ["1", "", "中 x"], "b": "", "c": "\ufffd"}


def test_the_path_is_raw_and_its_parameters_are_decoded(front: Front) -> None:
    event = event_of(front, "GET /things/a%20%E4%B8%AD HTTP/1.1")
    assert (event["path"], event["pathParameters"]) == ("/things/a%20%E4%B8%AD", {"thing_id": "a 中"})
    event = event_of(front, "GET /echo//a%2Fb/../c;d HTTP/1.1")
    assert (event["path"], event["pathParameters"]) == ("/echo//a%2Fb/../c;d", {"rest": "/a%2Fb/../c;d"})
    assert event_of(front, "GET /things/中 HTTP/1.1")["path"] == "/things/%E4%B8%AD"


@pytest.mark.parametrize("path", ["//echo", "/./echo", "/%65cho", "/echo%2Fx", "/things/a%2Fb", "/things/%00", "/ECHO"])
def test_no_other_spelling_of_a_path_reaches_a_function(front: Front, path: str) -> None:
    status, _, answer = ask(front, f"GET {path} HTTP/1.1")
    assert (status, answer["code"]) == (404, "RouteNotFound")


def test_a_chunked_body_arrives_whole_and_with_its_length(front: Front) -> None:
    body = b"4;name=value\r\nWiki\r\n5\r\npedia\r\n0\r\nX-Trailer: dropped\r\n\r\n"
    event = event_of(front, "POST /echo HTTP/1.1\nTransfer-Encoding: chunked", body)
    assert event["body"] == "Wikipedia"
    assert event["headers"].keys() == {"connection", "content-length", "x-scf-remote-addr"}
    assert event["headers"]["content-length"] == "9"


def test_a_client_that_waits_for_100_continue_gets_it(front: Front) -> None:
    with socket.create_connection(("127.0.0.1", front.server_port), timeout=10) as connection:
        connection.sendall(b"POST /echo HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        assert connection.recv(1024) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"hi")
        assert connection.recv(1024).startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize("method", ["GET", "PATCH", "OPTIONS", "PROPFIND", "x-own"])
def test_any_method_reaches_a_route_for_any_method(front: Front, method: str) -> None:
    assert event_of(front, f"{method} /echo HTTP/1.1")["httpMethod"] == method


# What a client receives.


def mirrored(front: Front, result: Any) -> tuple[int, dict[str, str], bytes]:
    body = json.dumps(result).encode()
    head = b"POST /mirror HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % len(body)
    top, _, rest = raw(front, head + body).partition(b"\r\n\r\n")
    status, *fields = top.decode("latin-1").split("\r\n")
    return int(status.split(" ")[1]), dict(field.split(": ", 1) for field in fields), rest


def test_status_headers_and_body_are_the_function_s(front: Front) -> None:
    headers = {"Content-Type": "text/plain", "X-Key-Id": "k", "Content-Length": "99", "connection": "upgrade"}
    status, sent, body = mirrored(front, {"statusCode": 401, "headers": headers, "body": "nö"})
    assert (status, body) == (401, "nö".encode())
    assert (sent["Content-Type"], sent["X-Key-Id"]) == ("text/plain", "k")
    assert (sent["Content-Length"], sent["Connection"]) == ("3", "close")


def test_a_value_without_status_code_is_the_body_of_a_200(front: Front) -> None:
    status, headers, answer = ask(front, "GET /greeting HTTP/1.1")
    assert (status, headers["Content-Type"], answer) == (200, "application/json", {"greeting": "你好"})


def test_a_response_of_the_wrong_shape_is_a_500(front: Front) -> None:
    status, _, body = mirrored(front, {"statusCode": "200"})
    assert (status, json.loads(body)["code"]) == (500, "InternalError")


def test_a_function_that_raises_is_a_500_which_tells_nothing(front: Front, log: io.StringIO) -> None:
    status, headers, answer = ask(front, "GET /broken HTTP/1.1")
    assert (status, headers["Content-Type"]) == (500, "application/problem+json")
    assert answer.pop("request_id")
    assert answer == {
        "type": "about:blank",
        "title": "Internal Server Error",
        "status": 500,
        "code": "InternalError",
        "detail": "The function failed; the log says where.",
    }
    assert "RuntimeError at test_front.py:" in log.getvalue()
    assert "text that must not leave" not in log.getvalue()


def test_head_announces_the_body_and_sends_none(front: Front) -> None:
    connection = HTTPConnection("127.0.0.1", front.server_port, timeout=10)
    for _ in range(2):  # on one connection: a body that came after all would spoil the second answer
        connection.request("HEAD", "/greeting")
        response = connection.getresponse()
        assert (response.status, response.read()) == (200, b"")
        assert int(response.headers["Content-Length"]) > 0
    connection.close()


def test_a_wrong_method_is_a_405_that_lists_the_right_ones(front: Front) -> None:
    status, headers, answer = ask(front, "DELETE /things/1 HTTP/1.1")
    assert (status, headers["Allow"], answer["code"]) == (405, "GET, HEAD", "MethodNotAllowed")


def test_local_routes_are_served_beside_the_template_s(front: Front) -> None:
    assert ask(front, "POST /_local/ping HTTP/1.1\nContent-Length: 2", b"hi")[2] == "hi"
    assert ask(front, "GET /_local/ping HTTP/1.1")[0] == 404


# What is refused.


def test_a_body_that_is_no_text_is_malformed_json(front: Front) -> None:
    status, _, answer = ask(front, "POST /echo HTTP/1.1\nContent-Length: 1", b"\xff")
    assert (status, answer["code"]) == (400, "MalformedJson")


@pytest.mark.parametrize("framing", ["plain", "chunked"])
def test_a_body_over_the_limit_is_a_413_that_the_client_can_read(front: Front, framing: str) -> None:
    connection = HTTPConnection("127.0.0.1", front.server_port, timeout=10)
    body = b"x" * (BODY_BYTES_MAX + 1)
    connection.request("POST", "/echo", iter([body]) if framing == "chunked" else body)
    response = connection.getresponse()
    assert (response.status, json.loads(response.read())["code"]) == (413, "BodyTooLarge")
    connection.close()


def test_a_body_of_exactly_the_limit_is_served(front: Front) -> None:
    connection = HTTPConnection("127.0.0.1", front.server_port, timeout=10)
    connection.request("POST", "/_local/ping", b"x" * BODY_BYTES_MAX)
    assert connection.getresponse().status == 200
    connection.close()


@pytest.mark.parametrize("head", ["X: " + "x" * HEAD_BYTES_MAX, "\n".join(["X: 1"] * 101)])
def test_a_head_over_the_limits_is_a_431(front: Front, head: str) -> None:
    status, _, answer = ask(front, f"GET /echo HTTP/1.1\n{head}")
    assert (status, answer["code"]) == (431, "HeadersTooLarge")


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GARBAGE\r\n\r\n", 400),
        (b"GET /echo HTTP/2.0\r\n\r\n", 505),
        (b"GET /echo HTTP/1.1\r\nA: 1\r\n folded\r\n\r\n", 400),
        (b"POST /echo HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n\r\n", 400),
    ],
)
def test_a_request_that_is_no_acceptable_http_is_answered_and_the_connection_closed(
    front: Front, data: bytes, status: int
) -> None:
    answer = raw(front, data + b"GET /echo HTTP/1.1\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert b"\r\nConnection: close\r\n" in answer
    assert answer.count(b"\r\nDate: ") == 1  # nothing after the fault was taken for a request


# Connections.


def test_a_connection_serves_requests_one_after_the_other_even_pipelined(front: Front) -> None:
    requests = b"\r\nGET /things/1 HTTP/1.1\r\n\r\nGET /nothing HTTP/1.1\r\n\r\nGET /things/2 HTTP/1.0\r\n\r\n"
    assert re.findall(rb"HTTP/1\.1 (\d+) ", raw(front, requests)) == [b"200", b"404", b"200"]


def test_64_connections_are_served_at_the_same_time(front: Front) -> None:
    def visit(_: int) -> tuple[int, bytes]:
        connection = HTTPConnection("127.0.0.1", front.server_port, timeout=30)
        connection.request("GET", "/meet")
        response = connection.getresponse()
        answer = response.status, response.read()
        connection.close()
        return answer

    with ThreadPoolExecutor(CONNECTIONS) as visitors:
        answers = sorted(visitors.map(visit, range(CONNECTIONS)))
    assert answers == sorted((200, b"%d" % number) for number in range(CONNECTIONS))


def test_a_client_that_breaks_off_harms_nobody_else(front: Front, log: io.StringIO) -> None:
    for data in (b"", b"GET /ec", b"GET /echo HTTP/1.1\r\n\r\n", b"BAD\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", front.server_port), timeout=10) as connection:
            connection.sendall(data)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # reset, not close
    with urlopen(f"{front.url}/echo") as response:
        assert response.status == 200
    front.stop()
    assert "fault" not in log.getvalue()


def test_stopping_lets_a_running_request_finish_and_leaves_no_thread_and_no_socket() -> None:
    before = set(threading.enumerate())
    entered, leave = threading.Event(), threading.Event()

    def slow(event: Event, context: Context) -> Any:
        entered.set()
        assert leave.wait(10)
        return {"statusCode": 200, "body": "done"}

    front = Front(Template("space", (function("slow", ("GET", "/slow")),)), {"slow": slow}, log=io.StringIO())
    front.start()
    address = ("127.0.0.1", front.server_port)
    with socket.create_connection(address, timeout=10) as idle, socket.create_connection(address, timeout=10) as busy:
        idle.sendall(b"GET /nothing HTTP/1.1\r\n\r\n")
        assert idle.recv(1024).startswith(b"HTTP/1.1 404 ")
        busy.sendall(b"GET /slow HTTP/1.1\r\n\r\n")
        assert entered.wait(10)
        stopper = threading.Thread(target=front.stop)
        stopper.start()
        assert idle.recv(1024) == b""  # closed by the stop
        leave.set()
        assert b"".join(iter(lambda: busy.recv(1024), b"")).endswith(b"done")
        stopper.join()
    assert set(threading.enumerate()) == before
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, timeout=10)


def test_a_port_that_is_taken_is_an_error_and_a_front_that_never_started_can_be_stopped(front: Front) -> None:
    Front(TEMPLATE, {}).stop()
    with pytest.raises(OSError, match="in use"):
        Front(TEMPLATE, {}, port=front.server_port)


# The log.


def test_a_request_leaves_one_line_without_query_headers_and_body(front: Front, log: io.StringIO) -> None:
    head = "POST /echo/a?apikey=hidden-1 HTTP/1.1\nAuthorization: Bearer hidden-2\nContent-Length: 8"
    _, _, answer = ask(front, head, b"hidden-3")
    (entry,) = entries(log)
    assert "hidden" not in log.getvalue()
    assert entry.pop("duration_ms") >= 0
    assert entry.pop("time").endswith("+00:00")
    assert entry == {
        "event": "access",
        "request_id": answer["context"]["request_id"],
        "method": "POST",
        "path": "/echo/a",
        "function": "echo",
        "status": 200,
    }


def test_a_refused_request_leaves_a_line_too(front: Front, log: io.StringIO) -> None:
    _, _, answer = ask(front, "GET /echo HTTP/3.0")
    assert [(entry["status"], entry["request_id"]) for entry in entries(log)] == [(505, answer["request_id"])]


def test_lines_of_concurrent_requests_are_never_mixed(front: Front, log: io.StringIO) -> None:
    heads = [f"GET /things/{number} HTTP/1.1" for number in range(100)]
    with ThreadPoolExecutor(16) as visitors:
        list(visitors.map(lambda head: ask(front, head), heads))
    assert sorted(entry["path"] for entry in entries(log)) == sorted(f"/things/{number}" for number in range(100))
