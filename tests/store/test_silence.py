"""An instance that falls silent, or its database: nobody else waits for it, and every call is answered in time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from ckeys.deployment import Deployment
from consumer_keys.model import Caller
from consumer_keys.store.change import Change
from consumer_keys.store.database import Database
from consumer_keys.store.dialect import IDLE_SECONDS, WHOLE_TABLE_IDLE_SECONDS
from consumer_keys.store.publication import SnapshotReads
from tests.conftest import Api
from tests.databases import SERVERS
from tests.functions.helpers import nothing_changes

on_servers = pytest.mark.parametrize("database", SERVERS)
CALLER = Caller("tester", "admin", None, "test", "request-1")
SECONDS_MAX = 20


@on_servers
def test_an_instance_that_freezes_in_a_change_holds_up_no_other_change_for_longer_than_its_patience(
    make_deployment: Callable[..., Deployment], database: str
) -> None:
    deployment = make_deployment()
    api = Api(deployment, deployment.operator[1])
    frozen, thawed, attempts = threading.Event(), threading.Event(), []

    def freeze(db: Change) -> str:
        attempts.append(1)
        frozen.set()
        assert thawed.wait(4 * SECONDS_MAX)
        return db.connection.dialect.name

    other = Database(deployment.environment["DATABASE_URL"])
    with ThreadPoolExecutor(1) as pool:
        try:
            change = pool.submit(other.change, CALLER, 1, freeze)
            assert frozen.wait(SECONDS_MAX)
            started = time.monotonic()
            created = api("create_key", "POST", "/keys", {"name": "key", "generation": "System"})
            assert created.status == 201, created.body
            assert time.monotonic() - started < IDLE_SECONDS + 4
        finally:
            thawed.set()
        with nothing_changes(deployment):  # what it began was undone; it begins again, as if nothing had been
            assert change.result(SECONDS_MAX)[1] is None
        assert len(attempts) == 2
    other.engine.dispose()


SILENCE = {
    "postgresql": "SELECT setting::int / 1000 FROM pg_settings WHERE name = 'idle_in_transaction_session_timeout'",
    "mariadb": "SELECT @@idle_transaction_timeout",
}


@on_servers
def test_a_transaction_that_has_read_a_whole_table_may_take_its_time_over_it_and_the_next_one_may_not(
    store: Database, database: str
) -> None:
    def silence(db: Any) -> int:
        found: int = db.connection.exec_driver_sql(SILENCE[database]).scalar_one()
        return found

    def read(db: SnapshotReads) -> tuple[int, int]:
        before = silence(db)
        assert list(db.all_keys()) + list(db.all_consumers()) == []
        return before, silence(db)

    assert store.snapshot(read) == (IDLE_SECONDS, WHOLE_TABLE_IDLE_SECONDS)
    assert store.read(silence) == IDLE_SECONDS
