"""The canary sweep over failures: at each named fail point, of each service, of each statement of the database.

What fails carries the values in sight in its text, its cause and its notes. Nothing of that may be written anywhere.
"""

from __future__ import annotations

import json
import logging
import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from ckeys.deployment import Deployment
from consumer_keys import wiring
from consumer_keys.failpoints import POINTS
from tencent_emulator.pytest_plugin import TestClock
from tests.functions.canaries import inner_secrets, places_of, sweep
from tests.functions.failing import CANARIES, PREFIX, SAME, Operations
from tests.store.proxy import LosingProxy

# A change is confirmed when the connection was lost during its commit; SQLite has none that could be lost.
CONFIRMATION = {"confirmation.before-commit", "confirmation.after-commit"}
# Those that hold a value in a local variable at some point where they may fail.
HOLDING = {
    "create System", "create Custom", "create KMS", "reveal", "timer", "cloud API", "operators", "rotate-data-keys",
    "rotate-root",
}  # fmt: skip
CALLS = {
    ("kms", "GenerateDataKey"), ("kms", "Decrypt"), ("kms", "ReEncrypt"), ("ssm", "GetSecretValue"),
    ("ssm", "PutSecretValue"), ("cos", "PutObject"), ("cos", "GetObject"), ("cos", "HeadObject"),
    ("cos", "DeleteObject"),
}  # fmt: skip
Make = Callable[..., Deployment]


@pytest.fixture
def database() -> str:
    """What is written after a failure does not depend on the database; where it does, a test names its own."""
    return "sqlite"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """No pause before a repetition, and every logger writes all that it has."""
    monkeypatch.setattr(random, "uniform", lambda *_: 0.0)
    caplog.set_level(logging.DEBUG)


@pytest.fixture
def operations(make_deployment: Make, tmp_path: Path, clock: TestClock) -> Operations:
    return Operations(make_deployment(tmp_path / "kept", durable=True, KEY_PREFIX=PREFIX), clock)


def check(
    operations: Operations, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, *events: str
) -> None:
    """No secret lies anywhere; the log has lines of these events."""
    deployment, output = operations.deployment, capfd.readouterr()
    secrets = {name: canary.encode() for name, canary in CANARIES.items()}
    secrets |= {f"operator {number}": token.encode() for number, token in enumerate(operations.tokens)}
    secrets |= {f"data key {number}": key for number, key in enumerate(operations.data_keys)}
    secrets |= inner_secrets(deployment)
    places = places_of(deployment) | {"logging": caplog.text.encode()}
    places |= {"stdout": output.out.encode(), "stderr": output.err.encode()}
    places |= {"returned": "\n".join(map(repr, operations.returned)).encode()}
    places |= {"returned as json": json.dumps(operations.returned).encode()}
    seen = {json.loads(line)["event"] for line in output.out.splitlines()}
    assert seen >= set(events), "what failed is in the log"
    assert sweep(places, secrets, {("operator 0", "home/operator.json")}) == []


def test_no_failure_at_any_named_point_writes_a_value_anywhere(
    operations: Operations, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    visited: set[str] = set()
    for name, work in operations.all().items():
        for point in operations.points(name, work):
            assert operations.fail_at(point, work), (name, point)
            visited.add(point)
    assert visited == POINTS - CONFIRMATION
    assert operations.carried >= HOLDING
    check(operations, capfd, caplog, "internal_error", "publish_failed")


@pytest.fixture(params=["postgresql"])
def lossy(
    request: pytest.FixtureRequest, servers: Any, make_deployment: Make, tmp_path: Path, clock: TestClock
) -> Iterator[Operations]:
    """On a server that is reached through a proxy, which can lose the answer to a commit."""
    with servers[request.param].databases() as lend:
        url = sa.make_url(lend("lossy"))
        proxy = LosingProxy(int(url.port or 0))
        try:
            through = url.set(port=proxy.port).render_as_string(hide_password=False)
            made = make_deployment(tmp_path / "kept", durable=True, KEY_PREFIX=PREFIX, DATABASE_URL=through)
            yield Operations(made, clock, proxy)
            made.close()
        finally:
            wiring.close()
            proxy.close()


def test_no_failure_while_a_lost_commit_is_looked_up_writes_a_value_anywhere(
    lossy: Operations, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    visited = set()
    for point in lossy.points("create Custom", lossy.create_unconfirmed):
        assert lossy.fail_at(point, lossy.create_unconfirmed), point
        visited.add(point)
    assert visited >= CONFIRMATION
    assert lossy.carried == {"create Custom"}
    check(lossy, capfd, caplog, "internal_error")


def test_no_failure_of_a_service_writes_a_value_anywhere(
    operations: Operations, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    cloud, met = operations.deployment.cloud, Counter[tuple[str, str]]()
    for work in operations.all().values():
        operations.clock.shift(901)  # no data key is in memory any longer
        cloud.clear_calls()
        work()
        ours = [call for call in cloud.calls if call.secret_id]  # not the test's own
        for service, action in dict.fromkeys((call.service, call.action) for call in ours):
            met[service, action] += 1
            if service == "cos" and met[service, action] > SAME:
                continue  # publishing is the same for all
            for fault in (cloud.truncate_next, cloud.charset_next, cloud.drop_next, cloud.fail_next):
                operations.clock.shift(901)
                more = {"code": "InternalError"} if fault == cloud.fail_next else {}
                fault(service, action, times=3, **more)
                work()
                cloud.clear_faults()
    assert met.keys() >= CALLS
    check(operations, capfd, caplog, "cloud_failure", "publish_failed")


def test_no_failure_of_a_statement_writes_a_value_anywhere(
    operations: Operations, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    for name, work in operations.all().items():
        assert operations.fail_at_statements(name, work) > 3 or name == "validate", name
    assert operations.carried >= HOLDING
    check(operations, capfd, caplog, "cloud_failure", "publish_failed")
