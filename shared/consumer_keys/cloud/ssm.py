"""Tencent SSM: reading credentials and the root secret."""

from __future__ import annotations

from base64 import b64decode, b64encode
from typing import Any

from consumer_keys.cloud.service import ATTEMPTS, RoleCredential, Service
from consumer_keys.errors import Gone, Unavailable
from consumer_keys.secret import Secret

_GONE = (
    ("ResourceNotFound", "CredentialNotFound"),
    ("ResourceUnavailable.ResourceDisabled", "CredentialDisabled"),
    ("ResourceUnavailable.ResourcePendingDelete", "CredentialPendingDeletion"),
)
_UNREADABLE = ("FailedOperation", "UnauthorizedOperation", "AuthFailure.UnauthorizedOperation", "OperationDenied")


class Ssm(Service):
    """Tencent SSM (Secrets Manager), version 2019-09-23."""

    name = "ssm"

    def new_client(self, credential: RoleCredential, profile: Any) -> Any:
        """The service's client of the SDK."""
        from tencentcloud.ssm.v20190923.ssm_client import SsmClient

        return SsmClient(credential, self.region, profile)

    def secret_value(self, name: str, version: str, attempts: int = ATTEMPTS) -> Secret:
        """The exact bytes of one version. Raises Gone (not found, disabled, pending deletion) or Unavailable."""
        from tencentcloud.common.exception.tencent_cloud_sdk_exception import TencentCloudSDKException

        action = "GetSecretValue"
        try:
            reply = self.call(action, attempts, SecretName=name, VersionId=version)
        except TencentCloudSDKException as error:
            cloud_code = str(error.code)
            for start, code in _GONE:
                if cloud_code.startswith(start):
                    raise Gone(code, self.name, action, cloud_code) from None
            code = "CredentialUnreadable" if cloud_code.startswith(_UNREADABLE) else "DependencyUnavailable"
            raise Unavailable(code, self.name, action, cloud_code) from None
        if reply.get("VersionId") != version:  # an error in a shape that the SDK takes for success
            raise Unavailable("DependencyUnavailable", self.name, action, "UnreadableReply")
        if reply.get("SecretBinary"):
            return Secret(b64decode(reply["SecretBinary"]))
        return Secret(str(reply.get("SecretString") or "").encode())

    def add_version(self, name: str, version: str, content: bytes) -> None:
        """A further version of a secret. Raises Unavailable, also when there is one of this name."""
        from tencentcloud.common.exception.tencent_cloud_sdk_exception import TencentCloudSDKException

        action, text = "PutSecretValue", b64encode(content).decode()
        try:
            self.call(action, attempts=1, SecretName=name, VersionId=version, SecretBinary=text)
        except TencentCloudSDKException as error:
            raise Unavailable("DependencyUnavailable", self.name, action, str(error.code)) from None
