"""The server: loopback only, many clients at once, nothing left behind; and the stand-alone program."""

from __future__ import annotations

import gc
import os
import signal
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from tencent_emulator.cloud import Cloud
from tencent_emulator.pytest_plugin import SECRET_ID, SECRET_KEY
from tencent_emulator.server import Server

if TYPE_CHECKING:
    from tests.emulator.conftest import Process, Raw
else:
    Process = Raw = Any


def descriptors() -> set[str]:
    """What this process has open, apart from the listing itself."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            found.add(os.readlink(f"/proc/self/fd/{name}"))
        except FileNotFoundError:
            continue
    return {target for target in found if not target.startswith("/proc/")}


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc to see open files")
def test_closing_leaves_no_thread_and_no_socket_even_with_idle_connections() -> None:
    gc.collect()  # what earlier tests left to the garbage collector is not our subject
    before, threads = descriptors(), threading.active_count()
    with Cloud() as cloud:
        server = cloud.serve()
        clients = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(5)]
        for client in clients:
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert client.recv(16).startswith(b"HTTP/1.1 200")
        clients.append(socket.create_connection(("127.0.0.1", server.port)))
        server.close()
        server.close()
        assert threading.active_count() == threads
        for client in clients:
            client.close()
    assert threading.active_count() == threads
    assert descriptors() <= before


def test_closing_the_cloud_closes_its_servers() -> None:
    cloud = Cloud()
    port = cloud.serve().port
    cloud.serve()
    cloud.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


def test_a_closed_servers_port_can_be_used_again_at_once() -> None:
    with Cloud() as cloud:
        for _ in range(3):
            with cloud.serve() as first:
                socket.create_connection(("127.0.0.1", first.port)).close()
            with cloud.serve(first.port) as second:
                assert second.port == first.port


def test_it_listens_on_loopback_only(tencent_server: Server) -> None:
    assert tencent_server.endpoint == f"127.0.0.1:{tencent_server.port}"
    with pytest.raises(OSError, match="in use"), socket.socket() as other:
        other.bind(("127.0.0.1", tencent_server.port))
    with socket.socket() as elsewhere:  # another loopback address is free, so not every address is taken
        elsewhere.bind(("127.0.0.2", tencent_server.port))


def test_a_hundred_clients_at_once_are_all_answered(tencent_cloud: Cloud, raw: Raw) -> None:
    headers = raw.signed("ssm", "ListSecrets")
    together = threading.Barrier(100)

    def one(_: int) -> list[str]:
        caller = type(raw)(raw.server, raw.clock)
        together.wait(20)
        try:
            return [caller.code(headers) for _ in range(5)]
        finally:
            caller.connection.close()

    with ThreadPoolExecutor(100) as pool:
        assert list(pool.map(one, range(100))) == [[""] * 5] * 100
    assert len(tencent_cloud.calls) == 500


def test_half_a_request_harms_nobody(plain_socket: socket.socket, raw: Raw) -> None:
    plain_socket.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nshort")
    plain_socket.shutdown(socket.SHUT_WR)
    assert plain_socket.recv(100) == b""
    assert raw.code(raw.signed("ssm", "ListSecrets")) == ""


@pytest.mark.parametrize(
    "line",
    [b"nonsense\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"BREW / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\r\n\r\n"],
)
def test_what_is_no_http_request_is_refused_with_a_status(plain_socket: socket.socket, line: bytes) -> None:
    plain_socket.sendall(line)
    plain_socket.shutdown(socket.SHUT_WR)
    answer = b""
    while chunk := plain_socket.recv(4096):
        answer += chunk
    assert b"40" in answer or b"50" in answer


def test_a_client_that_waits_for_100_continue_gets_it(plain_socket: socket.socket, raw: Raw) -> None:
    headers = raw.signed("ssm", "ListSecrets")
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    plain_socket.sendall(f"POST / HTTP/1.1\r\n{lines}Expect: 100-continue\r\nContent-Length: 2\r\n\r\n".encode())
    assert plain_socket.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
    plain_socket.sendall(b"{}")
    assert plain_socket.recv(4096).startswith(b"HTTP/1.1 200 ")


def test_an_absolute_request_target_is_understood(raw: Raw) -> None:
    assert raw.code(raw.signed("ssm", "ListSecrets"), target=f"http://{raw.endpoint}/") == ""


def test_the_program_says_where_it_listens_and_ends_cleanly(emulator_process: Callable[..., Process]) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        one = emulator_process("--bucket", "b-1250000000")
        assert one.first_line.startswith("listening on 127.0.0.1:")
        assert one.stop(number) == (0, "")


def test_the_program_serves_its_credential_and_bucket(emulator_process: Callable[..., Process], tmp_path: Any) -> None:
    import requests
    from qcloud_cos import CosConfig, CosS3Client

    one = emulator_process("--bucket", "b-1250000000", "--state", str(tmp_path / "state"), "--enforce-limits")
    port = int(one.endpoint.rpartition(":")[2])
    config = CosConfig(
        Region="ap-guangzhou", SecretId=SECRET_ID, SecretKey=SECRET_KEY, Scheme="http", IP="127.0.0.1", Port=port
    )
    with requests.Session() as session:
        session.trust_env = False
        CosS3Client(config, 0, session).put_object(Bucket="b-1250000000", Key="k", Body=b"x")
    assert one.stop(signal.SIGINT) == (0, "")
    with Cloud(state_dir=tmp_path / "state") as cloud:
        assert cloud.cos.get_object("b-1250000000", "k") == b"x"


def test_the_program_says_what_is_wrong_in_one_line(
    emulator_process: Callable[..., Process], tencent_server: Server
) -> None:
    for arguments, said in (
        (("--port", str(tencent_server.port)), f"Port {tencent_server.port} on 127.0.0.1 is already in use."),
        (("--bucket", "no-appid"), "InvalidBucketName"),
    ):
        one = emulator_process(*arguments)
        _, errors = one.process.communicate(timeout=20)
        assert one.process.returncode == 1
        assert said in errors
        assert errors.count("\n") == 1
