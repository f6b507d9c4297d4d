"""Every eighth event, replayed on PostgreSQL and on MariaDB."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.databases import SERVERS, Servers
from tests.events.test_replay import FILES, Sample, replay, seeded_deployment


@pytest.fixture(scope="module", params=SERVERS)
def seeded(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, servers: Servers
) -> Iterator[Sample]:
    """One deployment per database."""
    with servers[request.param].databases() as lend:
        home = tmp_path_factory.mktemp("samples")
        with seeded_deployment(home, DATABASE_URL=lend("events")) as sample:
            yield sample


@pytest.mark.parametrize("path", FILES[::8], ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_an_event_gives_what_its_name_says(path: Path, seeded: Sample, capsys: pytest.CaptureFixture[str]) -> None:
    replay(path, seeded, capsys)
