"""The validation server from outside: header matrix, the function's own answers, log, start.

One deployment serves the module; tests with one of their own are in other modules, since a process holds one at a time.
"""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.conftest import Api
from tests.validator.conftest import PATH, Answer, Server, environment

GOOD, OTHER, LONGEST = "good-value-7Rk2Qx9L", "other-value-3Wm8Zt5K", "Lq7-" + "aB3.xY9_" * 31 + "kM42"
START = Callable[..., Server]
VALUES = {b"{good}": GOOD, b"{other}": OTHER, b"{longest}": LONGEST}

# Header lines, and what must come of them. 400: the HTTP parser refuses the request before anybody sees it.
MATRIX: dict[str, tuple[list[bytes], int]] = {
    "bearer": ([b"Authorization: Bearer {good}"], 200),
    "bearer in another case": ([b"AUTHORIZATION: bEARER {good}"], 200),
    "x-api-key": ([b"X-Api-Key: {good}"], 200),
    "api-key": ([b"api-key: {good}"], 200),
    "apikey": ([b"ApiKey: {good}"], 200),
    "space around": ([b"X-Api-Key: \t {good} \t"], 200),
    "both headers, one value": ([b"Authorization: Bearer {good}", b"X-Api-Key: {good}"], 200),
    "the same line twice": ([b"X-Api-Key: {good}", b"X-Api-Key: {good}"], 200),
    "another scheme beside": ([b"Authorization: Basic abc", b"X-Api-Key: {good}"], 200),
    "alias beside": ([b"X_Api_Key: {other}", b"X-Api-Key: {good}"], 200),
    "256 bytes": ([b"X-Api-Key: {longest}"], 200),
    "nothing": ([], 401),
    "empty": ([b"X-Api-Key:"], 401),
    "unknown": ([b"X-Api-Key: nobody-has-this-9Qx4"], 401),
    "basic": ([b"Authorization: Basic {good}"], 401),
    "no scheme": ([b"Authorization: {good}"], 401),
    "two spaces": ([b"Authorization: Bearer  {good}"], 401),
    "both headers, two values": ([b"Authorization: Bearer {good}", b"X-Api-Key: {other}"], 401),
    "good then other": ([b"X-Api-Key: {good}", b"X-Api-Key: {other}"], 401),
    "other then good": ([b"X-Api-Key: {other}", b"X-Api-Key: {good}"], 401),
    "two bearers": ([b"Authorization: Bearer {good}", b"Authorization: Bearer {other}"], 401),
    "joined": ([b"X-Api-Key: {good},{good}"], 401),
    "joined with space": ([b"X-Api-Key: {good}, {good}"], 401),
    "alias X_Api_Key": ([b"X_Api_Key: {good}"], 401),
    "alias X_API_KEY": ([b"X_API_KEY: {good}"], 401),
    "alias api_key": ([b"api_key: {good}"], 401),
    "alias Api.Key": ([b"Api.Key: {good}"], 401),
    "alias HTTP_AUTHORIZATION": ([b"HTTP_AUTHORIZATION: Bearer {good}"], 401),
    "257 bytes": ([b"X-Api-Key: {longest}k"], 401),
    "bad bytes": ([b"X-Api-Key: {good}\xff"], 401),
    "bad bytes alone": ([b"X-Api-Key: \xff\xfe"], 401),
    "bad bytes beside a good key": ([b"X-Api-Key: \xff", b"Authorization: Bearer {good}"], 401),
    "UTF-8 beside a good key": ([b"X-Api-Key: \xc3\xa9", b"Authorization: Bearer {good}"], 401),
    "no-break space": ([b"X-Api-Key: {good}\xc2\xa0"], 401),
    "too large": ([b"X-Filler: " + b"a" * 16_385, b"X-Api-Key: {good}"], 431),
    "many, within the limit": ([b"X-Filler: " + b"a" * 12_000, b"X-Api-Key: {good}"], 200),
    "NUL": ([b"X-Api-Key: {good}\x00"], 400),
    "name with a space": ([b"X-Api-Key : {good}"], 400),
    "folded": ([b"X-Api-Key: {good}\r\n {good}"], 400),
}


def filled(lines: list[bytes]) -> list[bytes]:
    for name, value in VALUES.items():
        lines = [line.replace(name, value.encode()) for line in lines]
    return lines


