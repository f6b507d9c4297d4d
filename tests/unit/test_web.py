"""Events in, responses out: whatever comes, an answer leaves, and it is clean."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consumer_keys import log, operation, web
from consumer_keys.config import ConfigError
from consumer_keys.errors import CODES, Gone, Problem, Unavailable
from consumer_keys.model import CreateKey, ListKeys, UpdateKey
from consumer_keys.publish import PublicationRefused
from consumer_keys.snapshot import SnapshotError

PATH = "/v1/gateways/default/keys"
CONTEXT = {"request_id": "request-1"}
URL_EVENT: dict[str, Any] = {
    "httpMethod": "post", "path": PATH, "headers": {"Content-Type": "application/json"},
    "queryString": {"a": "1"}, "body": "{}", "isBase64Encoded": False, "requestContext": {},
}  # fmt: skip
CREATE = operation.Operation("create_key", "POST", "/v1/gateways/{gateway_id}/keys", body=CreateKey)
UPDATE = operation.Operation("update_key", "PATCH", "/v1/gateways/{gateway_id}/keys/{key_id}", body=UpdateKey)
LIST = operation.Operation("list_keys", "GET", "/v1/gateways/{gateway_id}/keys", query=ListKeys)
STATUS = operation.Operation("get_status", "GET", "/v1/status")

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)
# Surrogates too: JSON from outside may hold them as escapes.
any_text = st.text(st.characters(), max_size=30)
members = (
    "httpMethod", "path", "headers", "queryString", "queryStringParameters", "pathParameters", "body",
    "isBase64Encoded", "requestContext", "payload", "Type", "TriggerName", "gateway_id", "key_id", "name",
    "generation", "limit",
)  # fmt: skip
likely_texts = st.sampled_from(
    ["GET", "POST", "PATCH", PATH, PATH + "/secret-1", "/v1/status", "Timer", "{}", "[]", "true", '{"a":1}', "e30="]
)
events = json_values | st.dictionaries(st.sampled_from(members), likely_texts | any_text | json_values)
http_events = st.fixed_dictionaries(
    {"httpMethod": likely_texts, "path": likely_texts | any_text},
    optional={
        "headers": st.dictionaries(any_text | st.sampled_from(["If-Match", "Idempotency-Key"]), any_text | json_values),
        "queryString": st.dictionaries(any_text | st.sampled_from(["limit", "status"]), any_text | json_values),
        "body": any_text | json_values.map(json.dumps),
        "isBase64Encoded": st.booleans() | st.just("true"),
    },
)
contexts = st.none() | json_values | st.fixed_dictionaries({"request_id": json_values | any_text})


def request(**members_now: Any) -> web.Request:
    return web.parse_event(URL_EVENT | members_now, CONTEXT)


def code_of(function: Any, *arguments: Any, **options: Any) -> str:
    with pytest.raises(Problem) as caught:
        function(*arguments, **options)
    return caught.value.code


def assert_clean(answer: Any) -> None:
    """Something that SCF can deliver: JSON that is UTF-8, and for HTTP a status with headers and a text body."""
    json.dumps(answer, ensure_ascii=False, allow_nan=False).encode()
    if isinstance(answer, dict) and "statusCode" in answer:
        assert answer["isBase64Encoded"] is False
        assert all(value.isascii() and value.isprintable() for value in answer["headers"].values())
        if answer["body"]:
            document = json.loads(answer["body"])
            assert answer["statusCode"] < 400 or CODES[document["code"]][0] == answer["statusCode"]


def kind_of(event: dict[str, Any]) -> str:
    """How the event is understood, or the code of its refusal."""
    try:
        return web.parse_event(event, CONTEXT).kind
    except Problem as problem:
        return problem.code


# Shapes


def test_the_two_http_events_and_the_flat_one_are_the_same_request() -> None:
    gateway = request()
    url = dict(URL_EVENT)
    url["queryStringParameters"] = url.pop("queryString")
    assert web.parse_event(url, CONTEXT) == gateway
    assert gateway.kind == "http"
    assert (gateway.method, gateway.path, gateway.query, gateway.body) == ("POST", PATH, {"a": "1"}, "{}")
    assert (gateway.headers, gateway.request_id) == ({"content-type": "application/json"}, "request-1")


def test_a_timer_and_a_direct_invocation_are_told_apart() -> None:
    timer = {"Type": "Timer", "TriggerName": "t", "Time": "2027-01-01T00:00:00Z", "Message": ""}
    assert web.parse_event(timer, CONTEXT).kind == "timer"
    direct = web.parse_event({"gateway_id": "default", "key": "x"}, CONTEXT)
    assert (direct.kind, direct.fields) == ("direct", {"gateway_id": "default", "key": "x"})
    assert web.parse_event({"Type": "Timer"}, None).kind == "direct"


@pytest.mark.parametrize(
    "mark",
    ["httpMethod", "headers", "path", "queryString", "requestContext", "queryStringParameters", "payload", "body"],
)
@pytest.mark.parametrize("value", [None, "", {}, "x", 0, False])
def test_nothing_that_came_over_http_passes_for_a_direct_invocation(mark: str, value: Any) -> None:
    """A direct invocation is trusted as the platform; an event with any trace of HTTP never is one."""
    for base in ({"gateway_id": "default"}, {"Type": "Timer", "TriggerName": "t"}):
        event = {"httpMethod": "GET", "path": "/", **base, mark: value}
        assert kind_of({**base, mark: value}) == "MalformedEvent"
        assert kind_of(event) in ("MalformedEvent", "http")


@pytest.mark.parametrize("event", [None, [], "x", 1, True, 1.5, [{}]])
def test_what_is_no_object_is_no_event(event: Any) -> None:
    assert code_of(web.parse_event, event, CONTEXT) == "MalformedEvent"


@pytest.mark.parametrize(
    "change",
    [
        {"httpMethod": None}, {"httpMethod": 5}, {"path": None}, {"path": ["/"]}, {"body": 5}, {"body": {}},
        {"queryString": "a=1"}, {"queryString": [1]}, {"pathParameters": "x"}, {"body": "%%%", "isBase64Encoded": True},
        {"body": "ｅ30=", "isBase64Encoded": True}, {"body": "e30", "isBase64Encoded": True},
    ],
)  # fmt: skip
def test_an_http_event_with_a_wrong_type_is_malformed(change: dict[str, Any]) -> None:
    assert code_of(request, **change) == "MalformedEvent"


@pytest.mark.parametrize("headers", [None, [], "x", 5])
def test_headers_of_a_wrong_type_are_no_headers(headers: Any) -> None:
    assert request(headers=headers).headers == {}


def test_header_names_are_compared_in_lower_case_and_lines_of_one_name_are_kept() -> None:
    headers = {"If-Match": "a", "if-match": ["b", "c"], "IF-MATCH": None, "X-One": ["1"], "X-Empty": []}
    parsed = request(headers=headers)
    assert parsed.headers == {"if-match": ["a", "b", "c", None], "x-one": "1", "x-empty": []}
    assert (parsed.header("x-one"), parsed.header("if-match"), parsed.header("absent")) == ("1", None, None)


def test_the_kelvin_sign_is_no_k() -> None:
    assert "x-api-key" not in request(headers={"x-api-\u212aey": "x"}).headers


@pytest.mark.parametrize("flag", [True, "true"])
def test_a_base64_body_is_decoded(flag: Any) -> None:
    body = '{"name": "名字"}'
    assert request(body=b64encode(body.encode()).decode(), isBase64Encoded=flag).body == body
    assert request(body=body, isBase64Encoded="false").body == body


def test_a_binary_body_does_not_stop_a_request_that_needs_none() -> None:
    """Forward auth answers for requests with any body; only who reads the body as JSON refuses it."""
    parsed = request(body=b64encode(b"\x89PNG\xff\xfe").decode(), isBase64Encoded=True)
    assert parsed.kind == "http"
    assert code_of(web.parse_json, parsed.body) == "MalformedJson"


# JSON


@given(st.dictionaries(st.text(), json_values))
def test_a_json_object_comes_through_as_it_is(value: dict[str, Any]) -> None:
    try:
        assert web.parse_json(json.dumps(value)) == value
    except Problem:
        assert web._depth(value) > web.DEPTH_MAX


@pytest.mark.parametrize(
    "text",
    ["", " ", "null", "[]", "1", '"x"', "{", '{"a":1}x', "{'a':1}", '{"a":1,}', '{"a":NaN}', '{"a":Infinity}',
     '{"a":-Infinity}', '{"a":1e999}', '{"a":-1e999}', '{"a":[1,{"b":1e400}]}', '{"a":' + "9" * 5000 + "}",
     '{"a":"\n"}', '{"a":01}', '{"a":+1}', '{"a":.5}', "\ufeff{}", '{"a":"\udcff"}', "\x00{}", "[" * 60_000,
     '{"a":' * 10_000, "//x\n{}"],
    ids=range(27),
)  # fmt: skip
def test_what_is_no_strict_json_object_is_refused(text: str) -> None:
    assert code_of(web.parse_json, text) == "MalformedJson"


@pytest.mark.parametrize(
    "text", ['{"a":1,"a":1}', '{"x":{"a":1,"b":2,"a":null}}', '{"x":[[{"a":1,"a":2}]]}', '{"\\u0061":1,"a":2}']
)
def test_a_name_given_twice_is_refused_at_any_depth_and_named(text: str) -> None:
    with pytest.raises(Problem) as caught:
        web.parse_json(text)
    assert caught.value.code == "InvalidParameter"
    assert [error.field for error in caught.value.errors] == ["a"]


def test_a_hostile_name_is_not_repeated_as_it_is() -> None:
    name = "\r\n\u202e\ud800" + "x" * 100
    with pytest.raises(Problem) as caught:
        web.parse_json(f"{{{json.dumps(name)}:1,{json.dumps(name)}:2}}")
    assert caught.value.errors[0].field == "(name withheld)"


def nested(kinds: str, innermost: str) -> str:
    """JSON text of one container per letter, `o` for an object and `a` for an array, around `innermost`."""
    for kind in reversed(kinds):
        innermost = f'{{"a":{innermost}}}' if kind == "o" else f"[0,{innermost}]"
    return innermost


@pytest.mark.parametrize("kinds", ["o", "oo", "o" * 20, "o" + "a" * 19, "oa" * 10])
@pytest.mark.parametrize("innermost", ["1", '"x"', "null"])
def test_twenty_containers_may_nest(kinds: str, innermost: str) -> None:
    assert web.parse_json(nested(kinds, innermost)) == json.loads(nested(kinds, innermost))


@pytest.mark.parametrize("kinds", ["o" * 21, "o" + "a" * 20, "oa" * 10 + "o", "o" * 500])
@pytest.mark.parametrize("innermost", ["1", "{}", "[]"])
def test_twenty_one_may_not(kinds: str, innermost: str) -> None:
    assert code_of(web.parse_json, nested(kinds, innermost)) == "MalformedJson"


def test_a_body_has_at_most_64_kib_of_bytes_not_characters() -> None:
    fits = '{"a":"' + "x" * (65_536 - 8) + '"}'
    assert web.parse_json(fits)
    assert code_of(web.parse_json, fits.replace("x", "xx", 1)) == "BodyTooLarge"
    assert code_of(web.parse_json, '{"a":"' + "名" * 22_000 + '"}') == "BodyTooLarge"
    assert code_of(web.parse_json, "[" * 1_000_000) == "BodyTooLarge"


def test_an_escaped_lone_surrogate_is_refused_by_the_field_that_it_stands_in() -> None:
    fields = web.parse_json('{"name":"a\\ud800b","generation":"System"}')
    with pytest.raises(Problem) as caught:
        operation.validate(CreateKey, fields)
    assert [error.field for error in caught.value.errors] == ["name"]
    assert_clean(web.render(web.problem_reply(caught.value, ""), direct=False))


# Conditions


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, None), ("*", None), ('"5"', {5}), ('"0"', {0}), ('"1", "2","3"', {1, 2, 3}),
        ('"999999999999999999"', {999999999999999999}),
    ],
)  # fmt: skip
def test_if_match_is_a_list_of_revisions(text: str | None, expected: set[int] | None) -> None:
    assert web.revisions(request(headers={"If-Match": text} if text else {})) == expected


@pytest.mark.parametrize(
    "value",
    ["", "5", '"5', '""', '"a"', 'W/"5"', '"5";', '"5", *', '"-5"', '"٣"', '"1_0"', '"5"\n', '"5" "6"', ["*"] * 2,
     ['"5"', '"6"'], 5, True, [], {}, '"' + "9" * 19 + '"'],
)  # fmt: skip
def test_any_other_if_match_is_refused_and_never_no_condition(value: Any) -> None:
    with pytest.raises(Problem) as caught:
        web.revisions(request(headers={"If-Match": value}))
    assert [error.field for error in caught.value.errors] == ["If-Match"]


@pytest.mark.parametrize("text", ["a", "x" * 255, "!~", "8f14e45f-ceea-4671-a5a5-000000000000"])
def test_an_idempotency_key_is_printable_ascii(text: str) -> None:
    assert web.idempotency_key(request(headers={"Idempotency-Key": text})) == text


def test_without_an_idempotency_key_there_is_none() -> None:
    assert web.idempotency_key(request(headers={})) is None


@pytest.mark.parametrize("value", ["", "x" * 256, "a b", "a\n", "ключ", "a\x7f", "a\0", ["a", "b"], 5, []])
def test_any_other_idempotency_key_is_refused_and_never_ignored(value: Any) -> None:
    with pytest.raises(Problem) as caught:
        web.idempotency_key(request(headers={"Idempotency-Key": value}))
    assert [error.field for error in caught.value.errors] == ["Idempotency-Key"]


@pytest.mark.parametrize(
    ("value", "token"),
    [
        ("Bearer abc", "abc"), ("bearer abc", "abc"), ("BEARER a,b", "a,b"), ("Bearer  abc", None), ("Bearer ", None),
        ("Bearer", None), ("Bearer abc ", None), ("Bearer a b", None), ("Bearer abc\n", None), ("Basic abc", None),
        ("Bearer " + "x" * 256, "x" * 256), ("Bearer " + "x" * 257, None), ("Bearer é", None), (None, None), (5, None),
        (["Bearer abc", "Bearer abc"], None), (["Bearer abc"], "abc"), ("", None),
    ],
)  # fmt: skip
def test_an_operator_token_is_exactly_what_stands_behind_bearer(value: Any, token: str | None) -> None:
    assert web.bearer_token(request(headers={"Authorization": value})) == token


# Paths


@pytest.mark.parametrize(
    "path",
    ["/v1/gateways/default/keys/", "//v1/gateways/default/keys", "/v1//gateways/default/keys",
     "/V1/gateways/default/keys",
     "/v1/gateways/default/Keys", "/v1/gateways//keys", "/v1/gateways/default/../keys", "/v1/gateways/default/%6beys",
     "/v1/gateways/default/keys;x=1", "/v1/gateways/default/keys?x", "/v1/gateways/default/keys\n", "", "/", "keys",
     "/v1/gateways/default/./keys", "/v1/gateways/default/keys/secret-1", "/release/v1/gateways/default/keys"],
)  # fmt: skip
def test_only_the_exact_path_is_served(path: str) -> None:
    assert code_of(operation.path_params, CREATE, request(path=path)) == "RouteNotFound"


def test_another_method_is_refused_with_the_one_that_is_allowed() -> None:
    for method in ("GET", "HEAD", "PUT", "TRACE", "", "PO ST"):
        with pytest.raises(Problem) as caught:
            operation.path_params(CREATE, request(httpMethod=method))
        assert (caught.value.code, caught.value.headers) == ("MethodNotAllowed", {"Allow": "POST"})


def test_ids_are_decoded_once_and_never_span_segments() -> None:
    parsed = request(httpMethod="PATCH", path="/v1/gateways/de%66ault/keys/secret%2D1")
    assert operation.path_params(UPDATE, parsed) == {"gateway_id": "default", "key_id": "secret-1"}
    twice = request(httpMethod="PATCH", path="/v1/gateways/default/keys/%2561")
    assert operation.path_params(UPDATE, twice)["key_id"] == "%61"


def test_a_direct_invocation_names_its_ids_as_fields() -> None:
    direct = web.parse_event({"gateway_id": "default", "key_id": "secret-1", "name": "new-name"}, None)
    params = operation.path_params(UPDATE, direct)
    assert params == {"gateway_id": "default", "key_id": "secret-1"}
    assert operation.read_input(UPDATE, direct, params).name == "new-name"


@pytest.mark.parametrize("value", [None, 5, ["default"], {"a": 1}, True])
def test_a_direct_id_must_be_a_string(value: Any) -> None:
    with pytest.raises(Problem) as caught:
        operation.path_params(UPDATE, web.parse_event({"gateway_id": "default", "key_id": value}, None))
    assert [error.field for error in caught.value.errors] == ["key_id"]


# Input


def test_every_faulty_field_is_named_at_once_and_no_input_is_repeated() -> None:
    canary = "canary-Jx8Rr1vQ0ZkT4mYb"
    body = {"name": "1" + canary, "generation": canary, "value": [canary], "status": canary, "extra": canary}
    with pytest.raises(Problem) as caught:
        operation.read_input(CREATE, request(body=json.dumps(body), queryString={}), {})
    assert {error.field for error in caught.value.errors} == {"name", "generation", "value", "status", "extra"}
    assert canary not in json.dumps(caught.value.body(""))
    assert canary not in str(caught.value)


def test_a_call_takes_no_parameter_that_it_does_not_have() -> None:
    assert code_of(operation.read_input, STATUS, request(body="", queryString={"x": "1"}), {}) == "InvalidParameter"
    assert code_of(operation.read_input, STATUS, request(body='{"x":1}', queryString={}), {}) == "InvalidParameter"
    assert operation.read_input(STATUS, request(body="", queryString={}), {}) is None
    assert operation.read_input(LIST, request(queryString={"limit": "5", "bound": "true"}), {}).limit == 5


@pytest.mark.parametrize(
    "query", [{"limit": "0"}, {"limit": "٣"}, {"limit": ["1", "2"]}, {"bound": "1"}, {"LIMIT": "1"}]
)
def test_a_query_is_as_strict_as_a_body(query: dict[str, Any]) -> None:
    assert code_of(operation.read_input, LIST, request(queryString=query), {}) == "InvalidParameter"


def test_an_empty_body_names_what_is_missing() -> None:
    with pytest.raises(Problem) as caught:
        operation.read_input(CREATE, request(body=" \n", queryString={}), {})
    assert [error.field for error in caught.value.errors] == ["name", "generation"]


# Answers


@settings(max_examples=400)
@given(events | http_events, contexts, st.sampled_from([CREATE, UPDATE, LIST, STATUS]))
def test_whatever_comes_an_answer_leaves(event: Any, context: Any, route: operation.Operation) -> None:
    def answer(parsed: web.Request) -> web.Reply:
        params = operation.path_params(route, parsed)
        web.revisions(parsed)
        web.idempotency_key(parsed)
        web.bearer_token(parsed)
        read = operation.read_input(route, parsed, params)
        return web.Reply(200, {"params": sorted(params), "read": read is not None})

    reply = web.respond("test", event, context, answer)
    assert_clean(reply)
    body = json.loads(reply["body"]) if isinstance(reply, dict) and "statusCode" in reply else reply
    assert body.get("code") != "InternalError"


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (Problem("KeyNotFound"), 404, "KeyNotFound"),
        (Unavailable("DependencyUnavailable", "kms", "Decrypt", "InternalError"), 503, "DependencyUnavailable"),
        (Gone("CredentialNotFound", "ssm", "GetSecretValue", "ResourceNotFound"), 422, "CredentialNotFound"),
        (ValueError("canary"), 500, "InternalError"), (KeyError("canary"), 500, "InternalError"),
        (RecursionError("canary"), 500, "InternalError"), (MemoryError("canary"), 500, "InternalError"),
        (UnicodeEncodeError("utf-8", "canary\ud800", 6, 7, "canary"), 500, "InternalError"),
    ],
)  # fmt: skip
def test_any_failure_becomes_one_problem_document_without_its_text(
    error: Exception, status: int, code: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(parsed: web.Request) -> web.Reply:
        raise error

    reply = web.respond("test", URL_EVENT, CONTEXT, fail)
    assert_clean(reply)
    document = json.loads(reply["body"])
    assert (reply["statusCode"], document["code"], document["request_id"]) == (status, code, "request-1")
    assert reply["headers"]["Content-Type"] == "application/problem+json"
    printed = capsys.readouterr()
    assert "canary" not in printed.out + printed.err + reply["body"]
    lines = [json.loads(line) for line in printed.out.splitlines()]
    assert lines[-1]["event"] == "request"
    assert lines[-1]["status"] == status


@pytest.mark.parametrize(
    "error", [ConfigError("KEY_PREFIX is wrong"), SnapshotError("too large"), PublicationRefused("lost 12 values")]
)
def test_a_text_that_is_ours_alone_reaches_the_log_but_not_the_caller(
    error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(parsed: web.Request) -> web.Reply:
        raise error

    reply = web.respond("test", URL_EVENT, CONTEXT, fail)
    assert json.loads(capsys.readouterr().out.splitlines()[0])["detail"] == str(error)
    assert str(error) not in json.loads(reply["body"])["detail"]


def test_a_refusal_of_the_caller_says_how_to_authenticate_and_an_outage_when_to_retry() -> None:
    for code, header in (("Unauthenticated", "WWW-Authenticate"), ("SnapshotUnavailable", "Retry-After")):
        assert web.problem_reply(Problem(code), "").headers[header]


def test_an_answer_is_never_stored_and_a_body_less_one_has_no_type() -> None:
    reply = web.render(web.Reply(204, None), direct=False)
    assert (reply["body"], reply["headers"]) == ("", {"Cache-Control": "no-store"})
    reply = web.render(web.Reply(200, {"name": "名字"}, {"ETag": '"5"'}), direct=False)
    assert reply["body"] == '{"name":"名字"}'
    assert reply["headers"]["ETag"] == '"5"'


def test_a_direct_invocation_gets_the_body_itself() -> None:
    assert web.respond("test", {"gateway_id": "a"}, None, lambda parsed: web.Reply(200, {"ok": 1})) == {"ok": 1}


def test_one_line_is_logged_per_request_and_never_the_body_or_a_header(capsys: pytest.CaptureFixture[str]) -> None:
    event = URL_EVENT | {"body": '{"value":"canary"}', "headers": {"Authorization": "Bearer canary"}}
    web.respond("test", event | {"queryString": {"apikey": "canary"}}, CONTEXT, lambda parsed: web.Reply(200, {}))
    printed = capsys.readouterr().out
    assert "canary" not in printed
    assert len(printed.splitlines()) == 1
    assert json.loads(printed).keys() <= log.FIELDS | {"time"}


def test_a_field_outside_the_list_cannot_be_logged() -> None:
    with pytest.raises(KeyError):
        log.emit("request", value="x")


@given(any_text)
def test_a_log_line_is_one_line_of_ascii(text: str) -> None:
    import contextlib
    import io

    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        log.emit("request", gateway_id=text)
    line = out.getvalue()
    assert line.isascii()
    assert line.endswith("\n")
    assert line[:-1].isprintable()
    assert json.loads(line)["gateway_id"] == text
