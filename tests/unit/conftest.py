"""Hypothesis finds the same examples in every run and has no deadline: a slow machine is no fault."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.unit.recorder import Recorder

settings.register_profile("unit", deadline=None, derandomize=True)
settings.load_profile("unit")


@pytest.fixture(scope="module")
def recorder() -> Iterator[Recorder]:
    """Records what clients send to it."""
    server = Recorder()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()
