"""TC3-HMAC-SHA256: the published test vector, the SDK's own signatures, and every way to be refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest

from tencent_emulator import tc3
from tencent_emulator.cloud import Cloud, CloudError
from tencent_emulator.pytest_plugin import SECRET_ID, SECRET_KEY, TestClock
from tencent_emulator.server import Server
from tencent_emulator.wire import Request

if TYPE_CHECKING:
    from tests.emulator.conftest import Raw
else:
    Raw = Any

BODY = b'{"SecretName": "ck-pepper", "VersionId": "v1"}'
VECTOR_S = 1_800_000_000


def vector(**changed: Any) -> Request:
    """A request whose signature was made by the official SDK with the clock stopped at VECTOR_S."""
    headers = {
        "content-type": "application/json",
        "host": "ssm.tencentcloudapi.com",
        "x-tc-action": "GetSecretValue",
        "x-tc-timestamp": str(VECTOR_S),
        "authorization": "TC3-HMAC-SHA256 Credential=AKIDEXAMPLE/2027-01-15/ssm/tc3_request, "
        "SignedHeaders=content-type;host, "
        "Signature=ff7f6a2e3a7f2acaa82dcac6b1a8918496188a44aa2cabd1414f0f6af332ffa6",
    }
    return Request("POST", "/", "", headers, BODY)._replace(**changed)


def verified(request: Request, now: float = VECTOR_S) -> None:
    known = {"AKIDEXAMPLE": tc3.Credential("SECRETEXAMPLE", None)}
    tc3.verify(request, tc3.parse(request.headers.get("authorization")), known, now)


def test_the_vector_of_the_official_sdk_verifies() -> None:
    verified(vector())


@pytest.mark.parametrize("offset_s", [-300, 300])
def test_a_signature_holds_for_five_minutes_either_way(offset_s: int) -> None:
    verified(vector(), VECTOR_S + offset_s)


@pytest.mark.parametrize("offset_s", [-301, 301])
def test_a_signature_expires_after_five_minutes_either_way(offset_s: int) -> None:
    with pytest.raises(CloudError, match=r"AuthFailure\.SignatureExpire"):
        verified(vector(), VECTOR_S + offset_s)


@pytest.mark.parametrize(
    "changed",
    [
        {"body": BODY + b" "},
        {"method": "GET"},
        {"path": "/other"},
        {"headers": {**vector().headers, "host": "kms.tencentcloudapi.com"}},
        {"headers": {**vector().headers, "content-type": "application/json; charset=utf-8"}},
        {"headers": {**vector().headers, "x-tc-timestamp": str(VECTOR_S + 1)}},
    ],
    ids=["body", "method", "path", "host", "content-type", "timestamp"],
)
def test_nothing_that_was_signed_can_be_changed(changed: dict[str, Any]) -> None:
    with pytest.raises(CloudError, match=r"AuthFailure\.SignatureFailure"):
        verified(vector(**changed))


def get_value(raw: Raw, **options: Any) -> str:
    return raw.code(raw.signed("ssm", "GetSecretValue", BODY, **options), BODY)


@pytest.fixture(autouse=True)
def pepper(tencent_cloud: Cloud) -> None:
    tencent_cloud.call("ssm", "CreateSecret", SecretName="ck-pepper", VersionId="v1", SecretString="x")


def test_an_independent_signature_is_accepted(raw: Raw) -> None:
    assert get_value(raw) == ""


@pytest.mark.parametrize("lower", [False, True], ids=["as sent", "lower-cased"])
def test_further_signed_headers_are_accepted_in_both_spellings(raw: Raw, lower: bool) -> None:
    assert get_value(raw, sign_names="content-type;host;x-tc-action", lower=lower) == ""


def test_a_signed_action_cannot_be_exchanged(raw: Raw) -> None:
    headers = raw.signed("ssm", "GetSecretValue", BODY, sign_names="content-type;host;x-tc-action")
    headers["X-TC-Action"] = "DeleteSecretVersion"
    assert raw.code(headers, BODY) == "AuthFailure.SignatureFailure"


def test_an_unsigned_payload_is_accepted_when_announced(raw: Raw) -> None:
    headers = raw.signed("ssm", "GetSecretValue", b"ignored", unsigned_payload=True)
    assert raw.code(headers, BODY) == ""
    del headers["X-TC-Content-SHA256"]
    assert raw.code(headers, BODY) == "AuthFailure.SignatureFailure"


def test_a_host_with_a_scheme_is_accepted_as_sent(raw: Raw) -> None:
    assert get_value(raw, Host=f"http://{raw.endpoint}") == ""


def test_the_async_clients_path_is_accepted(raw: Raw) -> None:
    assert raw.code(raw.signed("ssm", "GetSecretValue", BODY), BODY, target="/?") == ""


def test_the_get_form_is_accepted_and_its_query_is_signed(raw: Raw) -> None:
    query = urlencode({"SecretName": "ck-pepper", "VersionId": "v1"})
    headers = raw.signed("ssm", "GetSecretValue", method="GET", query=query)
    assert raw.api(headers, target=f"/?{query}")["SecretString"] == "x"
    assert raw.code(headers, target=f"/?{query}&x=1") == "AuthFailure.SignatureFailure"


def test_the_get_form_carries_numbers_and_lists(raw: Raw, tencent_cloud: Cloud) -> None:
    tags = [{"TagKey": "team", "TagValue": "keys"}]
    tencent_cloud.call("ssm", "CreateSecret", SecretName="tagged", SecretString="x", Tags=tags)
    query = urlencode({"Limit": "1", "TagFilters.0.TagKey": "team", "TagFilters.0.TagValue.0": "keys"})
    found = raw.api(raw.signed("ssm", "ListSecrets", method="GET", query=query), target=f"/?{query}")
    assert [row["SecretName"] for row in found["SecretMetadatas"]] == ["tagged"]
    query = urlencode({"SecretName": "ck-pepper", "CleanSSHKey": "true", "RecoveryWindowInDays": "1"})
    headers = raw.signed("ssm", "DeleteSecret", method="GET", query=query)
    assert raw.code(headers, target=f"/?{query}") == "FailedOperation"  # understood, but the secret is enabled
    for bad in ("Limit=many", "Limit=1&Limit.0=2", "Limit.0=2&Limit=1&Limit.x.y=1"):
        headers = raw.signed("ssm", "ListSecrets", method="GET", query=bad)
        assert raw.code(headers, target=f"/?{bad}") == "InvalidParameter"


def test_the_sdks_get_form_and_unsigned_payload_are_accepted(tencent_server: Server, ssm_client: Any) -> None:
    from tencentcloud.ssm.v20190923 import models

    request = models.GetSecretValueRequest()
    request._deserialize({"SecretName": "ck-pepper", "VersionId": "v1"})
    ssm_client.profile.httpProfile.reqMethod = "GET"
    assert ssm_client.GetSecretValue(request).SecretString == "x"
    ssm_client.profile.httpProfile.reqMethod = "POST"
    ssm_client.profile.unsignedPayload = True
    assert ssm_client.GetSecretValue(request).SecretString == "x"


def test_an_unknown_id_is_told(raw: Raw) -> None:
    assert get_value(raw, secret_id="AKIDNOBODY") == "AuthFailure.SecretIdNotFound"


def test_a_removed_credential_is_unknown(raw: Raw, tencent_cloud: Cloud) -> None:
    tencent_cloud.remove_credential(SECRET_ID)
    assert get_value(raw) == "AuthFailure.SecretIdNotFound"


def test_a_wrong_key_does_not_verify(raw: Raw) -> None:
    assert get_value(raw, secret_key="wrong") == "AuthFailure.SignatureFailure"


def test_a_date_that_is_not_the_timestamps_day_does_not_verify(raw: Raw) -> None:
    assert get_value(raw, date="2020-01-01") == "AuthFailure.SignatureFailure"


def test_a_signature_of_another_service_does_not_reach_this_one(raw: Raw) -> None:
    headers = raw.signed("kms", "GetSecretValue", BODY)
    headers["Authorization"] = headers["Authorization"].replace("/kms/", "/ssm/")
    assert raw.code(headers, BODY) == "AuthFailure.SignatureFailure"


@pytest.mark.parametrize("shift_s", [-301, 301])
def test_a_client_whose_clock_is_wrong_is_told(raw: Raw, tencent_clock: TestClock, shift_s: int) -> None:
    headers = raw.signed("ssm", "GetSecretValue", BODY)
    tencent_clock.shift(shift_s)
    assert raw.code(headers, BODY) == "AuthFailure.SignatureExpire"


def test_a_missing_or_malformed_authorization_is_told(raw: Raw) -> None:
    headers = raw.signed("ssm", "GetSecretValue", BODY)
    good = headers["Authorization"]
    malformed = [
        "",
        "SKIP",
        "Basic QUtJRDpzZWNyZXQ=",
        good.replace("TC3-HMAC-SHA256", "TC3-HMAC-SHA1"),
        good.replace("tc3_request", "aws4_request"),
        good[:-1],
        good.replace("content-type;host", "host"),
        good.replace("SignedHeaders=content-type;host, ", ""),
        "q-sign-algorithm=sha1&q-ak=x",
    ]
    for value in malformed:
        assert raw.code({**headers, "Authorization": value}, BODY) == "AuthFailure.InvalidAuthorization"
    del headers["Authorization"]
    assert raw.code(headers, BODY) == "AuthFailure.InvalidAuthorization"


def test_a_timestamp_is_needed_and_must_be_a_number(raw: Raw) -> None:
    headers = raw.signed("ssm", "GetSecretValue", BODY)
    assert raw.code({**headers, "X-TC-Timestamp": "soon"}, BODY) == "InvalidParameter"
    del headers["X-TC-Timestamp"]
    assert raw.code(headers, BODY) == "MissingParameter"


def test_temporary_credentials_need_their_token(raw: Raw, tencent_cloud: Cloud) -> None:
    tencent_cloud.add_credential("AKIDTEMP", "temporary", token="TOKEN")
    temporary = {"secret_id": "AKIDTEMP", "secret_key": "temporary"}
    assert get_value(raw, X_TC_Token="TOKEN", **temporary) == ""
    assert get_value(raw, X_TC_Token="OTHER", **temporary) == "AuthFailure.TokenFailure"
    assert get_value(raw, **temporary) == "AuthFailure.TokenFailure"
    assert get_value(raw, X_TC_Token="TOKEN") == "AuthFailure.TokenFailure"


def test_a_refused_request_has_no_effect(raw: Raw, tencent_cloud: Cloud) -> None:
    body = json.dumps({"SecretName": "new", "SecretString": "x"}).encode()
    raw.code(raw.signed("ssm", "CreateSecret", body, secret_key="wrong"), body)
    assert tencent_cloud.call("ssm", "ListSecrets")["TotalCount"] == 1


def test_the_sdk_and_an_independent_signer_agree(
    raw: Raw, ssm_client: Any, tencent_clock: TestClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[dict[str, str]] = []
    connection = ssm_client.request.conn
    original: Callable[..., Any] = connection.request

    def spy(method: str, url: str, body: Any = None, headers: Any = None) -> Any:
        sent.append(dict(headers))
        return original(method, url, body, headers)

    monkeypatch.setattr(connection, "request", spy)
    ssm_client.call_json("GetSecretValue", json.loads(BODY))
    assert sent[0]["Authorization"] == raw.signed("ssm", "GetSecretValue", BODY)["Authorization"]
    assert SECRET_KEY not in str(sent)
