"""Tencent KMS: data keys."""

from __future__ import annotations

from base64 import b64decode
from typing import Any

from consumer_keys.cloud.service import RoleCredential, Service
from consumer_keys.errors import SealBroken, Unavailable

# A fact about the blob, not a failure of the service (document 573/34429).
_BAD_CIPHERTEXT = "InvalidParameterValue.InvalidCiphertext"


class Kms(Service):
    """Tencent KMS, version 2019-01-18: data keys only."""

    name = "kms"

    def new_client(self, credential: RoleCredential, profile: Any) -> Any:
        """The service's client of the SDK."""
        from tencentcloud.kms.v20190118.kms_client import KmsClient

        return KmsClient(credential, self.region, profile)

    def generate_data_key(self, kms_key_id: str, context: str) -> tuple[bytes, str]:
        """(32 plaintext bytes, ciphertext blob). The context is compared as an opaque string on decryption."""
        reply = self._checked("GenerateDataKey", KeyId=kms_key_id, KeySpec="AES_256", EncryptionContext=context)
        return b64decode(reply["Plaintext"]), str(reply["CiphertextBlob"])

    def decrypt(self, blob: str, context: str) -> bytes:
        """The plaintext of a blob; the blob names its KMS key.

        Raises SealBroken for a blob that is damaged or was made under another context, else Unavailable.
        """
        reply = self._checked("Decrypt", CiphertextBlob=blob, EncryptionContext=context)
        return b64decode(reply["Plaintext"])

    def re_encrypt(self, blob: str, context: str, kms_key_id: str) -> str:
        """The blob under the newest material of a KMS key; the plaintext does not leave KMS."""
        from tencentcloud.common.exception.tencent_cloud_sdk_exception import TencentCloudSDKException

        action = "ReEncrypt"
        try:
            reply = self.call(
                action, CiphertextBlob=blob, DestinationKeyId=kms_key_id, SourceEncryptionContext=context,
                DestinationEncryptionContext=context,
            )  # fmt: skip
            return str(reply["CiphertextBlob"])
        except TencentCloudSDKException as error:
            raise Unavailable("DependencyUnavailable", self.name, action, str(error.code)) from None
        except KeyError:
            raise Unavailable("DependencyUnavailable", self.name, action, "UnreadableReply") from None

    def _checked(self, action: str, **parameters: Any) -> dict[str, Any]:
        from tencentcloud.common.exception.tencent_cloud_sdk_exception import TencentCloudSDKException

        try:
            reply = self.call(action, **parameters)
        except TencentCloudSDKException as error:
            if error.code == _BAD_CIPHERTEXT:
                raise SealBroken("its data key does not unwrap") from None
            raise Unavailable("DependencyUnavailable", self.name, action, str(error.code)) from None
        if not reply.get("Plaintext"):
            raise Unavailable("DependencyUnavailable", self.name, action, "UnreadableReply")
        return reply
