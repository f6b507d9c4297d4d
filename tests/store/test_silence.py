"""An instance that falls silent, or its database: nobody else waits for it, and every call is answered in time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa

from ckeys.deployment import Deployment
from consumer_keys import failpoints
from consumer_keys.model import Caller
from consumer_keys.store import dialect
from consumer_keys.store.change import Change
from consumer_keys.store.database import Database
from consumer_keys.store.dialect import (
    ANSWER_SECONDS,
    CONNECT_SECONDS,
    IDLE_SECONDS,
    STALE_SECONDS,
    WHOLE_TABLE_IDLE_SECONDS,
)
from consumer_keys.store.publication import SnapshotReads
from consumer_keys.store.reads import Reads
from tencent_emulator.pytest_plugin import TestClock
from tests.conftest import Api
from tests.databases import SERVERS, Servers
from tests.functions.helpers import nothing_changes
from tests.store.proxy import LosingProxy
from tests.store.test_failures import session_of

on_servers = pytest.mark.parametrize("database", SERVERS)
CALLER = Caller("tester", "admin", None, "test", "request-1")
SECONDS_MAX = FUNCTION_SECONDS = 20


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


SLOW = {"postgresql": sa.func.pg_sleep, "mariadb": sa.func.sleep}


@on_servers
def test_the_first_row_of_a_whole_table_may_come_later_than_any_other_answer(store: Database, database: str) -> None:
    def read(db: SnapshotReads) -> list[Any]:
        with dialect.streamed(db.connection, sa.select(SLOW[database](ANSWER_SECONDS + 1), sa.literal(7))) as rows:
            return [row[1] for row in rows]

    assert store.snapshot(read) == [7]


@pytest.fixture
def proxy(database: str, database_urls: Callable[[str], str], servers: Servers) -> Iterator[LosingProxy]:
    opened = LosingProxy(servers[database].port)
    yield opened
    opened.close()


@pytest.fixture
def through(store: Database, proxy: LosingProxy) -> Iterator[Database]:
    """The store, reached through the proxy."""
    opened = Database(store.engine.url.set(port=proxy.port).render_as_string(hide_password=False))
    yield opened
    opened.engine.dispose()


def revision(db: Reads) -> int:
    found: int = db.status()["revision"]
    return found


@on_servers
def test_a_connection_that_fell_silent_between_two_calls_costs_the_next_one_a_few_seconds(
    through: Database, proxy: LosingProxy, database: str
) -> None:
    assert through.read(revision) == 0
    proxy.fall_silent()
    started = time.monotonic()
    assert through.read(revision) == 0
    assert time.monotonic() - started < CONNECT_SECONDS + 2


@on_servers
def test_a_connection_that_nobody_used_for_half_a_minute_is_not_even_asked(
    through: Database, proxy: LosingProxy, database: str, clock: TestClock
) -> None:
    first = through.read(session_of)
    clock.shift(STALE_SECONDS - 1)
    assert through.read(session_of) == first
    proxy.fall_silent()
    clock.shift(STALE_SECONDS + 1)
    started = time.monotonic()
    assert through.read(session_of) != first
    assert time.monotonic() - started < CONNECT_SECONDS


@on_servers
def test_a_connection_that_falls_silent_in_a_change_is_left_for_another_one_in_time(
    through: Database, proxy: LosingProxy, database: str
) -> None:
    attempts: list[int] = []

    def work(db: Change) -> Any:
        attempts.append(1)
        if len(attempts) == 1:
            proxy.fall_silent()
        return revision(db)

    started = time.monotonic()
    assert through.change(CALLER, 1, work) == (0, None)
    assert len(attempts) == 2
    assert time.monotonic() - started < ANSWER_SECONDS + 4


@pytest.mark.long
@on_servers
def test_a_call_is_answered_in_time_when_the_database_falls_silent_at_the_worst_moment(
    make_deployment: Callable[..., Deployment], database_urls: Callable[[str], str], proxy: LosingProxy, database: str
) -> None:
    url = sa.make_url(database_urls("silent")).set(port=proxy.port).render_as_string(hide_password=False)
    deployment = make_deployment(DATABASE_URL=url)
    api = Api(deployment, deployment.operator[1])
    api.create_key("before")

    def silence(point: str) -> None:
        if point == "change.before-commit":
            proxy.mute = True
            proxy.fall_silent()

    failpoints.install(silence)
    try:
        started = time.monotonic()
        answer = api("create_key", "POST", "/keys", {"name": "key", "generation": "System"})
        took = time.monotonic() - started
        again = api("create_key", "POST", "/keys", {"name": "other", "generation": "System"})
        took_again = time.monotonic() - started - took
    finally:
        failpoints.install(None)
        proxy.mute = False
    assert (answer.status, answer.body["code"]) == (503, "OutcomeUnknown")
    assert (again.status, again.body["code"]) == (503, "DependencyUnavailable")
    assert (took < FUNCTION_SECONDS - 1, took_again < FUNCTION_SECONDS / 2) == (True, True), (took, took_again)
    api.create_key("after")
