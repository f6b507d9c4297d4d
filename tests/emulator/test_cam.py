"""Policies, enforced: what a credential is not allowed is refused to the official SDKs, whatever it is."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tencent_emulator.cam import Policy
from tencent_emulator.cloud import Cloud
from tencent_emulator.pytest_plugin import REGION
from tencent_emulator.server import Server

UIN, APPID = "100000000001", "1250000000"
BUCKET = f"bucket-{APPID}"
SECRET = f"qcs::ssm:{REGION}:uin/{UIN}:secret/creatorUin/{UIN}/"
KEY = f"qcs::kms:{REGION}:uin/{UIN}:key/creatorUin/{UIN}/"
OBJECT = f"qcs::cos:{REGION}:uid/{APPID}:{BUCKET}/"
FUNCTION = f"qcs::scf:{REGION}:uin/{UIN}:namespace/default/function/"
TOKEN = "token-of-a-role"


def statement(effect: str, actions: Any, resources: Any) -> dict[str, Any]:
    return {"effect": effect, "action": actions, "resource": resources}


def document(*statements: dict[str, Any]) -> dict[str, Any]:
    return {"version": "2.0", "statement": list(statements)}


class Role:
    """A temporary credential with a policy, used through the official SDKs."""

    def __init__(self, cloud: Cloud, server: Server, *statements: dict[str, Any]) -> None:
        self.server = server
        cloud.add_credential("AKIDROLE", "role-key", TOKEN, document(*statements))

    def api(self, service: str, version: str, action: str, **params: Any) -> str:
        """The error's code, or `ok`."""
        from tencentcloud.common.common_client import CommonClient
        from tencentcloud.common.credential import Credential
        from tencentcloud.common.exception.tencent_cloud_sdk_exception import TencentCloudSDKException
        from tencentcloud.common.profile.client_profile import ClientProfile
        from tencentcloud.common.profile.http_profile import HttpProfile

        profile = ClientProfile(httpProfile=HttpProfile(protocol="http", endpoint=self.server.endpoint))
        client = CommonClient(service, version, Credential("AKIDROLE", "role-key", TOKEN), REGION, profile)
        try:
            client.call_json(action, params)
        except TencentCloudSDKException as error:
            return str(error.get_code())
        finally:
            for part in vars(client.request.conn).values():
                if hasattr(part, "adapters"):
                    part.close()
        return "ok"

    def ssm(self, action: str, **params: Any) -> str:
        return self.api("ssm", "2019-09-23", action, **params)

    def kms(self, action: str, **params: Any) -> str:
        return self.api("kms", "2019-01-18", action, **params)

    def scf(self, action: str, **params: Any) -> str:
        return self.api("scf", "2018-04-16", action, **params)

    def cos(self, method: str, **params: Any) -> str:
        import requests
        from qcloud_cos import CosConfig, CosS3Client, CosServiceError

        config = CosConfig(
            Region=REGION, SecretId="AKIDROLE", SecretKey="role-key", Token=TOKEN, Scheme="http", IP="127.0.0.1",
            Port=self.server.port,
        )  # fmt: skip
        with requests.Session() as session:
            session.trust_env = False
            try:
                answer = getattr(CosS3Client(config, 0, session), method)(Bucket=BUCKET, **params)
                if method == "get_object":
                    answer["Body"].get_raw_stream().read()
            except CosServiceError as error:
                return str(error.get_error_code())
        return "ok"


@pytest.fixture
def cloud(tencent_cloud: Cloud) -> Cloud:
    tencent_cloud.cos.create_bucket(BUCKET)
    for name in ("mine", "mine-too", "other"):
        tencent_cloud.call("ssm", "CreateSecret", SecretName=name, VersionId="v1", SecretString="x")
    tencent_cloud.functions.update(called=lambda event: event, hidden=lambda event: event)
    return tencent_cloud


def value(name: str) -> dict[str, str]:
    return {"SecretName": name, "VersionId": "v1"}


def test_a_secret_is_read_by_its_name_and_no_other_is(cloud: Cloud, tencent_server: Server) -> None:
    role = Role(cloud, tencent_server, statement("allow", "ssm:GetSecretValue", SECRET + "mine"))
    denied = "UnauthorizedOperation"
    assert role.ssm("GetSecretValue", **value("mine")) == "ok"
    for name in ("other", "mine-too", "min", "MINE", "missing"):
        assert role.ssm("GetSecretValue", **value(name)) == denied, name
    assert role.ssm("DescribeSecret", SecretName="mine") == denied
    assert role.ssm("UpdateSecret", **value("mine"), SecretString="y") == denied
    assert role.ssm("ListSecrets") == denied
    assert cloud.calls[-1].code == denied
    assert cloud.call("ssm", "GetSecretValue", **value("mine"))["SecretString"] == "x"


