"""Deployments that have been started before: a copy finds what a new one makes, in a third of the time."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from ckeys.deployment import DATABASE_FILE, Deployment
from consumer_keys.store import dialect
from tests.databases import Content, Files, rows_of

# A copy is as old as what was copied, snapshot and all, so that is not used for long.
AGE_SECONDS_MAX = 20
# Limits that most tests are not about.
RATES = {
    "SSM_REQUESTS_PER_SECOND": "10000", "AUTH_FAILURES_PER_MINUTE": "1000000", "REVEALS_PER_MINUTE": "100000",
    "REVEALS_PER_DAY": "100000",
}  # fmt: skip


def environment(settings: dict[str, str]) -> dict[str, str]:
    """What a deployment of the tests is given: it looks at the pointer before every answer, and limits little."""
    return {**os.environ, "SNAPSHOT_POLL_SECONDS": "0", **RATES, **settings}


class _Started(NamedTuple):
    at: float
    home: Path
    content: Content


class Prepared:
    """Makes such deployments with the default settings, a new one whenever the last of its hour is too old.

    (The clock of one test stands still in another year, and the next test's does not.)
    """

    def __init__(self, files: Files, folders: pytest.TempPathFactory) -> None:
        self._files, self._folders = files, folders
        self._latest: dict[float, _Started] = {}

    def copy(self, home: Path) -> Content:
        """Copies the home folder of a deployment that is closed; returns what its database holds."""
        now = time.time()
        latest = self._latest.get(now // 3600)
        if latest is None or not 0 <= now - latest.at < AGE_SECONDS_MAX:
            latest = self._latest[now // 3600] = self._started(now)
        shutil.copytree(latest.home, home)
        return latest.content

    def _started(self, at: float) -> _Started:
        home = self._folders.mktemp("prepared") / "home"
        home.mkdir()
        database = home / DATABASE_FILE
        shutil.copy(self._files.empty, database)
        Deployment(home, environ=environment({})).close()
        engine = dialect.make_engine(f"sqlite:///{database}")
        rows = rows_of(engine)
        engine.dispose()
        return _Started(at, home, Content(database.rename(home.parent / DATABASE_FILE), rows))
