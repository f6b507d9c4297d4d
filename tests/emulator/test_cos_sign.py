"""The COS request signature: published vectors, the header form, the presigned form, and every refusal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit
from xml.etree import ElementTree

import pytest

from tencent_emulator import cos_sign, tc3
from tencent_emulator.cloud import Cloud, CloudError
from tencent_emulator.pytest_plugin import REGION, SECRET_ID, SECRET_KEY, START_S, TestClock
from tencent_emulator.server import Server
from tencent_emulator.wire import Request

if TYPE_CHECKING:
    from tests.emulator.conftest import Raw
else:
    Raw = Any

KNOWN = {"AKIDEXAMPLE": tc3.Credential("SECRETEXAMPLE", "TOKENEXAMPLE")}
HEADERS = {
    "host": "b-1250000000.cos.ap-guangzhou.myqcloud.com",
    "x-cos-security-token": "TOKENEXAMPLE",
    "if-none-match": '"abc"',
}
LONG, SHORT = "1799999940;1800010000", "1800000000;1800000300"
NOW = int(START_S)


def vector(key: str, span: str, names: str, signature: str) -> Request:
    authorization = (
        f"q-sign-algorithm=sha1&q-ak=AKIDEXAMPLE&q-sign-time={span}&q-key-time={span}"
        f"&q-header-list={names}&q-url-param-list=&q-signature={signature}"
    )
    return Request("GET", f"/{quote(key)}", "", {**HEADERS, "authorization": authorization}, b"")


VECTORS = [
    vector("snap/CURRENT", LONG, "host;if-none-match;x-cos-security-token", "081b47cfef8f6230e4210e619942bb8cf43345e8"),
    vector(
        "dir/测试 a+b.json",
        LONG,
        "host;if-none-match;x-cos-security-token",
        "d8de7269ae01ea26211e22ca6b60605dcd42f7c7",
    ),
    vector("snap/CURRENT", SHORT, "host;x-cos-security-token", "796b64069a20ef0ec8ca2caec768a1b97c95d7fb"),
]


@pytest.mark.parametrize("request_", VECTORS)
def test_the_vectors_of_the_official_sdk_verify(request_: Request) -> None:
    cos_sign.verify(request_, KNOWN, NOW)


@pytest.mark.parametrize(
    "changed",
    [
        {"method": "PUT"},
        {"path": "/snap/OTHER"},
        {"headers": {**VECTORS[0].headers, "host": "c-1250000000.cos.ap-guangzhou.myqcloud.com"}},
        {"headers": {**VECTORS[0].headers, "if-none-match": '"abd"'}},
        {"headers": {name: value for name, value in VECTORS[0].headers.items() if name != "if-none-match"}},
    ],
    ids=["method", "path", "host", "header", "missing header"],
)
def test_nothing_that_was_signed_can_be_changed(changed: dict[str, Any]) -> None:
    with pytest.raises(CloudError, match="SignatureDoesNotMatch"):
        cos_sign.verify(VECTORS[0]._replace(**changed), KNOWN, NOW)


def status_and_code(raw: Raw, method: str, target: str, headers: dict[str, str], body: bytes = b"") -> tuple[int, str]:
    """Also asserts the shape of the error: five members, none empty."""
    response, text = raw.send(method, target, headers, body)
    if response.status < 300:
        return response.status, ""
    assert response.headers["Content-Type"] == "application/xml"
    members = {child.tag: child.text for child in ElementTree.fromstring(text)}
    assert list(members) == ["Code", "Message", "Resource", "RequestId", "TraceId"]
    assert all(members.values())
    assert members["RequestId"] == response.headers["x-cos-request-id"]
    return response.status, str(members["Code"])


@pytest.fixture
def host(cos_bucket: str, tencent_cloud: Cloud, tencent_clock: TestClock) -> str:
    tencent_cloud.cos.put_object(cos_bucket, "k", b"data")
    return f"{cos_bucket}.cos.{REGION}.myqcloud.com"


def get(raw: Raw, sign_cos: Any, host: str, span: str = SHORT, **options: str) -> tuple[int, str]:
    headers = {"Host": host}
    headers["Authorization"] = sign_cos("GET", "k", {"host": host}, span, **options)
    return status_and_code(raw, "GET", "/k", headers)


def test_an_independent_signature_is_accepted(raw: Raw, sign_cos: Any, host: str) -> None:
    assert get(raw, sign_cos, host) == (200, "")


def test_an_unsigned_request_is_denied(raw: Raw, host: str) -> None:
    for authorization in ("", "nonsense", "q-sign-algorithm=sha1&q-ak=x", "Basic eDp5"):
        assert status_and_code(raw, "GET", "/k", {"Host": host, "Authorization": authorization}) == (
            403,
            "AccessDenied",
        )
    assert status_and_code(raw, "GET", "/k", {"Host": host}) == (403, "AccessDenied")


def test_an_unknown_id_and_a_wrong_key_are_told_apart(raw: Raw, sign_cos: Any, host: str) -> None:
    assert get(raw, sign_cos, host, secret_id="AKIDNOBODY") == (403, "InvalidAccessKeyId")
    assert get(raw, sign_cos, host, secret_key="wrong") == (403, "SignatureDoesNotMatch")


def test_a_window_has_a_beginning_and_an_end(raw: Raw, sign_cos: Any, host: str, tencent_clock: TestClock) -> None:
    tencent_clock.shift(-1)
    assert get(raw, sign_cos, host) == (403, "RequestTimeTooSkewed")
    tencent_clock.shift(301)
    assert get(raw, sign_cos, host) == (200, "")
    tencent_clock.shift(1)
    assert get(raw, sign_cos, host) == (403, "AccessDenied")
    assert get(raw, sign_cos, host, span="a;b") == (403, "AccessDenied")


def test_the_windows_of_request_and_signing_key_both_count(raw: Raw, sign_cos: Any, host: str) -> None:
    past, future = "1700000000;1700000300", "1900000000;1900000300"
    assert get(raw, sign_cos, host, span=SHORT, key_span=LONG) == (200, "")
    for spans in ({"span": past, "key_span": LONG}, {"span": SHORT, "key_span": past}):
        assert get(raw, sign_cos, host, **spans) == (403, "AccessDenied")
    for spans in ({"span": future, "key_span": LONG}, {"span": SHORT, "key_span": future}):
        assert get(raw, sign_cos, host, **spans) == (403, "RequestTimeTooSkewed")


def test_temporary_credentials_need_their_token(raw: Raw, sign_cos: Any, host: str, tencent_cloud: Cloud) -> None:
    tencent_cloud.add_credential("AKIDTEMP", "temporary", token="TOKEN")
    for token, expected in (("TOKEN", (200, "")), ("OTHER", (403, "AccessDenied")), ("", (403, "AccessDenied"))):
        headers = {"Host": host, "x-cos-security-token": token}
        headers["Authorization"] = sign_cos(
            "GET", "k", {"host": host, "x-cos-security-token": token}, SHORT, "AKIDTEMP", "temporary"
        )
        assert status_and_code(raw, "GET", "/k", headers) == expected


def presigned(method: str, params: dict[str, str], token: str | None = None) -> str:
    """Path and query of a URL made by the official SDK, which knows nothing of the emulator here."""
    from qcloud_cos import CosConfig, CosS3Client

    known = ("AKIDTEMP", "temporary") if token else (SECRET_ID, SECRET_KEY)
    client = CosS3Client(CosConfig(Region=REGION, SecretId=known[0], SecretKey=known[1]))
    url = client.get_presigned_url("keys-1250000000", "k", method, Expired=60, Params=params)
    parts = urlsplit(url)
    return f"{parts.path}?{parts.query}"


def test_a_presigned_url_works_until_it_expires(raw: Raw, host: str, tencent_clock: TestClock) -> None:
    target = presigned("GET", {})
    assert status_and_code(raw, "GET", target, {"Host": host}) == (200, "")
    assert status_and_code(raw, "PUT", target, {"Host": host}, b"x") == (403, "SignatureDoesNotMatch")
    tencent_clock.shift(61)
    assert status_and_code(raw, "GET", target, {"Host": host}) == (403, "AccessDenied")


def test_a_presigned_url_covers_its_parameters(raw: Raw, host: str) -> None:
    target = presigned("GET", {"response-content-type": "text/plain; a=b"})
    response, _ = raw.send("GET", target, {"Host": host})
    assert response.headers["Content-Type"] == "text/plain; a=b"
    changed = target.replace("text", "font")
    assert status_and_code(raw, "GET", changed, {"Host": host}) == (403, "SignatureDoesNotMatch")


def test_a_presigned_url_may_carry_the_token(raw: Raw, host: str, tencent_cloud: Cloud) -> None:
    tencent_cloud.add_credential("AKIDTEMP", "temporary", token="TOKEN")
    target = presigned("GET", {"x-cos-security-token": "TOKEN"}, token="TOKEN")
    assert status_and_code(raw, "GET", target, {"Host": host}) == (200, "")


def test_refusals_leave_the_connection_usable(raw: Raw, sign_cos: Any, host: str) -> None:
    assert get(raw, sign_cos, host) == (200, "")
    first = raw.connection.sock
    for method in ("GET", "HEAD", "PUT", "DELETE"):
        response, text = raw.send(method, "/k", {"Host": host, "Authorization": "no"}, b"x" if method == "PUT" else b"")
        assert response.status == 403
        assert (text == b"") == (method == "HEAD")
    assert get(raw, sign_cos, host) == (200, "")
    assert raw.connection.sock is first


def test_a_refused_write_has_no_effect(
    raw: Raw, sign_cos: Any, host: str, tencent_cloud: Cloud, cos_bucket: str
) -> None:
    headers = {"Host": host, "Authorization": sign_cos("PUT", "k", {"host": host}, SHORT, secret_key="wrong")}
    assert status_and_code(raw, "PUT", "/k", headers, b"changed") == (403, "SignatureDoesNotMatch")
    assert tencent_cloud.cos.get_object(cos_bucket, "k") == b"data"


def test_the_sdk_with_temporary_credentials_is_accepted(
    tencent_server: Server, tencent_cloud: Cloud, cos_bucket: str
) -> None:
    import requests
    from qcloud_cos import CosConfig, CosS3Client

    tencent_cloud.add_credential("AKIDTEMP", "temporary", token="TOKEN")
    config = CosConfig(
        Region=REGION,
        SecretId="AKIDTEMP",
        SecretKey="temporary",
        Token="TOKEN",
        Scheme="http",
        IP="127.0.0.1",
        Port=tencent_server.port,
    )
    with requests.Session() as session:
        session.trust_env = False
        CosS3Client(config, 0, session).put_object(Bucket=cos_bucket, Key="new", Body=b"x")
    assert tencent_cloud.cos.get_object(cos_bucket, "new") == b"x"
