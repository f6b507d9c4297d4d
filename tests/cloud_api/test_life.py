"""A key's whole life by the official SDK's own classes, in both services, and what the gateway says meanwhile."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from tencentcloud.common.exception.tencent_cloud_sdk_exception import TencentCloudSDKException

from tests.cloud_api.clients import Vendor
from tests.e2e.conftest import Local


def verdict(local: Local, gateway_id: str, value: str) -> str:
    return str(local("POST", f"/v1/gateways/{gateway_id}/verify", {"key": value}).body["code"])


def test_a_consumer_key_lives_its_whole_life_by_the_sdks_classes(local: Local, vendor: Vendor) -> None:
    """As at the vendor's: cngw edits and binds, tse enables and disables, both on one state."""
    me = vendor._replace(gateway_id="life-mixed")
    new = {"SecretType": "ApiKey", "ResourceType": "Consumer"}
    made = me.typed("cngw", "CreateSecretKey", Name="测试系统密钥", GenerateType="System", Description="密钥", **new)
    assert made.Result.Success is True
    key = {"SecretKeyId": made.Result.ID}
    assert re.fullmatch("secret-[0-9a-f]{14}", made.Result.ID)
    value = me.typed("tse", "DescribeSecretKeyValue", **key).Result
    assert verdict(local, me.gateway_id, value) == "KeyUnbound"
    app = {"ConsumerId": me.typed("tse", "CreateConsumer", Name="消费者", Description="消费者描述").Result.ID}
    bind = {"ResourceType": "Consumer", "ResourceIds": [app["ConsumerId"]], **key}
    assert me.typed("cngw", "BindSecretKey", **bind).Result is True
    group = {"ConsumerGroupId": me.typed("cngw", "CreateConsumerGroup", Name="分组", Status="Enable").Result.ID}
    assert me.typed("tse", "AddConsumerInGroup", ConsumerIds=[app["ConsumerId"]], **group).Result is True
    allowed = local("GET", "/v1/gateways/life-mixed/validate", token=value)
    assert (allowed.status, allowed.headers["X-Consumer-Groups"]) == (200, "%E5%88%86%E7%BB%84")
    me.typed("tse", "ModifyConsumerGroup", Name="分组二", Status="Disable", **group)
    assert verdict(local, me.gateway_id, value) == "GroupDisabled"
    me.typed("cngw", "ModifyConsumerGroup", Name="分组二", Status="Enable", Description="分组描述", **group)
    shown = me.typed("cngw", "DescribeConsumer", **app).Result
    assert [(each.Name, each.Description, each.Status) for each in shown.ConsumerGroups] == [
        ("分组二", "分组描述", "Enable")
    ]
    me.typed("cngw", "ModifySecretKey", Name="密钥11", Description="秘钥描述", **key)
    me.typed("tse", "ModifySecretKeyStatus", Status="Disable", **key)
    assert verdict(local, me.gateway_id, value) == "KeyDisabled"
    seen = me.typed("cngw", "DescribeSecretKey", **key).Result
    assert (seen.Name, seen.Description, seen.Status, seen.BindCount) == ("密钥11", "秘钥描述", "Disable", 1)
    assert seen.SecretValue == f"{value[:3]}****{value[-3:]}"
    assert (seen.CreationSource, seen.CredentialGenerateType, seen.BatchId) == (None, None, None)
    assert me.code("cngw", "DeleteSecretKey", **key) == "OperationDenied.OperationDenied"
    assert me.code("tse", "DeleteConsumer", **app) == "OperationDenied.OperationDenied"
    assert me.code("tse", "DeleteConsumerGroup", **group) == "OperationDenied.OperationDenied"
    me.typed("cngw", "UnbindSecretKey", **bind)
    me.typed("cngw", "RemoveConsumerInGroup", ConsumerIds=[app["ConsumerId"]], **group)
    for service, action, of in (
        ("cngw", "DeleteSecretKey", key), ("cngw", "DeleteConsumer", app), ("cngw", "DeleteConsumerGroup", group),
    ):  # fmt: skip
        me.typed(service, action, **of)
        assert me.code(service, action, **of) == "ResourceNotFound.ResourceNotFound"
    assert me.typed("tse", "DescribeConsumerGroupList", Limit=20, Offset=0).Result.TotalCount == 0


@pytest.mark.parametrize("service", ["cngw", "tse"])
def test_each_service_alone_serves_the_whole_life_through_common_client(
    service: str, local: Local, vendor: Vendor
) -> None:
    me = vendor._replace(gateway_id=f"life-{service}")
    new = {"SecretType": "ApiKey", "ResourceType": "Consumer"}
    custom = "sk-kT7vQ2xM9pLr4WzB"
    made = me.common(service, "CreateSecretKey", Name="自定义", GenerateType="Custom", SecretValue=custom, **new)
    key = {"SecretKeyId": made["Result"]["ID"]}
    app = me.common(service, "CreateConsumer", Name="应用", SecretKeyId=key["SecretKeyId"])["Result"]["ID"]
    assert verdict(local, me.gateway_id, custom) == "Valid"
    assert me.common(service, "DescribeSecretKeyValue", **key)["Result"] == custom
    bind = {"ResourceType": "Consumer", "ResourceIds": [app], **key}
    assert set(me.common(service, "UnbindSecretKey", **bind)) == {"RequestId"}
    assert set(me.common(service, "ModifySecretKey", Name="自定义二", **key)) == {"RequestId"}
    assert me.common(service, "BindSecretKey", **bind)["Result"] is True
    assert me.common(service, "BindSecretKey", **bind)["Result"] is True
    me.common(service, "ModifySecretKeyStatus", Status="Disable", **key)
    assert verdict(local, me.gateway_id, custom) == "KeyDisabled"
    found = me.common(service, "DescribeSecretKeyList", Limit=10, Offset=0, ResourceId=app)["Result"]
    assert [each["Name"] for each in found["SecretKeys"]] == ["自定义二"]
    me.common(service, "UnbindSecretKey", **bind)
    me.common(service, "DeleteSecretKey", **key)
    me.common(service, "DeleteConsumer", ConsumerId=app)
    assert me.common(service, "DescribeConsumerList", Limit=10, Offset=0)["Result"]["TotalCount"] == 0


