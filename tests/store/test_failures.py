"""What the database does to a transaction: deadlocks, timeouts, lost connections. The caller sees none of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa

from consumer_keys import failpoints
from consumer_keys.errors import Problem, Unavailable
from consumer_keys.model import Caller
from consumer_keys.store.change import Change
from consumer_keys.store.database import PAUSES, Database
from consumer_keys.store.reads import Reads
from consumer_keys.store.schema import audit, consumers, data_keys
from tests.databases import SERVERS, Server, server_of
from tests.store.proxy import LosingProxy

CALLER = Caller("tester", "admin", None, "test", "request-1")
# SQLite has neither sessions nor deadlocks: a write begins with the only lock there is.
on_servers = pytest.mark.parametrize("database", SERVERS)
ATTEMPTS = len(PAUSES) + 1
SECONDS_MAX = 20


def insert(number: int, before: Callable[[Change], Any] = lambda db: None) -> Callable[[Change], str]:
    """The work of making a consumer; `before` runs first, in the same transaction."""
    consumer_id = f"consumer-{number:014x}"

    def work(db: Change) -> str:
        before(db)
        row = {"consumer_id": consumer_id, "gateway_id": "default", "name": f"name-{number}", "description": ""}
        db.insert_consumer({**row, "status": "Enable"})
        db.audit("consumer.create", "default", consumer_id, None, {"name": row["name"]})
        return consumer_id

    return work


def made(store: Database) -> list[str]:
    """The consumers, each with exactly one audit row."""
    with store.engine.connect() as connection:
        ids = list(connection.execute(sa.select(consumers.c.consumer_id).order_by(consumers.c.consumer_id)).scalars())
        targets = list(connection.execute(sa.select(audit.c.target).order_by(audit.c.target)).scalars())
    assert ids == targets
    return ids


class Attempts:
    """Counts how often a transaction was begun, and does something to the first ones."""

    def __init__(self, harm: Callable[[Change], Any], times: int = 1) -> None:
        self.count, self._harm, self._times = 0, harm, times

    def __call__(self, db: Change) -> None:
        self.count += 1
        if self.count <= self._times:
            self._harm(db)


def server_and_name(store: Database) -> tuple[Server, str]:
    return server_of(store.engine), str(store.engine.url.database)


def session_of(db: Reads) -> int:
    dialect = db.connection.dialect.name
    found: int = db.connection.execute(
        sa.text("SELECT pg_backend_pid()" if dialect == "postgresql" else "SELECT CONNECTION_ID()")
    ).scalar_one()
    return found


@contextmanager
def hooked(hook: Callable[[str], None]) -> Iterator[None]:
    failpoints.install(hook)
    try:
        yield
    finally:
        failpoints.install(None)


@on_servers
def test_the_loser_of_a_real_deadlock_is_repeated_and_succeeds(store: Database, database: str) -> None:
    store.change(CALLER, 1, insert(1))
    waits = {
        "postgresql": "SELECT count(*) FROM pg_locks WHERE NOT granted",
        "mariadb": "SELECT count(*) FROM information_schema.innodb_lock_waits",
    }[database]
    server, _ = server_and_name(store)
    touch = sa.update(consumers).where(consumers.c.name == "name-1")
    begun = threading.Event()

    def collide(db: Change) -> None:
        begun.set()
        db.connection.execute(touch.values(description="theirs"))  # the other one holds this row

    attempts = Attempts(collide)
    with store.engine.connect() as other, ThreadPoolExecutor(1) as pool:
        transaction = other.begin()
        for number in range(50):  # MariaDB ends the transaction that has done less
            values = {"status": "", "holder": "x", "name": f"lease-{number}", "expires_at": 0, "token": 0}
            del values["status"]
            other.execute(sa.text("INSERT INTO leases VALUES (:name, :holder, :expires_at, :token)"), values)
        other.execute(touch.values(description="mine"))
        change = pool.submit(store.change, CALLER, 2, insert(2, attempts))
        assert begun.wait(SECONDS_MAX)
        while server.admin(waits)[0][0] == 0:  # until it waits for the row
            # InnoDB shows its locks anew to those alone who have not looked for a tenth of a second.
            assert not wait([change], 0.2).done
        other.execute(sa.text("SELECT id FROM deployment FOR UPDATE"))  # and this one waits for it: a ring
        transaction.rollback()
        assert change.result(SECONDS_MAX) == ("consumer-00000000000002", 2)
    assert attempts.count == 2
    assert len(made(store)) == 2


def test_a_lock_that_is_held_too_long_is_waited_for_again(store: Database, database: str) -> None:
    with store.engine.connect() as other, ThreadPoolExecutor(1) as pool:
        transaction = other.begin()
        other.execute(sa.text("UPDATE deployment SET published_at = 1"))
        change = pool.submit(store.change, CALLER, 1, insert(1))
        timer = threading.Timer(3.5, transaction.rollback)  # the first wait ends after three seconds
        timer.start()
        assert change.result(SECONDS_MAX)[1] == 1
        timer.join()
    assert made(store) == ["consumer-00000000000001"]


RAISE = {
    "postgresql": "DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '40001'; END $$",
    "mariadb": "BEGIN NOT ATOMIC SIGNAL SQLSTATE '40001' SET MYSQL_ERRNO = 1213; END",
}


@on_servers
@pytest.mark.parametrize("times", [1, 2, 3])
def test_a_serialization_failure_is_repeated(store: Database, database: str, times: int) -> None:
    attempts = Attempts(lambda db: db.connection.exec_driver_sql(RAISE[database]), times)
    assert store.change(CALLER, 1, insert(1, attempts)) == ("consumer-00000000000001", 1)
    assert attempts.count == times + 1
    assert len(made(store)) == 1


@on_servers
def test_repetitions_end_and_then_nothing_was_changed(store: Database, database: str) -> None:
    attempts = Attempts(lambda db: db.connection.exec_driver_sql(RAISE[database]), 99)
    with pytest.raises(Unavailable):
        store.change(CALLER, 1, insert(1, attempts))
    assert attempts.count == ATTEMPTS
    assert made(store) == []


def test_any_other_failure_of_a_statement_is_not_repeated(store: Database) -> None:
    attempts = Attempts(lambda db: db.connection.exec_driver_sql("SELECT no_such_column FROM deployment"), 99)
    with pytest.raises(Unavailable):
        store.change(CALLER, 1, insert(1, attempts))
    assert attempts.count == 1
    assert made(store) == []


def test_a_refusal_undoes_everything(store: Database) -> None:
    def work(db: Change) -> None:
        insert(1)(db)
        raise Problem("NameInUse")

    with pytest.raises(Problem, match="NameInUse"):
        store.change(CALLER, 1, work)
    assert made(store) == []
    assert store.read(lambda db: db.status()["revision"]) == 0


@on_servers
def test_connections_are_reused_by_later_calls(store: Database, database: str) -> None:
    sessions = {store.change(CALLER, 1, session_of)[0] for _ in range(20)}
    assert len(sessions) == 1


@on_servers
def test_a_session_that_is_killed_between_two_calls_is_not_noticed(store: Database, database: str) -> None:
    server, name = server_and_name(store)
    for number in range(3):
        store.change(CALLER, 1, insert(number))
        for session in server.sessions(name):
            server.kill(session)
    assert store.read(lambda db: db.status()["revision"]) == 3
    assert len(made(store)) == 3


@on_servers
def test_a_session_that_is_killed_in_the_middle_is_not_noticed(store: Database, database: str) -> None:
    server, _ = server_and_name(store)
    attempts = Attempts(lambda db: server.kill(session_of(db)))
    assert store.change(CALLER, 1, insert(1, attempts))[1] == 1
    assert attempts.count == 2
    calls: list[int] = []

    def read(db: Any) -> int:
        calls.append(1)
        if len(calls) == 1:
            server.kill(session_of(db))
        revision: int = db.status()["revision"]
        return revision

    assert store.read(read) == 1
    assert len(calls) == 2
    assert len(made(store)) == 1


@on_servers
def test_a_session_that_is_killed_just_before_the_commit_makes_the_change_once(store: Database, database: str) -> None:
    server, _ = server_and_name(store)
    seen: list[int] = []
    attempts = Attempts(lambda db: seen.append(session_of(db)), 99)

    def kill(point: str) -> None:
        if point == "change.before-commit" and len(seen) == 1:
            server.kill(seen[0])

    with hooked(kill):
        assert store.change(CALLER, 1, insert(1, attempts)) == ("consumer-00000000000001", 1)
    assert attempts.count == 2
    assert len(made(store)) == 1


@on_servers
def test_a_change_that_was_not_committed_is_not_taken_for_one_that_was_made_meanwhile(store: Database) -> None:
    """By the same caller, with the revision that this one would have had."""
    server, _ = server_and_name(store)
    sessions: list[int] = []
    other = Database(store.engine.url.render_as_string(hide_password=False))

    def meanwhile(point: str) -> None:
        if point == "change.before-commit" and len(sessions) == 1:
            sessions.append(0)
            server.kill(sessions[0])
            assert other.change(CALLER, 1, insert(2)) == ("consumer-00000000000002", 1)

    with hooked(meanwhile):
        work = insert(1, lambda db: sessions.append(session_of(db)))
        assert store.change(CALLER, 1, work) == ("consumer-00000000000001", 2)
    other.engine.dispose()
    assert made(store) == ["consumer-00000000000001", "consumer-00000000000002"]


@pytest.fixture
def proxied(store: Database, database: str) -> Iterator[tuple[Database, LosingProxy]]:
    proxy = LosingProxy(int(store.engine.url.port or 0))
    through = Database(store.engine.url.set(port=proxy.port).render_as_string(hide_password=False))
    yield through, proxy
    through.engine.dispose()
    proxy.close()


@on_servers
def test_a_change_whose_commit_is_never_answered_is_looked_up_and_not_made_twice(
    proxied: tuple[Database, LosingProxy], store: Database
) -> None:
    through, proxy = proxied
    attempts = Attempts(lambda db: None, 0)

    def lose(point: str) -> None:
        proxy.lose = proxy.lose or (point == "change.before-commit" and proxy.lost == 0)

    with hooked(lose):
        assert through.change(CALLER, 1, insert(1, attempts)) == ("consumer-00000000000001", 1)
    assert (attempts.count, proxy.lost) == (1, 1)
    assert len(made(store)) == 1


def revealed(db: Change) -> str:
    """A row that changes nothing, and an answer that is kept without its value."""
    db.audit("key.reveal", "default", "secret-00000000000001", None)
    db.remember({"value": None})
    return "value"


def begun(db: Change) -> str:
    """What is written without an audit row."""
    db.add_data_key({"data_key_id": "0" * 32, "purpose": "values", "kms_key_id": "", "blob": "", "context": ""})
    return "begun"


ANSWERS: dict[Callable[[Change], str], str] = {revealed: "value", begun: "begun"}


@on_servers
@pytest.mark.parametrize("work", ANSWERS)
def test_what_has_no_revision_is_not_done_twice_either_when_its_commit_is_never_answered(
    proxied: tuple[Database, LosingProxy], store: Database, work: Callable[[Change], str]
) -> None:
    through, proxy = proxied
    caller = CALLER._replace(idempotency_key="once", fingerprints=("f",))

    def lose(point: str) -> None:
        proxy.lose = proxy.lose or (point == "change.before-commit" and proxy.lost == 0)

    with hooked(lose):
        assert through.change(caller, 1, work) == (ANSWERS[work], None)
    assert proxy.lost == 1
    with store.engine.connect() as connection:
        assert len(connection.execute(sa.select(audit)).all()) == (work is revealed)
        assert len(connection.execute(sa.select(data_keys)).all()) == (work is begun)


@on_servers
def test_when_the_database_stays_away_after_the_commit_the_caller_is_told_that_nothing_is_known(
    proxied: tuple[Database, LosingProxy], store: Database
) -> None:
    through, proxy = proxied
    proxy.stay_down = True

    def lose(point: str) -> None:
        proxy.lose = point == "change.before-commit"

    with hooked(lose), pytest.raises(Problem, match="OutcomeUnknown"):
        through.change(CALLER, 1, insert(1))
    assert len(made(store)) == 1  # it was made, as it happens


@on_servers
def test_a_server_that_stops_is_unavailable_and_is_used_again_when_it_is_back(store: Database, database: str) -> None:
    server, _ = server_and_name(store)
    store.change(CALLER, 1, insert(1))
    server.stop()
    try:
        with pytest.raises(Unavailable):
            store.change(CALLER, 1, insert(2))
        with pytest.raises(Unavailable):
            store.read(lambda db: db.status())
    finally:
        server.restart()
    store.change(CALLER, 1, insert(2))
    assert len(made(store)) == 2
