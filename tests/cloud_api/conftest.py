"""A local run in a process of its own, for the official clients."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cloud_api.clients import Vendor
from tests.e2e.conftest import Local
from tests.machine import free_port


@pytest.fixture(scope="package")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    """One run for all tests here; each works in a gateway of its own."""
    gateways = ",".join(
        ["move-from", "move-to", "life-cngw", "life-tse", "life-mixed", "tccli", *(f"sample-{n}" for n in range(60))]
    )
    running = Local(
        tmp_path_factory.mktemp("cloud-api") / "home", free_port(), GATEWAYS=gateways, REVEALS_PER_MINUTE="1000"
    )
    yield running
    running.stop()


@pytest.fixture
def vendor(local: Local) -> Vendor:
    """The run's own operator."""
    return Vendor(local.url.removeprefix("http://"), (local.secret_id, local.secret_key))
