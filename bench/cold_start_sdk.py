"""For `cold_start`: what validation does at its first request, with the official SDKs of SSM and COS.

Arguments: the package of validate_key (for the judgement, with its .pyc files), site-packages with the SDKs, a value.
Only the reading differs: the root secret, the pointer, the overlay and the base come by the SDKs' own clients.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from base64 import b64decode

PACKAGE, SITE, VALUE = sys.argv[1:]
sys.path[:0] = [PACKAGE, SITE]

from qcloud_cos import CosConfig, CosS3Client  # noqa: E402
from tencentcloud.common.credential import Credential  # noqa: E402
from tencentcloud.common.profile.client_profile import ClientProfile  # noqa: E402
from tencentcloud.common.profile.http_profile import HttpProfile  # noqa: E402
from tencentcloud.ssm.v20190923 import models  # noqa: E402
from tencentcloud.ssm.v20190923.ssm_client import SsmClient  # noqa: E402

from consumer_keys.keytext import derive_key  # noqa: E402
from consumer_keys.snapshot_base import Base  # noqa: E402
from consumer_keys.snapshot_cache import SnapshotCache  # noqa: E402
from consumer_keys.validate import Validator  # noqa: E402

ENV = os.environ
PAIR, REGION = (ENV["TENCENTCLOUD_SECRETID"], ENV["TENCENTCLOUD_SECRETKEY"]), "ap-guangzhou"
BUCKET, PREFIX = ENV["COS_BUCKET"], "consumer-keys/"


class Source:
    """The snapshot's objects by the COS SDK."""

    def __init__(self) -> None:
        host, _, port = ENV["CLOUD_ENDPOINT"].partition(":")
        config = CosConfig(Region=REGION, SecretId=PAIR[0], SecretKey=PAIR[1], Scheme="http", IP=host, Port=int(port))
        self._client = CosS3Client(config)

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


def root_secret() -> bytes:
    profile = ClientProfile(httpProfile=HttpProfile(protocol="http", endpoint=ENV["CLOUD_ENDPOINT"]))
    request = models.GetSecretValueRequest()
    request.SecretName, request.VersionId = ENV["ROOT_SECRET_NAME"], ENV["ROOT_SECRET_VERSION"]
    return b64decode(SsmClient(Credential(*PAIR), REGION, profile).GetSecretValue(request).SecretBinary)


def failed(error: Exception) -> None:
    raise error


root = root_secret()
cache = SnapshotCache(
    Source(), Base, failed, manifest_key=derive_key(root, "manifest"), environment="default",
    folder=tempfile.gettempdir(), poll_seconds=10, max_age_seconds=3600, clock=time.time,
)  # fmt: skip
verdict, _ = Validator(cache, derive_key(root, "lookup"), "ck").judge("default", VALUE.encode())
print(verdict.code, flush=True)
sys.exit(not verdict.valid)
