"""What is looked up in large tables reads few rows of them, whatever their number: taken from the databases' plans."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from consumer_keys.model import Caller
from consumer_keys.store.database import Database
from consumer_keys.store.reads import Reads
from consumer_keys.store.schema import consumer_keys, key_facets

MANY, RARE = 20_000, 5
CALLER = Caller("tester", "admin", None, "test", "request")


def read_rows(store: Database, table: str, work: Callable[[Reads], Any]) -> float:
    """How many rows of the table, or of its indexes, the statements of `work` read."""
    seen: list[tuple[str, Any]] = []

    def keep(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        seen.append((statement, parameters))

    sa.event.listen(store.engine, "before_cursor_execute", keep)
    try:
        store.read(work)
    finally:
        sa.event.remove(store.engine, "before_cursor_execute", keep)
    count = COUNTS[store.engine.dialect.name]
    with store.engine.connect() as connection:
        return sum(
            count(connection, table, statement, parameters)
            for statement, parameters in seen
            if statement.startswith(("SELECT", "WITH"))
        )


def sqlite_rows(connection: sa.Connection, table: str, statement: str, parameters: Any) -> float:
    """SQLite tells the ways, not the numbers: a scan of the table counts as all of it."""
    plan = connection.exec_driver_sql("EXPLAIN QUERY PLAN " + statement, parameters)
    return sum(MANY for row in plan if row.detail.startswith(f"SCAN {table}") and "_order" not in row.detail)


def postgresql_rows(connection: sa.Connection, table: str, statement: str, parameters: Any) -> float:
    plan = connection.exec_driver_sql("EXPLAIN (ANALYZE, FORMAT JSON) " + statement, parameters).scalar_one()

    def nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
        yield node
        for child in node.get("Plans", ()):
            yield from nodes(child)

    own = [node for node in nodes(plan[0]["Plan"]) if node.get("Relation Name") == table]
    return float(
        sum(node["Actual Loops"] * (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) for node in own)
    )


def mysql_rows(connection: sa.Connection, table: str, statement: str, parameters: Any) -> float:
    plan = json.loads(connection.exec_driver_sql("ANALYZE FORMAT=JSON " + statement, parameters).scalar_one())

    def tables(node: Any) -> Iterator[dict[str, Any]]:
        if isinstance(node, list):
            for child in node:
                yield from tables(child)
        elif isinstance(node, dict):
            if "r_rows" in node and node.get("table_name") == table:
                yield node
            for child in node.values():
                yield from tables(child)

    return float(sum((node["r_rows"] or 0) * node["r_loops"] for node in tables(plan)))


COUNTS = {"sqlite": sqlite_rows, "postgresql": postgresql_rows, "mysql": mysql_rows}


def analyse(store: Database, table: str) -> None:
    """What the servers do by themselves after a while."""
    statement = {"postgresql": "VACUUM ANALYZE {}", "mysql": "ANALYZE TABLE {}", "sqlite": "ANALYZE {}"}
    with store.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql(statement[store.engine.dialect.name].format(table))


@pytest.fixture
def filled(store: Database) -> Database:
    """Many keys that are enabled and, older than all of them, a few that are not."""
    both = {"gateway_id": "default", "type": "ApiKey", "generation": "System", "creation_source": "Manual"}
    facet: dict[str, Any] = {**both}
    key: dict[str, Any] = {**both, "description": "", "masked_value": "****"}
    key |= {"sync_failures": 0, "revision": 1, "modified_at": 1}
    with store.engine.begin() as connection:
        for facet_id, (status, number) in enumerate((("Disable", RARE), ("Enable", MANY - RARE)), 1):
            row: dict[str, Any] = {"facet_id": facet_id, "status": status, "bound": False, "key_count": number}
            connection.execute(sa.insert(key_facets).values(**facet, **row))
        rows = [
            {
                **key, "key_id": f"secret-{n:014x}", "name": f"key-{n:06d}", "created_at": n,
                "status": "Disable" if n < RARE else "Enable", "facet_id": 1 if n < RARE else 2,
            }
            for n in range(MANY)
        ]  # fmt: skip
        connection.execute(sa.insert(consumer_keys), rows)
    analyse(store, "consumer_keys")
    return store


@pytest.mark.parametrize("filters", [{}, {"status": "Disable"}, {"status": "Enable"}, {"bound": True},
                                     {"status": ("Disable", "Enable"), "generation": "System"},
                                     {"status": "Disable", "type": "ApiKey", "bound": False}])  # fmt: skip
def test_a_page_of_keys_reads_about_as_many_rows_as_it_shows_and_counts_none(
    filled: Database, filters: dict[str, Any]
) -> None:
    for after in (None, (MANY // 2, "secret-x")):
        found = read_rows(filled, "consumer_keys", lambda db, after=after: db.keys("default", filters, 20, 0, after))  # type: ignore[misc]
        assert found <= 4 * 21, (filters, after)


@pytest.mark.parametrize("database", ["postgresql"])
def test_a_keyword_is_found_without_reading_every_name(filled: Database) -> None:
    store = filled
    for keyword, number in (("key-000012", 1), ("00001", 11), ("ZZZ", 0), ("y-0199", 100), ("key-00001%", 0)):
        given = {"keyword": keyword}
        page = store.read(lambda db, given=given: db.keys("default", given, 100, 0, None))  # type: ignore[misc]
        assert page.total_count == number, keyword
        rows = read_rows(store, "consumer_keys", lambda db, given=given: db.keys("default", given, 20, 0, None))  # type: ignore[misc]
        assert rows <= 2 * number + 21, keyword
