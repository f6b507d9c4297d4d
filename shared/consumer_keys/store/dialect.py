"""Everything that differs between SQLite, PostgreSQL and MySQL or MariaDB: types, connections, transactions, errors."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql
from sqlalchemy.exc import DBAPIError, DisconnectionError, InvalidatePoolError
from sqlalchemy.pool import ConnectionPoolEntry

# Nobody waits longer than this for a lock, and a session that falls silent in the middle of a transaction (its instance
# was frozen or died without a word) is ended by the server, with its locks, before the others lose their patience. No
# transaction waits for another service, so none is silent for long, but for one that builds a base file from what it
# has read; it holds no locks. MySQL cannot tell a silence within a transaction from one between two of them: there, a
# session that nobody uses ends as soon, and the pool makes another one.
LOCK_SECONDS, IDLE_SECONDS, WHOLE_TABLE_IDLE_SECONDS = 3, 5, 60
# No statement takes longer: a third of the time that a management function has. What reads a whole table row by row has
# most of the timer's five minutes. A server that has not answered a second later has fallen silent; whether one still
# answers, and whether it can be reached, shows much sooner. So two silences end before the function's time does.
STATEMENT_SECONDS, WHOLE_TABLE_SECONDS = 7, 240
ANSWER_SECONDS, CONNECT_SECONDS = STATEMENT_SECONDS + 1, 3
# No transaction is begun again when the caller has waited for so long, and none over a connection that nobody has used
# for so long: an instance that was frozen does not learn what became of its connections, and neither may the network
# between say it.
GIVE_UP_SECONDS, STALE_SECONDS, POOL_SECONDS = ANSWER_SECONDS + 0.5, 30, 5
MIGRATION_SECONDS = 600
_FETCH_ROWS = 2000

# The transaction was undone, and the same one may well succeed: deadlock, serialization failure, lock timeout.
_AGAIN = frozenset({"40001", "40P01", "55P03", 1020, 1205, 1213, "database is locked"})
# The session is of no use any longer, another one may be: an administrator or a timeout ended it (not every driver
# counts that among the lost connections), or its server may only read since another one took over.
_LOST = frozenset({"57P01", "57P02", "25P03", 1927, 4031, "25006", 1290, 1792, 1836})
# No session will be given to one who has no right to it, however often it is asked for.
_REFUSED = frozenset({1044, 1045, 1049})

# A write locks the deployment row first and must then see what others committed before; a read wants one state.
_ISOLATION = {True: "READ COMMITTED", False: "REPEATABLE READ"}
_MYSQL_ISOLATION = {write: f"SET TRANSACTION ISOLATION LEVEL {level}" for write, level in _ISOLATION.items()}
# How long a statement may take; and before it, how long the transaction may be silent from now on.
_STATEMENT_LIMIT = {
    "postgresql": "SET LOCAL statement_timeout = '{seconds}s'",
    # Each of the two executes what stands in its own comment.
    "mysql": "SET /*M! SESSION max_statement_time={seconds} */ /*!50708 SESSION max_execution_time={seconds}000 */",
}
_IDLE_LIMIT = {
    "postgresql": "SET LOCAL idle_in_transaction_session_timeout = '{seconds}s'",
    "mysql": "SET /*M! SESSION idle_transaction_timeout={seconds} */ /*!50708 SESSION wait_timeout={seconds} */",
}
# Acknowledged means durable, whatever the server's usual setting is; a stricter one (`remote_apply`) is left alone.
_DURABLE = (
    "SELECT set_config('synchronous_commit', 'on', false)"
    " WHERE current_setting('synchronous_commit') IN ('off', 'local', 'remote_write')"
)
# What only the administrator of the server can set; a value, and what it must be.
_SERVER_DURABILITY = {
    "postgresql": ("SELECT 'fsync', current_setting('fsync')", "on"),
    "mysql": ("SELECT 'innodb_flush_log_at_trx_commit', CAST(@@innodb_flush_log_at_trx_commit AS CHAR)", "1"),
}
# The first one waits as long as any lock of its session, and says 1; the other says 1 if it got the lock.
_MIGRATION_LOCK = {
    "postgresql": "SELECT 1 FROM pg_advisory_lock(hashtext('consumer-keys-migration'))",
    "mysql": "SELECT GET_LOCK(CONCAT('ckeys-', MD5(DATABASE())), :seconds)",
}
# As much of each end of a name as the function `ckeys_ends` of PostgreSQL's schema keeps.
_ENDS_LENGTH = 20


def text(length: int) -> sa.types.TypeEngine[str]:
    """Text that compares by its exact characters on every database."""
    return sa.String(length).with_variant(
        mysql.VARCHAR(length, charset="utf8mb4", collation="utf8mb4_bin"), "mysql", "mariadb"
    )


def long_text() -> sa.types.TypeEngine[str]:
    """Text of any length."""
    return sa.Text().with_variant(mysql.LONGTEXT(charset="utf8mb4", collation="utf8mb4_bin"), "mysql", "mariadb")


def octets(length: int) -> sa.types.TypeEngine[bytes]:
    """Up to this many bytes."""
    return sa.LargeBinary(length).with_variant(mysql.VARBINARY(length), "mysql", "mariadb")


def contains(
    connection: sa.Connection, column: sa.Column[str], keyword: str, *, common: bool = False
) -> sa.ColumnElement[bool]:
    """Whether a name contains the keyword, in whatever case.

    PostgreSQL has an index for that, unless the keyword is known to be common; the others read the names.
    """
    wanted = keyword.lower()
    match = sa.func.lower(column).contains(wanted, autoescape=True)
    if common or connection.dialect.name != "postgresql":
        return match
    quoted = wanted[:_ENDS_LENGTH].replace("\\", "\\\\").replace("'", "''")
    begins = sa.cast(f"'{quoted}':*", postgresql.TSQUERY)
    return sa.and_(sa.func.ckeys_ends(sa.func.lower(column)).op("@@", is_comparison=True)(begins), match)


def materialized(query: sa.Select[Any]) -> sa.CTE:
    """The rows of a query, found before anything else is done with them."""
    return query.cte("materialized").prefix_with("MATERIALIZED", dialect="postgresql")


def make_engine(url: str, *, patience: int | None = None) -> sa.Engine:
    """An engine that keeps few connections, checks each before use, and never echoes parameters.

    `patience` (seconds) is for migrations, which may wait and work for long.
    """
    address = sa.make_url(url)
    options: dict[str, Any] = {"hide_parameters": True}
    if address.get_backend_name() == "sqlite":
        os.makedirs(os.path.dirname(os.path.abspath(address.database or "")), mode=0o700, exist_ok=True)
        waits = {"timeout": patience or LOCK_SECONDS, "check_same_thread": False}
        engine = sa.create_engine(address, connect_args=waits, **options)
        _prepare_sqlite(engine)
        return engine
    if address.get_backend_name() == "postgresql":
        address = address.set(drivername="postgresql+psycopg")
        options["connect_args"] = _postgresql_arguments(patience)
    else:
        address = address.set(drivername="mysql+pymysql").update_query_dict({"charset": "utf8mb4"})
        options["connect_args"] = _mysql_arguments(patience)
    options |= {"pool_size": 2, "max_overflow": 8, "pool_timeout": POOL_SECONDS, "pool_recycle": 1800}
    engine = sa.create_engine(address, **options)
    answer_seconds = patience + 1 if patience else ANSWER_SECONDS
    if engine.dialect.name == "postgresql":
        _connect_postgresql(engine, answer_seconds)
    else:
        _connect_mysql(engine, answer_seconds)
    _watch(engine)
    return engine


def _postgresql_arguments(patience: int | None) -> dict[str, Any]:
    limits = {
        "lock_timeout": patience or LOCK_SECONDS,
        "statement_timeout": patience or STATEMENT_SECONDS,
        "idle_in_transaction_session_timeout": patience or IDLE_SECONDS,
    }
    return {
        "connect_timeout": CONNECT_SECONDS, "tcp_user_timeout": ANSWER_SECONDS * 1000, "keepalives_idle": 10,
        "keepalives_interval": 5, "keepalives_count": 2,
        "options": " ".join(f"-c {name}={seconds}s" for name, seconds in limits.items()),
    }  # fmt: skip


def _mysql_arguments(patience: int | None) -> dict[str, Any]:
    lock_seconds, statement_seconds = patience or LOCK_SECONDS, patience or STATEMENT_SECONDS
    # Who waits for long is also silent for long: the session that holds the lock of migrations.
    silence = "" if patience else f", SESSION wait_timeout={IDLE_SECONDS}"
    return {
        # The second one holds for the greeting; `_connect_mysql` prolongs it.
        "connect_timeout": CONNECT_SECONDS, "read_timeout": CONNECT_SECONDS, "write_timeout": ANSWER_SECONDS,
        # What stands in the comments is for MariaDB alone, and for MySQL alone.
        # The mode: what does not fit into a column is refused, and no statement means something else than here.
        "init_command": f"SET SESSION innodb_lock_wait_timeout={lock_seconds}"
        ", SESSION sql_mode='STRICT_ALL_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION'"
        f" /*M! , SESSION idle_transaction_timeout={patience or IDLE_SECONDS}"
        f", SESSION max_statement_time={statement_seconds} */"
        f" /*!50708 , SESSION max_execution_time={statement_seconds * 1000}{silence} */",
    }  # fmt: skip


def durability_fault(connection: sa.Connection) -> str | None:
    """Why changes that were acknowledged may be lost when the server's machine fails, in one sentence, or None."""
    statement, wanted = _SERVER_DURABILITY.get(connection.dialect.name, (None, None))
    if statement is None:
        return None
    name, value = connection.exec_driver_sql(statement).one()
    if value == wanted:
        return None
    return f"{name} of the database server is {value}: a crash can lose acknowledged changes; set it to {wanted}."


