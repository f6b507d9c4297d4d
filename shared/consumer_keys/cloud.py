"""The official SDKs: SSM, KMS, COS and SCF, with timeouts, bounded retries and two classes of failure.

`Gone` is a fact, `Unavailable` is ignorance; nothing else leaves this module. The SDK's own retryer is not used: it
raises after a successful retry.
"""

from __future__ import annotations

import json
import random
import time
from base64 import b64decode
from collections.abc import Callable
from typing import Any

from consumer_keys.errors import Gone, Unavailable

Credential = Callable[[], tuple[str, str, str | None]]
_RETRYABLE = ("RequestLimitExceeded", "InternalError", "ClientNetworkError", "ServerNetworkError")
_TIMEOUT_SECONDS = (1.0, 3.0)
_ATTEMPTS = 3
_GONE = (
    ("ResourceNotFound", "CredentialNotFound"),
    ("ResourceUnavailable.ResourceDisabled", "CredentialDisabled"),
    ("ResourceUnavailable.ResourcePendingDelete", "CredentialPendingDeletion"),
)
_UNREADABLE = ("FailedOperation", "UnauthorizedOperation", "AuthFailure.UnauthorizedOperation", "OperationDenied")


class _RoleCredential:
    """What the SDK asks once per request."""

    def __init__(self, credential: Credential) -> None:
        self.get_credential_info = credential


class _Service:
    """One cloud API: a lazily built SDK client and a bounded retry of read-like calls."""

    name = ""

    def __init__(
        self, credential: Credential, region: str, endpoint: str | None, timeout: Any = _TIMEOUT_SECONDS
    ) -> None:
        self._credential, self._region, self._endpoint, self._timeout = credential, region, endpoint, timeout
        self._built: Any = None
        self._sessions: list[Any] = []

    def _new_client(self, credential: _RoleCredential, profile: Any) -> Any:
        raise NotImplementedError

    @property
    def _client(self) -> Any:
        if self._built is None:
            import requests
            from tencentcloud.common.profile.client_profile import ClientProfile
            from tencentcloud.common.profile.http_profile import HttpProfile

            local = {"protocol": "http", "endpoint": self._endpoint} if self._endpoint else {}
            http = HttpProfile(reqTimeout=self._timeout, **local)
            profile = ClientProfile(httpProfile=http, language="en-US", request_client="consumer-keys")
            client = self._new_client(_RoleCredential(self._credential), profile)
            self._sessions = [part for part in vars(client.request.conn).values() if isinstance(part, requests.Session)]
            for session in self._sessions:
                session.trust_env = False  # a netrc entry would replace the signature
            self._built = client
        return self._built

    def close(self) -> None:
        """Closes kept connections; the next call opens new ones."""
        for session in self._sessions:
            session.close()

    def _call(self, action: str, attempts: int = _ATTEMPTS, **parameters: Any) -> dict[str, Any]:
        """The response's fields. Raises Unavailable, or TencentCloudSDKException for a code that the caller knows."""
        from tencentcloud.common.exception.tencent_cloud_sdk_exception import TencentCloudSDKException

        for attempt in range(1, attempts + 1):
            try:
                reply: dict[str, Any] = self._client.call_json(action, parameters)["Response"]
            except TencentCloudSDKException as error:
                code = str(error.code)
                if not code.startswith(_RETRYABLE):
                    raise
                if attempt == attempts:
                    raise Unavailable("DependencyUnavailable", self.name, action, code) from None
                time.sleep(random.uniform(0, 0.1 * 2**attempt))  # noqa: S311 - jitter, not a secret
            except (KeyError, TypeError, ValueError):
                raise Unavailable("DependencyUnavailable", self.name, action, "UnreadableReply") from None
            else:
                return reply
        raise AssertionError("unreachable")


class Ssm(_Service):
    """Tencent SSM (Secrets Manager), version 2019-09-23."""

    name = "ssm"

    def _new_client(self, credential: _RoleCredential, profile: Any) -> Any:
        from tencentcloud.ssm.v20190923.ssm_client import SsmClient

        return SsmClient(credential, self._region, profile)

    def secret_value(self, name: str, version: str, attempts: int = _ATTEMPTS) -> bytes:
        """The exact bytes of one version. Raises Gone (not found, disabled, pending deletion) or Unavailable."""
        from tencentcloud.common.exception.tencent_cloud_sdk_exception import TencentCloudSDKException

        action = "GetSecretValue"
        try:
            reply = self._call(action, attempts, SecretName=name, VersionId=version)
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
            return b64decode(reply["SecretBinary"])
        return str(reply.get("SecretString") or "").encode()