@pytest.mark.parametrize("service", ["cngw", "tse"])
def test_a_consumer_is_made_together_with_its_key(service: str, local: Local, vendor: Vendor) -> None:
    me = vendor._replace(gateway_id=f"life-{service}")
    auto = {"Name": "auto-密钥", "Description": "自动"}
    app = me.typed(service, "CreateConsumer", Name="自动", SecretBindType="AutoGenerate", AutoSecretKey=auto).Result.ID
    found = me.typed(
        service, "DescribeSecretKeyList", Limit=20, Offset=0, ResourceType="Consumer", ResourceId=app,
        IncludeCreationInfo=True,
    ).Result  # fmt: skip
    (key,) = found.SecretKeys
    assert (key.Name, key.Description, key.GenerateType) == ("auto-密钥", "自动", "AutoWithConsumer")
    assert (key.CredentialGenerateType, key.CreationSource, key.BatchId) == ("System", "AutoWithConsumer", "")
    value = me.typed(service, "DescribeSecretKeyValue", SecretKeyId=key.SecretKeyId).Result
    assert verdict(local, me.gateway_id, value) == "Valid"
    # Both or none: the name of the key is taken now.
    again = {"Name": "自动二", "SecretBindType": "AutoGenerate", "AutoSecretKey": auto}
    assert me.code(service, "CreateConsumer", **again) == "InvalidParameterValue.ResourceAlreadyExist"
    listed = me.typed("tse", "DescribeConsumerList", Limit=20, Offset=0).Result.Consumers
    assert "自动二" not in [each.Name for each in listed]


def test_keys_are_moved_over_as_the_document_says(
    local: Local, vendor: Vendor, capsys: pytest.CaptureFixture[str]
) -> None:
    """The document's own code, from one gateway to another, in pages of two; callers keep their keys."""
    text = (Path(__file__).parents[2] / "docs" / "coming-from-tencent.md").read_text(encoding="utf-8")
    code = re.findall(r"```python\n(.*?)```", text, re.DOTALL)[-1].partition("\n")[2]
    there, here = vendor._replace(gateway_id="move-from"), vendor._replace(gateway_id="move-to")
    given = {
        "one": "ak-Wm4Kd8sQz7Tn2Rb5",
        "密钥二": "sk-kT7vQ2xM9pLr4WzB",
        "off": "ak-Wm4Kd8sQz7Tn2Rb6",
        "weak": "ak-9fK2xQ7mZt4",
    }
    ids = {}
    for name, value in given.items():
        custom = {"GenerateType": "Custom", "SecretValue": value}
        ids[name] = there.common(
            "cngw", "CreateSecretKey", Name=name, SecretType="ApiKey", ResourceType="Consumer", **custom
        )["Result"]["ID"]  # fmt: skip
    there.typed("tse", "ModifySecretKeyStatus", SecretKeyId=ids["off"], Status="Disable")

    def old(action: str, **fields: Any) -> Any:
        answer = there.common("cngw", action, **fields)
        # The vendor takes weaker values than we do.
        weak = action.endswith("SecretKeyValue") and fields["SecretKeyId"] == ids["weak"]
        return {**answer, "Result": "sk-xxxxxxxx"} if weak else answer

    def new(action: str, **fields: Any) -> Any:
        return here.common("cngw", action, **fields)

    code = code.replace("Limit=100", "Limit=2").replace("offset + 100", "offset + 2")
    names: dict[str, Any] = {"old": old, "new": new, "TencentCloudSDKException": TencentCloudSDKException}
    exec(code, names)  # the document is ours
    assert list(names["failed"]) == ["weak"]
    assert "3 of 4 keys are moved; {'weak': 'InvalidParameterValue" in capsys.readouterr().out
    there.typed("tse", "ModifySecretKeyStatus", SecretKeyId=ids["weak"], Status="Disable")
    there.common("cngw", "DeleteSecretKey", SecretKeyId=ids["weak"])
    clients = {"old": there, "new": here}
    listed = [me.common("cngw", "DescribeSecretKeyList", Limit=10, Offset=0)["Result"] for me in clients.values()]
    assert [page["TotalCount"] for page in listed] == [3, 3]
    statuses = [{key["Name"]: key["Status"] for key in page["SecretKeys"]} for page in listed]
    assert statuses == [{"one": "Enable", "密钥二": "Enable", "off": "Disable"}] * 2
    values = [
        {
            key["Name"]: me.common("cngw", "DescribeSecretKeyValue", SecretKeyId=key["SecretKeyId"])["Result"]
            for key in page["SecretKeys"]
        }
        for me, page in zip(clients.values(), listed, strict=True)
    ]
    assert values[0] == values[1]
    verdicts = {name: verdict(local, "move-to", value) for name, value in values[0].items()}
    assert verdicts == {"one": "KeyUnbound", "密钥二": "KeyUnbound", "off": "KeyDisabled"}
