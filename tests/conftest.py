"""A deployment per test: a real database, the official SDKs against the emulator, the handlers from functions/."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ckeys.deployment import Deployment
from tencent_emulator.pytest_plugin import TestClock
from tests.databases import Files, Lend, Servers, running
from tests.prepared import Prepared, environment

GATEWAY = "/v1/gateways/default"


def pytest_configure() -> None:
    """One seed for the simulation of this run, also in its worker processes."""
    os.environ.setdefault("CKEYS_SIMULATION_SEED", str(secrets.randbelow(1_000_000_000)))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says it, so that the same schedules can be run again."""
    terminalreporter.write_line(f"CKEYS_SIMULATION_SEED={os.environ['CKEYS_SIMULATION_SEED']}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that take long come first in the part that each worker begins with: none is left with them at the end."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if workers > 1:
        long = [item for item in items if item.get_closest_marker("long")]
        short = [item for item in items if not item.get_closest_marker("long")]
        bounds = [-(-len(short) * number // workers) for number in range(workers + 1)]
        items.clear()
        for number in range(workers):
            items += long[number::workers] + short[bounds[number] : bounds[number + 1]]


class Answer(NamedTuple):
    """What a function answered to an HTTP event."""

    status: int
    body: Any
    headers: dict[str, str]


class Api:
    """Calls functions with Function URL events, as an operator unless told otherwise."""

    def __init__(self, deployment: Deployment, token: str) -> None:
        self.deployment, self.token = deployment, token

    def __call__(
        self, function: str, method: str, path: str, body: Any = None, *,
        headers: dict[str, Any] | None = None, query: dict[str, Any] | None = None, token: str | None = "",
    ) -> Answer:  # fmt: skip
        """`path` is taken below the default gateway unless it begins with /v1. `token` None sends none."""
        bearer = self.token if token == "" else token
        given: dict[str, Any] = {} if bearer is None else {"authorization": f"Bearer {bearer}"}
        event = {
            "httpMethod": method,
            "path": path if path.startswith("/v1/") else GATEWAY + path,
            "headers": {**given, **(headers or {})},
            "queryString": query or {},
            "body": body if isinstance(body, str) else "" if body is None else json.dumps(body),
        }
        reply = self.deployment.call(function, event)
        text = reply["body"]
        return Answer(reply["statusCode"], json.loads(text) if text else None, reply["headers"])

    def create_key(self, name: str = "key", **fields: Any) -> dict[str, Any]:
        """A new key; System unless told otherwise."""
        answer = self("create_key", "POST", "/keys", {"name": name, "generation": "System", **fields})
        assert answer.status == 201, answer.body
        created: dict[str, Any] = answer.body
        return created

    def create_consumer(self, name: str = "app") -> dict[str, Any]:
        """A new consumer."""
        answer = self("create_consumer", "POST", "/consumers", {"name": name})
        assert answer.status == 201, answer.body
        created: dict[str, Any] = answer.body
        return created

    def create_group(self, name: str = "group", *members: dict[str, Any]) -> dict[str, Any]:
        """A new group with these consumers in it."""
        answer = self("create_group", "POST", "/groups", {"name": name})
        assert answer.status == 201, answer.body
        created: dict[str, Any] = answer.body
        for consumer in members:
            path = f"/groups/{created['group_id']}/consumers/{consumer['consumer_id']}"
            assert self("add_to_group", "PUT", path).status == 200
        return created

    def bind(self, key: dict[str, Any], consumer: dict[str, Any]) -> None:
        """Binds a key to a consumer."""
        body = {"consumer_id": consumer["consumer_id"]}
        answer = self("bind_consumer", "PUT", f"/keys/{key['key_id']}/consumer", body)
        assert answer.status == 200, answer.body

    def bound_key(self, name: str = "key", **fields: Any) -> dict[str, Any]:
        """A new key, bound to a consumer of its own."""
        key = self.create_key(name, **fields)
        self.bind(key, self.create_consumer(f"app-of-{name}"))
        return key

    def validate(self, value: str, **headers: Any) -> Answer:
        """Forward auth with a bearer key."""
        return self("validate_key", "GET", "/validate", headers=headers, token=value)

    def verify(self, value: str) -> dict[str, Any]:
        """POST /verify, which says why."""
        answer = self("validate_key", "POST", "/verify", {"key": value})
        assert answer.status == 200, answer.body
        verdict: dict[str, Any] = answer.body
        return verdict

    def put_credential(self, name: str, value: str, version: str = "v1") -> None:
        """A credential in the emulated SSM."""
        self.deployment.cloud.call("ssm", "CreateSecret", SecretName=name, VersionId=version, SecretString=value)

    def tick(self) -> dict[str, Any]:
        """One run of the timer; returns its report."""
        event = {"Type": "Timer", "TriggerName": "every-minute", "Time": "2026-01-01T00:00:00Z", "Message": ""}
        report: dict[str, Any] = self.deployment.call("sync_credentials", event)
        return report


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    """PostgreSQL and MariaDB, each started when a test first needs it."""
    yield running
    running.close()


@pytest.fixture
def database() -> str:
    """The kind of database that deployments use; folders whose tests hold for all three override it."""
    return "sqlite"


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """SQLite databases."""
    return Files(tmp_path_factory.mktemp("databases"))


@pytest.fixture
def database_urls(database: str, servers: Servers, files: Files) -> Iterator[Lend]:
    """Gives the URL of a database with the schema for any name, empty unless told otherwise; one per name."""
    with files.databases() if database == "sqlite" else servers[database].databases() as lend:
        yield lend


@pytest.fixture(scope="session")
def prepared_deployments(files: Files, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """Deployments that have been started before."""
    return Prepared(files, tmp_path_factory)


@pytest.fixture
def make_deployment(
    tmp_path: Path, database: str, database_urls: Lend, prepared_deployments: Prepared
) -> Iterator[Callable[..., Deployment]]:
    """Starts deployments with chosen settings; they are closed again in reverse order.

    The first one, if nothing is chosen for it, has been started before: it finds what others make.
    """
    open_ones: list[Deployment] = []

    def make(home: Path | None = None, *, durable: bool = False, **settings: str) -> Deployment:
        place, content = home or tmp_path / f"home{len(open_ones)}", None
        if not (open_ones or home or durable or settings):
            content, durable = prepared_deployments.copy(place), True
        # As in a local run, a durable deployment has SQLite's file in its home folder.
        if content or database != "sqlite" or not durable:
            settings = {"DATABASE_URL": database_urls(str(place), content), **settings}
        deployment = Deployment(place, durable=durable, environ=environment(settings))
        open_ones.append(deployment)
        return deployment

    yield make
    for deployment in reversed(open_ones):
        deployment.close()


@pytest.fixture
def deployment(make_deployment: Callable[..., Deployment]) -> Deployment:
    """A fresh deployment with the default settings; validation looks at the pointer before every answer."""
    return make_deployment()


@pytest.fixture
def api(deployment: Deployment) -> Api:
    """Calls as the first operator."""
    return Api(deployment, deployment.operator[1])


@pytest.fixture
def clock(tencent_clock: TestClock) -> TestClock:
    """One clock for the functions, the SDKs' signatures and the emulator: `clock.shift(seconds)`."""
    return tencent_clock