def transaction_options(engine: sa.Engine, *, write: bool) -> dict[str, Any]:
    """How a transaction is begun."""
    if engine.dialect.name != "postgresql":
        return {"ckeys_write": write}
    return {"isolation_level": _ISOLATION[write]}


@contextmanager
def streamed(connection: sa.Connection, query: sa.Select[Any]) -> Iterator[sa.CursorResult[Any]]:
    """The rows of a query that reads a whole table, a few thousand in memory. It may take longer than others.

    From its beginning on the transaction may also be silent for longer.
    """
    if connection.dialect.name == "mysql":
        connection.detach()  # limits are the session's there, so it ends with this transaction
    _limit(connection, _IDLE_LIMIT, WHOLE_TABLE_IDLE_SECONDS)
    _limit(connection, _STATEMENT_LIMIT, WHOLE_TABLE_SECONDS)
    with (
        _patient(connection.connection.dbapi_connection, WHOLE_TABLE_SECONDS + 1),
        connection.execute(query, execution_options={"yield_per": _FETCH_ROWS}) as rows,
    ):
        yield rows
    _limit(connection, _STATEMENT_LIMIT, STATEMENT_SECONDS)


def _limit(connection: sa.Connection, limits: dict[str, str], seconds: int) -> None:
    if (statement := limits.get(connection.dialect.name)) is not None:
        connection.exec_driver_sql(statement.format(seconds=seconds))


