"""For `cold_start`: what the validate_key function does at its first request, with the official SDKs of SSM and COS.

Arguments: the package of validate_key (for its own code, with its .pyc files), site-packages with the SDKs, an event.
The function is the same; only its reading differs: root secret, pointer, overlay and base come by the SDKs' clients.
"""

from __future__ import annotations

import json
import os
import sys
from base64 import b64decode
from types import ModuleType
from typing import Any

PACKAGE, SITE, EVENT = sys.argv[1:]
sys.path[:0] = [PACKAGE, SITE]

from qcloud_cos import CosConfig, CosS3Client  # noqa: E402
from tencentcloud.common.credential import Credential  # noqa: E402
from tencentcloud.common.profile.client_profile import ClientProfile  # noqa: E402
from tencentcloud.common.profile.http_profile import HttpProfile  # noqa: E402
from tencentcloud.ssm.v20190923 import models  # noqa: E402
from tencentcloud.ssm.v20190923.ssm_client import SsmClient  # noqa: E402

ENV = os.environ
ROLE, REGION = [ENV[f"TENCENTCLOUD_{name}"] for name in ("SECRETID", "SECRETKEY", "SESSIONTOKEN")], "ap-guangzhou"
BUCKET, PREFIX = ENV["COS_BUCKET"], "consumer-keys/"


class SnapshotSource:
    """What `consumer_keys.snapshot_source` does, by the SDKs."""

    def __init__(self, _credential: Any, **_settings: Any) -> None:
        host, _, port = ENV["CLOUD_ENDPOINT"].partition(":")
        secret_id, secret_key, token = ROLE
        place = {"Region": REGION, "Scheme": "http", "IP": host, "Port": int(port)}
        config = CosConfig(SecretId=secret_id, SecretKey=secret_key, Token=token, **place)
        self._client = CosS3Client(config)

    def root_secret(self, name: str, version: str) -> bytes:
        profile = ClientProfile(httpProfile=HttpProfile(protocol="http", endpoint=ENV["CLOUD_ENDPOINT"]))
        request = models.GetSecretValueRequest()
        request.SecretName, request.VersionId = name, version
        return b64decode(SsmClient(Credential(*ROLE), REGION, profile).GetSecretValue(request).SecretBinary)

    def pointer(self, name: str) -> bytes | None:
        return self.object(name, 1 << 20)

    def forget_pointer(self) -> None:
        pass

    def object(self, name: str, size_max: int) -> bytes:
        data: bytes = self._client.get_object(Bucket=BUCKET, Key=PREFIX + name)["Body"].get_raw_stream().read(size_max)
        return data

    def download(self, name: str, size_max: int, path: str) -> None:
        self._client.get_object(Bucket=BUCKET, Key=PREFIX + name)["Body"].get_stream_to_file(path)
        assert os.path.getsize(path) <= size_max


# In place of our own reader, which is not loaded at all.
reader = ModuleType("consumer_keys.snapshot_source")
reader.SnapshotSource, reader.Credential = SnapshotSource, Any  # type: ignore[attr-defined]
sys.modules[reader.__name__] = reader

import index  # type: ignore[import-not-found]  # noqa: E402 - of the package

reply = index.main_handler(json.loads(EVENT), {"request_id": "cold"})
sys.exit(reply["statusCode"] != 200)
