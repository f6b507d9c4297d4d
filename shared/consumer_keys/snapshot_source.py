"""Reading SSM and COS by the standard library: what validation's cold start can afford."""

from __future__ import annotations

import json
import time
from base64 import b64decode
from collections.abc import Callable
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from urllib.parse import quote

from consumer_keys.errors import Gone, Unavailable
from consumer_keys.signing import cos_authorization, tc3_authorization

TIMEOUT_SECONDS = 3.0
_SIGN_BEFORE, _SIGN_AFTER = 60, 600
_CHUNK = 1 << 18

Credential = Callable[[], tuple[str, str, str | None]]


class SnapshotSource:
    """One bucket folder and one secret. Every failure is Unavailable or Gone; connections are kept and renewed."""

    def __init__(self, credential: Credential, *, region: str, endpoint: str | None, bucket: str, prefix: str) -> None:
        self._credential, self._region, self._endpoint, self._prefix = credential, region, endpoint, prefix
        self._host = f"{bucket}.cos.{region}.myqcloud.com"
        self._connection: HTTPConnection | None = None
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
            connection.request("POST", "/", body, headers)
            reply = json.loads(connection.getresponse().read())["Response"]
        except (OSError, HTTPException, ValueError, KeyError) as error:
            raise Unavailable("DependencyUnavailable", "ssm", "GetSecretValue", type(error).__name__) from None
        finally:
            connection.close()
        if "Error" in reply:
            raise Unavailable("DependencyUnavailable", "ssm", "GetSecretValue", str(reply["Error"].get("Code")))
        return b64decode(reply["SecretBinary"]) if reply.get("SecretBinary") else str(reply["SecretString"]).encode()

    def pointer(self, name: str) -> bytes | None:
        """The manifest's bytes, or None when it is the one read last."""
        response = self._get(name, {"If-None-Match": self._etag} if self._etag else {})
        data = self._read(response, 1 << 20)
        if response.status == 304:
            return None
        self._etag = response.headers.get("ETag") or ""
        return data

    def forget_pointer(self) -> None:
        """The next `pointer` reads anew: what was read last could not be used."""
        self._etag = ""

    def object(self, name: str, size_max: int) -> bytes:
        """A small object, whole."""
        return self._read(self._get(name, {}), size_max)

    def download(self, name: str, size_max: int, path: str) -> None:
        """A large object into a file."""
        response = self._get(name, {})
        try:
            with open(path, "wb") as file:
                total = 0
                while chunk := response.read(_CHUNK):
                    total += len(chunk)
                    if total > size_max:
                        raise Unavailable("DependencyUnavailable", "cos", "GetObject", "TooLarge")
                    file.write(chunk)
        except (OSError, HTTPException) as error:
            raise self._broken(error) from None

    def _get(self, name: str, extra: dict[str, str]) -> HTTPResponse:
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
        path = "/" + quote(key, safe="/-_.~")
        try:
            response = self._exchange(path, headers)
        except (OSError, HTTPException) as error:
            raise self._broken(error) from None
        if response.status in (200, 304):
            return response
        self._read(response, 1 << 20)
        if response.status == 404:
            raise Gone("SnapshotUnavailable", "cos", "GetObject", "404")
        raise Unavailable("SnapshotUnavailable", "cos", "GetObject", str(response.status))

    def _exchange(self, path: str, headers: dict[str, str]) -> HTTPResponse:
        """One request; a kept connection that the server has closed meanwhile is renewed once."""
        for fresh in (False, True):
            if self._connection is None or fresh:
                self._close()
                self._connection = self._connect(self._endpoint or self._host)
            try:
                self._connection.request("GET", path, headers=headers)
                return self._connection.getresponse()
            except TimeoutError:
                raise
            except (OSError, HTTPException):
                if fresh:
                    raise
        raise AssertionError("unreachable")

    def _read(self, response: HTTPResponse, size_max: int) -> bytes:
        try:
            data = response.read(size_max + 1)
            rest = response.read(1) if len(data) > size_max else b""
        except (OSError, HTTPException) as error:
            raise self._broken(error) from None
        if rest or len(data) > size_max:
            self._close()
            raise Unavailable("SnapshotUnavailable", "cos", "GetObject", "TooLarge")
        return data

    def _connect(self, host: str) -> HTTPConnection:
        if self._endpoint:
            return HTTPConnection(host, timeout=TIMEOUT_SECONDS)
        return HTTPSConnection(host, timeout=TIMEOUT_SECONDS)

    def _broken(self, error: Exception) -> Unavailable:
        self._close()
        return Unavailable("SnapshotUnavailable", "cos", "GetObject", type(error).__name__)

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    close = _close