class Kms(_Service):
    """Tencent KMS, version 2019-01-18: data keys only."""

    name = "kms"

    def _new_client(self, credential: _RoleCredential, profile: Any) -> Any:
        from tencentcloud.kms.v20190118.kms_client import KmsClient

        return KmsClient(credential, self._region, profile)

    def generate_data_key(self, kms_key_id: str, context: str) -> tuple[bytes, str]:
        """(32 plaintext bytes, ciphertext blob). The context is compared as an opaque string on decryption."""
        reply = self._checked("GenerateDataKey", KeyId=kms_key_id, KeySpec="AES_256", EncryptionContext=context)
        return b64decode(reply["Plaintext"]), str(reply["CiphertextBlob"])

    def decrypt(self, blob: str, context: str) -> bytes:
        """The plaintext of a blob; the blob names its KMS key."""
        reply = self._checked("Decrypt", CiphertextBlob=blob, EncryptionContext=context)
        return b64decode(reply["Plaintext"])

    def _checked(self, action: str, **parameters: Any) -> dict[str, Any]:
        from tencentcloud.common.exception.tencent_cloud_sdk_exception import TencentCloudSDKException

        try:
            reply = self._call(action, **parameters)
        except TencentCloudSDKException as error:
            raise Unavailable("DependencyUnavailable", self.name, action, str(error.code)) from None
        if not reply.get("Plaintext"):
            raise Unavailable("DependencyUnavailable", self.name, action, "UnreadableReply")
        return reply


class Scf(_Service):
    """Tencent SCF, version 2018-04-16: synchronous invocation."""

    name = "scf"

    def _new_client(self, credential: _RoleCredential, profile: Any) -> Any:
        from tencentcloud.scf.v20180416.scf_client import ScfClient

        return ScfClient(credential, self._region, profile)

    def invoke(self, function: str, namespace: str, event: dict[str, Any]) -> Any:
        """What the function returned. Not retried: the call may have had its effect. Raises Unavailable."""
        from tencentcloud.common.exception.tencent_cloud_sdk_exception import TencentCloudSDKException

        action = "Invoke"
        try:
            reply = self._call(
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


class Bucket:
    """One COS bucket through the official SDK."""

    def __init__(self, credential: Credential, region: str, endpoint: str | None, bucket: str) -> None:
        self._credential, self._region, self._endpoint, self._bucket = credential, region, endpoint, bucket
        self._built: tuple[Any, Any, Any] = (None, None, None)

    @property
    def _client(self) -> Any:
        current = self._credential()
        if self._built[0] != current:  # the SDK cannot change its token atomically, so the client is rebuilt
            import requests
            from qcloud_cos import CosConfig, CosS3Client

            secret_id, secret_key, token = current
            host, _, port = (self._endpoint or "").partition(":")
            local = {"Scheme": "http", "IP": host, "Port": int(port)} if self._endpoint else {}
            config = CosConfig(
                Region=self._region,
                SecretId=secret_id,
                SecretKey=secret_key,
                Token=token,
                Timeout=_TIMEOUT_SECONDS,
                **local,
            )
            session = requests.Session()
            session.trust_env = False
            self.close()
            self._built = (current, CosS3Client(config, 1, session), session)
        return self._built[1]

    def close(self) -> None:
        """Closes kept connections."""
        if self._built[2] is not None:
            self._built[2].close()

    def put(self, key: str, data: bytes, content_type: str) -> None:
        """Writes an object whole."""
        self._call("PutObject", lambda cos: cos.put_object(
            Bucket=self._bucket, Key=key, Body=data, ContentType=content_type, EnableMD5=True
        ))  # fmt: skip

    def get(self, key: str) -> bytes | None:
        """The object's bytes, or None when there is no such object."""
        from qcloud_cos import CosServiceError

        def read(cos: Any) -> bytes | None:
            try:
                reply = cos.get_object(Bucket=self._bucket, Key=key)
            except CosServiceError as error:
                if error.get_error_code() == "NoSuchKey":
                    return None
                raise
            # Body.read() would return one chunk and lose the connection.
            data: bytes = reply["Body"].get_raw_stream().read()
            return data

        content: bytes | None = self._call("GetObject", read)
        return content

    def delete(self, key: str) -> None:
        """Deletes an object; one that is not there is no error."""
        self._call("DeleteObject", lambda cos: cos.delete_object(Bucket=self._bucket, Key=key))

    def _call(self, action: str, run: Callable[[Any], Any]) -> Any:
        import requests
        import urllib3
        from qcloud_cos import CosClientError, CosServiceError

        try:
            return run(self._client)
        except CosServiceError as error:
            raise Unavailable("DependencyUnavailable", "cos", action, str(error.get_error_code())) from None
        except (CosClientError, urllib3.exceptions.HTTPError, requests.RequestException, OSError) as error:
            raise Unavailable("DependencyUnavailable", "cos", action, type(error).__name__) from None