@contextmanager
def _patient(driver_connection: Any, seconds: float) -> Iterator[None]:
    """Every answer of the server is waited for so long, and then no longer. (A file answers whenever it likes.)"""
    # Where the one driver keeps its limit, and where `_connect_postgresql` adds one to the other.
    name = next((name for name in ("answer_seconds", "_read_timeout") if hasattr(driver_connection, name)), None)
    if name is None:
        yield
        return
    usual = getattr(driver_connection, name)
    setattr(driver_connection, name, seconds)
    try:
        yield
    finally:
        setattr(driver_connection, name, usual)


@contextmanager
def migration_lock(engine: sa.Engine, seconds: int) -> Iterator[None]:
    """Held by one migration at a time, however many are started; it ends with its connection.

    Raises TimeoutError when it is not free within so many seconds.
    """
    statement = _MIGRATION_LOCK.get(engine.dialect.name)
    if statement is None:  # SQLite's migrations run in one write transaction
        yield
        return
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        try:
            if connection.execute(sa.text(statement), {"seconds": seconds}).scalar() != 1:
                raise TimeoutError(f"another migration has been at work for {seconds} s")
            yield
        finally:
            connection.invalidate()  # the session ends, and the lock with it


def was_undone(error: DBAPIError) -> bool:
    """Whether the server undid the transaction for a reason that may be gone the next time."""
    return bool(_codes(error.orig) & _AGAIN)


