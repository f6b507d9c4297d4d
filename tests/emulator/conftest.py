"""What the emulator's tests share: SDK calls by action name, and a signer of their own, written from the documents."""

from __future__ import annotations

import hashlib
import hmac
import http.client
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tencent_emulator.cloud import Cloud
from tencent_emulator.pytest_plugin import SECRET_ID, SECRET_KEY
from tencent_emulator.server import Server
from tests.tccli import tccli_program

Ask = Callable[..., dict[str, Any]]
Refused = Callable[[str], AbstractContextManager[None]]
VERSIONS = {"ssm": "2019-09-23", "kms": "2019-01-18", "scf": "2018-04-16"}


def _asker(client: Any, models: Any) -> Ask:
    def ask(action: str, **members: Any) -> dict[str, Any]:
        request = getattr(models, f"{action}Request")()
        request._deserialize(members)
        answer = json.loads(getattr(client, action)(request).to_json_string())
        assert answer["RequestId"]
        return dict(answer)

    return ask


@pytest.fixture
def ssm(ssm_client: Any) -> Ask:
    from tencentcloud.ssm.v20190923 import models

    return _asker(ssm_client, models)


@pytest.fixture
def kms(kms_client: Any) -> Ask:
    from tencentcloud.kms.v20190118 import models

    return _asker(kms_client, models)


@pytest.fixture
def scf(scf_client: Any) -> Ask:
    from tencentcloud.scf.v20180416 import models

    return _asker(scf_client, models)


@pytest.fixture
def refused() -> Refused:
    """The block must end in exactly this code of the official SDK."""
    from tencentcloud.common.exception.tencent_cloud_sdk_exception import TencentCloudSDKException

    @contextmanager
    def expect(code: str) -> Iterator[None]:
        with pytest.raises(TencentCloudSDKException) as caught:
            yield
        assert caught.value.get_code() == code
        assert caught.value.get_request_id() or code.startswith("Client")

    return expect


class Raw:
    """One keep-alive connection on which a test may send what no SDK would."""

    def __init__(self, server: Server, clock: Callable[[], float]) -> None:
        self.server = server
        self.clock = clock
        self.endpoint = server.endpoint
        self.connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)

    def send(
        self, method: str, target: str, headers: dict[str, str], body: bytes = b""
    ) -> tuple[http.client.HTTPResponse, bytes]:
        self.connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.connection.putheader(name, value)
        self.connection.endheaders(body)
        response = self.connection.getresponse()
        return response, response.read()

    def signed(
        self,
        service: str,
        action: str,
        body: bytes = b"{}",
        *,
        method: str = "POST",
        query: str = "",
        sign_names: str = "content-type;host",
        lower: bool = False,
        secret_id: str = SECRET_ID,
        secret_key: str = SECRET_KEY,
        date: str | None = None,
        unsigned_payload: bool = False,
        **changed: str,
    ) -> dict[str, str]:
        """Headers of a correctly signed request; `changed` headers (X_TC_Token=..) are set before signing."""
        stamp = changed.get("X_TC_Timestamp", str(int(self.clock())))
        headers = {
            "Host": self.endpoint,
            "Content-Type": "application/json" if method == "POST" else "application/x-www-form-urlencoded",
            "X-TC-Action": action,
            "X-TC-Version": VERSIONS.get(service, "2019-09-23"),
            "X-TC-Region": "ap-guangzhou",
            "X-TC-Timestamp": stamp,
            **{name.replace("_", "-"): value for name, value in changed.items()},
        }
        if unsigned_payload:
            headers["X-TC-Content-SHA256"], payload = "UNSIGNED-PAYLOAD", b"UNSIGNED-PAYLOAD"
        else:
            payload = b"" if method == "GET" else body
        sent = {name.lower(): value for name, value in headers.items()}
        lines = "".join(f"{n}:{sent[n].lower() if lower else sent[n]}\n" for n in sign_names.split(";"))
        canonical = f"{method}\n/\n{query}\n{lines}\n{sign_names}\n{hashlib.sha256(payload).hexdigest()}"
        day = date or time.strftime("%Y-%m-%d", time.gmtime(int(stamp)))
        scope = f"{day}/{service}/tc3_request"
        digest = hashlib.sha256(canonical.encode()).hexdigest()
        key = ("TC3" + secret_key).encode()
        for part in (day, service, "tc3_request"):
            key = hmac.digest(key, part.encode(), "sha256")
        signature = hmac.digest(key, f"TC3-HMAC-SHA256\n{stamp}\n{scope}\n{digest}".encode(), "sha256").hex()
        headers["Authorization"] = (
            f"TC3-HMAC-SHA256 Credential={secret_id}/{scope}, SignedHeaders={sign_names}, Signature={signature}"
        )
        return headers

    def api(self, headers: dict[str, str], body: bytes = b"{}", target: str = "/") -> dict[str, Any]:
        """The Response member; every reply of the cloud API has status 200, one Content-Type and a RequestId."""
        method = "POST" if headers["Content-Type"] == "application/json" else "GET"
        response, text = self.send(method, target, headers, body if method == "POST" else b"")
        assert response.status == 200
        assert response.headers.get_all("Content-Type") == ["application/json"]
        answer: dict[str, Any] = json.loads(text)["Response"]
        assert answer["RequestId"]
        return answer

    def code(self, headers: dict[str, str], body: bytes = b"{}", target: str = "/") -> str:
        """The error code, or "" for success."""
        return str(self.api(headers, body, target).get("Error", {}).get("Code", ""))


