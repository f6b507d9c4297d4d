"""Tencent COS: the bucket of the snapshot."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from consumer_keys.cloud.service import TIMEOUT_SECONDS, Credential, mute
from consumer_keys.errors import Unavailable


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

            mute("qcloud_cos")
            secret_id, secret_key, token = current
            host, _, port = (self._endpoint or "").partition(":")
            local = {"Scheme": "http", "IP": host, "Port": int(port)} if self._endpoint else {}
            config = CosConfig(
                Region=self._region,
                SecretId=secret_id,
                SecretKey=secret_key,
                Token=token,
                Timeout=TIMEOUT_SECONDS,
                **local,
            )
            session = requests.Session()
            session.trust_env = False
            self.close()
            self._built = (current, CosS3Client(config, 0, session), session)
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

    def list(self, prefix: str) -> list[str]:
        """The names of every object below a prefix, in order."""

        def read(cos: Any) -> list[str]:
            names: list[str] = []
            marker = ""
            while True:
                reply = cos.list_objects(Bucket=self._bucket, Prefix=prefix, Marker=marker, MaxKeys=1000)
                names += [item["Key"] for item in reply.get("Contents", [])]
                if reply["IsTruncated"] != "true":
                    return names
                marker = reply["NextMarker"]

        names: list[str] = self._call("GetBucket", read)
        return names

    def exists(self, key: str) -> bool:
        """Whether there is such an object."""
        from qcloud_cos import CosServiceError

        def look(cos: Any) -> bool:
            try:
                cos.head_object(Bucket=self._bucket, Key=key)
            except CosServiceError as error:
                if error.get_status_code() == 404:
                    return False
                raise
            return True

        found: bool = self._call("HeadObject", look)
        return found

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
