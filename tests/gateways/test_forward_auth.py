"""Every gateway lets through whoever has a good key, says who it is, and nobody else."""

from __future__ import annotations

import hashlib
import os
import re
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.e2e.conftest import Local
from tests.gateways.conftest import GATEWAYS, POLL_SECONDS, Gateway, Headers, Key, Keys, Stack, find_program, until
from tests.gateways.servers import CREDENTIAL_HEADERS, IDENTITY_HEADERS, Upstream
from tests.machine import free_port

MEBIBYTE = os.urandom(1 << 20)
SPOOFED = (
    "X-Consumer-Id", "X-Consumer-Name", "X-Key-Id", "X-Key-Name",
    "x-consumer-id", "X-CONSUMER-ID", "x-CoNsUmEr-nAmE", "x-key-id",
    "x_consumer_id", "X_Consumer_Name", "X-Consumer_Id", "x_key-id", "X-Key_Name", "x_key_name",
    "X-Consumer-Username", "X-Consumer-Custom-ID", "X-Consumer-Groups", "x_consumer_groups", "x_consumer_username",
)  # fmt: skip


def bearer(key: Key) -> list[tuple[str, str]]:
    return [("Authorization", f"Bearer {key.value}")]


def identity_of(key: Key) -> dict[str, list[str]]:
    groups = ",".join(quote(name) for name in key.groups)
    values = (key.consumer_id, quote(key.consumer_name), groups, key.key_id, quote(key.key_name))
    return {name: [value] for name, value in zip(IDENTITY_HEADERS, values, strict=True)}


def test_a_good_key_passes_and_the_api_learns_whose_it_is(stack: Stack) -> None:
    key = stack.keys.shared()
    answer = stack.gateway("GET", "/v1/models?limit=2", bearer(key))
    assert answer.status == 200
    (seen,) = stack.reached()
    assert (seen.method, seen.target) == ("GET", "/v1/models?limit=2")
    assert seen.identity() == identity_of(key)
    assert seen.identity()["x-consumer-name"][0].startswith("%E5%AE%A2%E6%88%B7-")


def test_a_consumer_without_groups_cannot_claim_one(stack: Stack) -> None:
    key = stack.keys.create(grouped=False)
    for name in ("X-Consumer-Groups", "x_consumer_groups", "X-Consumer_Groups"):
        stack.gateway("GET", "/", [*bearer(key), (name, "admins")])
    assert [seen.identity().get("x-consumer-groups", [""]) for seen in stack.reached()] == [[""]] * 3


def test_the_validator_learns_method_and_uri_for_its_log(stack: Stack) -> None:
    key = stack.keys.shared()
    assert stack.gateway("PUT", "/v1/files/a?b=c", bearer(key), b"{}").status == 200
    (asked,) = stack.asked()
    if stack.gateway.name == "envoy":
        assert (asked.method, asked.target) == ("PUT", "/v1/gateways/default/validate?uri=/v1/files/a?b=c")
        return
    query = "?b=c" if stack.gateway.name == "caddy" else ""
    assert (asked.method, asked.target) == ("GET", "/v1/gateways/default/validate" + query)
    prefix = "x-original-" if stack.gateway.name == "nginx" else "x-forwarded-"
    assert (asked.header(prefix + "method"), asked.header(prefix + "uri")) == (["PUT"], ["/v1/files/a?b=c"])


@pytest.mark.parametrize("header", CREDENTIAL_HEADERS)
def test_a_key_may_come_in_any_of_the_headers_and_ends_at_the_gateway(stack: Stack, header: str) -> None:
    key = stack.keys.shared()
    value = f"Bearer {key.value}" if header == "authorization" else key.value
    assert stack.gateway(headers=[(header, value)]).status == 200
    (seen,) = stack.reached()
    assert seen.identity() == identity_of(key)
    assert not set(CREDENTIAL_HEADERS) & {name for name, _ in seen.headers}
    assert key.value not in repr(seen)


