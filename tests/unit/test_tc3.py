"""TC3 verification against what the official clients send, and against everything that could be changed under way."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
import time_machine
from hypothesis import given
from hypothesis import strategies as st

from consumer_keys import tc3
from tests.tc3_signer import signed_headers
from tests.tccli import tccli_program
from tests.unit.recorder import Recorder

PAIR = ("operator-0123456789abcd", "0123456789abcdefghijABCDEFGHIJ0123456789")
NOW = 1_800_000_000
SERVICES = ("ssm", "ckeys")


def keys(secret_id: str) -> list[str]:
    return [PAIR[1]] if secret_id == PAIR[0] else []


def received(recorder: Recorder) -> tc3.SignedRequest:
    """The last recorded request in the form that functions see."""
    method, target, headers, body = recorder.seen[-1]
    parts = urlsplit(target)
    query: dict[str, Any] = {}
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        query[name] = (
            value if name not in query else [*([query[name]] if isinstance(query[name], str) else query[name]), value]
        )
    flat = {name: values[0] if len(values) == 1 else values for name, values in query.items()}
    return tc3.SignedRequest(method, parts.path, flat, headers, body)


def sdk(recorder: Recorder, token: str | None = None, **http: Any) -> Any:
    """The official client; `http` are options of its HttpProfile."""
    from tencentcloud.common.common_client import CommonClient
    from tencentcloud.common.credential import Credential
    from tencentcloud.common.profile.client_profile import ClientProfile
    from tencentcloud.common.profile.http_profile import HttpProfile

    options = {"protocol": "http", "endpoint": f"127.0.0.1:{recorder.server_address[1]}", "reqTimeout": 10, **http}
    profile = ClientProfile(httpProfile=HttpProfile(**options))
    return CommonClient("ssm", "2019-09-23", Credential(*PAIR, token), "ap-guangzhou", profile)


def call(client: Any, fields: dict[str, Any], **options: Any) -> None:
    import requests

    sessions = [part for part in vars(client.request.conn).values() if isinstance(part, requests.Session)]
    for session in sessions:
        session.trust_env = False
    with time_machine.travel(NOW, tick=False):
        client.call_json("GetSecretValue", fields, **options)
    for session in sessions:
        session.close()


FIELDS = {"SecretName": "名字 a+b&c=d/é~*", "Empty": "", "Count": 5, "On": True, "List": ["a", {"Name": "b c"}]}


@pytest.mark.parametrize("method", ["POST", "GET"])
def test_what_the_official_sdk_sends_is_accepted(recorder: Recorder, method: str) -> None:
    call(sdk(recorder, reqMethod=method), FIELDS)
    request = received(recorder)
    assert (request.method, request.path) == (method, "/")
    assert request.headers["host"] == f"127.0.0.1:{recorder.server_address[1]}"
    assert tc3.verify(request, NOW, SERVICES, keys).secret_id == PAIR[0]


@pytest.mark.parametrize("path", ["/v1/gateways/default/keys", "/v1/gateways/default/keys/secret-1/enable"])
@pytest.mark.parametrize("method", ["POST", "GET"])
def test_what_the_official_sdk_signs_for_a_path_of_ours_is_accepted(recorder: Recorder, path: str, method: str) -> None:
    """Its transport only knows `/`; its signer takes any path."""
    from tencentcloud.common.http.request import RequestInternal

    signed = RequestInternal("keys.example.com", method, path)
    with time_machine.travel(NOW, tick=False):
        sdk(recorder)._build_req_inter("Any", FIELDS, signed)
    headers = {name.lower(): value for name, value in signed.header.items()}
    query = dict(parse_qsl(signed.data, keep_blank_values=True)) if method == "GET" else {}
    body = signed.data.encode() if method == "POST" else b""
    assert reason(tc3.SignedRequest(method, path, query, headers, body)) is None
    assert reason(tc3.SignedRequest(method, "/", query, headers, body)) == tc3.MISMATCH


def test_a_host_without_a_port_and_one_with_its_scheme_are_accepted_as_sent(recorder: Recorder) -> None:
    here = f"127.0.0.1:{recorder.server_address[1]}"
    for endpoint, options in (
        ("keys.example.com", {"proxy": here}), ("keys.example.com:8080", {"proxy": here}), (f"http://{here}", {}),
    ):  # fmt: skip
        call(sdk(recorder, endpoint=endpoint, **options), FIELDS)
        request = received(recorder)
        assert request.headers["host"] == endpoint
        tc3.verify(request, NOW, SERVICES, keys)


@pytest.mark.parametrize("proxied", [False, True], ids=["port", "no-port"])
def test_what_tccli_sends_is_accepted(recorder: Recorder, tmp_path: Path, proxied: bool) -> None:
    here = f"127.0.0.1:{recorder.server_address[1]}"
    endpoint = "http://keys.example.com" if proxied else f"http://{here}"
    words = ["ssm", "GetSecretValue", "--SecretName", "名字", "--VersionId", "v1", "--endpoint", endpoint]
    environ = {
        "PATH": os.environ["PATH"], "HOME": str(tmp_path), "TENCENTCLOUD_SECRET_ID": PAIR[0],
        "TENCENTCLOUD_SECRET_KEY": PAIR[1], "TENCENTCLOUD_REGION": "ap-guangzhou",
        **({"HTTP_PROXY": f"http://{here}", "http_proxy": f"http://{here}"} if proxied else {"NO_PROXY": here}),
    }  # fmt: skip
    done = subprocess.run(
        [tccli_program(), *words], capture_output=True, text=True, timeout=60, check=False, env=environ
    )
    assert done.returncode == 0, done.stderr
    request = received(recorder)
    assert request.headers["host"] == endpoint
    stamp = int(request.headers["x-tc-timestamp"])
    assert tc3.verify(request, stamp, SERVICES, keys).service == "ssm"


def test_what_the_sdk_leaves_unsigned_or_signs_for_others_is_refused(recorder: Recorder) -> None:
    client = sdk(recorder)
    client.profile.unsignedPayload = True
    call(client, FIELDS)
    assert reason(received(recorder)) == tc3.UNSIGNED_PAYLOAD
    call(sdk(recorder, token="a-session-token"), FIELDS)
    assert reason(received(recorder)) == tc3.TOKEN
    call(sdk(recorder), FIELDS, options={"SkipSign": True})
    assert not tc3.is_tc3(received(recorder).headers["authorization"])
    assert reason(received(recorder)) == tc3.MALFORMED
    call(sdk(recorder), FIELDS)
    assert reason(received(recorder), services=("ckeys",)) == tc3.FOREIGN_SERVICE


# Our own requests, and what may not be done to them

BODY = b'{"name": "one"}'
PATH = "/v1/gateways/default/keys"


def request_of(method: str = "POST", path: str = PATH, body: bytes = BODY, **options: Any) -> tc3.SignedRequest:
    headers = signed_headers(PAIR, method, path, body.decode(), **{"at": NOW, **options})
    return tc3.SignedRequest(method, path, options.get("query") or {}, headers, body)


def reason(
    request: tc3.SignedRequest, now: float = NOW, services: tuple[str, ...] = SERVICES,
    secret_keys: Callable[[str], list[str]] = keys,
) -> str | None:  # fmt: skip
    """Why a request is refused; None when it is not."""
    try:
        tc3.verify(request, now, services, secret_keys)
    except tc3.SignatureRefused as refused:
        return refused.reason
    return None


def with_headers(request: tc3.SignedRequest, **headers: Any) -> tc3.SignedRequest:
    changed = {**request.headers, **{name.replace("_", "-"): value for name, value in headers.items()}}
    return request._replace(headers={name: value for name, value in changed.items() if value is not ...})


def test_the_window_is_five_minutes_either_way() -> None:
    request = request_of()
    assert [reason(request, NOW + skew) for skew in (-300, 0, 300)] == [None] * 3
    assert [reason(request, NOW + skew) for skew in (-301, 301, -86_400, 86_400)] == [tc3.EXPIRED] * 4


def test_any_changed_part_of_the_request_is_a_mismatch() -> None:
    request = request_of(sign=("if-match",), if_match='"5"', query={"limit": "5"})
    assert reason(request) is None
    for changed in (
        request._replace(method="PUT"), request._replace(path=PATH + "/"), request._replace(path=PATH.upper()),
        request._replace(path="/v1//gateways/default/keys"), request._replace(path=PATH + "%20"),
        request._replace(query={}), request._replace(query={"limit": "6"}),
        request._replace(query={"limit": ["5", "5"]}),
        request._replace(query={"limit": "5", "offset": "1"}), request._replace(query={"Limit": "5"}),
        request._replace(body=BODY + b" "), request._replace(body=b""),
        request._replace(body=BODY.replace(b"one", b"two")),
        with_headers(request, host="keys.example.com:443"), with_headers(request, host="KEYS.example.org"),
        with_headers(request, content_type="application/json; charset=utf-8"), with_headers(request, if_match='"6"'),
        with_headers(request, x_tc_timestamp=str(NOW + 1)),
    ):  # fmt: skip
        assert reason(changed) == tc3.MISMATCH, changed


def test_every_changed_character_of_the_signature_is_a_mismatch() -> None:
    request = request_of()
    text = request.headers["authorization"]
    for position in range(len(text) - 64, len(text)):
        other = "0" if text[position] != "0" else "1"
        assert (
            reason(with_headers(request, authorization=text[:position] + other + text[position + 1 :])) == tc3.MISMATCH
        )


def test_the_scope_must_be_the_timestamps_day_and_our_service() -> None:
    request = request_of()
    text = request.headers["authorization"]
    assert reason(with_headers(request, authorization=text.replace("2027-01-15", "2027-01-14"))) == tc3.MALFORMED
    assert reason(with_headers(request, authorization=text.replace("/ckeys/", "/ssm/"))) == tc3.MISMATCH
    assert reason(with_headers(request, authorization=text.replace("/ckeys/", "/cngw/"))) == tc3.FOREIGN_SERVICE


@pytest.mark.parametrize(
    "headers",
    [
        {"x_tc_timestamp": ...}, {"x_tc_timestamp": ""}, {"x_tc_timestamp": "１８"}, {"x_tc_timestamp": "+1800000000"},
        {"x_tc_timestamp": "1800000000.0"}, {"x_tc_timestamp": ["1800000000"] * 2}, {"host": ...},
        {"content_type": ...},
        {"host": ["keys.example.com"] * 2}, {"host": "keys.example.com\nx"}, {"host": "keys.example.com\r"},
        {"host": 5}, {"authorization": None}, {"authorization": "TC3-HMAC-SHA256"}, {"x_tc_timestamp": "9" * 400},
    ],
    ids=str,
)  # fmt: skip
def test_an_incomplete_signature_is_refused_before_any_look_up(headers: dict[str, Any]) -> None:
    def never(secret_id: str) -> list[str]:
        raise AssertionError(secret_id)

    assert reason(with_headers(request_of(), **headers), secret_keys=never) == tc3.MALFORMED


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("SignedHeaders=content-type;host", "SignedHeaders=host"),
        ("SignedHeaders=content-type;host", "SignedHeaders=content-type"),
        ("SignedHeaders=content-type;host", "SignedHeaders="),
        ("SignedHeaders=content-type;host", "SignedHeaders=content-type;host;host"),
        ("SignedHeaders=content-type;host", "SignedHeaders=content-type;host;x-absent"),
        ("Signature=", "Signature=0"), ("Signature=", "signature="), ("/tc3_request", "/tc4_request"),
        ("Credential=", "Credential=/"), ("Credential=operator", "Credential=opérator"), (", Signature", " Signature"),
        ("2027-01-15", "2027-1-15"), ("TC3-HMAC-SHA256", "TC3-HMAC-SHA1"), ("operator-", "operator-" + "x" * 3000),
    ],
)  # fmt: skip
def test_another_form_of_the_header_is_refused(old: str, new: str) -> None:
    request = request_of()
    changed = request.headers["authorization"].replace(old, new, 1)
    assert changed != request.headers["authorization"]
    assert reason(with_headers(request, authorization=changed)) == tc3.MALFORMED


@pytest.mark.parametrize("path", ["/v1/a b", "/v1/\n", "/v1/ключ", "v1", "", "/v1/\x7f"])
def test_a_path_or_method_that_could_be_more_than_its_line_is_refused(path: str) -> None:
    assert reason(request_of()._replace(path=path)) == tc3.MALFORMED
    assert reason(request_of()._replace(method="POST\n/")) == tc3.MALFORMED


def test_an_unknown_id_and_a_wrong_signature_are_told_the_same() -> None:
    request = request_of()
    assert reason(request, secret_keys=lambda _: []) == tc3.UNKNOWN_ID
    assert reason(request, secret_keys=lambda _: ["another secret"]) == tc3.MISMATCH
    assert tc3.REASONS[tc3.UNKNOWN_ID] == tc3.REASONS[tc3.MISMATCH]


def test_each_of_several_secret_keys_of_an_id_signs() -> None:
    assert reason(request_of(), secret_keys=lambda _: ["new", PAIR[1]]) is None
    assert reason(request_of(), secret_keys=lambda _: [PAIR[1], "former"]) is None


texts = st.text(st.characters(min_codepoint=32, exclude_categories=["Cs"]), max_size=8)


@given(st.dictionaries(texts, texts, max_size=4), st.binary(max_size=40), st.sampled_from(["GET", "PUT", "DELETE"]))
def test_any_query_and_body_that_was_signed_is_accepted_and_no_other(
    query: dict[str, str], body: bytes, method: str
) -> None:
    text = body.decode("latin-1")
    headers = signed_headers(PAIR, method, PATH, text, query=query, at=NOW)
    request = tc3.SignedRequest(method, PATH, query, headers, text.encode())
    assert reason(request) is None
    assert reason(request._replace(query={**query, "x": "extra long one"})) == tc3.MISMATCH
    assert reason(request._replace(body=request.body + b"x")) == tc3.MISMATCH
