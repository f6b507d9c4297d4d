"""Pytest fixtures: a fresh cloud per test, the official SDKs pointed at it, and a clock that moves everything.

Loaded in every pytest run, so nothing but pytest is imported before a fixture is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tencent_emulator.cloud import Cloud
    from tencent_emulator.server import Server

SECRET_ID = "AKIDEMULATOR0000000000000000000000000"  # noqa: S105 - not a secret, and known on purpose
SECRET_KEY = "emulator-secret-key"  # noqa: S105 - it opens nothing but a loopback server
REGION = "ap-guangzhou"
START_S = 1_800_000_000.0


class TestClock:
    """The time of everything in this process: it stands still until it is shifted."""

    __test__ = False

    def __init__(self, traveller: Any) -> None:
        """Steer a started time_machine traveller."""
        self._traveller = traveller

    def now(self) -> float:
        """Unix time in seconds."""
        import time

        return time.time()

    def shift(self, seconds: float) -> None:
        """Move on (or back)."""
        self._traveller.shift(seconds)


@pytest.fixture
def tencent_clock() -> Iterator[TestClock]:
    """Wall time stands still at 2027-01-15 08:00 UTC and moves by `.shift(seconds)`; monotonic time runs on."""
    import time_machine

    with time_machine.travel(START_S, tick=False) as traveller:
        yield TestClock(traveller)


@pytest.fixture
def tencent_cloud() -> Iterator[Cloud]:
    """A fresh account in memory that knows SECRET_ID and SECRET_KEY."""
    from tencent_emulator.cloud import Cloud

    with Cloud() as cloud:
        cloud.add_credential(SECRET_ID, SECRET_KEY)
        yield cloud


@pytest.fixture
def tencent_server(tencent_cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """That account behind HTTP on 127.0.0.1; proxies are kept out of the way."""
    with tencent_cloud.serve() as server:
        # The SDK looks for "host:port" inside NO_PROXY; requests looks for the bare host.
        monkeypatch.setenv("NO_PROXY", f"{server.endpoint},127.0.0.1")
        monkeypatch.setenv("no_proxy", f"{server.endpoint},127.0.0.1")
        yield server


@pytest.fixture
def ssm_client(tencent_server: Server) -> Iterator[Any]:
    """The official SSM client."""
    from tencentcloud.ssm.v20190923 import ssm_client

    yield from _api_client(ssm_client.SsmClient, tencent_server.endpoint)


@pytest.fixture
def kms_client(tencent_server: Server) -> Iterator[Any]:
    """The official KMS client."""
    from tencentcloud.kms.v20190118 import kms_client

    yield from _api_client(kms_client.KmsClient, tencent_server.endpoint)


@pytest.fixture
def scf_client(tencent_server: Server) -> Iterator[Any]:
    """The official SCF client."""
    from tencentcloud.scf.v20180416 import scf_client

    yield from _api_client(scf_client.ScfClient, tencent_server.endpoint)


@pytest.fixture
def cos_client(tencent_server: Server) -> Iterator[Any]:
    """The official COS client, without retries; TCP goes to the emulator, Host stays the production one."""
    import requests
    from qcloud_cos import CosConfig, CosS3Client

    config = CosConfig(
        Region=REGION,
        SecretId=SECRET_ID,
        SecretKey=SECRET_KEY,
        Scheme="http",
        IP="127.0.0.1",
        Port=tencent_server.port,
        Timeout=(5, 10),
    )
    with requests.Session() as session:
        session.trust_env = False
        yield CosS3Client(config, 0, session)


def _api_client(factory: Any, endpoint: str) -> Iterator[Any]:
    """One SDK client; its session ignores netrc and proxies and is closed, since open sockets fail the run."""
    import requests
    from tencentcloud.common.credential import Credential
    from tencentcloud.common.profile.client_profile import ClientProfile
    from tencentcloud.common.profile.http_profile import HttpProfile

    http = HttpProfile(protocol="http", endpoint=endpoint, reqTimeout=(5, 10))
    profile = ClientProfile(httpProfile=http, language="en-US")
    client = factory(Credential(SECRET_ID, SECRET_KEY), REGION, profile)
    sessions = [part for part in vars(client.request.conn).values() if isinstance(part, requests.Session)]
    for session in sessions:
        session.trust_env = False
    yield client
    for session in sessions:
        session.close()
