"""One engine per database and its transactions; what differs between SQLite, PostgreSQL and MySQL."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError

from consumer_keys.errors import Problem, Unavailable
from consumer_keys.model import Caller
from consumer_keys.store.change import Change
from consumer_keys.store.publication import Housekeeping, SnapshotReads
from consumer_keys.store.reads import Reads
from consumer_keys.store.schema import SCHEMA_REVISION, deployment

_UNIQUE = {
    "uq_consumer_keys_name": "NameInUse",
    "consumer_keys.name": "NameInUse",
    "uq_consumers_name": "NameInUse",
    "consumers.name": "NameInUse",
    "key_values": "ValueInUse",
}


class SchemaMismatch(Exception):  # noqa: N818 - a state of the database
    """The database's schema is not the one that this code was written for."""


class Database:
    """All access to the database. `read` sees one consistent state; `change` commits whole or not at all."""

    def __init__(self, url: str) -> None:
        self.engine = make_engine(url)
        self._checked = False

    @contextmanager
    def read(self) -> Iterator[Reads]:
        """A read-only transaction. Raises Unavailable when the database does not answer."""
        with self._transaction(write=False) as connection:
            yield Reads(connection)

    @contextmanager
    def change(self, caller: Caller, now_ms: int) -> Iterator[Change]:
        """A write transaction, serialised with every other one by the lock on the deployment row.

        Commits when the block ends normally, durably; any exception undoes everything. Raises Replayed when the
        caller's Idempotency-Key was used before, and SignatureReused for a signed request that comes again.
        """
        with self._transaction(write=True) as connection:
            change = Change(connection, caller, now_ms)
            change.raise_if_replayed()
            change.use_signature()
            yield change

    def raise_if_replayed(self, caller: Caller, now_ms: int) -> None:
        """Raises Replayed like `change`, but before work that a repeated request must not depend on."""
        if caller.idempotency_key is not None:
            with self._transaction(write=False) as connection:
                Change(connection, caller, now_ms).raise_if_replayed()

    @contextmanager
    def snapshot(self) -> Iterator[SnapshotReads]:
        """A read-only transaction over everything that a snapshot holds, in one consistent state."""
        with self._transaction(write=False) as connection:
            yield SnapshotReads(connection)

    @contextmanager
    def housekeeping(self) -> Iterator[Housekeeping]:
        """A short write transaction for leases, publications and reports."""
        with self._transaction(write=True) as connection:
            yield Housekeeping(connection)

    @contextmanager
    def _transaction(self, *, write: bool) -> Iterator[sa.Connection]:
        try:
            with self.engine.connect() as connection, connection.execution_options(**self._options(write)).begin():
                self._check_schema(connection)
                if write:
                    connection.execute(sa.select(deployment.c.id).with_for_update())
                yield connection
        except IntegrityError as error:
            raise _conflict(error) from None
        except SQLAlchemyError as error:
            if isinstance(error, DBAPIError):
                # The text of a driver's error may hold parameters; the type is enough for the log.
                raise Unavailable("DependencyUnavailable", "database", "query", type(error.orig).__name__) from None
            raise

    def _options(self, write: bool) -> dict[str, Any]:
        if self.engine.dialect.name == "sqlite":
            return {"ckeys_write": write}
        # A write locks the deployment row first and must then see what others committed before; a read wants one state.
        return {"isolation_level": "READ COMMITTED" if write else "REPEATABLE READ"}

    def _check_schema(self, connection: sa.Connection) -> None:
        if self._checked:
            return
        found = schema_revision(connection)
        if found != SCHEMA_REVISION:
            state = "has no schema" if found is None else f"has schema {found}"
            raise SchemaMismatch(f"the database {state}, this code needs {SCHEMA_REVISION}; run `ckeys migrate`")
        self._checked = True


def schema_revision(connection: sa.Connection) -> str | None:
    """The revision that the migrations recorded, or None for an empty database."""
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()


def make_engine(url: str) -> sa.Engine:
    """An engine that keeps few connections, checks each before use, and never echoes parameters."""
    address = sa.make_url(url)
    options: dict[str, Any] = {"hide_parameters": True}
    if address.get_backend_name() == "sqlite":
        os.makedirs(os.path.dirname(os.path.abspath(address.database or "")), mode=0o700, exist_ok=True)
        engine = sa.create_engine(address, connect_args={"timeout": 15, "check_same_thread": False}, **options)
        _prepare_sqlite(engine)
        return engine
    if address.get_backend_name() == "postgresql":
        options["connect_args"] = {"connect_timeout": 5}
        address = address.set(drivername="postgresql+psycopg")
    else:
        options["connect_args"] = {"connect_timeout": 5, "read_timeout": 30}
        address = address.set(drivername="mysql+pymysql").update_query_dict({"charset": "utf8mb4"})
    return sa.create_engine(address, pool_size=2, max_overflow=8, pool_pre_ping=True, pool_recycle=1800, **options)


def _prepare_sqlite(engine: sa.Engine) -> None:
    @sa.event.listens_for(engine, "connect")
    def _connected(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # transactions are begun below, not by the driver
        cursor = connection.cursor()
        for statement in ("PRAGMA journal_mode=WAL", "PRAGMA synchronous=FULL", "PRAGMA foreign_keys=ON"):
            cursor.execute(statement)
        cursor.close()

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        # A write begins with the write lock, so that it never has to be upgraded (and refused) half way.
        write = connection.get_execution_options().get("ckeys_write", True)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def _conflict(error: IntegrityError) -> Problem | Unavailable:
    text = str(error.orig)
    for marker, code in _UNIQUE.items():
        if marker in text:
            return Problem(code)
    return Unavailable("DependencyUnavailable", "database", "constraint", type(error.orig).__name__)
