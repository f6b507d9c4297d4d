"""The composition root of the management functions: settings in, collaborators out, built once per process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import cached_property, lru_cache, partial
from typing import Protocol, TypeVar

from consumer_keys import config, log, operators, snapshot_base, web
from consumer_keys.cloud.cos import Bucket
from consumer_keys.cloud.kms import Kms
from consumer_keys.cloud.ssm import Ssm
from consumer_keys.errors import CloudFailure, Problem, Unavailable
from consumer_keys.model import Caller
from consumer_keys.publish import Publisher, quietly
from consumer_keys.roots import ROOT_BYTES, Alive, RootKeys, RootNeeded, Roots
from consumer_keys.store.change import Change
from consumer_keys.store.database import Database
from consumer_keys.store.reads import Reads
from consumer_keys.throttle import FailureLimit
from consumer_keys.vault import DataKey, Place, Vault

NEEDS = ("DATABASE_URL", "KMS_KEY_ID", "KMS_OPERATOR_KEY_ID", "COS_BUCKET")
_T = TypeVar("_T")


class _KnowsAlive(Protocol):
    """A transaction of any kind."""

    def alive(self, default: str) -> Alive:
        """The versions of the root secret that are in force."""


class Services:
    """What use cases are given. Each part is built when it is first needed; a failure is not remembered."""

    def __init__(self, settings: config.Settings, store: Database) -> None:
        self.settings, self.store = settings, store
        self._reach = (config.role_credential, settings.tencentcloud_region, settings.cloud_endpoint)
        self.ssm, self.kms = Ssm(*self._reach), Kms(*self._reach)
        self.bucket = Bucket(*self._reach, settings.cos_bucket or "")
        self.key_vault = self.vault("values", self._add_data_key)
        self.operator_vault = self.vault("operators", self._add_data_key)
        self.failures = FailureLimit(settings.auth_failures_per_minute, time.monotonic)
        # Who is told of a change that was committed and not published: the log, or the person at a terminal.
        self.report_unpublished: Callable[[BaseException], None] = partial(log.emit_exception, "publish_failed")
        self._root_keys: dict[str, RootKeys] = {}
        self._lock = threading.Lock()

    def now_ms(self) -> int:
        """Wall time in milliseconds."""
        return int(time.time() * 1000)

    @property
    def root(self) -> RootKeys:
        """The keys of the present version of the root secret. Raises Unavailable while it cannot be read."""
        return self.read(self.roots).present

    def root_keys(self, version: str) -> RootKeys:
        """The keys of a version of the root secret. Raises Gone without such a version, and Unavailable."""
        with self._lock:
            if version not in self._root_keys:
                secret = self.ssm.secret_value(self.settings.root_secret_name, version)
                if len(secret) != ROOT_BYTES:
                    raise config.ConfigError(f"the root secret has {len(secret)} bytes, {ROOT_BYTES} are needed")
                self._root_keys[version] = RootKeys(secret)
            return self._root_keys[version]

    def roots(self, db: _KnowsAlive) -> Roots:
        """The keys of every version of the root secret that is alive in this transaction, which `keyed` must run."""
        alive = db.alive(self.settings.root_secret_version)
        for version in alive.newest_first:
            if version not in self._root_keys:
                raise RootNeeded(version)
        known = self._root_keys
        return Roots(known[alive.present], None if alive.coming is None else known[alive.coming])

    def keyed(self, transaction: Callable[[], _T]) -> _T:
        """Runs a transaction that asks for `roots`; again after it met a version that has not been read yet.

        So no transaction waits for SSM, and none works with versions that are out of date. Raises Unavailable.
        """
        while True:
            try:
                return transaction()
            except RootNeeded as needed:
                self._manifest_key(needed.version)

    def read(self, work: Callable[[Reads], _T]) -> _T:
        """`Database.read` for work that asks for `roots`."""
        return self.keyed(lambda: self.store.read(work))

    def _manifest_key(self, version: str) -> bytes:
        try:
            return self.root_keys(version).manifest_key
        except CloudFailure as failure:  # its code would speak of a credential that the caller named
            details = failure.service, failure.action, failure.cloud_code
            raise Unavailable("DependencyUnavailable", *details) from None

    @cached_property
    def publisher(self) -> Publisher:
        """Publishes the snapshot."""
        return Publisher(
            self.store, self.bucket, snapshot_base.build, prefix=self.settings.snapshot_prefix,
            environment=self.settings.environment, manifest_key=self._manifest_key,
            root_version=self.settings.root_secret_version, now_ms=self.now_ms, sleep=time.sleep,
        )  # fmt: skip

    def change(self, caller: Caller, work: Callable[[Change], _T]) -> _T:
        """Runs `work` in one transaction (`Database.change`); if it changed something, publishes, best effort."""
        result, revision = self.keyed(lambda: self.store.change(caller, self.now_ms(), work))
        if revision is not None:
            self.publish_after(revision)
        return result

    def publish_after(self, revision: int) -> None:
        """Publishes what was committed as this revision, unless somebody has; a failure is only logged."""
        quietly(self.publisher, revision, self.report_unpublished)

    def publish_pending(self) -> None:
        """Publishes what was committed and not published yet, best effort."""
        state = self.store.snapshot(lambda db: db.published())
        if state.published_revision < state.revision:
            self.publish_after(state.revision)

    def close(self) -> None:
        """Closes every connection."""
        self.store.engine.dispose()
        for service in (self.ssm, self.kms, self.bucket):
            service.close()

    def place_of_key(self, gateway_id: str, key_id: str) -> Place:
        """Where a key's sealed value belongs."""
        return Place(gateway_id, key_id, "value")

    def place_of_operator(self, secret_id: str) -> Place:
        """Where an operator's sealed secret belongs."""
        return Place("", secret_id, "secret")

    def authenticate(self, function: str, request: web.Request, gateway_id: str | None) -> Caller:
        """The caller of a function. Raises Unauthenticated, TooManyFailures, Forbidden or GatewayNotFound."""
        token = web.bearer_token(request)
        try:
            operator, signature = operators.authenticate(self, function, request, token, gateway_id)
        except Problem as problem:
            raise self.failures.judged(problem, web.source_address(request)) from None
        declared = {gateway.gateway_id for gateway in self.settings.gateways}
        if gateway_id is not None and gateway_id not in declared:
            raise Problem("GatewayNotFound", actor=operator.secret_id)
        key = web.idempotency_key(request) if request.method == "POST" else None
        return Caller(
            operator.secret_id, operator.role, operator.gateways, function, request.request_id,
            web.revisions(request), key,
            () if key is None else self.fingerprints(request.method, request.path, request.body), signature,
        )  # fmt: skip

    def fingerprints(self, *parts: str) -> tuple[str, ...]:
        """For `Caller.fingerprints`, from everything that makes two requests the same."""
        return self.read(self.roots).fingerprints(*parts)

    def vault(self, purpose: str, add_data_key: Callable[[DataKey], None]) -> Vault:
        """A vault for `values` or `operators` with a memory of its own: what it seals begins under a new data key."""
        settings = self.settings
        kms_key_id = settings.kms_key_id if purpose == "values" else settings.kms_operator_key_id
        return Vault(
            self.kms, kms_key_id or "", environment=settings.environment, purpose=purpose, add_data_key=add_data_key,
            find_data_key=self._find_data_key,
        )  # fmt: skip

    def _add_data_key(self, data_key: DataKey) -> None:
        caller = operators.system_caller("vault", "")
        self.store.change(caller, self.now_ms(), lambda change: change.add_data_key(data_key._asdict()))

    def _find_data_key(self, data_key_id: str) -> DataKey | None:
        row = self.store.read(lambda db: db.data_key(data_key_id))
        return None if row is None else DataKey(**{name: row[name] for name in DataKey._fields})


def close() -> None:
    """Forgets the collaborators and closes their connections; the next call builds them anew."""
    for built in _live:
        built.close()
    _live.clear()
    _built.cache_clear()  # the databases stay: without connections, but with the statements that were compiled


_live: list[Services] = []


def services() -> Services:
    """The collaborators for the present environment. Raises ConfigError naming every faulty setting."""
    return _built(config.hosted_function(), config.load(config.environment(), NEEDS))


@lru_cache(maxsize=64)
def _built(function: str, settings: config.Settings) -> Services:  # noqa: ARG001 - each function has its own role
    built = Services(settings, database(settings.database_url or ""))
    _live.append(built)
    return built


@lru_cache(maxsize=4)
def database(url: str) -> Database:
    """The database at this URL; the same one for the same URL, with the statements that it has compiled."""
    return Database(url)