def was_cut(error: DBAPIError) -> bool:
    """Whether the connection was lost, or never made, so that nothing more is known of the transaction."""
    return error.connection_invalidated or bool(_codes(error.orig) & _LOST)


def _codes(error: BaseException | None) -> set[Any]:
    """SQLSTATE of PostgreSQL, error number of MySQL, text of SQLite (which has a number from Python 3.11 on only)."""
    return {getattr(error, "sqlstate", None), next(iter(getattr(error, "args", ())), None)} - {None}


def _watch(engine: sa.Engine) -> None:
    """No connection is used that was lost, was left alone for long, or does not answer at once."""

    @sa.event.listens_for(engine, "handle_error")
    def _failed(context: sa.ExceptionContext) -> None:
        codes = _codes(context.original_exception)
        # Without a connection it is one that could not be made: the server begins, ends, or has too many.
        if codes & _LOST or (context.connection is None and not codes & _REFUSED):
            context.is_disconnect = True  # then nobody uses it again, nor those that were made before it

    @sa.event.listens_for(engine, "checkin")
    def _returned(_connection: Any, record: ConnectionPoolEntry) -> None:
        record.info["returned"] = time.time()

    @sa.event.listens_for(engine, "checkout")
    def _lent(connection: Any, record: ConnectionPoolEntry, _proxy: Any) -> None:
        returned = record.info.get("returned")
        if returned is None:
            return  # it was just made
        if not 0 <= time.time() - returned <= STALE_SECONDS:
            raise DisconnectionError
        try:
            with _patient(connection, CONNECT_SECONDS):
                engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error:
            raise InvalidatePoolError from None


def _connect_mysql(engine: sa.Engine, answer_seconds: float) -> None:
    @sa.event.listens_for(engine, "connect")
    def _connected(connection: Any, _record: Any) -> None:
        connection._read_timeout = answer_seconds

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        # For this transaction alone, by one statement; SQLAlchemy's own way takes four, and lets raw errors through.
        write = connection.get_execution_options().get("ckeys_write")
        if write is not None:
            connection.exec_driver_sql(_MYSQL_ISOLATION[write])


def _connect_postgresql(engine: sa.Engine, answer_seconds: float) -> None:
    """Connections that do not wait for ever: the driver has no limit for an answer, the network one for acks alone."""
    usual = answer_seconds
    import psycopg

    class Connection(psycopg.Connection[Any]):
        answer_seconds: float = usual

        def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
            try:
                return super().wait(gen, interval, timeout or self.answer_seconds)
            except psycopg.OperationalError as error:
                if error.sqlstate is None:  # not the server's: nothing came
                    self.close()
                raise

    @sa.event.listens_for(engine, "do_connect")
    def _connect(_dialect: Any, _record: Any, arguments: Any, options: dict[str, Any]) -> Connection:
        opened = Connection.connect(*arguments, **options)
        opened.autocommit = True
        opened.execute(_DURABLE)
        opened.autocommit = False
        return opened


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
