"""From outside every refusal is the same: not one byte, and not one look at the pointer, tells why."""

from __future__ import annotations

import io
import json
import re
import socket
from base64 import b64encode
from collections.abc import Callable
from typing import Any

import pytest

from ckeys.deployment import Deployment
from ckeys.front import Front
from consumer_keys import validate_wiring
from tencent_emulator.pytest_plugin import TestClock
from tests.conftest import Api
from tests.functions.helpers import STRONG, kms_key, ssm

OLD = "old-content-Zq7x9Lk3"
VALIDATE = "/v1/gateways/default/validate"
Headers = dict[str, Any]


@pytest.fixture
def api(make_deployment: Callable[..., Deployment], clock: TestClock) -> Api:
    deployment = make_deployment(SNAPSHOT_POLL_SECONDS="3600", GATEWAYS="default=Default,other=Other")
    return Api(deployment, deployment.operator[1])


def refusals(api: Api, clock: TestClock) -> dict[str, tuple[str, Headers]]:
    """For every way to be refused: the verdict's code and the headers of such a request."""
    unbound, disabled = api.create_key("unbound"), api.bound_key("disabled", status="Disable")
    stopped = api.create_key("stopped")
    consumer = api.create_consumer("stopped")
    api.bind(stopped, consumer)
    assert api("update_consumer", "PATCH", f"/consumers/{consumer['consumer_id']}", {"status": "Disable"}).status == 200
    there = api("create_key", "POST", "/v1/gateways/other/keys", {"name": "there", "generation": "System"}).body
    kms_key(api, "cred", OLD)
    ssm(api, "DisableSecret", "cred")
    for _ in range(2):  # the worker notices, and then the grace of a credential that is gone is over
        clock.shift(301)
        api.tick()
    good, other = api.bound_key("good")["value"], api.bound_key("other")["value"]
    assert api.validate(good).status == 200
    return {
        "unknown": ("UnknownKey", {"x-api-key": STRONG + "unknown"}),
        "of another gateway": ("UnknownKey", {"x-api-key": there["value"]}),
        "an operator's secret": ("UnknownKey", {"authorization": f"Bearer {api.token}"}),
        "disabled": ("KeyDisabled", {"x-api-key": disabled["value"]}),
        "unbound": ("KeyUnbound", {"x-api-key": unbound["value"]}),
        "consumer disabled": ("ConsumerDisabled", {"x-api-key": stopped["value"]}),
        "malformed": ("MalformedKey", {"x-api-key": "ck_" + "x" * 38}),
        "foreign characters": ("MalformedKey", {"x-api-key": "a b,c,d\xe9fgh"}),
        "short": ("MalformedKey", {"x-api-key": "x"}),
        "long": ("MalformedKey", {"x-api-key": "x" * 257}),
        "missing": ("MissingKey", {}),
        "empty": ("MissingKey", {"x-api-key": ""}),
        "another scheme": ("MissingKey", {"authorization": "Basic dXNlcjpwYXNz"}),
        "ambiguous": ("AmbiguousKey", {"x-api-key": good, "apikey": other}),
        "ambiguous, nobody's": ("AmbiguousKey", {"x-api-key": STRONG, "apikey": STRONG + "x"}),
        "joined": ("MalformedKey", {"x-api-key": f"{good}, {good}"}),
        "ended": ("KeyEnded", {"x-api-key": OLD}),
    }


def url_event(headers: Headers, method: str) -> dict[str, Any]:
    return {"body": "", "headers": headers, "httpMethod": method, "path": VALIDATE, "queryString": {}}


def api_gateway_event(headers: Headers, method: str) -> dict[str, Any]:
    return {
        "requestContext": {"httpMethod": method, "identity": {}, "stage": "release"}, "httpMethod": method,
        "headers": {name.title(): value for name, value in headers.items()}, "path": VALIDATE + "/below",
        "queryStringParameters": {"q": "1"}, "queryString": {}, "body": b64encode(b"\xff").decode(),
        "isBase64Encoded": True,
    }  # fmt: skip