def test_the_same_key_in_every_header_leaves_no_trace_of_it(stack: Stack) -> None:
    key = stack.keys.shared()
    headers = [*bearer(key), ("X-API-KEY", key.value), ("Api-Key", key.value), ("apiKey", key.value)]
    assert stack.gateway(headers=headers).status == 200
    (seen,) = stack.reached()
    assert not set(CREDENTIAL_HEADERS) & {name for name, _ in seen.headers}
    assert key.value not in repr(seen)


@pytest.mark.parametrize("lines", [1, 2])
def test_a_claimed_identity_never_reaches_the_api(stack: Stack, lines: int) -> None:
    key = stack.keys.shared()
    spoofed = [(name, "forged") for name in SPOOFED for _ in range(lines)]
    assert stack.gateway(headers=[*spoofed, *bearer(key)]).status == 200
    (seen,) = stack.reached()
    assert seen.identity() == identity_of(key)
    assert "forged" not in repr(seen)


def test_a_claimed_identity_is_not_taken_where_the_validator_gives_none(stack: Stack) -> None:
    with stack.relay.answering(200):
        answer = stack.gateway(headers=[(name, "forged") for name in SPOOFED])
    assert answer.status == 200
    (seen,) = stack.reached()
    assert "forged" not in repr(seen)


@pytest.mark.parametrize("named", ["X-Consumer-Id", "x-key-id, X-Consumer-Name", "close, x_consumer_id, X-Key-Name"])
def test_naming_the_identity_as_hop_by_hop_does_not_remove_it(stack: Stack, named: str) -> None:
    key = stack.keys.shared()
    assert stack.gateway(headers=[("Connection", named), *bearer(key)]).status == 200
    (seen,) = stack.reached()
    assert seen.identity() == identity_of(key)


@pytest.mark.parametrize(
    "case",
    ["no key", "unknown", "malformed", "KeyDisabled", "KeyUnbound", "ConsumerDisabled", "two headers",
     "one header twice", "joined", "other scheme"],
)  # fmt: skip
def test_a_refusal_is_401_and_the_api_sees_nothing(stack: Stack, case: str) -> None:
    for body in (b"", b'{"model": "small-model"}'):
        answer = stack.gateway("POST" if body else "GET", "/v1/chat/completions", _bad(stack.keys, case), body)
        assert answer.status == 401
        assert answer.headers["www-authenticate"].startswith("Bearer")
    assert stack.reached() == []


def _bad(keys: Keys, case: str) -> Headers:
    """Headers that must be refused."""
    good, other = keys.shared(), keys.shared("Valid, too")
    cases: dict[str, Headers] = {
        "no key": [],
        "unknown": [("x-api-key", "no-key-of-anybody-7Rk2")],
        "malformed": [("Authorization", "Bearer " + "x" * 300)],
        "two headers": [*bearer(good), ("x-api-key", other.value)],
        "one header twice": [("x-api-key", good.value), ("x-api-key", other.value)],
        "joined": [("x-api-key", f"{good.value}, {other.value}")],
        "other scheme": [("Authorization", f"Basic {good.value}")],
    }
    return cases[case] if case in cases else bearer(keys.shared(case))


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_every_method_is_asked_about(stack: Stack, method: str) -> None:
    key = stack.keys.shared()
    assert stack.gateway(method, "/any/thing").status == 401
    assert stack.reached() == []
    assert stack.gateway(method, "/any/thing", bearer(key)).status == 200
    assert [seen.method for seen in stack.reached()] == [method]


@pytest.mark.parametrize("mebibytes", [1, 11])  # Caddy reads the shorter first, and passes the longer on as it comes
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_reaches_the_api_whole_and_the_validator_never(stack: Stack, chunked: bool, mebibytes: int) -> None:
    key = stack.keys.shared()
    sent = MEBIBYTE * mebibytes
    body = [sent[:1000], sent[1000:]] if chunked else sent
    headers = [("Content-Type", "application/octet-stream")]
    assert stack.gateway("POST", "/v1/files", [*headers, *bearer(key)], body).status == 200
    (seen,) = stack.reached()
    assert hashlib.sha256(seen.body).digest() == hashlib.sha256(sent).digest()
    for asked in stack.asked():
        assert asked.body == b""
        assert asked.header("content-length") in ([], ["0"])
        assert asked.header("transfer-encoding") == []


