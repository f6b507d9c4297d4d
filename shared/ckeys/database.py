"""The schema: migrations with Alembic, which no function ever imports."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from consumer_keys.store import dialect
from consumer_keys.store.database import SchemaMismatch, mismatch, schema_revision
from consumer_keys.store.dialect import MIGRATION_SECONDS, make_engine, migration_lock
from consumer_keys.store.schema import SCHEMA_REVISION


def migrate(url: str, *, wait_seconds: int = MIGRATION_SECONDS // 2) -> tuple[str | None, str]:
    """Brings a database to this code's schema; returns the schema before and after. Repeating it changes nothing.

    One that died half way is completed by the next. Of several at once the first one does the work while the others
    wait. Raises SchemaMismatch when the database was made by newer code, TimeoutError when another one takes too long.
    """
    engine = make_engine(url, patience=MIGRATION_SECONDS)
    try:
        before = _schema(engine)
        if before is not None and before > SCHEMA_REVISION:
            raise SchemaMismatch(mismatch(before))
        if before != SCHEMA_REVISION:
            with migration_lock(engine, wait_seconds):
                before = _schema(engine)
                with engine.connect() as connection:
                    command.upgrade(_config(connection), SCHEMA_REVISION)
    finally:
        engine.dispose()
    return before, SCHEMA_REVISION


def durability_fault(url: str) -> str | None:
    """Why this database may lose changes that it has acknowledged, in one sentence, or None."""
    engine = make_engine(url)
    try:
        with engine.connect() as connection:
            return dialect.durability_fault(connection)
    finally:
        engine.dispose()


def _schema(engine: sa.Engine) -> str | None:
    with engine.connect() as connection:
        return schema_revision(connection)


def _config(connection: sa.Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    return config
