"""Reading SSM and COS by the standard library: what validation's cold start can afford."""

from __future__ import annotations

import json
import time
from base64 import b64decode
from collections.abc import Callable

from consumer_keys import percent
from consumer_keys.errors import Gone, Unavailable
from consumer_keys.http_reads import Connection, Response
from consumer_keys.signing import cos_authorization, tc3_authorization

TIMEOUT_SECONDS = 3.0
_SIGN_BEFORE, _SIGN_AFTER = 60, 600
_REPLY_BYTES_MAX, _CODE_CHARS_MAX = 1 << 20, 64

Credential = Callable[[], tuple[str, str, str | None]]


class SnapshotSource:
    """One bucket folder and one secret. Every failure is Unavailable or Gone; connections are kept and renewed."""

    def __init__(self, credential: Credential, *, region: str, endpoint: str | None, bucket: str, prefix: str) -> None:
        self._credential, self._region, self._endpoint, self._prefix = credential, region, endpoint, prefix
        self._host = f"{bucket}.cos.{region}.myqcloud.com"
        self._connection = self._connect(self._host)
        self._etag = ""

    def root_secret(self, name: str, version: str) -> bytes:
        """The root secret's 32 bytes."""
        host = self._endpoint or "ssm.tencentcloudapi.com"
        body = json.dumps({"SecretName": name, "VersionId": version}).encode()
        secret_id, secret_key, token = self._credential()
        now = int(time.time())
        headers = {
            "Host": host, "Content-Type": "application/json", "X-TC-Action": "GetSecretValue",
            "X-TC-Version": "2019-09-23", "X-TC-Region": self._region, "X-TC-Timestamp": str(now),
            "Authorization": tc3_authorization(
                secret_id, secret_key, service="ssm", host=host, body=body, timestamp=now
            ),
        }  # fmt: skip
        if token:
            headers["X-TC-Token"] = token
        connection = self._connect(host)
        try:
            reply = json.loads(connection.request("POST", "/", headers, body).read(_REPLY_BYTES_MAX))["Response"]
        except (OSError, ValueError, KeyError) as error:
            raise Unavailable("DependencyUnavailable", "ssm", "GetSecretValue", type(error).__name__) from None
        finally:
            connection.close()
        if "Error" in reply:
            raise Unavailable("DependencyUnavailable", "ssm", "GetSecretValue", str(reply["Error"].get("Code")))
        return b64decode(reply["SecretBinary"]) if reply.get("SecretBinary") else str(reply["SecretString"]).encode()

    def pointer(self, name: str) -> bytes | None:
        """The manifest's bytes, or None when it is the one read last."""
        response = self._get(name, {"If-None-Match": self._etag} if self._etag else {})
        data = self._read(response, _REPLY_BYTES_MAX)
        if response.status == 304:
            return None
        self._etag = response.headers.get("etag", "")
        return data

    def forget_pointer(self) -> None:
        """The next `pointer` reads anew: what was read last could not be used."""
        self._etag = ""

    def object(self, name: str, size_max: int) -> bytes:
        """A small object, whole."""
        return self._read(self._get(name, {}), size_max)

    def download(self, name: str, size_max: int, path: str) -> None:
        """A large object into a file."""
        response, total = self._get(name, {}), 0
        try:
            with open(path, "wb") as file:
                for chunk in response.body:
                    total += len(chunk)
                    if total > size_max:
                        raise Unavailable("SnapshotUnavailable", "cos", "GetObject", "TooLarge")
                    file.write(chunk)
        except OSError as error:
            raise _broken(error) from None

    def close(self) -> None:
        """Closes the kept connection."""
        self._connection.close()

    def _get(self, name: str, extra: dict[str, str]) -> Response:
        key = self._prefix + name
        secret_id, secret_key, token = self._credential()
        headers = {"Host": self._host, **extra}
        if token:
            headers["x-cos-security-token"] = token
        now = int(time.time())
        headers["Authorization"] = cos_authorization(
            secret_id, secret_key, method="GET", key=key,
            headers={name.lower(): text for name, text in headers.items()},
            start=now - _SIGN_BEFORE, end=now + _SIGN_AFTER,
        )  # fmt: skip
        try:
            response = self._exchange("/" + percent.encode(key, keep="/"), headers)
        except OSError as error:
            raise _broken(error) from None
        if response.status in (200, 304):
            return response
        reply = self._read(response, _REPLY_BYTES_MAX)
        code = reply.partition(b"<Code>")[2].partition(b"</Code>")[0].decode("latin-1")
        if not 0 < len(code) <= _CODE_CHARS_MAX or not code.isalnum():
            code = str(response.status)
        raise (Gone if response.status == 404 else Unavailable)("SnapshotUnavailable", "cos", "GetObject", code)

    def _exchange(self, path: str, headers: dict[str, str]) -> Response:
        """One request; if a kept connection turns out to be closed by the server, once more over a new one."""
        kept = self._connection.is_open
        try:
            return self._connection.request("GET", path, headers)
        except TimeoutError:
            raise
        except OSError:
            if not kept:
                raise
            return self._connection.request("GET", path, headers)

    def _read(self, response: Response, size_max: int) -> bytes:
        try:
            return response.read(size_max)
        except OSError as error:
            raise _broken(error) from None

    def _connect(self, host: str) -> Connection:
        """To the host itself over TLS, or to the local endpoint in plain HTTP."""
        if self._endpoint is None:
            return Connection(host, 443, tls=True, timeout=TIMEOUT_SECONDS)
        name, _, port = self._endpoint.rpartition(":")
        return Connection(name, int(port), tls=False, timeout=TIMEOUT_SECONDS)


def _broken(error: OSError) -> Unavailable:
    return Unavailable("SnapshotUnavailable", "cos", "GetObject", type(error).__name__)
