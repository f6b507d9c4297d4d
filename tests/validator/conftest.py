"""`ckeys validator` as processes of its own, against the emulated cloud of a deployment, over raw sockets."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from ckeys.deployment import Deployment
from consumer_keys.config import SETTINGS
from tests.conftest import Api
from tests.machine import free_port

CKEYS = Path(sys.executable).with_name("ckeys")
PATH = "/v1/gateways/default/validate"
SECONDS_MAX = 20
POLL_SECONDS = 1


class Answer(NamedTuple):
    """One HTTP answer; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


def environment(deployment: Deployment, **changes: str | None) -> dict[str, str]:
    """What validate_key has on SCF, and nothing of the deployment besides its folder for files."""
    mine = {setting.name for setting in SETTINGS} | {
        "PYTHONPATH", "TENCENTCLOUD_SECRETID", "TENCENTCLOUD_SECRETKEY", "TENCENTCLOUD_SESSIONTOKEN",
    }  # fmt: skip
    base = {name: value for name, value in os.environ.items() if name not in mine}
    names = ("COS_BUCKET", "CLOUD_ENDPOINT", "SNAPSHOT_DIR")
    credential = ("TENCENTCLOUD_SECRETID", "TENCENTCLOUD_SECRETKEY", "TENCENTCLOUD_SESSIONTOKEN")
    given = {name: deployment.environment_of("validate_key")[name] for name in (*names, *credential)}
    settings = {"SNAPSHOT_POLL_SECONDS": str(POLL_SECONDS), **given, **changes}
    return {**base, **{name: value for name, value in settings.items() if value is not None}}


class Server:
    """A running `ckeys validator`; its lines are kept, and can be waited for."""

    def __init__(self, environ: dict[str, str], *options: str) -> None:
        self.port = free_port()
        self.process = subprocess.Popen(
            [CKEYS, "validator", "--port", str(self.port), *options],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ, start_new_session=True,
        )  # fmt: skip
        self.lines: list[str] = []
        self._grown = threading.Condition()
        self._readers = [
            threading.Thread(target=self._collect, args=(stream,))
            for stream in (self.process.stdout, self.process.stderr)
        ]
        for reader in self._readers:
            reader.start()
        self.wait_for(lambda: self.listens() or self.process.poll() is not None)

    def _collect(self, stream: Iterator[str]) -> None:
        for line in stream:
            with self._grown:
                self.lines.append(line)
                self._grown.notify_all()

    def listens(self) -> bool:
        try:
            return self.get("/healthz").status in (200, 503)
        except OSError:
            return False

    def wait_for(self, happened: Callable[[], bool], seconds: float = SECONDS_MAX) -> None:
        """Asks after every line of output and ten times a second besides."""
        deadline = threading.Event()
        timer = threading.Timer(seconds, deadline.set)
        timer.start()
        try:
            while not happened():
                assert not deadline.is_set(), "".join(self.lines)
                with self._grown:
                    self._grown.wait(0.1)
        finally:
            timer.cancel()

    def raw(self, request: bytes) -> Answer:
        """One request on a connection of its own, as bytes."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=SECONDS_MAX) as connection:
            connection.sendall(request)
            data = b""
            while chunk := connection.recv(65536):
                data += chunk
        head, _, body = data.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
        return Answer(int(lines[0].split()[1]), headers, body)

    def get(self, path: str, *lines: bytes, method: str = "GET", body: bytes = b"") -> Answer:
        """A request with these header lines."""
        head = [f"{method} {path} HTTP/1.1".encode(), b"Host: validator", b"Connection: close", *lines]
        if body:
            head.append(b"Content-Length: %d" % len(body))
        return self.raw(b"\r\n".join([*head, b"", b""]) + body)

    def validate(self, value: str) -> int:
        return self.get(PATH, b"Authorization: Bearer " + value.encode()).status

    def stop(self, number: int = signal.SIGTERM) -> int:
        """The exit status; nothing of the server may be left."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        status = self.process.wait(SECONDS_MAX)
        for reader in self._readers:
            reader.join(SECONDS_MAX)  # ends with the last process that could write
            assert not reader.is_alive(), "a process of the server is still there"
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()
        return status


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    """Starts servers; all are stopped at the end."""
    running: list[Server] = []

    def begin(environ: dict[str, str], *options: str) -> Server:
        running.append(Server(environ, *options))
        return running[-1]

    yield begin
    for server in running:
        if server.process.poll() is None:
            server.stop()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """One deployment for the tests that change nothing."""
    environ = {**os.environ, "SNAPSHOT_POLL_SECONDS": "0"}
    with Deployment(tmp_path_factory.mktemp("shared") / "home", durable=False, environ=environ) as deployment:
        yield Api(deployment, deployment.operator[1])