def test_a_deny_wins_and_a_star_ends_a_name(cloud: Cloud, tencent_server: Server) -> None:
    role = Role(
        cloud, tencent_server, statement("deny", ["ssm:GetSecretValue"], [SECRET + "mine-*"]),
        statement("allow", ["ssm:*"], [SECRET + "mine*"]),
    )  # fmt: skip
    assert role.ssm("GetSecretValue", **value("mine")) == "ok"
    assert role.ssm("DescribeSecret", SecretName="mine-too") == "ok"
    assert role.ssm("GetSecretValue", **value("mine-too")) == "UnauthorizedOperation"
    assert role.ssm("ListSecrets") == "UnauthorizedOperation", "it cannot be limited to a resource"


def test_an_action_without_resources_needs_the_star(cloud: Cloud, tencent_server: Server) -> None:
    role = Role(cloud, tencent_server, statement("allow", "ssm:ListSecrets", "*"))
    assert role.ssm("ListSecrets") == "ok"
    assert role.ssm("GetServiceStatus") == "UnauthorizedOperation"


def test_a_ciphertext_opens_only_for_who_may_use_its_key(cloud: Cloud, tencent_server: Server) -> None:
    mine, other = (cloud.call("kms", "CreateKey", Alias=alias)["KeyId"] for alias in ("mine", "other"))
    blobs = [
        cloud.call("kms", "GenerateDataKey", KeyId=key, KeySpec="AES_256")["CiphertextBlob"] for key in (mine, other)
    ]
    role = Role(cloud, tencent_server, statement("allow", ["kms:Decrypt", "kms:ReEncrypt"], KEY + mine))
    assert role.kms("Decrypt", CiphertextBlob=blobs[0]) == "ok"
    assert role.kms("Decrypt", CiphertextBlob=blobs[1]) == "UnauthorizedOperation"
    assert role.kms("Decrypt", CiphertextBlob="no-k-cipher-k-text") == "UnauthorizedOperation"
    assert role.kms("GenerateDataKey", KeyId=mine, KeySpec="AES_256") == "UnauthorizedOperation"
    assert role.kms("ReEncrypt", CiphertextBlob=blobs[0]) == "ok"
    # Both keys must be allowed: neither a foreign ciphertext comes in, nor one of ours under a foreign key.
    assert role.kms("ReEncrypt", CiphertextBlob=blobs[1], DestinationKeyId=mine) == "UnauthorizedOperation"
    assert role.kms("ReEncrypt", CiphertextBlob=blobs[0], DestinationKeyId=other) == "UnauthorizedOperation"


def test_objects_are_limited_to_a_folder(cloud: Cloud, tencent_server: Server) -> None:
    cloud.cos.put_object(BUCKET, "folder/a", b"x")
    cloud.cos.put_object(BUCKET, "secret/a", b"x")
    role = Role(cloud, tencent_server, statement("allow", "name/cos:GetObject", OBJECT + "folder/*"))
    assert role.cos("get_object", Key="folder/a") == "ok"
    assert role.cos("get_object", Key="folder/none") == "NoSuchKey"
    for key in ("secret/a", "folder", "secret/../folder/a"):
        assert role.cos("get_object", Key=key) == "AccessDenied", key
    assert role.cos("put_object", Key="folder/a", Body=b"y") == "AccessDenied"
    assert role.cos("delete_object", Key="folder/a") == "AccessDenied"
    assert role.cos("list_objects") == "AccessDenied"
    assert cloud.cos.get_object(BUCKET, "folder/a") == b"x"


def test_a_function_is_called_only_by_who_may(cloud: Cloud, tencent_server: Server) -> None:
    role = Role(cloud, tencent_server, statement("allow", ["scf:Invoke"], [FUNCTION + "called"]))
    assert role.scf("Invoke", FunctionName="called") == "ok"
    assert role.scf("Invoke", FunctionName="called", Namespace="default") == "ok"
    assert role.scf("Invoke", FunctionName="called", Namespace="elsewhere") == "UnauthorizedOperation"
    assert role.scf("Invoke", FunctionName="hidden") == "UnauthorizedOperation"
    assert role.scf("InvokeFunction", FunctionName="called") == "UnauthorizedOperation"


def test_without_a_policy_a_credential_is_the_root_account(
    cloud: Cloud, tencent_server: Server, ssm_client: Any
) -> None:
    answer = json.loads(json.dumps(ssm_client.call_json("ListSecrets", {})))
    assert answer["Response"]["TotalCount"] == 3


@pytest.mark.parametrize(
    "bad",
    [
        {}, {"version": "2.0"}, {"version": "2.0", "statement": []},
        {"version": "3.0", "statement": [statement("allow", "ssm:*", "*")]},
        document(statement("Allow", "ssm:*", "*")), document(statement("allow", [], "*")),
        document(statement("allow", "ssm:*", "secret/x")), document(statement("allow", "ssm:*", [1])),
        document({**statement("allow", "ssm:*", "*"), "condition": {}}), document({"effect": "allow", "action": "a"}),
    ],
)  # fmt: skip
def test_a_policy_that_is_not_understood_whole_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"policy|statement|resource"):
        Policy(bad)
