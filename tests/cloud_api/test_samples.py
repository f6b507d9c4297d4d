"""Every sample of the vendor's own tools: the request is accepted with our ids in it, the answer has its shape.

`samples/` holds them as they were found. Two of them show the members of IncludeCreationInfo alone, next to few others;
theirs is the one shape that ours may exceed.
"""

from __future__ import annotations

import json
import re
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.cloud_api.clients import CLIENTS, VERSIONS, Vendor, full
from tests.e2e.conftest import Local

FILES = sorted(Path(__file__).with_name("samples").glob("*.json"))
SAMPLES = [
    (path.stem, number, document["service"], document["action"], sample)
    for path in FILES
    for document in [json.loads(path.read_text(encoding="utf-8"))]
    for number, sample in enumerate(document["samples"])
]
ABRIDGED = {("cngw-DescribeCloudNativeAPIGatewaySecretKey", 1), ("cngw-DescribeCloudNativeAPIGatewaySecretKeyList", 1)}
RESOURCE = "e3aa4fe271c24bb4aa7cca41db5a4e75"
FORMATS = {
    "CreateTime": r"[0-9]{4}-[01][0-9]-[0-3][0-9] [0-2][0-9]:[0-5][0-9]:[0-5][0-9]",
    "ModifyTime": r"[0-9]{4}-[01][0-9]-[0-3][0-9] [0-2][0-9]:[0-5][0-9]:[0-5][0-9]",
    "SecretValue": r"(.{3})?\*{4}(.{3})?",
    "SecretKeyId": r"secret-[0-9a-f]{14}",
    "ConsumerGroupId": r"cg-[0-9a-f]{14}",
    "ConsumerId": r"consumer-[0-9a-f]{14}",
    "RequestId": r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}",
}
_number = count(1)


class Objects:
    """Makes what a sample speaks of; every name is new."""

    def __init__(self, vendor: Vendor, service: str) -> None:
        self.vendor, self.service = vendor, service

    def call(self, action: str, **fields: Any) -> Any:
        return self.vendor.common(self.service, action, **fields).get("Result")

    def key(self, *, status: str = "Enable", bound_to: str | None = None) -> str:
        made = self.call(
            "CreateSecretKey", Name=f"密钥-{next(_number)}", SecretType="ApiKey", GenerateType="System",
            ResourceType="Consumer", Description="密钥描述",
        )["ID"]  # fmt: skip
        if bound_to is not None:
            self.call("BindSecretKey", SecretKeyId=made, ResourceType="Consumer", ResourceIds=[bound_to])
        if status == "Disable":
            self.call("ModifySecretKeyStatus", SecretKeyId=made, Status=status)
        return str(made)

    def consumer(self) -> str:
        return str(self.call("CreateConsumer", Name=f"消费者-{next(_number)}", Description="消费者描述")["ID"])

    def group(self, *members: str, resource: str | None = None) -> str:
        made = self.call("CreateConsumerGroup", Name=f"分组-{next(_number)}", Status="Enable", Description="描述")["ID"]
        if members:
            self.call("AddConsumerInGroup", ConsumerGroupId=made, ConsumerIds=list(members))
        if resource is not None:
            self.call("AddConsumerGroupAuth", ResourceType="ModelAPI", ResourceId=resource, ConsumerGroupIds=[made])
        return str(made)


def substituted(request: dict[str, Any], action: str, make: Objects, credential: str) -> dict[str, Any]:
    """The sample's request with ids of ours, and with a value and a credential that can be used."""
    given = {name: value for name, value in request.items() if name != "GatewayId"}
    holder = make.consumer()
    if "SecretKeyId" in given:
        deleted, unbound = action == "DeleteCloudNativeAPIGatewaySecretKey", action.startswith("Unbind")
        given["SecretKeyId"] = make.key(status="Disable" if deleted else "Enable", bound_to=holder if unbound else None)
    if "ConsumerId" in given:
        given["ConsumerId"] = holder
    if action == "DescribeCloudNativeAPIGatewayConsumer":
        make.group(holder)
        make.group(holder)
    if "ConsumerGroupId" in given:
        members = (holder,) if action.startswith("Remove") else ()
        given["ConsumerGroupId"] = make.group(*members)
    for name, value in (
        ("ResourceIds", [holder]), ("ConsumerIds", [holder]), ("KmsKeyName", credential),
        ("SecretValue", f"sk-kT7vQ2xM{next(_number):08d}"), ("ResourceId", RESOURCE),
    ):  # fmt: skip
        if name in given:
            given[name] = value
    if "ConsumerGroupIds" in given:
        given["ConsumerGroupIds"] = [make.group(resource=RESOURCE if action.startswith("Remove") else None)]
    if action == "DescribeCloudNativeAPIGatewayConsumerList":
        make.group(holder, resource=RESOURCE)
    if action == "DescribeCloudNativeAPIGatewayConsumerGroupList":
        make.group(holder)
    return given


