"""Nothing that an attacker presents is ever taken for a key, breaks an answer, or reaches the log."""

from __future__ import annotations

import io
import json
import random
import socket
from base64 import b64encode
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import hypothesis
import pytest
from hypothesis import strategies as st

from ckeys.deployment import Deployment
from ckeys.front import Front
from consumer_keys import web
from consumer_keys.keytext import lookup_digest
from consumer_keys.presented import presented_key
from consumer_keys.snapshot import KeyRecord
from tests.conftest import Api
from tests.safety.fleet import GATEWAY, OTHER_GATEWAY, Bucket, Fleet, Instance, Key
from tests.safety.hostile import SQL, hostile

JUDGED_CHUNKS, JUDGED_EACH = 20, 50_000
HANDLED_CHUNKS, HANDLED_EACH = 6, 10_000
# What a value that is nobody's may be called; every other code says that the value is known.
REFUSED_AS_NOBODYS = {"UnknownKey", "MalformedKey", "MissingKey", "AmbiguousKey"}
UNPREDICTABLE = {"time", "request_id", "duration_ms", "snapshot_age_seconds"}


def code_of_the_one(values: list[Any], codes: dict[bytes, str]) -> str | None:
    """What the exact bytes of the one presented text mean, or None when no single live text was presented."""
    flat = [item for value in values for item in (value if isinstance(value, list) else [value])]
    given = [item for item in flat if item is not None and item != ""]
    if not given or any(not isinstance(item, str) or item != given[0] for item in given):
        return None
    return codes.get(given[0].encode("utf-8", "surrogatepass"))


# The judgement itself


@pytest.fixture(scope="module")
def fleet() -> Fleet:
    return Fleet(1000)


