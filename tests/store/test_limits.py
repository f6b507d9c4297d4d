"""No statement takes longer than its limit: the caller hears that the database is not there, nothing was changed."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from ckeys.deployment import Deployment
from consumer_keys.model import Caller
from consumer_keys.store.database import Database
from consumer_keys.store.dialect import STATEMENT_SECONDS
from consumer_keys.store.publication import SnapshotReads
from tests.conftest import Api
from tests.databases import SERVERS
from tests.functions.helpers import nothing_changes, sql

on_servers = pytest.mark.parametrize("database", SERVERS)
# Every row of the audit log takes a minute to write from now on.
SLOW = {
    "postgresql": [
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN PERFORM pg_sleep(60); RETURN NEW; END$$",
        "CREATE TRIGGER slow BEFORE INSERT ON audit FOR EACH ROW EXECUTE FUNCTION slow()",
    ],
    "mariadb": ["CREATE TRIGGER slow BEFORE INSERT ON audit FOR EACH ROW SET @x = SLEEP(60)"],
}
QUICK = {"postgresql": ["DROP TRIGGER slow ON audit", "DROP FUNCTION slow"], "mariadb": ["DROP TRIGGER slow"]}


@on_servers
def test_a_change_whose_statement_takes_too_long_is_refused_in_time_and_undone(
    make_deployment: Callable[..., Deployment], database: str
) -> None:
    deployment = make_deployment()
    api = Api(deployment, deployment.operator[1])
    api.create_key("before")
    for statement in SLOW[database]:
        sql(deployment, statement)
    try:
        started = time.monotonic()
        with nothing_changes(deployment):
            answer = api("create_key", "POST", "/keys", {"name": "late", "generation": "System"})
        assert (answer.status, answer.body["code"]) == (503, "DependencyUnavailable")
        assert STATEMENT_SECONDS - 1 < time.monotonic() - started < STATEMENT_SECONDS + 4
    finally:
        for statement in QUICK[database]:
            sql(deployment, statement)
    assert api("create_key", "POST", "/keys", {"name": "late", "generation": "System"}).status == 201


LIMIT = {"postgresql": "SHOW statement_timeout", "mariadb": "SELECT @@max_statement_time"}
SHORT = {"postgresql": "SET statement_timeout = 1", "mariadb": "SET SESSION max_statement_time = 0.001"}
MANY = {
    "postgresql": "SELECT 'consumer-' || lpad(to_hex(n), 14, '0') AS id FROM generate_series(1, 20000) AS n",
    "mariadb": "SELECT CONCAT('consumer-', LPAD(HEX(seq), 14, '0')) AS id FROM seq_1_to_20000",
}


@on_servers
def test_what_reads_a_whole_table_row_by_row_has_longer_and_the_next_statement_has_not(
    store: Database, database: str
) -> None:
    with store.engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO consumers (consumer_id, gateway_id, name, description, status, revision, created_at,"
            f" modified_at) SELECT id, 'default', id, '', 'Enable', 1, 1, 1 FROM ({MANY[database]}) AS many"
        )

    def read(db: SnapshotReads) -> tuple[Any, int, Any]:
        before = db.connection.exec_driver_sql(LIMIT[database]).scalar_one()
        db.connection.exec_driver_sql(SHORT[database])
        number = sum(1 for _ in db.all_consumers())
        return before, number, db.connection.exec_driver_sql(LIMIT[database]).scalar_one()

    before, number, after = store.snapshot(read)
    assert (number, before) == (20_000, after)
    assert float(str(before).rstrip("s")) == STATEMENT_SECONDS


@on_servers
def test_a_reader_that_stops_half_way_leaves_no_session_with_the_longer_limit(store: Database, database: str) -> None:
    for number in range(2):
        row = {"consumer_id": f"consumer-{number:014x}", "gateway_id": "default", "name": f"name-{number}"}
        store.change(
            Caller("tester", "admin", None, "test", f"request-{number}"), 1,
            lambda db, row=row: (  # type: ignore[misc]
                db.insert_consumer({**row, "description": "", "status": "Enable"}),
                db.audit("consumer.create", "default", row["consumer_id"], None),
            ),
        )  # fmt: skip

    def stop(db: SnapshotReads) -> None:
        for _ in db.all_consumers():
            raise LookupError

    with pytest.raises(LookupError):
        store.snapshot(stop)
    limit = store.read(lambda db: db.connection.execute(sa.text(LIMIT[database])).scalar_one())
    assert float(str(limit).rstrip("s")) == STATEMENT_SECONDS
