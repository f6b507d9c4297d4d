"""Tencent SCF: reaching another function."""

from __future__ import annotations

import json
from typing import Any

from consumer_keys.cloud.service import RoleCredential, Service
from consumer_keys.errors import Unavailable


class Scf(Service):
    """Tencent SCF, version 2018-04-16: synchronous invocation."""

    name = "scf"

    def new_client(self, credential: RoleCredential, profile: Any) -> Any:
        """The service's client of the SDK."""
        from tencentcloud.scf.v20180416.scf_client import ScfClient

        return ScfClient(credential, self.region, profile)

    def invoke(self, function: str, namespace: str, event: dict[str, Any]) -> Any:
        """What the function returned. Not retried: the call may have had its effect. Raises Unavailable."""
        from tencentcloud.common.exception.tencent_cloud_sdk_exception import TencentCloudSDKException

        action = "Invoke"
        try:
            reply = self.call(
                action, 1, FunctionName=function, Namespace=namespace, InvocationType="RequestResponse",
                ClientContext=json.dumps(event),
            )  # fmt: skip
            result = reply["Result"]
            if result["InvokeResult"] != 0:
                raise Unavailable("DependencyUnavailable", self.name, action, f"InvokeResult {result['InvokeResult']}")
            return json.loads(result["RetMsg"])
        except TencentCloudSDKException as error:
            raise Unavailable("DependencyUnavailable", self.name, action, str(error.code)) from None
        except (KeyError, TypeError, ValueError):
            raise Unavailable("DependencyUnavailable", self.name, action, "UnreadableReply") from None
