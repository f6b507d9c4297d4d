"""HTTP/1.1 as bytes: what is read as a request, what is refused, and what a function may return."""

import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckeys.wire import BODY_BYTES_MAX, Request, RequestError, Response, encode, read_request, response_of


def read(data: bytes) -> Request | None:
    return read_request(io.BytesIO(data), lambda: None)


def refusal_of(data: bytes) -> RequestError | None:
    try:
        read(data)
    except RequestError as refusal:
        return refusal
    return None


def test_a_request_is_read_and_what_follows_it_is_left_for_the_next() -> None:
    stream = io.BytesIO(b"POST /a?b HTTP/1.1\r\nContent-Length: 2\r\n\r\nhiGET /c HTTP/1.0\n\n")
    first, second, third = (read_request(stream, lambda: None) for _ in range(3))
    assert first == Request("POST", "/a", "b", {"content-length": "2"}, b"hi", keep_alive=True)
    assert second == Request("GET", "/c", "", {}, b"", keep_alive=False)
    assert third is None


@pytest.mark.parametrize(
    ("head", "keep_alive"),
    [
        (b"GET / HTTP/1.1\r\n", True),
        (b"GET / HTTP/1.1\r\nConnection: Upgrade, Close\r\n", False),
        (b"GET / HTTP/1.0\r\n", False),
        (b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n", True),
    ],
)
def test_a_connection_is_kept_as_its_version_and_header_say(head: bytes, keep_alive: bool) -> None:
    request = read(head + b"\r\n")
    assert request is not None
    assert request.keep_alive is keep_alive


def test_100_continue_is_asked_for_only_where_a_body_is_to_come() -> None:
    asked: list[bool] = []
    for length in (b"0", b"1", b"99999999"):
        head = b"POST / HTTP/1.1\r\nExpect: 100-Continue\r\nContent-Length: %s\r\n\r\nx" % length
        if length == b"99999999":
            with pytest.raises(RequestError, match="at most"):
                read_request(io.BytesIO(head), lambda: asked.append(True))
        else:
            read_request(io.BytesIO(head), lambda: asked.append(True))
    assert asked == [True]


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GARBAGE\r\n\r\n", 400),
        (b"GET /echo\r\n\r\n", 400),
        (b"GET  /echo HTTP/1.1\r\n\r\n", 400),
        (b"GET /echo HTTP/1.1 x\r\n\r\n", 400),
        (b"GET echo HTTP/1.1\r\n\r\n", 400),
        (b"GET http://h/echo HTTP/1.1\r\n\r\n", 400),
        (b"GET /ec\x00ho HTTP/1.1\r\n\r\n", 400),
        (b"G@T /echo HTTP/1.1\r\n\r\n", 400),
        (b"GET /echo HTTP/2.0\r\n\r\n", 505),
        (b"GET /echo HTTP/1.1\r\nNo colon\r\n\r\n", 400),
        (b"GET /echo HTTP/1.1\r\n: no name\r\n\r\n", 400),
        (b"GET /echo HTTP/1.1\r\nA B: 1\r\n\r\n", 400),
        (b"GET /echo HTTP/1.1\r\nA: 1\r\n folded\r\n\r\n", 400),
        (b"GET /echo HTTP/1.1\r\nA: 1\rB: 2\r\n\r\n", 400),
        (b"GET /echo HTTP/1.1\r\nA: \x00\r\n\r\n", 400),
        (b"GET /echo HTTP/1.1\r\nA: 1", 400),
        (b"POST /echo HTTP/1.1\r\nContent-Length: 5\r\n\r\nabc", 400),
        (b"POST /echo HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST /echo HTTP/1.1\r\nContent-Length: +1\r\n\r\nx", 400),
        (b"POST /echo HTTP/1.1\r\nContent-Length: 1, 1\r\n\r\nx", 400),
        (b"POST /echo HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx", 400),
        (b"POST /echo HTTP/1.1\r\nContent-Length : 1\r\n\r\nx", 400),
        (b"POST /echo HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST /echo HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
        (b"POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n\r\n", 400),
        (b"POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\nab\r\n0\r\n\r\n", 400),
        (b"POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n0\r\n\r\n", 400),
        (b"POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nX: 1", 400),
    ],
)
def test_what_is_no_acceptable_http_is_refused(data: bytes, status: int) -> None:
    refusal = refusal_of(data)
    assert refusal is not None
    assert refusal.status == status


@given(st.binary(max_size=200), st.sampled_from([b"", b"POST /a HTTP/1.1\r\n", b"POST /a HTTP/1.1\r\nA: b\r\n"]))
def test_any_bytes_are_a_request_or_a_refusal(data: bytes, start: bytes) -> None:
    refusal = refusal_of(start + data)
    assert refusal is None or 400 <= refusal.status < 600


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=8))
def test_a_chunked_body_is_the_sum_of_its_chunks(chunks: list[bytes]) -> None:
    framed = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    request = read(b"POST / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n" + framed + b"0\r\n\r\n")
    assert request is not None
    assert request.body == b"".join(chunks)


@pytest.mark.parametrize(
    "result",
    [
        {"statusCode": "200"},
        {"statusCode": True},
        {"statusCode": 100},
        {"statusCode": 200, "body": {}},
        {"statusCode": 200, "headers": []},
        {"statusCode": 200, "headers": {"A": 1}},
        {"statusCode": 200, "headers": {"A": "1\r\nB: 2"}},
        {"statusCode": 200, "headers": {"A B": "1"}},
        {"statusCode": 200, "headers": {"A": "中"}},
        {"statusCode": 200, "body": "!", "isBase64Encoded": True},
        {"statusCode": 200, "body": "\ud800"},
        {"statusCode": 200, "body": "x" * (BODY_BYTES_MAX + 1)},
    ],
)
def test_a_result_of_the_wrong_shape_is_no_response(result: Any) -> None:
    with pytest.raises(ValueError):
        response_of(result)


@pytest.mark.parametrize("result", [None, [], "text", {"a": 1}])
def test_any_other_json_is_the_body_of_a_200(result: Any) -> None:
    assert response_of(result).status == 200


def test_a_status_without_a_name_is_written_all_the_same() -> None:
    data = encode(Response(299, [], b"x"), head_only=False, keep_alive=True)
    assert data.startswith(b"HTTP/1.1 299 \r\n")
    assert data.endswith(b"\r\nContent-Length: 1\r\nConnection: keep-alive\r\n\r\nx")


def test_a_list_of_header_values_becomes_several_lines_and_base64_becomes_bytes() -> None:
    result = {"statusCode": 200, "headers": {"A": ["1", "2"]}, "body": "/wA=", "isBase64Encoded": True}
    data = encode(response_of(result), head_only=False, keep_alive=True)
    assert b"\r\nA: 1\r\nA: 2\r\n" in data
    assert data.endswith(b"\r\n\r\n\xff\x00")


def test_204_has_neither_body_nor_length() -> None:
    data = encode(response_of({"statusCode": 204, "body": "x"}), head_only=False, keep_alive=True)
    assert b"Content-Length" not in data
    assert data.endswith(b"\r\n\r\n")
