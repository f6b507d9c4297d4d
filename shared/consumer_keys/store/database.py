"""The database: its transactions, which are repeated when it asks for that, and what its errors mean."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from consumer_keys import failpoints
from consumer_keys.errors import Problem, Unavailable
from consumer_keys.model import Caller
from consumer_keys.store import dialect
from consumer_keys.store.audit import AuditLog
from consumer_keys.store.change import Change
from consumer_keys.store.publication import Housekeeping, SnapshotReads
from consumer_keys.store.reads import Reads
from consumer_keys.store.schema import SCHEMA_REVISION, deployment

_T = TypeVar("_T")
# Attempts, and the longest pause (seconds) before each repetition; the pauses are random, so that two transactions
# that got in each other's way do not meet again.
PAUSES = (0.02, 0.1, 0.5)
# Constraint, as the drivers' errors name it -> code. (Whether a value is in use is looked up under the lock.)
_UNIQUE = {
    "uq_consumer_keys_name": "NameInUse",
    "consumer_keys.name": "NameInUse",
    "uq_consumers_name": "NameInUse",
    "consumers.name": "NameInUse",
    "uq_consumer_groups_name": "NameInUse",
    "consumer_groups.name": "NameInUse",
}


class SchemaMismatch(Exception):  # noqa: N818 - a state of the database
    """The database's schema is not the one that this code was written for."""

    safe_to_log = True


class _Unconfirmed(Unavailable):
    """The connection was lost during the commit of a transaction with this result."""

    def __init__(self, error: DBAPIError, result: Any) -> None:
        super().__init__("DependencyUnavailable", "database", "commit", type(error.orig).__name__)
        self.result = result