@pytest.fixture(scope="module")
def instance(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    folder = tmp_path_factory.mktemp("hostile")
    bucket = Bucket(folder / "bucket")
    bucket.publish(fleet, 1, in_overlay=100)
    built = Instance(bucket, folder / "cache")
    yield built
    built.cache.close()


def test_there_are_500_different_sql_payloads_and_none_is_valid(instance: Instance) -> None:
    assert len(set(SQL)) == 500
    for payload in SQL:
        assert instance.code(payload) in REFUSED_AS_NOBODYS


@pytest.mark.parametrize("chunk", range(JUDGED_CHUNKS))
def test_a_million_hostile_values_are_judged_by_their_exact_bytes_alone(
    chunk: int, instance: Instance, fleet: Fleet, capsys: pytest.CaptureFixture[str]
) -> None:
    seed, live, judge = 7_000 + chunk, 0, instance.validator.judge
    for given in hostile(seed, JUDGED_EACH, fleet):
        presented = presented_key({"x-api-key": given}, {}, key_in_query=False)
        verdict, _ = judge(GATEWAY, presented)
        code = code_of_the_one([given], fleet.codes)
        if code is None:
            nobody = verdict.code in REFUSED_AS_NOBODYS and not verdict.valid
            assert nobody, f"seed {seed}: {given!r} is {verdict.code}"
            assert verdict.key_id is None, f"seed {seed}: {given!r} is {verdict.key_id}"
        else:
            assert verdict.code == code, f"seed {seed}: {given!r} is {verdict.code} and not {code}"
            live += 1
    assert live > JUDGED_EACH // 100, "real values are among what is presented"
    assert capsys.readouterr() == ("", "")


def test_each_real_value_opens_its_own_gateway_alone(instance: Instance, fleet: Fleet) -> None:
    for key in (*fleet.keys, *fleet.foreign):
        for gateway_id in (GATEWAY, OTHER_GATEWAY, "nope", "", "default\x00", "Default"):
            code = instance.code(key.value, gateway_id)
            assert code == (key.code if gateway_id == key.gateway_id else "UnknownKey")


def test_no_split_between_gateway_and_value_makes_another_key(instance: Instance, fleet: Fleet) -> None:
    """The gateway's length is part of what is digested: moving characters across the border changes the digest."""
    for key in fleet.valid[:100]:
        for cut in range(1, 8):
            assert instance.code(key.value[cut:], GATEWAY + key.value[:cut]) in REFUSED_AS_NOBODYS
            assert instance.code(GATEWAY[-cut:] + key.value, GATEWAY[:-cut]) in REFUSED_AS_NOBODYS


names = st.sampled_from(("x-api-key", "X-Api-Key", "api-key", "apikey", "Authorization", "authorization")) | st.text()
contents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.text().map("Bearer {}".format),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@hypothesis.settings(max_examples=500, deadline=None, derandomize=True)
@hypothesis.given(st.dictionaries(names, contents, max_size=5), contents)
def test_headers_of_any_names_and_types_present_nothing_or_a_value_that_nobody_has(
    instance: Instance, headers: dict[str, Any], query: Any
) -> None:
    for shape in (url_event, api_gateway_event):
        request = web.parse_event(shape(headers), {})
        for switched_on in (True, False):
            presented = presented_key(request.headers, {"apikey": query}, key_in_query=switched_on)
            assert instance.validator.judge(GATEWAY, presented)[0].code in REFUSED_AS_NOBODYS


# The whole function


class Attack(NamedTuple):
    """An event and the values in it that count as presented."""

    event: dict[str, Any]
    values: list[Any]
    answers_with_a_verdict: bool = False


@pytest.fixture
def small(make_deployment: Callable[..., Deployment]) -> tuple[Deployment, Fleet]:
    """A deployment with a dozen keys made by its own functions, and what is known about them."""
    deployment = make_deployment(SNAPSHOT_POLL_SECONDS="3600", GATEWAYS="default=Default,other=Other")
    api = Api(deployment, deployment.operator[1])
    known = Fleet(0)
    lookup_key = deployment.services.root.lookup_key

    def key(value: str, code: str, record: dict[str, Any], gateway_id: str = GATEWAY) -> Key:
        kept = KeyRecord(record["key_id"], record["name"], True, None, 0)
        return Key(gateway_id, value, code, kept, lookup_digest(lookup_key, gateway_id, value.encode()))

    for number in range(3):
        good = api.bound_key(f"good-{number}")
        custom = api.bound_key(
            f"custom-{number}", generation="Custom", value=good["value"][4:35] + "~Zq7x9Lk3"[number:]
        )
        disabled = api.bound_key(f"disabled-{number}", status="Disable")
        unbound = api.create_key(f"unbound-{number}")
        known.keys += [key(good["value"], "Valid", good), key(disabled["value"], "KeyDisabled", disabled)]
        known.keys += [key(unbound["value"], "KeyUnbound", unbound)]
        known.keys += [key(good["value"][4:35] + "~Zq7x9Lk3"[number:], "Valid", custom)]
        there = api(
            "create_key", "POST", "/v1/gateways/other/keys", {"name": f"there-{number}", "generation": "System"}
        )
        known.foreign.append(key(there.body["value"], "KeyUnbound", there.body, OTHER_GATEWAY))
    known.operators = [deployment.operator[1], deployment.add_operator("viewer", "viewer")[1]]
    known.codes = {item.value.encode(): item.code for item in known.keys}
    return deployment, known


def url_event(headers: Any, path: str = "/v1/gateways/default/validate", method: str = "GET") -> dict[str, Any]:
    """As a Function URL sends it."""
    return {"body": "", "headers": headers, "httpMethod": method, "path": path, "queryString": {}}


def api_gateway_event(headers: Any, path: str = "/v1/gateways/default/validate", method: str = "GET") -> dict[str, Any]:
    """As the API Gateway sends it."""
    return {
        "requestContext": {"httpMethod": method, "identity": {}, "sourceIp": "10.0.0.1", "stage": "release"},
        "headers": headers, "pathParameters": {"gateway_id": "default"}, "queryStringParameters": {},
        "headerParameters": {}, "path": path, "queryString": {}, "httpMethod": method,
        "body": b64encode(b"\xff\x00any").decode(), "isBase64Encoded": "true",
    }  # fmt: skip


def attack(draw: random.Random, given: Any, live: str, operator: str) -> Attack:  # noqa: C901 - a list of places
    """One hostile value in one of the places where a caller can put it."""
    event = draw.choice((url_event, api_gateway_event))
    text = given if isinstance(given, str) else repr(given)
    name = draw.choice(("x-api-key", "X-Api-Key", "api-key", "API-KEY", "apikey", "ApiKey"))
    place = draw.randrange(16)
    if place < 4:
        return Attack(event({name: given}), [given])
    if place == 4:
        return Attack(event({draw.choice(("authorization", "Authorization")): f"Bearer {text}"}), [text])
    if place == 5:
        return Attack(event({name: [given, live]}), [[given, live]])
    if place == 6:
        return Attack(event({name: given, "authorization": f"bearer {live}"}), [given, live])
    if place == 7:
        return Attack(event({"X-Api-Key": given, "x-api-key": live}), [given, live])
    if place == 8:
        alias = draw.choice(
            ("X_Api_Key", "x-api-key ", " x-api-key", "x-api-\u212aey", "x-api-key\x00", "x–api–key", "HTTP_X_API_KEY",
             "x-api-key:", "apikey[]", "api key", "X-Api-Key\r\n")
        )  # fmt: skip
        return Attack(event({alias: given if draw.random() < 0.5 else live}), [])
    if place == 9:
        spread = dict.fromkeys(("cookie", "x-forwarded-for", "x-forwarded-host", "x-consumer-id", "connection"), text)
        return Attack(event({**spread, "host": text}), [])
    if place == 10:
        return Attack({**event({}), "queryString": {"apikey": given}, "queryStringParameters": {"apikey": live}}, [])
    if place == 11:
        return Attack(event({"authorization": f"Basic {text}", "proxy-authorization": f"Bearer {live}"}), [])
    if place == 12:
        return Attack({**event({}), "path": f"/v1/gateways/default/validate/{text}"}, [])
    if place == 13:
        return Attack(
            {**event({"x-api-key": live}), "path": f"/v1/gateways/{text[:40].replace('/', '_')}-/validate"}, []
        )
    if place == 14:
        asked = url_event({"authorization": f"Bearer {operator}"}, "/v1/gateways/default/verify", "POST")
        return Attack({**asked, "body": json.dumps({"key": given})}, [given], True)
    return Attack({"gateway_id": "default", "key": given}, [given], True)


def check(attempt: Attack, reply: Any, codes: dict[bytes, str]) -> None:
    """The answer is what the presented bytes deserve."""
    code = code_of_the_one(attempt.values, codes)
    if not attempt.answers_with_a_verdict:
        assert reply["statusCode"] == (200 if code == "Valid" else 401)
        assert ("X-Key-Id" in reply["headers"]) == (code == "Valid")
        return
    body = json.loads(reply["body"]) if "statusCode" in reply else reply
    if not isinstance(attempt.values[0], str):
        assert body["code"] in ("InvalidParameter", "MalformedJson")
        return
    assert body["valid"] is (code == "Valid")
    assert body["code"] == code if code else body["code"] in REFUSED_AS_NOBODYS


@pytest.mark.parametrize("chunk", range(HANDLED_CHUNKS))
def test_hostile_requests_are_refused_alike_and_leave_no_trace_in_the_log(
    chunk: int, small: tuple[Deployment, Fleet], capsys: pytest.CaptureFixture[str]
) -> None:
    deployment, known = small
    seed = 9_000 + chunk
    draw = random.Random(seed)
    live = [key.value for key in known.keys if key.code == "Valid"]
    shown: set[str] = set()
    lines: set[str] = set()
    kinds = {True: 0, False: 0}
    capsys.readouterr()
    for number, given in enumerate(hostile(seed, HANDLED_EACH, known)):
        attempt = attack(draw, given, draw.choice(live), known.operators[0])
        reply = deployment.call("validate_key", attempt.event)
        try:
            check(attempt, reply, known.codes)
        except AssertionError as fault:
            raise AssertionError(f"seed {seed}, number {number}: {attempt.event!r} was answered {reply!r}") from fault
        kinds[code_of_the_one(attempt.values, known.codes) == "Valid"] += 1
        shown.update(item for item in (given if isinstance(given, list) else [given]) if isinstance(item, str))
        if number % 500 == 499:
            captured = capsys.readouterr()
            assert captured.err == ""
            lines.update(_without_what_changes(line) for line in captured.out.splitlines())
    assert min(kinds.values()) > 100
    # What the log can say is a short list, whatever is presented; and nothing that was presented is in it.
    assert len(lines) < 100, sorted(lines)[:100]
    log = "\n".join(sorted(lines))
    public = {text for key in known.keys for text in (key.record.key_id, key.record.name)}
    # Zeros stand in the log for the ids of nobody.
    public |= {"MissingKey", "../../x", "undefined", "secret-00000000000000", "consumer-00000000000000"}
    secret = [text for text in shown if len(text) >= 8 and text not in public]
    assert len(secret) > HANDLED_EACH // 2
    for text in (*secret, *live, *known.operators):
        assert text not in log, f"seed {seed}: {text!r} was logged"
        assert json.dumps(text)[1:-1] not in log, f"seed {seed}: {text!r} was logged"


def _without_what_changes(line: str) -> str:
    entry = json.loads(line)
    return json.dumps({name: entry[name] for name in sorted(entry.keys() - UNPREDICTABLE)})


def test_an_event_of_any_other_shape_is_no_fault_of_ours(small: tuple[Deployment, Fleet]) -> None:
    """Headers that are no mapping, names that are no text, deep nesting: never valid and never a 5xx."""
    deployment, known = small
    value = known.keys[0].value
    deep: list[Any] = ["x"]
    for _ in range(200):
        deep = [deep]
    for headers in (
        None, [], value, 7, [value], [["x-api-key", value]], {"": value}, {"x-api-key": deep}, {"authorization": deep},
        {"authorization": [f"Bearer {value}", 7]}, {"authorization": {"Bearer": value}}, {"x-api-key": 10**4000},
        {"authorization": f"Bearer\x00{value}"}, {"authorization": "Bearer "}, {"authorization": "Bearer"},
        {"authorization": f"B\u212aarer {value}"}, {"authorization": f"ｂearer {value}"}, {"authorization": " " * 9000},
        {"authorization": f"Bearer Bearer {value}"}, {"x-api-key": value + "\x00" * 9000},
    ):  # fmt: skip
        for event in (url_event, api_gateway_event):
            reply = deployment.call("validate_key", event(headers))
            assert reply["statusCode"] == 401, headers


# The header matrix, on each event shape and over a socket


class Row(NamedTuple):
    """Header lines of a request, and the answer; `over_a_socket` differs where HTTP itself says otherwise."""

    name: str
    lines: list[tuple[str, Any]]
    status: int
    over_a_socket: int | None = 0


def matrix(one: str, two: str, long: str) -> list[Row]:
    """`one` and `two` are valid, `long` is valid and has 256 bytes."""
    bearer = f"Bearer {one}"
    every = [(name, one) for name in ("x-api-key", "api-key", "apikey")] + [("authorization", bearer)]
    return [
        Row("no header", [], 401),
        *(Row(f"empty {name}", [(name, "")], 401) for name, _ in every),
        *(Row(f"valid {name}", [(name, value)], 200) for name, value in every),
        *(Row(f"valid {name}, capitals", [(name.upper(), value)], 200) for name, value in every),
        Row("every source, one value", every, 200),
        *(Row(f"another value in {name}", [*every, (name, f"Bearer {two}" if name == "authorization" else two)], 401)
          for name, _ in every),
        Row("scheme in capitals", [("Authorization", f"BEARER {one}")], 200),
        Row("no scheme", [("Authorization", one)], 401),
        Row("two spaces", [("Authorization", f"Bearer  {one}")], 401),
        Row("tab after the scheme", [("Authorization", f"Bearer\t{one}")], 401),
        Row("another scheme", [("Authorization", f"Token {one}")], 401),
        Row("another scheme beside a key", [("Authorization", "Basic dXNlcjpwYXNz"), ("x-api-key", one)], 200),
        # A server that folds these names would let a caller set a header behind the gateway's back.
        Row("underscores", [("X_Api_Key", one)], 401),
        Row("underscores beside the real one", [("X_Api_Key", two), ("x-api-key", one)], 200),
        Row("space behind the name", [("x-api-key ", one)], 401),
        Row("Kelvin sign", [("x-api-\u212aey", one)], 401, None),
        # HTTP joins two lines of one name with a comma; so over a socket even equal values are refused.
        Row("two lines, equal", [("x-api-key", one), ("x-api-key", one)], 200, 401),
        Row("two lines, different", [("x-api-key", one), ("x-api-key", two)], 401),
        Row("two spellings, equal", [("X-Api-Key", one), ("x-api-key", one)], 200, 401),
        Row("two spellings, different", [("X-Api-Key", one), ("x-api-key", two)], 401),
        Row("joined", [("x-api-key", f"{one}, {one}")], 401),
        Row("joined bearer", [("Authorization", f"{bearer}, {bearer}")], 401),
        *(Row(f"byte {ord(char):#x} inside", [("x-api-key", one[:9] + char + one[9:])], 401,
              0 if char in " \t," or 0x80 <= ord(char) <= 0xFF else 400 if ord(char) < 0x80 else None)
          for char in ",\x00\x01\x0b\x1b\x7f \t\x80\xa0\xff\uff21\u200b\ud800\udc80"),
        *(Row(f"{char!r} behind", [("x-api-key", one + char)], 401, 200 if char in " \t" else 400)
          for char in (" ", "\t", "\x00", "\x7f")),
        # Over a socket a line break ends the header line: what follows is another header, or none at all.
        Row("line break behind", [("x-api-key", one + "\n")], 401, None),
        Row("line break and a header", [("x-api-key", f"nobodys-key\r\nx-api-key: {one}")], 401),
        Row("quoted", [("x-api-key", f'"{one}"')], 401),
        Row("256 bytes", [("x-api-key", long)], 200),
        Row("257 bytes", [("x-api-key", long + "x")], 401),
        Row("1 MiB", [("x-api-key", long * 4096)], 431),
        Row("other headers of 17 KiB", [("x-api-key", one), ("x-other", "x" * 17_000)], 431),
        *(Row(f"wrong type {value!r}"[:40], [("x-api-key", value)], 401, None)
          for value in (7, 1.5, True, False, {"a": one}, [one, 7], [[one]])),
        Row("null", [("x-api-key", None), ("apikey", one)], 200, None),
        Row("connection names the header", [("Connection", "authorization"), ("authorization", bearer)], 200),
        Row("identity from outside", [("X-Consumer-Id", "consumer-x"), ("X-Key-Id", "k"), ("x-api-key", one)], 200),
        Row("identity alone", [("X-Consumer-Id", "consumer-x"), ("X-Key-Id", "secret-x")], 401),
        Row("forwarded headers", [("X-Forwarded-Host", "h"), ("X-Forwarded-Uri", "/"), ("X-Original-Url", "/v1"),
                                  ("X-Forwarded-Method", "OPTIONS"), ("x-api-key", one)], 200),
        Row("hosts", [("Host", "x/v1/models?"), ("x-api-key", one)], 200),
        Row("hosts without a key", [("Host", "localhost#"), ("X-Forwarded-For", "127.0.0.1")], 401),
    ]  # fmt: skip


def prepared(make_deployment: Callable[..., Deployment]) -> tuple[Deployment, list[Row]]:
    deployment = make_deployment(SNAPSHOT_POLL_SECONDS="3600")
    api = Api(deployment, deployment.operator[1])
    long = "".join(random.Random(5).choices("abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789-._~+/=", k=256))
    api.bound_key("long", generation="Custom", value=long)
    return deployment, matrix(api.bound_key("one")["value"], api.bound_key("two")["value"], long)


def mapping(lines: list[tuple[str, Any]]) -> dict[str, Any]:
    """Header lines as an event carries them: the values of one name as a list."""
    headers: dict[str, Any] = {}
    for name, value in lines:
        headers[name] = [headers[name], value] if name in headers else value
    return headers


@pytest.mark.parametrize("shape", [url_event, api_gateway_event])
def test_every_row_of_the_header_matrix_is_answered_alike_in_every_event_shape(
    make_deployment: Callable[..., Deployment], shape: Callable[..., dict[str, Any]]
) -> None:
    deployment, rows = prepared(make_deployment)
    for row in rows:
        for method in ("GET", "POST", "OPTIONS"):
            reply = deployment.call("validate_key", shape(mapping(row.lines), method=method))
            assert reply["statusCode"] == row.status, row.name


def over_socket(port: int, lines: list[tuple[str, Any]]) -> int:
    """The status of a request with exactly these header lines."""
    head = [("Host", "localhost"), *lines] if not any(name.lower() == "host" for name, _ in lines) else lines
    text = "".join(f"{name}: {value}\r\n" for name, value in head)
    request = f"GET /v1/gateways/default/validate HTTP/1.1\r\n{text}\r\n".encode("latin-1")
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        try:
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the server may answer and close before it has read everything
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    return int(answer.split(b" ", 2)[1])


def test_every_row_of_the_header_matrix_is_answered_so_over_a_socket(
    make_deployment: Callable[..., Deployment],
) -> None:
    deployment, rows = prepared(make_deployment)
    log = io.StringIO()
    with Front(deployment.template, deployment.handlers, log=log) as front:
        for row in rows:
            if row.over_a_socket is not None:
                assert over_socket(front.server_port, row.lines) == (row.over_a_socket or row.status), row.name
    assert '"event": "fault"' not in log.getvalue()


def test_hosts_paths_and_methods_never_change_the_decision(make_deployment: Callable[..., Deployment]) -> None:
    deployment = make_deployment(SNAPSHOT_POLL_SECONDS="3600")
    value = Api(deployment, deployment.operator[1]).bound_key()["value"]
    for below in (
        "",
        "/",
        "//",
        "/./",
        "/..",
        "/%2e%2e",
        "/%2f",
        "/;p",
        "/a;b=c",
        "/\x00",
        "/%00",
        "/VALIDATE",
        "/\ud800",
    ):
        for host in ("localhost", "x/v1/models?", "x#", "", "127.0.0.1:1", "\x00"):
            for shape in (url_event, api_gateway_event):
                path = "/v1/gateways/default/validate" + below
                headers = {"host": host, "x-forwarded-uri": "/public", "x-rewrite-url": "/"}
                assert deployment.call("validate_key", shape(headers, path))["statusCode"] == 401, (below, host)
                headers["x-api-key"] = value
                assert deployment.call("validate_key", shape(headers, path))["statusCode"] == 200, (below, host)


def test_a_key_opens_no_operators_call_and_an_operators_secret_no_gateway(
    make_deployment: Callable[..., Deployment],
) -> None:
    deployment = make_deployment()
    api = Api(deployment, deployment.operator[1])
    value = api.bound_key()["value"]
    for function in deployment.template.functions:
        for route in function.routes:
            if function.name == "validate_key" and not route.path.endswith("/verify"):
                continue
            path = route.path.replace("{gateway_id}", "default").replace("{key_id}", "x").replace("{consumer_id}", "x")
            method = "POST" if route.method == "ANY" else route.method
            if function.name == "cloud_api":  # it answers in the vendor's envelope
                given = {
                    "httpMethod": method,
                    "path": path,
                    "headers": {"authorization": f"Bearer {value}"},
                    "body": "",
                }
                refused = json.loads(deployment.call(function.name, given)["body"])["Response"]["Error"]["Code"]
                assert refused == "AuthFailure.InvalidAuthorization"
                continue
            answer = api(function.name, method, path, token=value)
            assert (answer.status, answer.body["code"]) == (401, "Unauthenticated"), (function.name, route)
    for role in ("viewer", "editor", "revealer", "verifier", "admin"):
        assert api.validate(deployment.add_operator(role, role)[1]).status == 401
