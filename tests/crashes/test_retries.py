"""A create is killed with SIGKILL at any point, and the caller, who was told nothing, sends it again."""

from __future__ import annotations

import itertools
import json
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ckeys.deployment import Deployment
from consumer_keys import failpoints
from tests.cloud_api.test_answers import NEW, Cloud
from tests.conftest import GATEWAY, Api
from tests.crashes.killing import CREDENTIALS, Writers
from tests.databases import KINDS
from tests.functions.helpers import sql

CASES = ("system", "custom", "kms", "consumer", "cloud_api")
# Where a create dies with the publisher's lease in its hand.
HELD = {
    "lease-claim.after-commit", "reservation.before-commit", "reservation.after-commit", "overlay.before-write",
    "overlay.after-write", "pointer.before-write", "pointer.after-write", "publication.before-commit",
}  # fmt: skip
COMMITTED = HELD | {"change.after-commit", "lease-claim.before-commit", "publication.after-commit"}
# On the servers: dead between commit and publication, without and with the lease.
SOME = ("lease-claim.before-commit", "pointer.before-write")


class Create(NamedTuple):
    """A request that makes something of this name, anew for each attempt, as it would be sent with one key."""

    function: str
    request: Callable[[], dict[str, Any]]
    table: str
    name: str


def create(api: Api, cloud: Cloud, case: str, number: int) -> Create:
    """The request of a case."""
    name, key = f"{case.replace('_', '-')}-{number}", f"{case}-{number}"
    if case == "cloud_api":
        fields = {**NEW, "GatewayId": "default", "Name": name}
        return Create(
            case, lambda: cloud.event("cngw", "CreateSecretKey", fields, idempotency_key=key), "consumer_keys", name
        )
    bodies: dict[str, dict[str, Any]] = {
        "system": {"generation": "System"},
        "custom": {"generation": "Custom", "value": secrets.token_urlsafe(24)},
        "kms": {"generation": "KMS", "credential": {"name": f"cred-{name}", "version": "v1"}},
        "consumer": {},
    }
    if case == "kms":
        api.put_credential(f"cred-{name}", secrets.token_urlsafe(24))
    path = "/consumers" if case == "consumer" else "/keys"
    event: dict[str, Any] = {
        "httpMethod": "POST", "path": GATEWAY + path, "queryString": {},
        "headers": {"authorization": f"Bearer {api.token}", "idempotency-key": key},
        "body": json.dumps({"name": name, **bodies[case]}),
    }  # fmt: skip
    function, table = ("create_consumer", "consumers") if case == "consumer" else ("create_key", "consumer_keys")
    return Create(function, lambda: event, table, name)


def ids_of(api: Api, made: Create) -> list[str]:
    """What is in the database under this name."""
    column = "consumer_id" if made.table == "consumers" else "key_id"
    rows = sql(api.deployment, f"SELECT {column} FROM {made.table} WHERE name = :name", name=made.name)
    return [row[column] for row in rows]


def sent(api: Api, made: Create) -> str:
    """Sends the request; the id in the answer."""
    reply = api.deployment.call(made.function, made.request())
    body = json.loads(reply["body"])
    if made.function == "cloud_api":
        return str(body["Response"]["Result"]["ID"])
    assert reply["statusCode"] == 201, body
    return str(body["key_id"] if made.table == "consumer_keys" else body["consumer_id"])


def lease_is_held(api: Api) -> bool:
    """Whether nobody else may publish."""
    rows = sql(api.deployment, "SELECT expires_at FROM leases WHERE name = 'publish'")
    return any(row["expires_at"] > api.deployment.services.now_ms() for row in rows)


def is_published(api: Api) -> bool:
    """Whether the snapshot holds all that the database does."""
    state = api("get_status", "GET", "/v1/status").body
    return bool(state["snapshot"]["revision"] == state["revision"])


def sent_while_the_lease_runs_out(api: Api, made: Create) -> str:
    """The publisher's lease is over after the first time that the retry was refused it."""
    refused: list[str] = []

    def hook(point: str) -> None:
        if point == "lease-claim.after-commit" and not refused:
            refused.append(point)
            assert lease_is_held(api)
            sql(api.deployment, "UPDATE leases SET expires_at = 0")

    failpoints.install(hook)
    try:
        return sent(api, made)
    finally:
        failpoints.install(None)


def kills(database: str) -> Iterator[dict[str, Any]]:
    """At every point, one after the other; on the servers at some."""
    if database == "sqlite":
        return ({"count": count} for count in itertools.count(1))
    return ({"point": point, "visit": 1} for point in SOME)


@pytest.mark.parametrize("database", KINDS)
def test_a_retry_after_a_crash_in_the_middle_completes(
    make_deployment: Callable[..., Deployment], database: str, tmp_path: Path
) -> None:
    deployment = make_deployment()
    api = Api(deployment, deployment.operator[1])
    cloud = Cloud(api)
    api.put_credential(CREDENTIALS[0], secrets.token_urlsafe(24))
    with Writers(deployment, tmp_path / "left") as writers:
        for case in CASES:
            died_at: set[str] = set()
            for number, kill in enumerate(kills(database)):
                made = create(api, cloud, case, number)
                point = writers.attempt(made.function, made.request(), **kill)
                if point is None:
                    break
                died_at.add(point)
                check_retry(api, made, point, patient=case != "consumer" or point != "pointer.after-write")
            wanted = COMMITTED | {"change.before-commit"} if database == "sqlite" else set(SOME)
            assert died_at == wanted, case


def check_retry(api: Api, made: Create, point: str, *, patient: bool) -> None:
    """Sent at once, while the dead one's lease may live, it completes with the same id; and it is published.

    An impatient caller has the answer before the lease is over, and a later retry publishes.
    """
    there, held = ids_of(api, made), lease_is_held(api)
    assert held == (point in HELD)
    assert there or point not in COMMITTED - {"change.after-commit"}  # that may have been a data key's
    assert not (held and is_published(api))
    answered = sent_while_the_lease_runs_out(api, made) if held and patient else sent(api, made)
    assert ids_of(api, made) == [answered]
    assert there in ([], [answered])
    if not patient:
        assert not is_published(api)
        sql(api.deployment, "UPDATE leases SET expires_at = 0")
        assert sent(api, made) == answered
    assert is_published(api)
    assert sent(api, made) == answered