@pytest.fixture
def raw(tencent_server: Server) -> Iterator[Raw]:
    """A connection whose signatures follow the (possibly shifted) wall clock."""
    caller = Raw(tencent_server, time.time)
    yield caller
    caller.connection.close()


def cos_signature(
    method: str,
    key: str,
    headers: dict[str, str],
    span: str,
    secret_id: str = SECRET_ID,
    secret_key: str = SECRET_KEY,
    key_span: str | None = None,
) -> str:
    """The Authorization value for COS, as the documents describe it."""

    def encode(text: str) -> str:
        return quote(text, safe="-_.~")

    pairs = sorted((encode(name).lower(), encode(value)) for name, value in headers.items())
    names = ";".join(name for name, _ in pairs)
    lines = "&".join(f"{name}={value}" for name, value in pairs)
    text = f"{method.lower()}\n/{key}\n\n{lines}\n"
    keyed = key_span or span
    sign_key = hmac.digest(secret_key.encode(), keyed.encode(), "sha1").hex()
    to_sign = f"sha1\n{span}\n{hashlib.sha1(text.encode()).hexdigest()}\n"
    signature = hmac.digest(sign_key.encode(), to_sign.encode(), "sha1").hex()
    return (
        f"q-sign-algorithm=sha1&q-ak={secret_id}&q-sign-time={span}&q-key-time={keyed}"
        f"&q-header-list={names}&q-url-param-list=&q-signature={signature}"
    )


@pytest.fixture
def sign_cos() -> Callable[..., str]:
    return cos_signature


class Process:
    """`python -m tencent_emulator` as a process of its own."""

    def __init__(self, *arguments: str) -> None:
        environment = {**os.environ, "TENCENTCLOUD_SECRET_ID": SECRET_ID, "TENCENTCLOUD_SECRET_KEY": SECRET_KEY}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tencent_emulator", "--port", "0", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert self.process.stdout is not None
        self.first_line = self.process.stdout.readline().strip()
        self.endpoint = self.first_line.rpartition(" ")[2]

    def stop(self, number: int) -> tuple[int, str]:
        """Send a signal; exit status and what was written to stderr."""
        self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=20)
        return self.process.returncode, errors


@pytest.fixture
def emulator_process() -> Iterator[Callable[..., Process]]:
    """Start emulators in processes of their own; those still alive at the end are killed."""
    started: list[Process] = []

    def start(*arguments: str) -> Process:
        started.append(Process(*arguments))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
        one.process.communicate(timeout=20)


@pytest.fixture
def tccli(tmp_path: Path, tencent_server: Server) -> Callable[..., dict[str, Any]]:
    """Run the official command line against the emulator; its answer, or {"code": ...} of its refusal."""
    program = tccli_program()

    def run(service: str, action: str, **options: str) -> dict[str, Any]:
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        done = subprocess.run(
            [program, service, action, *words, "--endpoint", f"http://{tencent_server.endpoint}"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(tmp_path),  # it writes its settings there
                "TENCENTCLOUD_SECRET_ID": SECRET_ID,
                "TENCENTCLOUD_SECRET_KEY": SECRET_KEY,
                "TENCENTCLOUD_REGION": "ap-guangzhou",
                "NO_PROXY": tencent_server.endpoint,
            },
        )
        if done.returncode == 0:
            return dict(json.loads(done.stdout))
        code = (done.stdout + done.stderr).partition("code:")[2].split(" ")[0]
        assert code, done.stdout + done.stderr
        return {"code": code}

    return run


@pytest.fixture
def cos_bucket(tencent_cloud: Cloud) -> str:
    """A bucket that exists."""
    tencent_cloud.cos.create_bucket("keys-1250000000")
    return "keys-1250000000"


@pytest.fixture
def plain_socket(tencent_server: Server) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", tencent_server.port), timeout=10) as connection:
        yield connection
