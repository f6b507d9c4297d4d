"""The official clients, with nothing but the endpoint changed."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import pytest
from tencentcloud.cngw.v20230418 import models as cngw_models
from tencentcloud.cngw.v20230418.cngw_client import CngwClient
from tencentcloud.common.common_client import CommonClient
from tencentcloud.common.credential import Credential
from tencentcloud.common.exception.tencent_cloud_sdk_exception import TencentCloudSDKException
from tencentcloud.common.profile.client_profile import ClientProfile
from tencentcloud.common.profile.http_profile import HttpProfile
from tencentcloud.tse.v20201207 import models as tse_models
from tencentcloud.tse.v20201207.tse_client import TseClient

VERSIONS = {"cngw": "2023-04-18", "tse": "2020-12-07"}
CLIENTS = {"cngw": (CngwClient, cngw_models), "tse": (TseClient, tse_models)}
REGION = "ap-guangzhou"


def full(action: str) -> str:
    """`CreateSecretKey` -> `CreateCloudNativeAPIGatewaySecretKey`."""
    verb = next(verb for verb in ("Create", "Describe", "Modify", "Delete", "Bind", "Unbind", "Add", "Remove")
                if action.startswith(verb))  # fmt: skip
    return f"{verb}CloudNativeAPIGateway{action.removeprefix(verb)}"


class Vendor(NamedTuple):
    """Somebody who automates against the vendor's product, pointed at `endpoint` (host:port)."""

    endpoint: str
    pair: tuple[str, str]
    gateway_id: str = "default"

    def profile(self) -> ClientProfile:
        """The one change."""
        return ClientProfile(httpProfile=HttpProfile(endpoint=self.endpoint, protocol="http", reqTimeout=20))

    def typed(self, service: str, action: str, **fields: Any) -> Any:
        """The client class's own method with its own request class; returns its own response object."""
        client_class, models = CLIENTS[service]
        request = getattr(models, full(action) + "Request")()
        request.from_json_string(json.dumps({"GatewayId": self.gateway_id, **fields}))
        return getattr(client_class(Credential(*self.pair), REGION, self.profile()), full(action))(request)

    def common(self, service: str, action: str, **fields: Any) -> dict[str, Any]:
        """CommonClient, which sends any action to any service; returns the content of `Response` as it came."""
        client = CommonClient(service, VERSIONS[service], Credential(*self.pair), REGION, profile=self.profile())
        name = action if "CloudNativeAPIGateway" in action else full(action)
        answer: dict[str, Any] = client.call_json(name, {"GatewayId": self.gateway_id, **fields})["Response"]
        return answer

    def code(self, service: str, action: str, **fields: Any) -> str:
        """The code of the refusal, by the client class itself."""
        with pytest.raises(TencentCloudSDKException) as caught:
            self.typed(service, action, **fields)
        assert caught.value.requestId
        return str(caught.value.code)
