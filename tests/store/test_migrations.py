"""`ckeys migrate`: once, twice, at once; and a database that is older or newer than the code."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from click.testing import CliRunner

from ckeys.database import _config, migrate
from ckeys.main import cli
from consumer_keys.audit_chain import GENESIS, first_fault
from consumer_keys.store import dialect
from consumer_keys.store.database import Database, SchemaMismatch, schema_revision
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
    """The command line with this database: exit status, and the output or what went wrong."""
    monkeypatch.setenv("DATABASE_URL", url)

    def run(*arguments: str) -> tuple[int, str]:
        done = CliRunner().invoke(cli, arguments)
        return done.exit_code, done.stderr if done.exit_code else done.stdout

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


# What is not in the tables of the code, by intention: an index that PostgreSQL alone has, and SQLite's own row number.
APART = {
    "sqlite": [("modify_type", "audit", "sequence")],
    "postgresql": [("remove_index", "consumer_keys", "ix_consumer_keys_ends"),
                   ("remove_index", "consumers", "ix_consumers_ends")],
    "mariadb": [],
}  # fmt: skip


def test_the_migrations_make_the_very_tables_that_the_code_has(url: str, database: str) -> None:
    migrate(url)
    engine = dialect.make_engine(url)
    with engine.connect() as connection:
        options = {"compare_type": True, "compare_server_default": True}
        found = compare_metadata(MigrationContext.configure(connection, opts=options), metadata)
    engine.dispose()
    assert sorted(map(difference, found)) == APART[database]


def difference(found: Any) -> tuple[str, str, str]:
    """Kind, table and name of what differs."""
    kind, *parts = found[0] if isinstance(found, list) else found
    if kind.startswith("modify_"):
        return kind, parts[1], parts[2]
    if kind.endswith("_column"):
        return kind, parts[1], parts[2].name
    return kind, getattr(getattr(parts[0], "table", None), "name", ""), parts[0].name or ""


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


@pytest.mark.parametrize("database", ["mariadb"])
def test_a_migration_waits_for_another_one_no_longer_than_it_is_told(url: str, database: str) -> None:
    engine = dialect.make_engine(url)
    with dialect.migration_lock(engine, 1), pytest.raises(TimeoutError, match="another migration"):
        migrate(url, wait_seconds=0)
    assert sa.inspect(engine).get_table_names() == []
    engine.dispose()
    assert migrate(url) == (None, SCHEMA_REVISION)


class Died(Exception):  # noqa: N818 - no error, an end
    """What ends a migration."""


@contextmanager
def dying(after: int) -> Iterator[None]:
    """Ends every migration when it has changed the schema so many times."""
    changes: list[str] = []

    def look(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if re.match(r"\s*(CREATE|ALTER|DROP) ", statement):
            changes.append(statement)
            if len(changes) == after:
                raise Died

    sa.event.listen(sa.Engine, "after_cursor_execute", look)
    try:
        yield
    finally:
        sa.event.remove(sa.Engine, "after_cursor_execute", look)


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_a_migration_that_dies_half_way_leaves_nothing_where_the_schema_is_part_of_a_transaction(
    url: str, database: str
) -> None:
    with dying(20), pytest.raises(Died):
        migrate(url)
    engine = dialect.make_engine(url)
    assert sa.inspect(engine).get_table_names() == []
    assert migrate(url) == (None, SCHEMA_REVISION)
    engine.dispose()


@pytest.mark.parametrize("database", ["mariadb"])
def test_a_migration_that_dies_after_any_of_its_steps_is_completed_by_the_next_one(
    url: str, database: str, database_urls: Callable[[str], str]
) -> None:
    engine, fresh = dialect.make_engine(url), dialect.make_engine(database_urls("fresh"))
    # What the migrations must carry over, as soon as the one before them is done, so that they have begun.
    there = {"0002": fill_audit, "0007": fill_keys}
    deaths = 0
    while deaths < 100:
        try:
            with dying(1):
                migrate(url)
            break
        except Died:
            deaths += 1
            with engine.begin() as connection:
                there.pop(schema_revision(connection) or "", lambda _: None)(connection)
    assert 40 < deaths < 100
    assert there == {}
    assert statements_of(engine) == statements_of(fresh)
    check_counted(rows_of(engine))
    store = Database(url)
    rows, counted = store.audit_log(lambda log: (list(log.rows()), log.counted()))
    assert first_fault(rows, (0, GENESIS), [], counted) is None
    assert [entry.sequence for entry, _ in rows] == [1, 2, 3]
    kept = [rows_of(one) for one in (engine, fresh)]
    assert kept[0]["leases"] == kept[1]["leases"]
    assert len(kept[0]["deployment"]) == len(kept[1]["deployment"]) == 1
    for opened in (engine, fresh, store.engine):
        opened.dispose()


def statements_of(engine: sa.Engine) -> list[str]:
    """The statement that would make each table."""
    with engine.connect() as connection:
        names = sorted(sa.inspect(connection).get_table_names())
        made = [connection.execute(sa.text(f"SHOW CREATE TABLE {name}")).one()[1] for name in names]
    return [re.sub(r" AUTO_INCREMENT=[0-9]+", "", statement) for statement in made]


def fill_audit(connection: sa.Connection) -> None:
    """Rows of an audit log from before it was a chain."""
    columns = "sequence, at, actor, action, gateway_id, target, request_id, revision"
    for sequence in (3, 4, 9):
        row = f"({sequence}, 5, 'operator-1', 'key.create', 'default', 's', 'r', 7)"
        connection.execute(sa.text(f"INSERT INTO audit ({columns}) VALUES {row}"))


def fill_keys(connection: sa.Connection) -> None:
    """Keys of many facets, from before they were counted."""
    key = "INSERT INTO consumer_keys (key_id, gateway_id, name, description, type, generation, creation_source, status,"
    key += " masked_value, consumer_id, sync_failures, revision, created_at, modified_at) VALUES"
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
    with engine.begin() as connection:
        fill_keys(connection)
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