@pytest.mark.parametrize(
    "target",
    [
        "/../other/validate", "/v1/../../../other/validate", "/%2e%2e/%2e%2e/other/validate",
        "/..%2f..%2fother/validate", "//other/validate", "/a/..;/b", "/a?uri=/b&apikey=c", "/v1/models/org%2Fname",
    ],
)  # fmt: skip
def test_no_path_changes_what_the_validator_is_asked(stack: Stack, target: str) -> None:
    assert stack.gateway("GET", target).status in (400, 401)
    assert {re.split(r"[?]", asked.target)[0] for asked in stack.asked()} <= {"/v1/gateways/default/validate"}
    assert stack.reached() == []


def test_an_escaped_slash_in_a_path_is_kept(stack: Stack) -> None:
    assert stack.gateway("GET", "/v1/models/org%2Fname", bearer(stack.keys.shared())).status == 200
    assert [seen.target for seen in stack.reached()] == ["/v1/models/org%2Fname"]


def test_long_cookies_are_not_the_validators_business(stack: Stack) -> None:
    cookies = [("Cookie", f"c{number}={'x' * 4000}") for number in range(5)]
    answer = stack.gateway(headers=[*cookies, *bearer(stack.keys.shared())])
    assert answer.status == 200
    assert all(asked.header("cookie") == [] for asked in stack.asked())


def test_the_question_cannot_be_asked_from_outside(stack: Stack) -> None:
    answer = stack.gateway("GET", "/consumer-keys-validate", bearer(stack.keys.shared()))
    assert answer.status == (404 if stack.gateway.name == "nginx" else 200)
    assert "x-consumer-id" not in answer.headers


def test_a_disabled_key_is_refused_in_time_and_an_enabled_one_works_again(stack: Stack) -> None:
    key = stack.keys.create()
    assert stack.gateway(headers=bearer(key)).status == 200
    stack.keys.switch(key, "disable")
    until(lambda: stack.gateway(headers=bearer(key)).status == 401, POLL_SECONDS + 2)
    stack.upstream.seen.clear()
    assert {stack.gateway(headers=bearer(key)).status for _ in range(5)} == {401}
    assert stack.reached() == []
    stack.keys.switch(key, "enable")
    until(lambda: stack.gateway(headers=bearer(key)).status == 200, POLL_SECONDS + 2)


@pytest.mark.parametrize("trouble", [500, 502, 503, "broken", "silent"])
def test_an_unusable_validator_is_a_refusal(stack: Stack, trouble: int | str) -> None:
    key = stack.keys.shared()
    with stack.relay.answering(trouble):
        answer = stack.gateway("POST", "/v1/chat/completions", bearer(key), b"{}")
    assert 500 <= answer.status <= 599
    assert stack.reached() == []
    assert stack.gateway(headers=bearer(key)).status == 200


@pytest.mark.parametrize("status", [301, 400, 403, 404, 429])
def test_any_other_answer_of_the_validator_is_a_refusal_too(stack: Stack, status: int) -> None:
    key = stack.keys.shared()
    with stack.relay.answering(status):
        answer = stack.gateway(headers=bearer(key))
    assert answer.status in (status, 500)
    assert stack.reached() == []


@pytest.mark.parametrize("name", GATEWAYS)
def test_a_stopped_validator_is_a_refusal_until_it_is_back(tmp_path: Path, name: str) -> None:
    find_program(name)
    with ExitStack() as stack:
        port, upstream = free_port(), Upstream()
        stack.callback(upstream.stop)
        local = Local(tmp_path / "home", port)
        stack.callback(local.stop)
        gateway = Gateway(name, tmp_path, port, upstream)
        stack.callback(gateway.stop)
        key = Keys(local).create()
        assert gateway(headers=bearer(key)).status == 200
        local.stop()
        upstream.seen.clear()
        for headers in (bearer(key), [], [("X-Consumer-Id", "forged")]):
            assert 500 <= gateway(headers=headers).status <= 599
        assert upstream.seen == []
        again = Local(tmp_path / "home", port)
        stack.callback(again.stop)
        until(lambda: gateway(headers=bearer(key)).status == 200, 5)
