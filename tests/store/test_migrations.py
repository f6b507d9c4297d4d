"""`ckeys migrate`: once, twice, at once; and a database that is older or newer than the code."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from click.testing import CliRunner

from ckeys.database import _config, migrate
from ckeys.main import cli
from consumer_keys.store import dialect
from consumer_keys.store.database import Database, SchemaMismatch
from consumer_keys.store.schema import SCHEMA_REVISION, metadata
from tests.databases import Servers, rows_of
from tests.functions.helpers import check_counted
from tests.store.test_failures import CALLER, insert


@pytest.fixture
def url(database: str, servers: Servers, tmp_path: Path) -> Iterator[str]:
    """A database that nobody has migrated."""
    if database == "sqlite":
        yield f"sqlite:///{tmp_path}/new.db"
        return
    server = servers[database]
    name = server.empty()
    yield server.url(name)
    server.drop(name)


@pytest.fixture
def ckeys(url: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str]]:
    """The command line with this database: exit status and output."""
    monkeypatch.setenv("DATABASE_URL", url)

    def run(*arguments: str) -> tuple[int, str]:
        done = CliRunner().invoke(cli, arguments)
        return done.exit_code, done.output

    return run


def pretend(url: str, revision: str) -> None:
    """Gives a database another schema revision."""
    engine = dialect.make_engine(url)
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision})
    engine.dispose()


def test_migrate_makes_the_schema_once_and_says_so(ckeys: Callable[..., tuple[int, str]], url: str) -> None:
    assert ckeys("migrate") == (0, f"schema none -> {SCHEMA_REVISION}\n")
    assert ckeys("migrate") == (0, f"schema {SCHEMA_REVISION}\n")
    engine = dialect.make_engine(url)
    inspector = sa.inspect(engine)
    assert set(inspector.get_table_names()) == {"alembic_version", *metadata.tables}
    for table in metadata.sorted_tables:
        assert {column["name"] for column in inspector.get_columns(table.name)} == set(table.columns.keys())
        found = {index["name"] for index in inspector.get_indexes(table.name)}
        assert found >= {index.name for index in table.indexes}, table.name
    engine.dispose()


def test_of_several_migrations_at_once_each_succeeds_and_one_does_the_work(url: str) -> None:
    command = [str(Path(sys.executable).with_name("ckeys")), "migrate"]
    environ = {**os.environ, "DATABASE_URL": url}
    started = [subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = [process.communicate(timeout=60)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0, 0]
    first, then = f"schema none -> {SCHEMA_REVISION}\n", f"schema {SCHEMA_REVISION}\n"
    assert first in said
    assert set(said) <= {first, then}
    store = Database(url)
    assert store.read(lambda db: db.status()["revision"]) == 0
    store.engine.dispose()


def test_a_database_without_a_schema_is_refused_in_one_sentence(url: str) -> None:
    store = Database(url)
    with pytest.raises(SchemaMismatch, match=r"^the database has no schema, .* run `ckeys migrate`$"):
        store.read(lambda db: db.status())
    store.engine.dispose()


def test_an_older_schema_is_refused_in_one_sentence(url: str) -> None:
    migrate(url)
    pretend(url, "0000")
    store = Database(url)
    with pytest.raises(SchemaMismatch, match=r"^the database has the older schema 0000, .* run `ckeys migrate`$"):
        store.read(lambda db: db.status())
    store.engine.dispose()


def test_a_newer_schema_is_refused_in_one_sentence_and_not_touched(
    url: str, ckeys: Callable[..., tuple[int, str]]
) -> None:
    migrate(url)
    pretend(url, "9999")
    store = Database(url)
    with pytest.raises(SchemaMismatch, match=r"^the database has the newer schema 9999, .* deploy the newer code$"):
        store.read(lambda db: db.status())
    store.engine.dispose()
    status, output = ckeys("migrate")
    assert status == 1
    assert output.count("\n") == 1
    assert "newer schema 9999" in output


def test_keys_that_were_there_before_are_counted_by_the_migration(url: str) -> None:
    engine = dialect.make_engine(url)
    with engine.connect() as connection:
        command.upgrade(_config(connection), "0006")
    key = "INSERT INTO consumer_keys (key_id, gateway_id, name, description, type, generation, creation_source, status,"
    key += " masked_value, consumer_id, sync_failures, revision, created_at, modified_at) VALUES"
    with engine.begin() as connection:
        connection.execute(sa.text("INSERT INTO consumers VALUES ('c', 'default', 'app', '', 'Enable', 1, 1, 1)"))
        for number in range(12):
            generation, source = ("System", "Manual") if number % 3 else ("System", "AutoWithConsumer")
            status, owner = ("Enable", "'c'") if number % 4 else ("Disable", "NULL")
            connection.execute(
                sa.text(
                    f"{key} ('key-{number}', 'gw-{number % 2}', 'key-{number}', '', 'ApiKey', '{generation}',"
                    f" '{source}', '{status}', '****', {owner}, 0, 1, {number}, 1)"
                )
            )
    migrate(url)
    rows = rows_of(engine)
    assert len(rows["key_facets"]) > 4
    assert all(key["facet_id"] is not None for key in rows["consumer_keys"])
    check_counted(rows)
    engine.dispose()


def test_an_instance_that_was_warm_before_a_migration_writes_no_more(
    ckeys: Callable[..., tuple[int, str]], url: str
) -> None:
    ckeys("migrate")
    store = Database(url)
    store.change(CALLER, 1, insert(1))
    pretend(url, "9999")
    with pytest.raises(SchemaMismatch, match="newer schema 9999"):
        store.change(CALLER, 1, insert(2))
    pretend(url, SCHEMA_REVISION)
    assert store.change(CALLER, 1, insert(2))[1] == 2
    store.engine.dispose()
