"""The schema: migrations with Alembic, which no function ever imports."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from consumer_keys.store.database import schema_revision
from consumer_keys.store.dialect import make_engine
from consumer_keys.store.schema import SCHEMA_REVISION


def migrate(url: str) -> tuple[str | None, str]:
    """Brings a database to this code's schema; returns the schema before and after. Repeating it changes nothing."""
    engine = make_engine(url)
    try:
        with engine.connect() as connection:
            before = schema_revision(connection)
        if before != SCHEMA_REVISION:
            with engine.connect() as connection:
                command.upgrade(_config(connection), SCHEMA_REVISION)
    finally:
        engine.dispose()
    return before, SCHEMA_REVISION


def _config(connection: sa.Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    return config