@pytest.fixture(scope="module")
def running(shared: Api) -> Iterator[Server]:
    """One server with two processes for the tests that change nothing."""
    for name, value in (("good", GOOD), ("other", OTHER), ("longest", LONGEST)):
        shared.bound_key(name, generation="Custom", value=value)
    server = Server(environment(shared.deployment), "--workers", "2")
    yield server
    assert server.stop(signal.SIGINT) == 0


def as_the_function(api: Api, path: str, lines: list[bytes], method: str = "GET", body: bytes = b"") -> Answer:
    """What validate_key returns for the same request."""
    headers: dict[str, Any] = {"host": "validator", "connection": "close"}
    for line in lines:
        name, _, value = line.decode("latin-1").partition(":")
        headers.setdefault(name, []).append(value.strip(" \t"))
    event = {
        "httpMethod": method, "path": path, "queryString": {}, "body": body.decode(),
        "headers": {name: value[0] if len(value) == 1 else value for name, value in headers.items()},
    }  # fmt: skip
    reply = api.deployment.call("validate_key", event)
    names = {name.lower(): value for name, value in reply["headers"].items()}
    return Answer(reply["statusCode"], names, reply["body"].encode())


def comparable(answer: Answer) -> tuple[int, dict[str, str], Any]:
    """Without what the HTTP server adds, the request's id, and the snapshot's age."""
    added = ("server", "date", "content-length", "connection")
    body = json.loads(answer.body) if answer.body else None
    if body:
        body.pop("request_id", None)
        body.get("snapshot", {}).pop("age_seconds", None)
    return answer.status, {name: value for name, value in answer.headers.items() if name not in added}, body


@pytest.mark.parametrize("case", MATRIX)
def test_the_header_matrix_is_judged_as_the_function_judges_it(running: Server, shared: Api, case: str) -> None:
    lines, status = MATRIX[case]
    answer = running.get(PATH, *filled(lines))
    assert answer.status == status
    if status != 400:
        assert comparable(answer) == comparable(as_the_function(shared, PATH, filled(lines)))


@pytest.mark.parametrize(
    ("method", "path", "token", "body"),
    [
        ("GET", "/v1/gateways/default/validate/v1/chat%2Fcompletions//x", GOOD, b""),
        ("POST", "/v1/gateways/default/validate", GOOD, b'{"ignored": true}'),
        ("DELETE", "/v1/gateways/defaul%74/validate", GOOD, b""),
        ("GET", "/v1/gateways/other/validate", GOOD, b""),
        ("GET", "/v1/gateways/%ff/validate", GOOD, b""),
        ("GET", "//v1/gateways/default/validate", GOOD, b""),
        ("GET", "/v1/gateways/default/validated", GOOD, b""),
        ("GET", "/v1/gateways/default", GOOD, b""),
        ("GET", "/", GOOD, b""),
        ("POST", "/healthz", GOOD, b""),
        ("POST", "/v1/gateways/default/verify", "OPERATOR", json.dumps({"key": GOOD}).encode()),
        ("POST", "/v1/gateways/default/verify", "OPERATOR", b'{"key": "unknown-1234", "key": "twice"}'),
        ("POST", "/v1/gateways/default/verify", "OPERATOR", b'{"key": "' + b"a" * 70_000 + b'"}'),
        ("POST", "/v1/gateways/default/verify", GOOD, b"{}"),
        ("GET", "/v1/gateways/default/verify", "OPERATOR", b""),
    ],
)
def test_paths_methods_and_verify_are_answered_as_the_function_answers(
    running: Server, shared: Api, method: str, path: str, token: str, body: bytes
) -> None:
    bearer = shared.token if token == "OPERATOR" else token
    lines = [b"Authorization: Bearer " + bearer.encode()]
    expected = comparable(as_the_function(shared, path, lines, method, body))
    assert comparable(running.get(path, *lines, method=method, body=body)) == expected


