"""Where the official command line is."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from tests.machine import missing


def tccli_program() -> str:
    """Its path; skips the test where it is not installed, and fails it where CKEYS_REQUIRE names it."""
    beside = Path(sys.prefix) / "tccli" / "bin" / "tccli"
    program = os.environ.get("TCCLI") or (str(beside) if beside.exists() else shutil.which("tccli"))
    if program is None:
        missing("tccli", "in the environment's tccli folder, named by TCCLI or on PATH")
    return program