def shape(value: Any) -> Any:
    """Names and types; of a list, that of its first item."""
    if isinstance(value, dict):
        return {name: shape(item) for name, item in value.items()}
    return [shape(value[0])] if isinstance(value, list) else type(value).__name__


def within(sample: Any, ours: Any) -> bool:
    """Whether ours has everything that the sample has, in the same types."""
    if isinstance(sample, dict):
        return sample.keys() <= ours.keys() and all(within(item, ours[name]) for name, item in sample.items())
    return within(sample[0], ours[0]) if isinstance(sample, list) else bool(sample == ours)


def check_formats(value: Any) -> None:
    if isinstance(value, dict):
        for name, item in value.items():
            if name in FORMATS:
                assert re.fullmatch(FORMATS[name], item), (name, item)
            check_formats(item)
    elif isinstance(value, list):
        for item in value:
            check_formats(item)


@pytest.fixture(scope="module")
def credential(local: Local) -> str:
    """A credential in the local run's SSM; a key of each service may follow it."""
    from tencentcloud.common.credential import Credential
    from tencentcloud.common.profile.client_profile import ClientProfile
    from tencentcloud.common.profile.http_profile import HttpProfile
    from tencentcloud.ssm.v20190923 import models
    from tencentcloud.ssm.v20190923.ssm_client import SsmClient

    profile = ClientProfile(httpProfile=HttpProfile(endpoint=f"127.0.0.1:{local.port + 1}", protocol="http"))
    request = models.CreateSecretRequest()
    request.SecretName, request.VersionId, request.SecretString = "kms-key-example", "v1", "kT7vQ2xM9pLr4WzBcc"
    SsmClient(Credential(local.secret_id, local.secret_key), "ap-guangzhou", profile).CreateSecret(request)
    return "kms-key-example"


@pytest.mark.parametrize(
    ("file", "number", "service", "action", "sample"), SAMPLES, ids=[f"{name}-{n}" for name, n, *_ in SAMPLES]
)
def test_a_sample_is_accepted_and_answered_in_its_shape(
    file: str, number: int, service: str, action: str, sample: dict[str, Any], vendor: Vendor, credential: str
) -> None:
    me = vendor._replace(gateway_id=f"sample-{SAMPLES.index((file, number, service, action, sample))}")
    make = Objects(me, service)
    given = substituted(sample["request"], action, make, credential)
    expected = sample["response"]["Response"]
    if "CreationSource" in json.dumps(given):
        # There are no batches here, so the sample as it is finds nothing; with another source it finds keys.
        assert me.common(service, action, **given)["Result"] == {"TotalCount": 0, "SecretKeys": []}
        given["Filters"][0]["Values"] = ["Manual"]
    if "List" in action:
        make.key()
    answer = me.common(service, action, **given)
    if (file, number) in ABRIDGED:
        assert within(shape(expected), shape(answer))
    else:
        assert shape(answer) == shape(expected)
    check_formats(answer)


def test_the_samples_cover_every_action_that_the_clients_declare() -> None:
    nouns = ("SecretKey", "SecretKeyList", "SecretKeyValue", "SecretKeyStatus", "Consumer", "ConsumerList",
             "ConsumerGroup", "ConsumerGroupList", "ConsumerInGroup", "ConsumerGroupAuth")  # fmt: skip
    declared = {
        (service, name)
        for service, (client, _) in CLIENTS.items()
        for name in vars(client)
        if "CloudNativeAPIGateway" in name and name.partition("CloudNativeAPIGateway")[2] in nouns
    }
    assert {(service, action) for _, _, service, action, _ in SAMPLES} == declared
    assert len(declared) == 40
    assert {document["version"] for document in map(json.loads, map(Path.read_text, FILES))} == set(VERSIONS.values())
    assert full("BindSecretKey") == "BindCloudNativeAPIGatewaySecretKey"