def without_request_id(body: str) -> str:
    document = json.loads(body)
    assert document.pop("request_id")
    return json.dumps(document)


def verdicts_in(out: str) -> list[str]:
    entries = [json.loads(line) for line in out.splitlines()]
    return [entry["verdict"] for entry in entries if entry.get("verdict")]


@pytest.mark.parametrize("method", ["GET", "POST", "HEAD", "OPTIONS"])
@pytest.mark.parametrize("shape", [url_event, api_gateway_event])
def test_every_refusal_has_the_same_status_headers_and_body_in_every_event_shape(
    api: Api, clock: TestClock, capsys: pytest.CaptureFixture[str], shape: Callable[..., dict[str, Any]], method: str
) -> None:
    classes = refusals(api, clock)
    capsys.readouterr()
    answers, reasons = set(), []
    for _ in range(2):  # before and after the limit on looks is used up
        for code, headers in classes.values():
            reply = api.deployment.call("validate_key", shape(headers, method))
            reasons.append(code)
            answers.add((reply["statusCode"], json.dumps(reply["headers"]), without_request_id(reply["body"])))
    assert len(answers) == 1, answers
    assert next(iter(answers))[0] == 401
    # And yet they were different refusals: the log knows.
    assert verdicts_in(capsys.readouterr().out) == reasons


def test_every_refusal_has_the_same_bytes_on_the_wire(api: Api, clock: TestClock) -> None:
    classes = refusals(api, clock)
    answers = set()
    with Front(api.deployment.template, api.deployment.handlers, log=io.StringIO()) as front:
        for _, headers in classes.values():
            lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            request = f"GET {VALIDATE} HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n".encode("latin-1")
            with socket.create_connection(("127.0.0.1", front.server_port), timeout=10) as connection:
                connection.sendall(request)
                connection.shutdown(socket.SHUT_WR)
                answer = b"".join(iter(lambda: connection.recv(65536), b""))
            answer, dates = re.subn(rb"\r\nDate: [^\r]+", b"", answer)
            answer, ids = re.subn(rb'"request_id":"[^"]{36}"', b"", answer)
            assert (dates, ids) == (1, 1)
            answers.add(answer)
    assert len(answers) == 1, answers
    assert next(iter(answers)).startswith(b"HTTP/1.1 401 ")


@pytest.mark.parametrize("shape", [url_event, api_gateway_event])
def test_every_refusal_causes_the_same_looks_at_the_pointer(
    api: Api, clock: TestClock, shape: Callable[..., dict[str, Any]]
) -> None:
    classes = refusals(api, clock)
    good = api.bound_key("opener")["value"]
    looks = {}
    for name, (_, headers) in classes.items():
        validate_wiring.close()
        assert api.deployment.call("validate_key", shape({"x-api-key": good}, "GET"))["statusCode"] == 200
        counts = []
        for seconds in (0,) * 12 + (0.5, 0.5, 1, 3, 0, 0, 0, 0, 60, *(0,) * 11):
            clock.shift(seconds)
            api.deployment.cloud.clear_calls()
            assert api.deployment.call("validate_key", shape(headers, "GET"))["statusCode"] == 401
            counts.append([(call.service, call.action) for call in api.deployment.cloud.calls])
        looks[name] = counts
    expected = looks["unknown"]
    assert [len(count) for count in expected[:12]] == [1] * 10 + [0] * 2
    assert {name for name, counts in looks.items() if counts != expected} == set()


def test_every_refusal_is_a_503_alike_when_there_is_no_usable_snapshot(api: Api, clock: TestClock) -> None:
    classes = refusals(api, clock)
    answers = set()
    with api.deployment.cloud.outage("cos"):
        clock.shift(3601)
        for _, headers in classes.values():
            reply = api.deployment.call("validate_key", url_event(headers, "GET"))
            answers.add((reply["statusCode"], json.dumps(reply["headers"]), without_request_id(reply["body"])))
    assert len(answers) == 1
    assert next(iter(answers))[0] == 503
