"""Acknowledged means durable: what a caller was told survives the death of the server, whatever its settings are."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from click.testing import CliRunner

from ckeys.database import migrate
from ckeys.main import cli
from consumer_keys.errors import Problem, Unavailable
from consumer_keys.store.database import Database
from tests.databases import SERVERS, MariaDB, PostgreSQL, Server, Servers, server_of
from tests.store.test_failures import CALLER, insert, made

on_servers = pytest.mark.parametrize("database", SERVERS)
WRITERS, ENOUGH, SECONDS_MAX = 4, 40, 60


@pytest.fixture
def durable(database: str) -> Iterator[Server]:
    """A server of its own with the settings of production."""
    server = {"postgresql": PostgreSQL, "mariadb": MariaDB}[database](durable=True)
    yield server
    server.close()


@on_servers
def test_every_acknowledged_change_is_there_after_the_server_was_killed(durable: Server, database: str) -> None:
    if database == "postgresql":
        durable.admin("ALTER SYSTEM SET synchronous_commit = off")
        durable.admin("SELECT pg_reload_conf()")
    url = durable.url(durable.empty())
    migrate(url)
    store, enough = Database(url), threading.Event()
    acknowledged: list[str] = []

    def write(first: int) -> None:
        number = first
        while True:
            try:
                acknowledged.append(store.change(CALLER, 1, insert(number))[0])
            except (Unavailable, Problem):
                return
            number += WRITERS
            if len(acknowledged) >= ENOUGH:
                enough.set()

    with ThreadPoolExecutor(WRITERS) as pool:
        writers = [pool.submit(write, first) for first in range(WRITERS)]
        assert enough.wait(SECONDS_MAX)
        durable.crash()
        for writer in writers:
            writer.result(SECONDS_MAX)
    durable.restart()
    assert set(acknowledged) <= set(made(store))
    store.engine.dispose()


@pytest.mark.parametrize("database", ["postgresql"])
@pytest.mark.parametrize(("usual", "used"), [("off", "on"), ("local", "on"), ("on", "on"), ("remote_apply",) * 2])
def test_every_session_commits_durably_and_no_less_than_the_server_does(
    store: Database, database: str, usual: str, used: str
) -> None:
    server, name = server_of(store.engine), store.engine.url.database
    server.admin(f"ALTER DATABASE {name} SET synchronous_commit = {usual}")
    try:
        found = store.read(lambda db: db.connection.exec_driver_sql("SHOW synchronous_commit").scalar_one())
        assert found == used
    finally:
        server.admin(f"ALTER DATABASE {name} RESET synchronous_commit")


@pytest.mark.parametrize("database", ["mariadb"])
def test_what_does_not_fit_into_a_column_is_refused_whatever_the_usual_mode_of_the_server(
    store: Database, database: str
) -> None:
    server = server_of(store.engine)
    server.admin("SET GLOBAL sql_mode = ''")
    try:
        with pytest.raises(Unavailable):
            store.change(CALLER, 1, lambda db: db.insert_consumer(
                {"consumer_id": "c" * 33, "gateway_id": "g", "name": "n", "description": "", "status": "Enable"}
            ))  # fmt: skip
    finally:
        server.admin("SET GLOBAL sql_mode = DEFAULT")
    assert made(store) == []


SETTING = {"postgresql": "fsync", "mariadb": "innodb_flush_log_at_trx_commit"}


@on_servers
def test_a_server_that_may_lose_commits_is_named_when_the_schema_is_made(
    servers: Servers, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = servers[database]
    name = server.empty()
    monkeypatch.setenv("DATABASE_URL", server.url(name))
    done = CliRunner().invoke(cli, ["migrate"])
    assert (done.exit_code, done.stderr.count("\n")) == (0, 1)
    assert done.stderr.startswith(f"Warning: {SETTING[database]} of the database server is ")
    if database == "mariadb":
        server.admin("SET GLOBAL innodb_flush_log_at_trx_commit = 1")
        try:
            assert CliRunner().invoke(cli, ["migrate"]).stderr == ""
        finally:
            server.admin("SET GLOBAL innodb_flush_log_at_trx_commit = 0")
    server.drop(name)
