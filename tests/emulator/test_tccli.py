"""The official command line as a client: whole life cycles, with the endpoint form its users type."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

Run = Callable[..., dict[str, Any]]


def test_the_life_of_a_secret(tccli: Run) -> None:
    assert tccli("ssm", "CreateSecret", SecretName="a", VersionId="v1", SecretString="first")["VersionId"] == "v1"
    tccli("ssm", "PutSecretValue", SecretName="a", VersionId="v2", SecretString="凭据 2")
    assert tccli("ssm", "GetSecretValue", SecretName="a", VersionId="v2")["SecretString"] == "凭据 2"
    versions = tccli("ssm", "ListSecretVersionIds", SecretName="a")["Versions"]
    assert [row["VersionId"] for row in versions] == ["v2", "v1"]
    assert tccli("ssm", "DeleteSecret", SecretName="a") == {"code": "FailedOperation"}
    tccli("ssm", "DisableSecret", SecretName="a")
    refusal = tccli("ssm", "GetSecretValue", SecretName="a", VersionId="v1")
    assert refusal == {"code": "ResourceUnavailable.ResourceDisabled"}
    assert tccli("ssm", "ListSecrets", State="2")["TotalCount"] == 1
    tccli("ssm", "DeleteSecret", SecretName="a", RecoveryWindowInDays="0")
    assert tccli("ssm", "DescribeSecret", SecretName="a") == {"code": "ResourceNotFound"}


def test_the_life_of_a_key(tccli: Run) -> None:
    key_id = tccli("kms", "CreateKey", Alias="ck")["KeyId"]
    plain = base64.b64encode(b"attack at dawn").decode()
    context = '{"app":"ck"}'
    sealed = tccli("kms", "Encrypt", KeyId=key_id, Plaintext=plain, EncryptionContext=context)["CiphertextBlob"]
    assert tccli("kms", "Decrypt", CiphertextBlob=sealed, EncryptionContext=context)["Plaintext"] == plain
    wrong = tccli("kms", "Decrypt", CiphertextBlob=sealed)
    assert wrong == {"code": "InvalidParameterValue.InvalidCiphertext"}
    tccli("kms", "DisableKey", KeyId=key_id)
    refusal = tccli("kms", "GenerateDataKey", KeyId=key_id, KeySpec="AES_256")
    assert refusal == {"code": "ResourceUnavailable.CmkDisabled"}
    tccli("kms", "ScheduleKeyDeletion", KeyId=key_id, PendingWindowInDays="7")
    assert tccli("kms", "DescribeKey", KeyId=key_id)["KeyMetadata"]["KeyState"] == "PendingDelete"
    tccli("kms", "CancelKeyDeletion", KeyId=key_id)
    tccli("kms", "EnableKey", KeyId=key_id)
    assert tccli("kms", "ListKeys")["TotalCount"] == 1
