"""Our request signatures, against known vectors and against what the official SDKs really send."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

import pytest
import time_machine
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from consumer_keys.signing import cos_authorization, tc3_authorization
from tests.unit.recorder import Recorder

SECRET_ID, SECRET_KEY, TOKEN = "AKIDEXAMPLE", "SECRETEXAMPLE", "TOKENEXAMPLE"
SDK_TOKEN = "token/with+base64=and~more*of'it"
NOW = 1_800_000_000
HOST = "b-1250000000.cos.ap-guangzhou.myqcloud.com"
SDK_BEFORE, SDK_AFTER = 60, 10_000  # the COS SDK signs for now-60 s to now+10000 s


@pytest.fixture(scope="module")
def cos_sdk(recorder: Recorder) -> Iterator[Any]:
    import requests
    from qcloud_cos import CosConfig, CosS3Client

    config = CosConfig(
        Region="ap-guangzhou", SecretId=SECRET_ID, SecretKey=SECRET_KEY, Token=SDK_TOKEN, Scheme="http",
        IP="127.0.0.1", Port=recorder.server_address[1], Timeout=(5, 10),
    )  # fmt: skip
    with requests.Session() as session:
        session.trust_env = False
        yield CosS3Client(config, 0, session)


def test_tc3_equals_the_known_vector() -> None:
    header = tc3_authorization(
        SECRET_ID, SECRET_KEY, service="ssm", host="ssm.tencentcloudapi.com",
        body=b'{"SecretName": "ck-pepper", "VersionId": "v1"}', timestamp=NOW,
    )  # fmt: skip
    assert header == (
        "TC3-HMAC-SHA256 Credential=AKIDEXAMPLE/2027-01-15/ssm/tc3_request, SignedHeaders=content-type;host, "
        "Signature=ff7f6a2e3a7f2acaa82dcac6b1a8918496188a44aa2cabd1414f0f6af332ffa6"
    )


@pytest.mark.parametrize(
    ("key", "etag", "span", "signature"),
    [
        ("snap/CURRENT", '"abc"', (NOW - 60, NOW + 10_000), "081b47cfef8f6230e4210e619942bb8cf43345e8"),
        ("dir/测试 a+b.json", '"abc"', (NOW - 60, NOW + 10_000), "d8de7269ae01ea26211e22ca6b60605dcd42f7c7"),
        ("snap/CURRENT", None, (NOW, NOW + 300), "796b64069a20ef0ec8ca2caec768a1b97c95d7fb"),
    ],
)
def test_cos_equals_the_known_vectors(key: str, etag: str | None, span: tuple[int, int], signature: str) -> None:
    headers = {"host": HOST, "x-cos-security-token": TOKEN} | ({"If-None-Match": etag} if etag else {})
    header = cos_authorization(
        SECRET_ID, SECRET_KEY, method="GET", key=key, headers=headers, start=span[0], end=span[1]
    )
    names = "host;if-none-match;x-cos-security-token" if etag else "host;x-cos-security-token"
    times = f"{span[0]};{span[1]}"
    assert header == (
        f"q-sign-algorithm=sha1&q-ak=AKIDEXAMPLE&q-sign-time={times}&q-key-time={times}"
        f"&q-header-list={names}&q-url-param-list=&q-signature={signature}"
    )


@pytest.mark.parametrize("moment", [NOW, NOW + 86_399, 1_709_251_199, 1_709_251_200])
@pytest.mark.parametrize("name", ["consumer-keys-root", "名字"])
def test_tc3_equals_what_the_official_sdk_sends(recorder: Recorder, moment: int, name: str) -> None:
    import requests
    from tencentcloud.common.credential import Credential
    from tencentcloud.common.profile.client_profile import ClientProfile
    from tencentcloud.common.profile.http_profile import HttpProfile
    from tencentcloud.ssm.v20190923.models import GetSecretValueRequest
    from tencentcloud.ssm.v20190923.ssm_client import SsmClient

    endpoint = f"127.0.0.1:{recorder.server_address[1]}"
    profile = ClientProfile(httpProfile=HttpProfile(protocol="http", endpoint=endpoint, reqTimeout=10))
    client = SsmClient(Credential(SECRET_ID, SECRET_KEY, TOKEN), "ap-guangzhou", profile)
    sessions = [part for part in vars(client.request.conn).values() if isinstance(part, requests.Session)]
    for session in sessions:
        session.trust_env = False
    request = GetSecretValueRequest()
    request.SecretName, request.VersionId = name, "v1"
    with time_machine.travel(moment, tick=False):
        client.GetSecretValue(request)
    for session in sessions:
        session.close()

    _, _, headers, body = recorder.seen[-1]
    assert int(headers["x-tc-timestamp"]) == moment
    assert headers["content-type"] == "application/json"
    assert body == json.dumps({"SecretName": name, "VersionId": "v1"}).encode()
    ours = tc3_authorization(SECRET_ID, SECRET_KEY, service="ssm", host=headers["host"], body=body, timestamp=moment)
    assert headers["authorization"] == ours


# What the SDK itself refuses or rewrites ("." and ".." segments, an empty key) is no key of a snapshot.
object_keys = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=40).filter(
    lambda key: not set(key.split("/")) & {"", ".", ".."} and "./" not in key and key == key.strip()
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(key=object_keys, etag=st.none() | st.text("abc019/+=-_.~*'() ,;:@!$&<>%", min_size=1))
@example(key="dir/测试 a+b.json", etag="abc")
@example(key="consumer-keys/current.json", etag=None)
@example(key="a%20b%2Fc?d#e&f=g", etag=None)
@example(key="~tilde'quote\"(bracket)*!", etag=None)
def test_cos_equals_what_the_official_sdk_sends_for_any_key(
    recorder: Recorder, cos_sdk: Any, key: str, etag: str | None
) -> None:
    condition = {"IfNoneMatch": f'"{etag}"'} if etag else {}
    with time_machine.travel(NOW, tick=False):
        cos_sdk.get_object(Bucket="b-1250000000", Key=key, **condition)
    method, path, headers, _ = recorder.seen[-1]
    assert (method, unquote(path)) == ("GET", f"/{key}")
    assert headers["host"] == HOST
    signed: dict[str, str] = {
        name: headers[name] for name in ("host", "x-cos-security-token", "if-none-match") if name in headers
    }
    ours = cos_authorization(
        SECRET_ID, SECRET_KEY, method="GET", key=key, headers=signed, start=NOW - SDK_BEFORE, end=NOW + SDK_AFTER
    )
    assert headers["authorization"] == ours


@given(st.permutations(["host", "x-cos-security-token", "if-none-match", "range"]))
def test_the_order_of_headers_does_not_matter(names: list[str]) -> None:
    headers = {name: f"value of {name}" for name in names}
    one = cos_authorization(SECRET_ID, SECRET_KEY, method="GET", key="k", headers=headers, start=1, end=2)
    two = cos_authorization(
        SECRET_ID, SECRET_KEY, method="GET", key="k", headers=dict(sorted(headers.items())), start=1, end=2
    )
    assert one == two


@pytest.mark.parametrize(
    "change",
    [
        {"method": "PUT"}, {"key": "other"}, {"headers": {"host": "other"}}, {"start": 2}, {"end": 3},
    ],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_everything_that_matters_is_signed(change: dict[str, Any]) -> None:
    given_now: dict[str, Any] = {"method": "GET", "key": "k", "headers": {"host": HOST}, "start": 1, "end": 2}
    before = cos_authorization(SECRET_ID, SECRET_KEY, **given_now)
    after = cos_authorization(SECRET_ID, SECRET_KEY, **given_now | change)
    assert before.rpartition("=")[2] != after.rpartition("=")[2]
