"""The functions keep their word on each of the three databases."""

from __future__ import annotations

import pytest

from tests.databases import KINDS


@pytest.fixture(params=KINDS)
def database(request: pytest.FixtureRequest) -> str:
    """Each test runs once per database."""
    kind: str = request.param
    return kind