def test_one_connection_serves_many_requests_and_bodies_are_no_requests(running: Server) -> None:
    line = b"GET %s HTTP/1.1\r\nHost: x\r\nX-Api-Key: %s\r\n" % (PATH.encode(), GOOD.encode())
    smuggled = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    first = line + b"Content-Length: %d\r\n\r\n" % len(smuggled) + smuggled
    answer = running.raw(first + line + b"Connection: close\r\n\r\n")
    assert answer.status == 200
    assert answer.body.count(b"HTTP/1.1 200") == 1
    assert b"snapshot" not in answer.body


def test_health_says_which_snapshot_and_the_log_holds_refusals_but_no_plain_success(running: Server) -> None:
    answer = running.get("/healthz")
    assert answer.status == 200
    assert json.loads(answer.body)["snapshot"].keys() == {"version", "revision", "age_seconds"}
    lines = len(running.lines)
    assert {running.validate(GOOD) for _ in range(20)} == {200}
    marker = json.loads(running.get(PATH, b"X-Api-Key: marker-of-this-test").body)["request_id"]
    running.wait_for(lambda: any(marker in line for line in running.lines))
    logged = [json.loads(line) for line in running.lines[lines:]]
    assert [entry["verdict"] for entry in logged] == ["UnknownKey"]
    assert not [line for line in running.lines if GOOD in line or "marker-of-this-test" in line]


def test_every_request_is_logged_on_demand(serve: START, shared: Api, running: Server) -> None:
    server = serve(environment(shared.deployment), "--workers", "1", "--log-all")
    assert server.validate(GOOD) == 200
    server.wait_for(lambda: any('"verdict": "Valid"' in line for line in server.lines))


def test_neither_database_nor_sdk_is_loaded() -> None:
    code = "import sys, ckeys.main, ckeys.validator, consumer_keys.validate_server; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert "lmdb" in loaded
    assert not loaded & {"sqlalchemy", "tencentcloud", "qcloud_cos", "pydantic", "cryptography", "yaml", "alembic"}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"COS_BUCKET": None}, "The settings do not fit: COS_BUCKET is not set."),
        ({"SNAPSHOT_POLL_SECONDS": "x"}, "SNAPSHOT_POLL_SECONDS must be a number from 0 to 3600."),
        ({"TENCENTCLOUD_SECRETID": None}, "TENCENTCLOUD_SECRETID is not set"),
        ({"ROOT_SECRET_NAME": "another"}, "The root secret cannot be read: "),
        ({"CLOUD_ENDPOINT": "127.0.0.1:1"}, "CLOUD_ENDPOINT is 127.0.0.1:1"),
        ({"ROOT_SECRET_VERSION": "v9"}, "ROOT_SECRET_VERSION is v9"),
        ({"COS_BUCKET": "none-1250000000"}, "AccessDenied (COS_BUCKET is none-1250000000"),
        ({"SNAPSHOT_DIR": "/dev/null/x"}, "SNAPSHOT_DIR, /dev/null/x, cannot be used: Not a directory."),
    ],
)
def test_what_is_missing_is_one_sentence(
    serve: START, shared: Api, change: dict[str, str | None], sentence: str
) -> None:
    server = serve(environment(shared.deployment, **change))
    assert server.stop() == 1
    assert len(server.lines) == 1
    assert sentence in server.lines[0]


def test_a_busy_port_is_one_sentence(serve: START, shared: Api) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = serve(environment(shared.deployment), "--port", str(port))
        assert server.process.wait(20) == 1
    server.stop()
    assert server.lines == [f"Error: Port {port} on 127.0.0.1 is already in use; choose another with --port.\n"]


def test_failed_operators_are_limited_by_their_own_address_and_not_by_one_that_they_name(
    shared: Api, serve: Callable[..., Server]
) -> None:
    server = serve(environment(shared.deployment, AUTH_FAILURES_PER_MINUTE="3"), "--workers", "1")
    path, body = "/v1/gateways/default/verify", b'{"key": "kT7vQ2xM"}'
    statuses = []
    for number in range(5):
        named = [b"X-Scf-Remote-Addr: 192.0.2.%d" % number, b"X-Forwarded-For: 192.0.2.%d" % number]
        statuses.append(server.get(path, b"Authorization: Bearer wrong", *named, method="POST", body=body).status)
    assert statuses == [401, 401, 401, 429, 429]
    good = b"Authorization: Bearer " + shared.token.encode()
    assert server.get(path, good, method="POST", body=body).status == 200
