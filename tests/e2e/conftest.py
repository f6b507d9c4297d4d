"""The local run as a process of its own, reached as a stranger reaches it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

import pytest

from tests.machine import free_port

CKEYS = Path(sys.executable).with_name("ckeys")
START_SECONDS_MAX = 30


class Reply(NamedTuple):
    """One HTTP answer."""

    status: int
    body: Any
    headers: dict[str, str]


class Local:
    """A running `ckeys run`."""

    def __init__(self, home: Path, port: int, **settings: str) -> None:
        self.home, self.port, self.url = home, port, f"http://127.0.0.1:{port}"
        environ = {**os.environ, "CKEYS_HOME": str(home), "CKEYS_PORT": str(port), **settings}
        self.process = subprocess.Popen(
            [CKEYS, "run"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ
        )
        self.output: list[str] = []
        self._ready = threading.Event()
        started = time.monotonic()
        self._readers = [
            threading.Thread(target=self._collect, args=(stream,))
            for stream in (self.process.stdout, self.process.stderr)
        ]
        for reader in self._readers:
            reader.start()
        if not self._ready.wait(START_SECONDS_MAX):
            self.stop()
            raise AssertionError("".join(self.output))
        self.start_seconds = time.monotonic() - started
        operator = json.loads((home / "operator.json").read_text())
        self.secret_id, self.secret_key = operator["secret_id"], operator["secret_key"]

    def _collect(self, stream: Any) -> None:
        for line in stream:
            self.output.append(line)
            if "Ctrl-C stops everything" in line:
                self._ready.set()
        self._ready.set()  # the process has ended; whoever waits looks at the output

    def stop(self, number: int = signal.SIGINT) -> int:
        """Ctrl-C; the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        status = self.process.wait(20)
        for reader in self._readers:
            reader.join()
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()
        return status

    def __call__(self, method: str, path: str, body: Any = None, token: str | None = "", **headers: str) -> Reply:
        """One request, as the operator unless told otherwise."""
        bearer = self.secret_key if token == "" else token
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        if bearer is not None:
            given["Authorization"] = f"Bearer {bearer}"
        data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        request = Request(self.url + path, data, given, method=method)
        try:
            with build_opener(ProxyHandler({})).open(request, timeout=20) as response:
                return _reply(response)
        except HTTPError as error:
            with error:
                return _reply(error)


def _reply(response: Any) -> Reply:
    text = response.read()
    return Reply(response.status, json.loads(text) if text else None, dict(response.headers))


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Local]]:
    """Starts local runs; all are stopped at the end."""
    running: list[Local] = []

    def begin(home: Path | None = None, **settings: str) -> Local:
        local = Local(home or tmp_path / "home", free_port(), **settings)
        running.append(local)
        return local

    yield begin
    for local in running:
        if local.process.poll() is None:
            local.stop()


@pytest.fixture
def pasted() -> Callable[[Local], str]:
    """The curl line of the banner, as a person would copy it."""

    def find(local: Local) -> str:
        match = re.search(r"(curl -sS .*\\\n.*)\n", "".join(local.output))
        assert match, local.output
        return match[1]

    return find
