"""The vendor's own command line: the real program, with nothing but the endpoint changed."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.cloud_api.clients import Vendor, full
from tests.e2e.conftest import Local
from tests.tccli import tccli_program

API_ERROR = 255


class Tccli:
    """tccli in a home of its own."""

    def __init__(self, vendor: Vendor, home: Path, program: str) -> None:
        self.vendor, self.program = vendor, program
        self.environment = {
            **os.environ, "HOME": str(home), "NO_PROXY": "127.0.0.1", "TENCENTCLOUD_REGION": "ap-guangzhou",
            "TENCENTCLOUD_SECRET_ID": vendor.pair[0], "TENCENTCLOUD_SECRET_KEY": vendor.pair[1],
        }  # fmt: skip
        self.environment.pop("PYTHONPATH", None)

    def run(self, service: str, action: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """One call."""
        command = [
            self.program, service, full(action), "--endpoint", f"http://{self.vendor.endpoint}", "--GatewayId", "tccli",
            *arguments,
        ]  # fmt: skip
        return subprocess.run(command, capture_output=True, text=True, env=self.environment, check=False, timeout=60)

    def __call__(self, service: str, action: str, *arguments: str) -> dict[str, Any]:
        """What it prints of an answer."""
        done = self.run(service, action, *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        assert answer["RequestId"]
        return answer


@pytest.fixture
def tccli(vendor: Vendor, tmp_path: Path) -> Tccli:
    return Tccli(vendor, tmp_path, tccli_program())


@pytest.mark.long
def test_a_consumer_key_lives_its_whole_life_by_tccli(tccli: Tccli, local: Local) -> None:
    new = ("--SecretType", "ApiKey", "--GenerateType", "System", "--ResourceType", "Consumer")
    key = tccli("cngw", "CreateSecretKey", "--Name", "命令行密钥", *new)["Result"]["ID"]
    app = tccli("tse", "CreateConsumer", "--Name", "命令行", "--Description", "消费者")["Result"]["ID"]
    bind = ("--SecretKeyId", key, "--ResourceType", "Consumer", "--ResourceIds", json.dumps([app]))
    assert tccli("cngw", "BindSecretKey", *bind)["Result"] is True
    value = tccli("tse", "DescribeSecretKeyValue", "--SecretKeyId", key)["Result"]
    assert local("GET", "/v1/gateways/tccli/validate", token=value).status == 200
    group = tccli("tse", "CreateConsumerGroup", "--Name", "组", "--Status", "Disable")["Result"]["ID"]
    member = ("--ConsumerGroupId", group, "--ConsumerIds", json.dumps([app]))
    assert tccli("cngw", "AddConsumerInGroup", *member)["Result"] is True
    assert local("GET", "/v1/gateways/tccli/validate", token=value).status == 401
    filters = '[{"Name": "Status", "Values": ["Enable"]}, {"Name": "GenerateType", "Values": ["System"]}]'
    page = ("--Limit", "10", "--Offset", "0", "--Keyword", "密钥", "--Filters", filters, "--UseToBind", "True")
    (shown,) = tccli("tse", "DescribeSecretKeyList", *page)["Result"]["SecretKeys"]
    assert (shown["SecretKeyId"], shown["BindCount"], shown["CanBind"]) == (key, 1, False)
    refused = tccli.run("tse", "DeleteSecretKey", "--SecretKeyId", key)
    assert (refused.returncode, "code:OperationDenied.OperationDenied" in refused.stderr) == (API_ERROR, True)
    tccli("cngw", "RemoveConsumerInGroup", *member)
    tccli("cngw", "UnbindSecretKey", *bind)
    tccli("tse", "ModifySecretKeyStatus", "--SecretKeyId", key, "--Status", "Disable")
    tccli("tse", "DeleteSecretKey", "--SecretKeyId", key)
    tccli("cngw", "DeleteConsumerGroup", "--ConsumerGroupId", group)
    tccli("cngw", "DeleteConsumer", "--ConsumerId", app)
    gone = tccli.run("cngw", "DescribeSecretKey", "--SecretKeyId", key)
    assert (gone.returncode, "code:ResourceNotFound.ResourceNotFound" in gone.stderr) == (API_ERROR, True)


def test_a_wrong_secret_is_an_error_for_tccli_too(tccli: Tccli) -> None:
    tccli.environment["TENCENTCLOUD_SECRET_KEY"] = "wrong"
    refused = tccli.run("cngw", "DescribeSecretKeyList", "--Limit", "10", "--Offset", "0")
    assert (refused.returncode, "code:AuthFailure.SignatureFailure" in refused.stderr) == (API_ERROR, True)
