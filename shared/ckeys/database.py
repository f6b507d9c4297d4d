"""The schema: migrations with Alembic, which no function ever imports."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from sqlalchemy.exc import DBAPIError

from consumer_keys.store.database import SchemaMismatch, mismatch, schema_revision
from consumer_keys.store.dialect import MIGRATION_SECONDS, make_engine, migration_lock
from consumer_keys.store.schema import SCHEMA_REVISION


def migrate(url: str) -> tuple[str | None, str]:
    """Brings a database to this code's schema; returns the schema before and after. Repeating it changes nothing.

    Of several at once the first one does the work while the others wait. Raises SchemaMismatch when the database was
    made by newer code.
    """
    engine = make_engine(url, patience=MIGRATION_SECONDS)
    try:
        before = _schema(engine)
        if before is not None and before > SCHEMA_REVISION:
            raise SchemaMismatch(mismatch(before))
        if before != SCHEMA_REVISION:
            with migration_lock(engine):
                before = _schema(engine)
                with engine.connect() as connection:
                    command.upgrade(_config(connection), SCHEMA_REVISION)
        _index_keywords(engine)
    finally:
        engine.dispose()
    return before, SCHEMA_REVISION


def _index_keywords(engine: sa.Engine) -> None:
    """PostgreSQL finds keywords in names by trigrams, if it may have the extension for that; repeating it is no error.

    It belongs to no revision of the schema: without it the same searches read every name. Whoever owns the database
    may install the extension, and so may an administrator, whereupon the next `ckeys migrate` makes the indexes.
    """
    if engine.dialect.name != "postgresql":
        return
    with engine.connect() as connection:
        try:
            with connection.begin():
                connection.execute(sa.text("CREATE EXTENSION IF NOT EXISTS pg_trgm"))
        except DBAPIError:
            return
        with connection.begin():
            for table in ("consumer_keys", "consumers"):
                connection.execute(
                    sa.text(
                        f"CREATE INDEX IF NOT EXISTS ix_{table}_keyword ON {table}"
                        " USING gin (lower(name) gin_trgm_ops) WITH (fastupdate = off)"
                    )
                )


def _schema(engine: sa.Engine) -> str | None:
    with engine.connect() as connection:
        return schema_revision(connection)


def _config(connection: sa.Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    return config
