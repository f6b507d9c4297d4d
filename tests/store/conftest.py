"""The store on each of the three databases."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from ckeys.database import migrate
from consumer_keys.store.database import Database
from tests.databases import KINDS


@pytest.fixture(params=KINDS)
def database(request: pytest.FixtureRequest) -> str:
    """Each test runs once per database."""
    kind: str = request.param
    return kind


@pytest.fixture
def store(database_urls: Callable[[str], str]) -> Iterator[Database]:
    """The store over an empty database."""
    url = database_urls("store")
    migrate(url)
    opened = Database(url)
    yield opened
    opened.engine.dispose()
