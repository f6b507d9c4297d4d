"""The common part of the cloud API: routing, versions, parameters, sizes, and connections that survive refusals."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tencent_emulator.actions import ACTIONS, VERSIONS, fields
from tencent_emulator.cloud import Cloud, CloudError
from tencent_emulator.kms import Kms
from tencent_emulator.scf import Scf
from tencent_emulator.ssm import Ssm

if TYPE_CHECKING:
    from tests.emulator.conftest import Raw
else:
    Raw = Any


def asked(raw: Raw, service: str, action: str, body: bytes = b"{}", **options: Any) -> str:
    return raw.code(raw.signed(service, action, body, **options), body)


def test_an_unknown_action_or_service_is_never_guessed(raw: Raw) -> None:
    for service, action in (("ssm", "RotateProductSecret"), ("kms", "GetSecretValue"), ("sts", "AssumeRole")):
        assert asked(raw, service, action) == "InvalidAction"
    assert asked(raw, "cos", "PutObject") == "InvalidAction"
    assert asked(raw, "ssm", "__init__") == "InvalidAction"


def test_a_version_must_be_given_and_right(raw: Raw) -> None:
    assert asked(raw, "ssm", "ListSecrets", X_TC_Version="2018-01-01") == "NoSuchVersion"
    headers = raw.signed("ssm", "ListSecrets")
    del headers["X-TC-Version"]
    assert raw.code(headers) == "MissingParameter"


def test_a_region_must_be_given_and_well_formed(raw: Raw) -> None:
    assert asked(raw, "ssm", "ListSecrets", X_TC_Region="somewhere else") == "UnsupportedRegion"
    headers = raw.signed("ssm", "ListSecrets")
    del headers["X-TC-Region"]
    assert raw.code(headers) == "MissingParameter"


@pytest.mark.parametrize(
    ("members", "code"),
    [
        ({"SecretName": "a", "VersionId": "v", "Stage": "AWSCURRENT"}, "UnknownParameter"),
        ({"SecretName": "a"}, "MissingParameter"),
        ({"SecretName": "a", "VersionId": None}, "MissingParameter"),
        ({"SecretName": "a", "VersionId": 1}, "InvalidParameter"),
        ({"SecretName": ["a"], "VersionId": "v"}, "InvalidParameter"),
    ],
)
def test_request_members_are_checked(raw: Raw, members: dict[str, Any], code: str) -> None:
    assert asked(raw, "ssm", "GetSecretValue", json.dumps(members).encode()) == code


@pytest.mark.parametrize("limit", [True, "1", 1.0, {}])
def test_a_number_is_neither_text_nor_truth_value(raw: Raw, limit: object) -> None:
    assert asked(raw, "ssm", "ListSecrets", json.dumps({"Limit": limit}).encode()) == "InvalidParameter"


@pytest.mark.parametrize(
    "body", [b"[]", b'"a"', b"{", b"\xff", b"[" * 100_000], ids=["list", "text", "cut", "bytes", "deep"]
)
def test_a_body_is_a_json_object(raw: Raw, body: bytes) -> None:
    assert asked(raw, "ssm", "ListSecrets", body) == "InvalidParameter"


def test_a_member_that_is_null_counts_as_absent(raw: Raw) -> None:
    assert asked(raw, "ssm", "ListSecrets", b'{"Limit": null}') == ""
    assert asked(raw, "ssm", "ListSecrets", b"") == ""


def test_a_post_must_be_json(raw: Raw) -> None:
    headers = raw.signed("ssm", "ListSecrets", Content_Type="text/plain")
    response, text = raw.send("POST", "/", headers, b"{}")
    assert (response.status, json.loads(text)["Response"]["Error"]["Code"]) == (200, "InvalidParameter")


def test_other_methods_are_refused(raw: Raw) -> None:
    headers = raw.signed("ssm", "ListSecrets", b"{}", method="PUT")
    response, text = raw.send("PUT", "/", headers, b"{}")
    assert (response.status, json.loads(text)["Response"]["Error"]["Code"]) == (200, "UnsupportedProtocol")


def test_text_that_is_no_unicode_is_refused_not_crashed_on(raw: Raw) -> None:
    body = b'{"SecretName": "a", "SecretString": "\\ud800"}'
    assert asked(raw, "ssm", "CreateSecret", body) == "InvalidParameterValue"
    body = b'{"SecretName": "\\ud800", "SecretString": "x"}'
    assert asked(raw, "ssm", "CreateSecret", body) == "InvalidParameterValue"


def test_refusals_leave_the_connection_usable(raw: Raw) -> None:
    raw.api(raw.signed("ssm", "ListSecrets"))
    first = raw.connection.sock
    wrong: list[dict[str, Any]] = [{"secret_key": "wrong"}, {"X_TC_Version": "1"}, {"secret_id": "nobody"}]
    for options in wrong:
        assert asked(raw, "ssm", "ListSecrets", **options) != ""
    large = json.dumps({"SearchSecretName": "x" * (10 * 1024 * 1024)}).encode()
    assert asked(raw, "ssm", "ListSecrets", large) == "RequestSizeLimitExceeded"
    assert asked(raw, "ssm", "ListSecrets") == ""
    assert raw.connection.sock is first


def test_a_long_query_is_too_large(raw: Raw) -> None:
    query = "SearchSecretName=" + "x" * (32 * 1024)
    headers = raw.signed("ssm", "ListSecrets", method="GET", query=query)
    assert raw.code(headers, target=f"/?{query}") == "RequestSizeLimitExceeded"


def test_a_body_without_a_length_is_refused_and_ends_the_connection(raw: Raw) -> None:
    headers = raw.signed("ssm", "ListSecrets")
    for wrong in ({"Transfer-Encoding": "chunked"}, {"Content-Length": "-1"}, {"Content-Length": "x"}):
        response, text = raw.send("POST", "/", {**headers, **wrong})
        assert json.loads(text)["Response"]["Error"]["Code"] == "InvalidParameter"
        assert response.will_close


def test_a_request_for_nothing_known_is_refused(raw: Raw) -> None:
    response, text = raw.send("GET", "/", {"Host": "example.com"})
    assert (response.status, json.loads(text)["Response"]["Error"]["Code"]) == (200, "MissingParameter")


def test_the_in_process_form_says_the_same(raw: Raw, tencent_cloud: Cloud) -> None:
    for action, members in (
        ("GetSecretValue", {"SecretName": "a"}),
        ("GetSecretValue", {"SecretName": "a", "VersionId": "v"}),
        ("Nothing", {}),
        ("ListSecrets", {"Unknown": 1}),
    ):
        with pytest.raises(CloudError) as caught:
            tencent_cloud.call("ssm", action, **members)
        answer = raw.api(raw.signed("ssm", action, json.dumps(members).encode()), json.dumps(members).encode())
        assert (caught.value.code, caught.value.message) == (answer["Error"]["Code"], answer["Error"]["Message"])
    assert tencent_cloud.call("ssm", "ListSecrets").keys() == raw.api(raw.signed("ssm", "ListSecrets")).keys()


@pytest.mark.parametrize(("service", "handler"), [("ssm", Ssm), ("kms", Kms), ("scf", Scf)])
def test_the_action_table_lists_exactly_the_methods(service: str, handler: type) -> None:
    written = {name for name in vars(handler) if name[0].isupper()}
    assert written == set(ACTIONS[service])


@pytest.mark.parametrize(
    ("service", "action"), [(service, action) for service in VERSIONS for action in ACTIONS[service]]
)
def test_the_action_table_has_exactly_the_members_of_the_official_sdk(service: str, action: str) -> None:
    from tencentcloud.kms.v20190118 import models as kms_models
    from tencentcloud.scf.v20180416 import models as scf_models
    from tencentcloud.ssm.v20190923 import models as ssm_models

    models: Any = {"ssm": ssm_models, "kms": kms_models, "scf": scf_models}[service]
    request = getattr(models, f"{action}Request")()
    known = {name for name in vars(type(request)) if name[0].isupper()}
    assert set(fields(service, action)) == known
