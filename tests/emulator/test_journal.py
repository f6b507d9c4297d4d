"""The journal and the logs: who called what with which outcome, and never a value."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import pytest

from tencent_emulator.cloud import Call, Cloud, CloudError
from tencent_emulator.pytest_plugin import SECRET_ID, SECRET_KEY

if TYPE_CHECKING:
    from tests.emulator.conftest import Raw
else:
    Raw = Any

Ask = Callable[..., dict[str, Any]]
Refused = Callable[[str], AbstractContextManager[None]]
LOST = "ClientNetworkError"


def create(ssm: Ask, name: str) -> None:
    ssm("CreateSecret", SecretName=name, SecretString="s3cr3t-value")


def test_the_journal_tells_who_called_what_with_which_outcome(
    raw: Raw, cos_client: Any, cos_bucket: str, tencent_cloud: Cloud
) -> None:
    tencent_cloud.call("ssm", "ListSecrets")
    raw.code(raw.signed("kms", "ListKeys"))
    raw.code(raw.signed("kms", "ListKeys", secret_key="wrong"))
    raw.code(raw.signed("kms", "ListKeys", secret_id=SECRET_KEY))
    raw.code({**raw.signed("kms", "ListKeys"), "Authorization": SECRET_KEY})
    cos_client.put_object(Bucket=cos_bucket, Key="k", Body=b"x")
    assert tencent_cloud.calls == [
        Call("ssm", "ListSecrets", "", None),
        Call("kms", "ListKeys", SECRET_ID, None),
        Call("kms", "ListKeys", SECRET_ID, "AuthFailure.SignatureFailure"),
        Call("kms", "ListKeys", "", "AuthFailure.SecretIdNotFound"),
        Call("", "ListKeys", "", "AuthFailure.InvalidAuthorization"),
        Call("cos", "PutObject", SECRET_ID, None),
    ]
    tencent_cloud.clear_calls()
    assert tencent_cloud.calls == []


def test_the_journal_tells_dropped_requests_from_lost_replies(ssm: Ask, tencent_cloud: Cloud, refused: Refused) -> None:
    for when in ("before", "after"):
        tencent_cloud.drop_next("ssm", None, when=when)
        with refused(LOST):
            ssm("ListSecrets")
    assert [call.code for call in tencent_cloud.calls] == ["ConnectionDropped", None]


def test_no_secret_reaches_the_journal_or_an_error(ssm: Ask, kms: Ask, tencent_cloud: Cloud) -> None:
    create(ssm, "a")
    plain = kms("GenerateDataKey", KeyId=kms("CreateKey", Alias="a")["KeyId"], KeySpec="AES_256")["Plaintext"]
    errors = []
    for members in ({"SecretName": "a", "SecretString": "s3cr3t-value"}, {"SecretString": "s3cr3t-value", "Bad": "x"}):
        with pytest.raises(CloudError) as caught:
            tencent_cloud.call("ssm", "CreateSecret", **members)
        errors.append(str(caught.value))
    with pytest.raises(CloudError) as caught:
        tencent_cloud.call("kms", "Decrypt", CiphertextBlob=plain)
    errors.append(str(caught.value))
    everything = json.dumps([tencent_cloud.calls, errors])
    for secret in ("s3cr3t-value", plain, SECRET_KEY):
        assert secret not in everything


def test_reset_forgets_state_faults_and_calls_but_not_who_may_call(
    ssm: Ask, tencent_cloud: Cloud, cos_bucket: str
) -> None:
    create(ssm, "a")
    tencent_cloud.fail_next("ssm", None, "InternalError")
    tencent_cloud.functions["echo"] = lambda event: event
    tencent_cloud.reset()
    assert tencent_cloud.calls == []
    assert ssm("ListSecrets")["TotalCount"] == 0
    assert not tencent_cloud.cos.has_bucket(cos_bucket)
    assert tencent_cloud.call("scf", "Invoke", FunctionName="echo")["Result"]["InvokeResult"] == 0


def test_a_bug_of_the_emulator_is_an_internal_error_and_its_log_holds_no_value(
    raw: Raw, caplog: pytest.LogCaptureFixture
) -> None:
    value = "s3cr3t-value"

    def broken_clock() -> float:
        raise RuntimeError(value)

    with Cloud(clock=broken_clock) as cloud, cloud.serve() as server:
        cloud.add_credential(SECRET_ID, SECRET_KEY)
        caller = type(raw)(server, raw.clock)
        assert caller.code(caller.signed("ssm", "ListSecrets")) == "InternalError"
        caller.connection.close()
    assert "RuntimeError" in caplog.text
    assert value not in caplog.text
