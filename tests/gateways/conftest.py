"""nginx, Caddy and Envoy as processes on 127.0.0.1, from the files in examples/gateways; only ports are replaced."""

from __future__ import annotations

import http.client
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import count
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.e2e.conftest import Local
from tests.gateways.servers import Recorder, Relay, Seen, Upstream
from tests.machine import free_port, missing

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "gateways"
GATEWAYS = ("nginx", "caddy", "envoy")
BASE = "/v1/gateways/default"
POLL_SECONDS = 1
START_SECONDS_MAX = 20
# Debian keeps nginx where only root looks.
PROGRAM_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])

Headers = Iterable[tuple[str, str]]


class Answer(NamedTuple):
    """What the gateway answered."""

    status: int
    headers: dict[str, str]
    body: bytes


class Key(NamedTuple):
    """A key, as its operator knows it."""

    key_id: str
    key_name: str
    value: str
    consumer_id: str
    consumer_name: str
    groups: tuple[str, ...]


class Keys:
    """Makes keys at the running validator; every name is new."""

    def __init__(self, local: Local) -> None:
        self.local = local
        self._numbers = count(1)
        self._shared: dict[str, Key] = {}

    def shared(self, code: str = "Valid") -> Key:
        """A key with this verdict, for whoever does not change it."""
        if code not in self._shared:
            key = self._shared[code] = self.create(bound=code != "KeyUnbound")
            if code == "Valid, too":
                return key
            if code == "KeyDisabled":
                self.switch(key, "disable")
            if code == "ConsumerDisabled":
                self._call("PATCH", f"/consumers/{key.consumer_id}", {"status": "Disable"}, 200)
            self._settle(key, code)
        return self._shared[code]

    def create(self, *, bound: bool = True, grouped: bool = True) -> Key:
        """A System key, bound to a consumer of its own with a Chinese name, in two groups, unless told otherwise."""
        number = next(self._numbers)
        key = self._call("POST", "/keys", {"name": f"钥匙-{number}", "generation": "System"}, 201)
        consumer = self._call("POST", "/consumers", {"name": f"客户-{number}"}, 201)
        if bound:
            self._call("PUT", f"/keys/{key['key_id']}/consumer", {"consumer_id": consumer["consumer_id"]}, 200)
        groups = tuple(f"{kind}-{number}" for kind in ("team", "分组") if grouped)
        for name in groups:
            group = self._call("POST", "/groups", {"name": name}, 201)
            self._call("PUT", f"/groups/{group['group_id']}/consumers/{consumer['consumer_id']}", None, 200)
        made = Key(key["key_id"], key["name"], key["value"], consumer["consumer_id"], consumer["name"], groups)
        self._settle(made, "Valid" if bound else "KeyUnbound")
        return made

    def switch(self, key: Key, state: str) -> None:
        """`enable` or `disable`."""
        self._call("POST", f"/keys/{key.key_id}/{state}", None, 200)

    def _settle(self, key: Key, code: str) -> None:
        """Wait until the validator says so: it looks for a newer snapshot at most once a second."""
        until(lambda: self._call("POST", "/verify", {"key": key.value}, 200)["code"] == code, POLL_SECONDS + 2)

    def _call(self, method: str, path: str, body: object, status: int) -> dict[str, str]:
        reply = self.local(method, BASE + path, body)
        assert reply.status == status, reply.body
        answer: dict[str, str] = reply.body
        return answer


