"""The process whose forked writers are killed, as a test sees it: what they said, and nothing else."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from ckeys.deployment import ROOT, Deployment
from tests.functions.failing import CANARIES

CREDENTIALS = ("cred-0", "cred-1")  # one per writer


class Run(NamedTuple):
    """What killed writers had acknowledged, in order, and the calls that were under way, at most one per writer."""

    done: list[dict[str, Any]]
    under_way: list[dict[str, Any]]


class Writers:
    """A process that runs writers and reports what they say; warm, and with one change of every kind behind it."""

    def __init__(self, deployment: Deployment, left: Path) -> None:
        """What they leave behind in files is below `left`. The first credential must be there."""
        left.mkdir()
        # One process plays every function, so it has the account's own credential and no function's role.
        names = ("TENCENTCLOUD_SECRETID", "TENCENTCLOUD_SECRETKEY", "TENCENTCLOUD_SESSIONTOKEN")
        account = dict(zip(names, (*deployment.operator, ""), strict=True))
        environment = {**os.environ, **deployment.environment, **account, "TMPDIR": str(left)}
        command = [sys.executable, "-m", "tests.crashes.writer", CANARIES["content"]]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment
        )
        while "ready" not in self._line():
            pass

    def __enter__(self) -> Writers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()

    def run(self, order: dict[str, Any]) -> Run:
        """Lets writers make changes until all of them are killed."""
        done: list[dict[str, Any]] = []
        under_way: dict[int, dict[str, Any]] = {}
        lines, signals = self._obey(order)
        for line in lines:
            if "call" in line:
                under_way[line["writer"]] = line
            elif "done" in line:
                done.append(line)
                del under_way[line["writer"]]
        assert signals == [signal.SIGKILL] * order["writers"], order
        reached = {line["at"] for line in lines if "at" in line}
        assert reached == {order[name] for name in order if name == "point"}, order
        return Run(done, list(under_way.values()))

    def attempt(self, function: str, event: Any, **kill: Any) -> str | None:
        """One call of a function: the fail point where it was killed, None if it came to its end."""
        lines, signals = self._obey({"function": function, "event": event, **kill})
        assert signals == [signal.SIGKILL if lines else 0]
        return lines[0]["at"] if lines else None

    def _obey(self, order: dict[str, Any]) -> tuple[list[dict[str, Any]], list[int]]:
        assert self._process.stdin is not None
        print(json.dumps(order), file=self._process.stdin, flush=True)
        lines = []
        while "ended" not in (line := self._line()):
            lines.append(line)
        return lines, line["ended"]

    def _line(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        text = self._process.stdout.readline()
        assert text, "the process ended"
        line: dict[str, Any] = json.loads(text)
        assert "error" not in line, line
        return line
