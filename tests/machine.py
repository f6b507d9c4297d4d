"""What the tests need of the machine: programs that may not be installed, and free ports."""

from __future__ import annotations

import os
import random
import re
import socket
from contextlib import ExitStack
from typing import NoReturn

import pytest

# Below the range from which the system takes the ports of outgoing connections, which other tests open all the time.
PORTS = range(10_240, 32_760)


def missing(name: str, where: str = "on PATH") -> NoReturn:
    """Skips the test for want of a program, or fails it where CKEYS_REQUIRE names the program."""
    reason = f"{name} is not {where}"
    if name in re.split(r"[,\s]+", os.environ.get("CKEYS_REQUIRE", "")):
        pytest.fail(f"CKEYS_REQUIRE names {name}: {reason}")
    pytest.skip(reason)


def free_port(number: int = 2) -> int:
    """The first of so many free ports in a row on 127.0.0.1."""
    while True:
        port = random.SystemRandom().choice(PORTS)
        with ExitStack() as stack:
            try:
                for one in range(port, port + number):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", one))
            except OSError:
                continue
            return port
