"""The envelope and the codes: what the vendor's clients can rely on when something is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from tencentcloud.cngw.v20230418 import errorcodes

from ckeys.deployment import Deployment
from consumer_keys import tc3
from consumer_keys.cloud_api.actions import ACTIONS
from consumer_keys.cloud_api.errors import FROM_OURS, FROM_SIGNATURE
from consumer_keys.errors import CODES
from tencent_emulator.pytest_plugin import TestClock
from tests.cloud_api.clients import CLIENTS, VERSIONS, full
from tests.conftest import Api
from tests.functions.helpers import as_operator, nothing_changes, sql
from tests.tc3_signer import signed_event

UUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
NEW = {"Name": "密钥", "SecretType": "ApiKey", "ResourceType": "Consumer", "GenerateType": "System"}
PAGE = {"Limit": 100, "Offset": 0}
# Codes of the platform (documents 1826/133170 and 1364/54623), which the SDKs' lists of a service's own codes lack.
PLATFORM = {
    "AuthFailure.InvalidAuthorization", "AuthFailure.SecretIdNotFound", "AuthFailure.SignatureExpire",
    "AuthFailure.SignatureFailure", "AuthFailure.TokenFailure", "AuthFailure.UnauthorizedOperation", "InvalidAction",
    "NoSuchVersion", "RequestSizeLimitExceeded", "UnsupportedProtocol", "UnknownParameter", "RequestLimitExceeded",
}  # fmt: skip


class Cloud:
    """Signed requests straight to the function; every one is another second, so that no two have one signature."""

    def __init__(self, api: Api, pair: tuple[str, str] | None = None) -> None:
        self.api, self.pair = api, pair or api.deployment.operator
        self.at = self.now() - 200

    def now(self) -> float:
        return self.api.deployment.services.now_ms() / 1000

    def event(self, api_service: str, action: str, fields: Any, **more: Any) -> dict[str, Any]:
        self.at += 1
        name = action if action in ("", "x") else full(action)
        headers = {"x-tc-action": name, "x-tc-version": VERSIONS[api_service], "x-tc-region": "ap-guangzhou"}
        options = {"service": api_service, "at": self.at, **headers, **more}
        return signed_event(self.pair, "POST", "/", fields, **options)

    def send(self, event: dict[str, Any]) -> dict[str, Any]:
        """The content of `Response`, in the one form that the clients understand."""
        answer = self.api.deployment.call("cloud_api", event)
        assert (answer["statusCode"], answer["headers"]["Content-Type"]) == (200, "application/json")
        body = json.loads(answer["body"])
        assert body.keys() == {"Response"}
        content: dict[str, Any] = body["Response"]
        assert re.fullmatch(UUID, content["RequestId"])
        assert content.keys() in ({"RequestId"}, {"RequestId", "Result"}, {"RequestId", "Error"})
        return content

    def __call__(self, action: str, service: Any = "cngw", **fields: Any) -> Any:
        """The result of a call that succeeds."""
        content = self.send(self.event(service, action, {"GatewayId": "default", **fields}))
        assert "Error" not in content, content
        return content.get("Result")

    def refused(self, action: str, service: Any = "cngw", **fields: Any) -> tuple[str, str]:
        """Code and message of a call that is refused and changes nothing."""
        with nothing_changes(self.api.deployment):
            return self.error(self.event(service, action, {"GatewayId": "default", **fields}))

    def error(self, event: dict[str, Any]) -> tuple[str, str]:
        error = self.send(event)["Error"]
        assert error.keys() == {"Code", "Message"}
        assert error["Message"]
        return error["Code"], error["Message"]

    def key(self, **fields: Any) -> str:
        return str(self("CreateSecretKey", **{**NEW, **fields})["ID"])


@pytest.fixture
def cloud(api: Api) -> Cloud:
    return Cloud(api)


# The table


def test_every_code_of_ours_and_every_reason_of_a_signature_has_a_code_that_the_vendors_sdk_knows() -> None:
    assert FROM_OURS.keys() == CODES.keys()
    assert FROM_SIGNATURE.keys() == tc3.REASONS.keys()
    known = {value for name, value in vars(errorcodes).items() if name.isupper()}
    given = {*FROM_OURS.values(), *FROM_SIGNATURE.values()}
    assert given <= known | PLATFORM


@pytest.mark.parametrize("service", CLIENTS)
def test_every_declared_field_of_every_action_is_known_here_or_out_of_scope(service: str) -> None:
    """The declarations are those of the official SDK; a new one there fails here."""
    models = CLIENTS[service][1]
    checked = 0
    for action, served in ACTIONS.items():
        declared = getattr(models, full(action) + "Request", None)
        if declared is None:
            continue
        fields = {name.removeprefix("_") for name in vars(declared()) if name != "_headers"}
        undeclared = {"SecretKeyId"} if action == "CreateConsumer" else set()
        here = set(served.request.model_fields) | served.request.OUT_OF_SCOPE
        assert fields == here - undeclared, action
        checked += 1
    assert checked == 20


def test_every_action_belongs_to_functions_that_have_roles(deployment: Deployment) -> None:
    names = {function.name for function in deployment.template.functions}
    assert {function for action in ACTIONS.values() for function in action.functions} <= names


# Authentication


def test_each_way_of_not_being_authenticated_has_its_own_code(cloud: Cloud, api: Api) -> None:
    fields = {"GatewayId": "default", **PAGE}

    def code(**more: Any) -> str:
        return cloud.error(cloud.event("cngw", "DescribeSecretKeyList", fields, **more))[0]

    def with_authorization(text: str | None) -> str:
        event = cloud.event("cngw", "DescribeSecretKeyList", fields)
        event["headers"].pop("authorization")
        event["headers"] |= {} if text is None else {"authorization": text}
        return cloud.error(event)[0]

    with nothing_changes(api.deployment):
        for text in (None, "SKIP", "", f"Bearer {api.token}", "TC3-HMAC-SHA256 Credential=x", "Basic eDp5"):
            assert with_authorization(text) == "AuthFailure.InvalidAuthorization", text
        assert Cloud(api, ("operator-00000000000000", api.token)).refused("DescribeSecretKeyList", **PAGE)[0] == (
            "AuthFailure.SecretIdNotFound"
        )
        assert Cloud(api, (cloud.pair[0], "wrong")).refused("DescribeSecretKeyList", **PAGE)[0] == (
            "AuthFailure.SignatureFailure"
        )
        changed = cloud.event("cngw", "DescribeSecretKeyList", fields)
        changed["body"] = changed["body"].replace("100", "10")
        assert cloud.error(changed)[0] == "AuthFailure.SignatureFailure"
        assert code(at=cloud.now() - 301) == "AuthFailure.SignatureExpire"
        assert code(at=cloud.now() + 310) == "AuthFailure.SignatureExpire"
        assert code(x_tc_token="token") == "AuthFailure.TokenFailure"
        assert code(service="ssm") == "AuthFailure.InvalidAuthorization"
        assert code(service="tse") == "NoSuchVersion"
        assert cloud.error(cloud.event("cngw", "x", fields))[0] == "InvalidAction"
        unversioned = cloud.event("cngw", "DescribeSecretKeyList", fields)
        del unversioned["headers"]["x-tc-version"]
        assert cloud.error(unversioned)[0] == "MissingParameter"
        unknown = cloud.event("cngw", "DescribeSecretKeyList", fields)
        unknown["headers"]["x-tc-version"] = "2017-03-12"
        assert cloud.error(unknown)[0] == "NoSuchVersion"


def test_a_captured_request_changes_nothing_later_under_any_action(clock: TestClock, cloud: Cloud) -> None:
    """The clients do not sign the action, so a signature that was used for one change must not serve another."""
    key = cloud.key()
    event = cloud.event(
        "tse", "ModifySecretKeyStatus", {"GatewayId": "default", "SecretKeyId": key, "Status": "Disable"}
    )
    cloud.send(event)
    cloud("ModifySecretKeyStatus", "tse", SecretKeyId=key, Status="Enable")
    clock.shift(3)
    with nothing_changes(cloud.api.deployment):
        assert cloud.error(event)[0] == "AuthFailure.SignatureExpire"


@pytest.mark.parametrize("role", ["revealer", "admin"])
def test_who_may_reveal_is_shown_the_value(api: Api, role: str) -> None:
    them = Cloud(api, api.deployment.add_operator(f"cloud-{role}", role))
    assert them("DescribeSecretKeyValue", SecretKeyId=Cloud(api).key()).startswith("ck_")


def test_no_value_leaves_where_the_deployment_returns_none_in_clear(make_deployment: Callable[..., Deployment]) -> None:
    deployment = make_deployment(CLEAR_VALUES="false")
    cloud = Cloud(Api(deployment, deployment.operator[1]))
    code, message = cloud.refused("DescribeSecretKeyValue", SecretKeyId=cloud.key())
    assert (code, "reveal_to" in message or "reveal_key" in message) == ("UnsupportedOperation", True)


def test_a_value_that_a_known_operator_is_refused_is_recorded(api: Api) -> None:
    admin = Cloud(api)
    key, unknown = admin.key(), "secret-00000000000000"
    viewer = Cloud(api, api.deployment.add_operator("cloud-viewer", "viewer"))
    for them, fields, target, code in (
        (viewer, {"SecretKeyId": key}, key, "Forbidden"), (admin, {"SecretKeyId": unknown}, unknown, "KeyNotFound"),
        (viewer, {"SecretKeyId": ["a value"], "GatewayId": 5}, "", "Forbidden"),
    ):  # fmt: skip
        them.refused("DescribeSecretKeyValue", **fields)
        [row] = sql(api.deployment, "SELECT * FROM audit ORDER BY sequence DESC LIMIT 1")
        assert (row["action"], row["target"], row["actor"]) == ("key.reveal_denied", target, them.pair[0])
        assert json.loads(row["after"]) == {"code": code}


def test_another_gateways_operator_and_undeclared_gateways_get_no_instance(
    make_deployment: Callable[..., Deployment],
) -> None:
    deployment = make_deployment(GATEWAYS="default,other")
    api = Api(deployment, deployment.operator[1])
    outsider = Cloud(api, deployment.add_operator("outsider", "admin", ("other",)))
    for cloud, gateway_id in ((outsider, "default"), (Cloud(api), "nowhere")):
        code = cloud.refused("DescribeSecretKeyList", GatewayId=gateway_id, **PAGE)[0]
        assert code == "ResourceNotFound.InstanceNotFound"
    assert outsider("DescribeSecretKeyList", GatewayId="other", **PAGE)["TotalCount"] == 0


# Requests


@pytest.mark.parametrize("name", ACTIONS)
def test_what_is_missing_unknown_or_of_the_wrong_type_is_named(cloud: Cloud, name: str) -> None:
    model = ACTIONS[name].request
    required = [field for field, info in model.model_fields.items() if info.is_required()]
    code, message = cloud.refused(name, **dict.fromkeys(required))  # null is absent
    assert code == "MissingParameter"
    assert all(field in message for field in required if field != "GatewayId")
    assert cloud.refused(name, Colour="blue") == ("UnknownParameter", "The parameter Colour is not recognized.")
    for field in model.OUT_OF_SCOPE:
        assert cloud.refused(name, **{field: "x"}) == (
            "UnsupportedOperation", f"The parameter {field} is not supported here.",
        )  # fmt: skip
    wrong = {field: {"not": "that"} for field in required}
    assert cloud.refused(name, **wrong)[0] == "InvalidParameterValue.BadRequestFormat"


@pytest.mark.parametrize("body", ["[]", "nonsense", '{"GatewayId": NaN}', "null", "7"])
def test_a_body_that_is_no_json_object_is_bad_format(cloud: Cloud, body: str) -> None:
    code = cloud.error(cloud.event("cngw", "DescribeSecretKeyList", body))[0]
    assert code == "InvalidParameterValue.BadRequestFormat"


BAD = "InvalidParameterValue.InvalidParameterValue"


@pytest.mark.parametrize(
    ("action", "fields", "code", "named"),
    [
        ("CreateSecretKey", {**NEW, "Name": "x"}, BAD, "Name"),
        ("CreateSecretKey", {**NEW, "Name": "1st"}, BAD, "Name"),
        ("CreateSecretKey", {**NEW, "Description": "d" * 201}, BAD, "Description"),
        ("CreateSecretKey", {**NEW, "GenerateType": "AutoWithConsumer"}, BAD, "GenerateType"),
        ("CreateSecretKey", {**NEW, "SecretType": "JWT"}, "UnsupportedOperation", "SecretType"),
        ("CreateSecretKey", {**NEW, "SecretType": "Nonsense"}, BAD, "SecretType"),
        ("CreateSecretKey", {**NEW, "ResourceType": "ModelService"}, "UnsupportedOperation", "ResourceType"),
        ("CreateSecretKey", {**NEW, "GenerateType": "Custom"}, "MissingParameter", "SecretValue"),
        ("CreateSecretKey", {**NEW, "GenerateType": "Custom", "SecretValue": "short"}, BAD, "SecretValue"),
        ("CreateSecretKey", {**NEW, "GenerateType": "Custom", "SecretValue": "aaaaaaaaaaaa"}, BAD, "SecretValue"),
        ("CreateSecretKey", {**NEW, "SecretValue": "kT7vQ2xM9pLr4WzB"}, BAD, "SecretValue"),
        ("CreateSecretKey", {**NEW, "GenerateType": "KMS", "KmsKeyName": "a"}, "MissingParameter", "KmsKeyVersion"),
        ("CreateSecretKey", {**NEW, "KmsKeyName": "a", "KmsKeyVersion": "v1"}, BAD, "KmsKeyName"),
        ("CreateSecretKey", {**NEW, "GenerateType": "KMS", "KmsKeyName": "none", "KmsKeyVersion": "v1"},
         "ResourceNotFound.ResourceNotFound", "KmsKeyName"),
        ("DescribeSecretKey", {"SecretKeyId": "secret-00000000000000"}, "ResourceNotFound.ResourceNotFound", ""),
        ("DescribeSecretKey", {"SecretKeyId": "秘"}, BAD, "SecretKeyId"),
        ("DescribeConsumer", {"ConsumerId": "consumer-00000000000000"}, "ResourceNotFound.ResourceNotFound", ""),
        ("DescribeConsumerGroup", {"ConsumerGroupId": "cg-0"}, "ResourceNotFound.ResourceNotFound", ""),
        ("DescribeSecretKeyList", {"Limit": 0, "Offset": 0}, BAD, "Limit"),
        ("DescribeSecretKeyList", {"Limit": 101, "Offset": 0}, BAD, "Limit"),
        ("DescribeSecretKeyList", {"Limit": 1, "Offset": -1}, BAD, "Offset"),
        ("DescribeSecretKeyList", {**PAGE, "Filters": [{"Name": "Colour", "Values": ["x"]}]}, BAD, "Filters.0.Name"),
        ("DescribeSecretKeyList", {**PAGE, "Filters": [{"Name": "Status", "Values": ["Enabled"]}]}, BAD, "Status"),
        ("DescribeSecretKeyList", {**PAGE, "Filters": [{"Name": "Status", "Values": []}]}, BAD, "Filters.0.Values"),
        ("DescribeSecretKeyList", {**PAGE, "Filters": [{"Name": "SecretType", "Values": ["JWT"]}]},
         "UnsupportedOperation", "SecretType"),
        ("DescribeSecretKeyList", {**PAGE, "Filters": [{"Name": "Status", "Values": ["Enable"], "Op": "x"}]},
         "UnknownParameter", "Filters.0.Op"),
        ("DescribeSecretKeyList", {**PAGE, "UseToBind": True}, "MissingParameter", "ResourceType"),
        ("DescribeSecretKeyList", {**PAGE, "ResourceType": "LLM"}, "UnsupportedOperation", "ResourceType"),
        ("CreateConsumer", {"Name": "x" * 61}, BAD, "Name"),
        ("CreateConsumer", {"Name": "app", "Priority": "High"}, "UnsupportedOperation", "Priority"),
        ("CreateConsumer", {"Name": "app", "OperationSource": "CustomOrganization"}, "UnsupportedOperation",
         "OperationSource"),
        ("CreateConsumer", {"Name": "app", "SecretBindType": "AutoGenerate"},
         "InvalidParameterValue.CreateError", "AutoSecretKey"),
        ("CreateConsumer", {"Name": "app", "AutoSecretKey": {"Name": "key"}},
         "InvalidParameterValue.CreateError", "AutoSecretKey"),
        ("CreateConsumer", {"Name": "app", "SecretBindType": "AutoGenerate", "AutoSecretKey": {"Name": "key-share"}},
         BAD, "AutoSecretKey.Name"),
        ("CreateConsumer", {"Name": "app", "SecretBindType": "AutoGenerate", "AutoSecretKey": {"Name": "k"}},
         BAD, "AutoSecretKey"),
        ("CreateConsumer", {"Name": "app", "SecretBindType": "Existing"}, "MissingParameter", "SecretKeyId"),
        ("CreateConsumer", {"Name": "app", "SecretBindType": "None", "SecretKeyId": "secret-0"}, BAD, "SecretKeyId"),
        ("CreateConsumer", {"Name": "app", "SecretKeyId": "secret-0"}, "ResourceNotFound.ResourceNotFound", ""),
        ("CreateConsumerGroup", {"Name": "team", "Status": "Active"}, BAD, "Status"),
        ("AddConsumerInGroup", {"ConsumerGroupId": "cg-0", "ConsumerIds": []}, BAD, "ConsumerIds"),
        ("AddConsumerInGroup", {"ConsumerGroupId": "cg-0", "ConsumerIds": ["a"] * 11}, BAD, "ConsumerIds"),
        ("AddConsumerGroupAuth", {"ResourceType": "Consumer", "ResourceId": "a", "ConsumerGroupIds": ["cg-0"]}, BAD,
         "ResourceType"),
        ("BindSecretKey", {"SecretKeyId": "secret-0", "ResourceType": "Consumer", "ResourceIds": ["a", "b"]}, BAD,
         "ResourceIds"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_by_field_with_the_vendors_code(
    cloud: Cloud, action: str, fields: dict[str, Any], code: str, named: str
) -> None:
    found, message = cloud.refused(action, **fields)
    assert found == code
    assert named in message
    assert "aaaaaaaa" not in message


# Semantics


def test_lists_filter_by_every_name_and_page(cloud: Cloud, api: Api) -> None:
    api.put_credential("cred", "kT7vQ2xM9pLr4WzB")
    app = cloud("CreateConsumer", Name="app", SecretBindType="AutoGenerate", AutoSecretKey={"Name": "auto"})["ID"]
    cloud.key(Name="system")
    cloud.key(Name="Custom-1", GenerateType="Custom", SecretValue="kT7vQ2xM9pLr4WzBx")
    off = cloud.key(Name="kms", GenerateType="KMS", KmsKeyName="cred", KmsKeyVersion="v1")
    cloud("ModifySecretKeyStatus", "tse", SecretKeyId=off, Status="Disable")

    def found(service: str = "cngw", *, limit: int = 100, offset: int = 0, **more: Any) -> list[str]:
        filters = [{"Name": name, "Values": values} for name, values in more.pop("filters", [])]
        result = cloud("DescribeSecretKeyList", service, Limit=limit, Offset=offset, Filters=filters, **more)
        assert result["TotalCount"] >= len(result["SecretKeys"])
        return [each["Name"] for each in result["SecretKeys"]]

    assert found() == ["kms", "Custom-1", "system", "auto"]
    assert found(filters=[("Status", ["Disable"])]) == ["kms"]
    assert found(filters=[("Status", ["Enable", "Disable"]), ("GenerateType", ["KMS", "Custom"])]) == [
        "kms",
        "Custom-1",
    ]
    assert found(filters=[("GenerateType", ["System"])]) == ["system"]
    assert found(filters=[("GenerateType", ["AutoWithConsumer"])]) == ["auto"]
    assert found(filters=[("CredentialGenerateType", ["System"])]) == ["system", "auto"]
    assert found(filters=[("CreationSource", ["AutoWithConsumer", "Batch"])]) == ["auto"]
    assert found(filters=[("CreationSource", ["Batch"])]) == []
    assert found(filters=[("Status", ["Enable"]), ("Status", ["Disable"])]) == []
    assert found(filters=[("SecretType", ["ApiKey"])], limit=2, offset=1) == ["Custom-1", "system"]
    assert found(Keyword="CUST") == ["Custom-1"]
    assert found(ResourceType="Consumer", ResourceId=app) == ["auto"]
    free = {"ResourceType": "Consumer", "ResourceId": app, "UseToBind": True}
    assert found(**free) == ["kms", "Custom-1", "system"]
    assert found("tse", **free) == ["kms", "Custom-1", "system", "auto"]
    shown = cloud("DescribeSecretKeyList", "tse", **PAGE, **free)["SecretKeys"]
    assert [each["CanBind"] for each in shown] == [True, True, True, False]
    assert [each["BindCount"] for each in shown] == [0, 0, 0, 1]
    assert [(each["KmsKeyName"], each["KmsKeyVersion"]) for each in shown[:2]] == [("cred", "v1"), ("", "")]


def test_a_key_that_is_anothers_is_neither_bound_nor_unbound(cloud: Cloud) -> None:
    mine, other = (cloud("CreateConsumer", Name=name)["ID"] for name in ("mine", "other"))
    key = cloud.key()
    to = {"SecretKeyId": key, "ResourceType": "Consumer"}
    cloud("BindSecretKey", **to, ResourceIds=[mine])
    assert cloud.refused("BindSecretKey", **to, ResourceIds=[other])[0] == "OperationDenied.OperationDenied"
    assert cloud.refused("UnbindSecretKey", **to, ResourceIds=[other])[0] == "OperationDenied.OperationDenied"
    refused = cloud.refused("CreateConsumer", Name="third", SecretBindType="Existing", SecretKeyId=key)
    assert refused[0] == "OperationDenied.OperationDenied"
    code, message = cloud.refused("DeleteSecretKey", SecretKeyId=key)
    assert (code, f"KeyEnabled {key}" in message, f"KeyBound {mine}" in message) == (
        "OperationDenied.OperationDenied", True, True,
    )  # fmt: skip
    cloud("DeleteSecretKeyRef", **to, ResourceIds=[mine])  # the former name of Unbind, as the vendor's sample has it
    assert cloud("DescribeSecretKey", SecretKeyId=key)["BindCount"] == 0


def test_names_are_unique_and_the_value_of_a_kms_key_stays_in_ssm(cloud: Cloud, api: Api) -> None:
    api.put_credential("cred", "kT7vQ2xM9pLr4WzB")
    key = cloud.key(GenerateType="KMS", KmsKeyName="cred", KmsKeyVersion="v1")
    assert cloud.refused("CreateSecretKey", **NEW)[0] == "InvalidParameterValue.ResourceAlreadyExist"
    assert cloud.refused("DescribeSecretKeyValue", SecretKeyId=key)[0] == "OperationDenied.OperationDenied"


def test_groups_that_are_authorised_on_a_resource_are_kept_and_their_consumers_found(cloud: Cloud) -> None:
    app, _ = (cloud("CreateConsumer", Name=name)["ID"] for name in ("in", "out"))
    group = cloud("CreateConsumerGroup", Name="team", Status="Enable")["ID"]
    cloud("AddConsumerInGroup", ConsumerGroupId=group, ConsumerIds=[app])
    on = {"ResourceType": "ModelAPI", "ResourceId": "e3aa4fe271c24bb4aa7cca41db5a4e75", "ConsumerGroupIds": [group]}
    for _ in range(2):
        cloud("AddConsumerGroupAuth", **on)

    def through(**fields: Any) -> list[str]:
        listed = cloud("DescribeConsumerList", "tse", Limit=20, Offset=0, **fields)["Consumers"]
        return [each["Name"] for each in listed]

    assert through() == ["out", "in"]
    assert through(ResourceId=on["ResourceId"]) == through(ResourceType="ModelAPI") == ["in"]
    assert through(ResourceType="MCPServer", ResourceId=on["ResourceId"]) == []
    cloud("RemoveConsumerInGroup", ConsumerGroupId=group, ConsumerIds=[app])
    assert cloud.refused("DeleteConsumerGroup", ConsumerGroupId=group) == (
        "OperationDenied.OperationDenied",
        f"Something still depends on the resource. GroupAuthorised {on['ResourceId']}.",
    )
    for _ in range(2):
        cloud("RemoveConsumerGroupAuth", **on)
    cloud("DeleteConsumerGroup", ConsumerGroupId=group)


def test_times_are_those_of_beijing_without_a_zone(clock: TestClock, cloud: Cloud, api: Api) -> None:
    key = cloud.key()
    clock.shift(3600)
    cloud.at += 3600
    cloud("ModifySecretKey", SecretKeyId=key, Name="later")
    shown, ours = cloud("DescribeSecretKey", SecretKeyId=key), api("get_key", "GET", f"/keys/{key}").body
    for name, text in (("CreateTime", ours["created_at"]), ("ModifyTime", ours["modified_at"])):
        moment = datetime.strptime(shown[name] + "+0800", "%Y-%m-%d %H:%M:%S%z")
        assert moment == datetime.strptime(text[:19] + "+0000", "%Y-%m-%dT%H:%M:%S%z")
    assert shown["CreateTime"] < shown["ModifyTime"]


def test_a_consumer_that_was_disabled_by_rest_says_so(cloud: Cloud, api: Api) -> None:
    app = cloud("CreateConsumer", Name="app")["ID"]
    assert "Status" not in cloud("DescribeConsumer", ConsumerId=app)
    api("update_consumer", "PATCH", f"/consumers/{app}", {"status": "Disable"})
    assert cloud("DescribeConsumer", ConsumerId=app)["Status"] == "disabled"


def test_a_repeated_request_with_an_idempotency_key_makes_one_key_and_another_action_is_refused(cloud: Cloud) -> None:
    marked = {"idempotency-key": "retry-1"}
    fields = {"GatewayId": "default", **NEW}

    def send(action: str = "CreateSecretKey", **changed: Any) -> dict[str, Any]:
        event = cloud.event("cngw", action, {**fields, **changed})
        event["headers"] |= marked
        return cloud.send(event)

    first = send()
    assert send()["Result"] == first["Result"]
    assert cloud("DescribeSecretKeyList", **PAGE)["TotalCount"] == 1
    assert send(Name="another")["Error"]["Code"] == BAD


def test_a_direct_invocation_names_action_and_version_among_its_fields(cloud: Cloud, api: Api) -> None:
    event = {"Action": full("CreateConsumer"), "Version": "2023-04-18", "GatewayId": "default", "Name": "app"}
    content = api.deployment.call("cloud_api", event)["Response"]
    assert content["Result"]["Success"] is True
    bare = api.deployment.call("cloud_api", {"GatewayId": "default"})["Response"]
    assert bare["Error"]["Code"] == "MissingParameter"


def test_the_front_door_hands_the_signed_request_on_as_it_came(cloud: Cloud, api: Api) -> None:
    event = cloud.event("tse", "CreateConsumer", {"GatewayId": "default", "Name": "应用"})
    answer = api.deployment.call("front_door", event)
    assert (answer["statusCode"], answer["headers"]["Content-Type"]) == (200, "application/json")
    assert json.loads(answer["body"])["Response"]["Result"]["Success"] is True


def test_a_failing_dependency_is_an_error_in_the_envelope_and_leaks_nothing(cloud: Cloud, api: Api) -> None:
    cloud("DescribeSecretKeyList", **PAGE)
    with api.deployment.cloud.outage("ssm"):
        fields = {**NEW, "GenerateType": "KMS", "KmsKeyName": "cred", "KmsKeyVersion": "v1"}
        assert cloud.refused("CreateSecretKey", **fields)[0] == "FailedOperation"


def test_the_log_names_action_and_code_and_no_value(cloud: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    secret = "kT7vQ2xM9pLr4WzBx"
    cloud.key(Name="one", GenerateType="Custom", SecretValue=secret)
    cloud.error(cloud.event("cngw", "CreateSecretKey", {"GatewayId": "default", **NEW, "SecretValue": secret}))
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    ours = [line for line in lines if line.get("function") == "cloud_api"]
    assert [(line["action"], line.get("code")) for line in ours] == [
        (full("CreateSecretKey"), None), (full("CreateSecretKey"), BAD),
    ]  # fmt: skip
    assert secret not in json.dumps(lines)


def test_a_change_by_the_cloud_api_is_audited_like_any_other(cloud: Cloud, api: Api) -> None:
    app = cloud("CreateConsumer", Name="app", SecretBindType="AutoGenerate", AutoSecretKey={"Name": "auto"})["ID"]
    rows = sql(api.deployment, "SELECT * FROM audit ORDER BY sequence")[-2:]
    assert [(row["action"], row["actor"]) for row in rows] == [
        ("consumer.create", cloud.pair[0]), ("key.create", cloud.pair[0]),
    ]  # fmt: skip
    assert (rows[0]["target"], app in rows[1]["after"]) == (app, True)


def test_the_viewer_of_rest_sees_what_the_cloud_api_made(cloud: Cloud, api: Api) -> None:
    key = cloud.key()
    viewer = as_operator(api, "viewer")
    assert viewer("get_key", "GET", f"/keys/{key}").body["name"] == NEW["Name"]
