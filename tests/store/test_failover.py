"""Another server takes over: a session of the old one may only read, and no new one is to be had for a moment."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import sqlalchemy as sa

from consumer_keys.errors import Unavailable
from consumer_keys.store.database import Database
from tests.databases import SERVERS
from tests.store.test_failures import CALLER, insert, made, server_and_name, session_of

on_servers = pytest.mark.parametrize("database", SERVERS)


@contextmanager
def reading_only(store: Database) -> Iterator[Callable[[], None]]:
    """New sessions may only read until the function that this gives is called."""
    server, name = server_and_name(store)
    postgresql = store.engine.dialect.name == "postgresql"

    def admit_writes() -> None:
        server.admin(
            f"ALTER DATABASE {name} RESET default_transaction_read_only" if postgresql else "SET GLOBAL read_only = 0"
        )

    server.admin(
        f"ALTER DATABASE {name} SET default_transaction_read_only = on" if postgresql else "SET GLOBAL read_only = 1"
    )
    for session in server.sessions(name):
        server.kill(session)
    try:
        yield admit_writes
    finally:
        admit_writes()


@on_servers
def test_a_change_goes_on_as_soon_as_a_session_that_may_write_is_to_be_had(store: Database, database: str) -> None:
    store.change(CALLER, 1, insert(1))
    with reading_only(store) as admit_writes:
        with pytest.raises(Unavailable):
            store.change(CALLER, 1, insert(2))
        session = store.read(session_of)  # reads go on
        assert store.read(session_of) == session
        admit_writes()
        store.change(CALLER, 1, insert(3))
    assert len(made(store)) == 2


@on_servers
def test_a_change_over_a_session_that_may_only_read_is_made_over_another_one_in_the_same_call(
    store: Database, database: str
) -> None:
    sessions = []
    with reading_only(store) as admit_writes:
        sa.event.listen(store.engine, "handle_error", lambda _: admit_writes(), once=True)
        sessions.append(store.read(session_of))
        store.change(CALLER, 1, insert(1, lambda db: sessions.append(session_of(db))))
    assert sessions[-1] != sessions[0]
    assert len(made(store)) == 1


@on_servers
def test_a_server_that_takes_no_connection_for_a_moment_is_asked_again(store: Database, database: str) -> None:
    server, name = server_and_name(store)
    refused = []

    def admit(context: sa.ExceptionContext) -> None:
        refused.append(type(context.original_exception).__name__)
        server.admit(name, allowed=True)

    server.admit(name, allowed=False)
    sa.event.listen(store.engine, "handle_error", admit)
    try:
        assert store.change(CALLER, 1, insert(1))[1] == 1
    finally:
        server.admit(name, allowed=True)
    assert len(refused) == 1