def until(holds: Callable[[], bool], seconds: float) -> None:
    """Returns when the condition holds; fails when it did not in time."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        threading.Event().wait(0.03)


class Gateway:
    """One gateway process between a client, a validator and an API."""

    def __init__(self, name: str, folder: Path, validator_port: int, upstream: Upstream) -> None:
        self.name, self.upstream, self.folder = name, upstream, folder
        program = find_program(name)
        for _ in range(3):  # somebody else may take a free port before the gateway does
            self.port = free_port()
            ports = {"8080": self.port, "9000": validator_port, "8081": upstream.server_port}
            command, environ = _PREPARE[name](program, folder, ports)
            if self._started(command, environ):
                return
        raise AssertionError((folder / "output.log").read_text(errors="replace"))

    def _started(self, command: list[str], environ: dict[str, str]) -> bool:
        with (self.folder / "output.log").open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environ, cwd=self.folder)
        deadline = time.monotonic() + START_SECONDS_MAX
        while time.monotonic() < deadline and self.process.poll() is None:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=1)
            try:
                connection.connect()
            except OSError:
                threading.Event().wait(0.02)
            else:
                return True
            finally:
                connection.close()
        self.stop()
        return False

    def stop(self) -> None:
        """The process has ended when this returns."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def __call__(
        self, method: str = "GET", target: str = "/v1/models", headers: Headers = (), body: bytes | list[bytes] = b""
    ) -> Answer:
        """One request, its headers as given; a body that is a list goes in chunks."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.putrequest(method, target)
            for name, value in headers:
                connection.putheader(name, value)
            if isinstance(body, list):
                connection.putheader("Transfer-Encoding", "chunked")
                connection.endheaders(body, encode_chunked=True)
            else:
                if body:
                    connection.putheader("Content-Length", str(len(body)))
                connection.endheaders(body or None)
            response = connection.getresponse()
            given = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, given, response.read())
        finally:
            connection.close()


def find_program(name: str) -> str:
    """Its path; without it the test is skipped, or fails where CKEYS_REQUIRE names it."""
    beside = Path(sys.prefix) / "bin" / name
    program = str(beside) if beside.exists() else shutil.which(name, path=PROGRAM_PATH)
    if program is None:
        missing(name)
    return program


def example(file_name: str, ports: dict[str, int]) -> str:
    """A file of examples/gateways; every port in it is another one afterwards, and nothing else."""
    text = (EXAMPLES / file_name).read_text()
    replaced, number = re.subn(r"\b(8080|8081|9000)\b", lambda match: str(ports[match[1]]), text)
    assert number >= len(ports)
    return replaced


def _nginx(program: str, folder: Path, ports: dict[str, int]) -> tuple[list[str], dict[str, str]]:
    (folder / "consumer-keys.conf").write_text(example("nginx.conf", ports))
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    main = [
        "user root root;" if os.geteuid() == 0 else "",
        f"daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log;",
        "events {}",
        "http { access_log off;",
        *(f"{kind}_temp_path {folder}/{kind};" for kind in kinds),
        f"include {folder}/consumer-keys.conf; }}",
    ]
    (folder / "main.conf").write_text("\n".join(main))
    command = [program, "-e", f"{folder}/error.log", "-p", str(folder), "-c", f"{folder}/main.conf"]
    return command, dict(os.environ)


def _caddy(program: str, folder: Path, ports: dict[str, int]) -> tuple[list[str], dict[str, str]]:
    alone = "{\n\tadmin off\n}\n"
    (folder / "Caddyfile").write_text(alone + example("Caddyfile", ports))
    homes = dict.fromkeys(("HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"), str(folder))
    command = [program, "run", "--config", f"{folder}/Caddyfile", "--adapter", "caddyfile"]
    return command, {**os.environ, **homes}


def _envoy(program: str, folder: Path, ports: dict[str, int]) -> tuple[list[str], dict[str, str]]:
    (folder / "envoy.yaml").write_text(example("envoy.yaml", ports))
    # Without hot restart there is no shared memory, so any number of them run side by side.
    command = [program, "-c", f"{folder}/envoy.yaml", "--concurrency", "1", "--disable-hot-restart", "-l", "warning"]
    return command, dict(os.environ)


_Prepare = Callable[[str, Path, dict[str, int]], tuple[list[str], dict[str, str]]]
_PREPARE: dict[str, _Prepare] = {"nginx": _nginx, "caddy": _caddy, "envoy": _envoy}


class Stack(NamedTuple):
    """A gateway and all that is around it."""

    gateway: Gateway
    relay: Relay
    upstream: Upstream
    keys: Keys

    def asked(self) -> list[Seen]:
        """What the validator was asked since the test began."""
        return self.relay.seen

    def reached(self) -> list[Seen]:
        """What reached the API since the test began."""
        return self.upstream.seen


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keys]:
    """One local run for all these tests, in a process of its own."""
    local = Local(tmp_path_factory.mktemp("ckeys") / "home", free_port(), SNAPSHOT_POLL_SECONDS=str(POLL_SECONDS))
    yield Keys(local)
    assert local.stop() == 0


@pytest.fixture(scope="session", params=GATEWAYS)
def running(request: pytest.FixtureRequest, keys: Keys, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Each gateway in turn."""
    name: str = request.param
    find_program(name)
    upstream, relay = Upstream(), Relay(keys.local.port)
    servers: tuple[Recorder, ...] = (upstream, relay)
    try:
        gateway = Gateway(name, tmp_path_factory.mktemp(name), relay.server_port, upstream)
        try:
            yield Stack(gateway, relay, upstream, keys)
        finally:
            gateway.stop()  # before the servers, whose connections it holds
    finally:
        for server in servers:
            server.stop()


@pytest.fixture
def stack(running: Stack) -> Stack:
    """Each gateway in turn, with nothing seen yet."""
    running.relay.seen.clear()
    running.upstream.seen.clear()
    running.upstream.first_event_arrived.clear()
    return running