class Database:
    """All access to the database. `read` sees one consistent state; `change` commits whole or not at all.

    What runs in a transaction is given as a function, which is called again when the database undid the transaction
    (deadlock, serialization failure, lock timeout) or the connection was lost: it must have no other effects. After
    the last attempt, and for any other failure of the database, Unavailable is raised and nothing was changed.
    """

    def __init__(self, url: str) -> None:
        self.engine = dialect.make_engine(url)
        self._checked = False

    def read(self, work: Callable[[Reads], _T]) -> _T:
        """Runs `work` in a read-only transaction, which sees one consistent state."""
        return self._repeated(lambda: self._once(lambda connection: work(Reads(connection))))

    def snapshot(self, work: Callable[[SnapshotReads], _T]) -> _T:
        """Runs `work` in a read-only transaction over everything that a snapshot holds."""
        return self._repeated(lambda: self._once(lambda connection: work(SnapshotReads(connection))))

    def audit_log(self, work: Callable[[AuditLog], _T]) -> _T:
        """Runs `work` in a read-only transaction over the audit log."""
        return self._repeated(lambda: self._once(lambda connection: work(AuditLog(connection))))

    def change(self, caller: Caller, now_ms: int, work: Callable[[Change], _T]) -> tuple[_T, int | None]:
        """Runs `work` in a write transaction: its result, and the revision if anything was written.

        Writes are serialised by the lock on the deployment row, and durable when this returns. Any exception of `work`
        undoes everything. Raises Replayed when the caller's Idempotency-Key was used before, SignatureReused for a
        signed request that comes again, and OutcomeUnknown when the connection was lost during the commit and the
        database does not come back to say what became of it. What has no audit row may then be done twice.
        """

        def begun(connection: sa.Connection) -> tuple[_T, int | None, tuple[int, bytes] | None]:
            change = Change(connection, caller, now_ms)
            change.raise_if_replayed()
            change.use_signature()
            result = work(change)
            change.check_audited()
            return result, change.revision if change.changed else None, change.audited

        for _ in PAUSES:
            try:
                result, revision, _audited = self._repeated(lambda: self._once(begun, "change"))
            except _Unconfirmed as doubt:
                result, revision, audited = doubt.result
                lost = doubt
            else:
                return result, revision
            if audited is not None and self._is_recorded(*audited):
                return result, revision
        raise lost

    def _is_recorded(self, sequence: int, row_hash: bytes) -> bool:
        """Whether an audit row was committed. Its hash says so: it covers the row and every row before it."""
        try:
            # Under the lock, so that a commit that is still under way comes to its end first.
            found = self._repeated(
                lambda: self._once(lambda connection: AuditLog(connection).hash_of(sequence), "confirmation")
            )
        except Unavailable:
            raise Problem("OutcomeUnknown") from None
        return bool(found == row_hash)

    def raise_if_replayed(self, caller: Caller, now_ms: int) -> None:
        """Raises Replayed like `change`, but before work that a repeated request must not depend on."""
        if caller.idempotency_key is not None:
            self._repeated(
                lambda: self._once(lambda connection: Change(connection, caller, now_ms).raise_if_replayed())
            )

    def housekeeping(self, purpose: failpoints.Commit, work: Callable[[Housekeeping], _T]) -> _T:
        """Runs `work`, which may be done twice, in a short write transaction for one of `failpoints.COMMITS`."""

        def attempt() -> _T:
            return self._once(lambda connection: work(Housekeeping(connection)), purpose)

        try:
            return self._repeated(attempt)
        except _Unconfirmed:
            return self._repeated(attempt)

    def _once(self, work: Callable[[sa.Connection], _T], purpose: failpoints.Commit | None = None) -> _T:
        """One transaction: a write if it has a purpose."""
        options = dialect.transaction_options(self.engine, write=purpose is not None)
        with self.engine.connect() as connection, connection.execution_options(**options).begin() as transaction:
            self._check_schema(connection)
            if purpose is None:
                return work(connection)
            connection.execute(_LOCK)
            self._check_schema_again(connection)
            result = work(connection)
            failpoints.reach(f"{purpose}.before-commit")
            try:
                transaction.commit()
            except DBAPIError as error:
                if dialect.was_cut(error):
                    raise _Unconfirmed(error, result) from None
                raise
        failpoints.reach(f"{purpose}.after-commit")
        return result

    def _repeated(self, attempt: Callable[[], _T]) -> _T:
        gives_up_at = time.monotonic() + dialect.GIVE_UP_SECONDS
        for pause in (*PAUSES, None):
            try:
                return attempt()
            except IntegrityError as error:
                raise _conflict(error) from None
            except PoolTimeout:
                raise Unavailable("DependencyUnavailable", "database", "connect", "PoolTimeout") from None
            except DBAPIError as error:
                again = dialect.was_undone(error) or dialect.was_cut(error)
                if pause is None or not again or time.monotonic() > gives_up_at:
                    raise _unavailable(error) from None
                time.sleep(random.uniform(0, pause))  # noqa: S311 - no secret
        raise AssertionError("the last attempt returns or raises")

    def _check_schema(self, connection: sa.Connection) -> None:
        if self._checked:
            return
        found = schema_revision(connection)
        if found != SCHEMA_REVISION:
            raise SchemaMismatch(mismatch(found))
        self._checked = True

    def _check_schema_again(self, connection: sa.Connection) -> None:
        """An instance that has been warm for long must not write into what was migrated meanwhile."""
        found = connection.execute(_FOUND_REVISION).scalar()
        if found != SCHEMA_REVISION:
            raise SchemaMismatch(mismatch(found))


# Writers take turns, on each database.
_LOCK = sa.select(deployment.c.id).with_for_update()
_FOUND_REVISION: sa.Select[Any] = sa.select(sa.column("version_num")).select_from(sa.table("alembic_version"))


def schema_revision(connection: sa.Connection) -> str | None:
    """The revision that the migrations recorded, or None for an empty database."""
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(_FOUND_REVISION).scalar()


def mismatch(found: str | None) -> str:
    """What is wrong with a schema that is not this code's, and what to do about it."""
    if found is None:
        return f"the database has no schema, this code needs {SCHEMA_REVISION}; run `ckeys migrate`"
    if found < SCHEMA_REVISION:
        return f"the database has the older schema {found}, this code needs {SCHEMA_REVISION}; run `ckeys migrate`"
    return f"the database has the newer schema {found}, this code knows {SCHEMA_REVISION}; deploy the newer code"


def _unavailable(error: DBAPIError) -> Unavailable:
    # The text of a driver's error may hold parameters; the type is enough for the log.
    return Unavailable("DependencyUnavailable", "database", "query", type(error.orig).__name__)


def _conflict(error: IntegrityError) -> Problem | Unavailable:
    text = str(error.orig)
    for marker, code in _UNIQUE.items():
        if marker in text:
            return Problem(code)
    return Unavailable("DependencyUnavailable", "database", "constraint", type(error.orig).__name__)
