"""Failed authentications are limited per source; nobody who has a valid credential notices."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from ckeys.deployment import Deployment
from consumer_keys.errors import Problem
from consumer_keys.throttle import SOURCES_MAX, FailureLimit, source_of
from tests.cloud_api.test_answers import PAGE, Cloud
from tests.conftest import Api
from tests.functions.helpers import nothing_changes, problem

LIMIT = 5
GATEWAY = {"GatewayId": "default"}


@pytest.fixture
def limited(make_deployment: Callable[..., Deployment]) -> Api:
    deployment = make_deployment(AUTH_FAILURES_PER_MINUTE=str(LIMIT))
    return Api(deployment, deployment.operator[1])


def attempt(api: Api, function: str = "list_keys", source: str = "203.0.113.7", token: str | None = "wrong") -> Any:
    headers = {"x-scf-remote-addr": source}
    if function == "validate_key":
        return api(function, "POST", "/verify", {"key": "kT7vQ2xM"}, headers=headers, token=token)
    return api(function, "GET", "/keys", headers=headers, token=token)


@pytest.mark.parametrize("function", ["list_keys", "validate_key"])
def test_a_source_that_fails_too_often_is_told_to_wait_and_valid_credentials_still_pass(
    limited: Api, function: str
) -> None:
    with nothing_changes(limited.deployment):
        assert [attempt(limited, function).status for _ in range(LIMIT)] == [401] * LIMIT
        for token in ("wrong", None, "x" * 40):
            refused = attempt(limited, function, token=token)
            problem(refused, 429, "TooManyFailures")
            assert 1 <= int(refused.headers["Retry-After"]) <= 60 / LIMIT
        assert attempt(limited, function, token=limited.token).status == 200, "from the same address"
        assert attempt(limited, function, source="203.0.113.8").status == 401, "another source has its own bucket"


def test_each_function_and_a_signature_count_alike(limited: Api) -> None:
    from tests.functions.test_signatures import signed

    for _ in range(LIMIT):
        answer = signed(limited, "list_keys", "GET", "/v1/gateways/default/keys", pair=("operator-0", "x"))
        assert answer.status == 401
    answer = signed(limited, "list_keys", "GET", "/v1/gateways/default/keys", pair=("operator-0", "x"))
    problem(answer, 429, "TooManyFailures")
    assert signed(limited, "list_keys", "GET", "/v1/gateways/default/keys").status == 200


@pytest.mark.parametrize("kind", ["unsigned", "bearer", "wrong secret"])
def test_the_cloud_api_counts_every_kind_of_failure(
    limited: Api, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cloud = Cloud(limited, None if kind != "wrong secret" else (limited.deployment.operator[0], "wrong"))

    def code() -> str:
        event = cloud.event("cngw", "DescribeSecretKeyList", {**GATEWAY, **PAGE})
        if kind != "wrong secret":
            event["headers"] |= {"authorization": f"Bearer {limited.token}" if kind == "bearer" else ""}
        return cloud.error(event)[0]

    with nothing_changes(limited.deployment):
        assert {code() for _ in range(LIMIT)} <= {"AuthFailure.InvalidAuthorization", "AuthFailure.SignatureFailure"}
        assert code() == "RequestLimitExceeded"
    reasons = {json.loads(line).get("reason") for line in capsys.readouterr().out.splitlines()}
    assert reasons == {"Mismatch" if kind == "wrong secret" else "Malformed"}
    assert "Result" in Cloud(limited).send(Cloud(limited).event("cngw", "DescribeSecretKeyList", {**PAGE, **GATEWAY}))


def test_being_forbidden_is_no_failure(limited: Api) -> None:
    viewer = Api(limited.deployment, limited.deployment.add_operator("viewer", "viewer")[1])
    for _ in range(LIMIT + 3):
        problem(viewer("create_key", "POST", "/keys", {}), 403, "Forbidden")


def test_what_a_client_sends_does_not_name_the_source(limited: Api) -> None:
    event = {
        "httpMethod": "GET", "path": "/v1/gateways/default/keys", "queryString": {}, "body": "",
        "requestContext": {"sourceIp": "203.0.113.7"},
    }  # fmt: skip
    codes = []
    for number in range(LIMIT + 1):
        headers = {"x-scf-remote-addr": f"198.51.100.{number}", "x-forwarded-for": f"192.0.2.{number}"}
        codes.append(limited.deployment.call("list_keys", {**event, "headers": headers})["statusCode"])
    assert codes == [401] * LIMIT + [429]


def test_forward_auth_is_not_limited(limited: Api) -> None:
    answers = {limited.validate("kT7vQ2xM", **{"x-scf-remote-addr": "203.0.113.7"}).status for _ in range(LIMIT * 3)}
    assert answers == {401}


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def codes(limit: FailureLimit, address: str, times: int) -> list[str]:
    return [limit.judged(Problem("Unauthenticated"), address).code for _ in range(times)]


def test_the_bucket_refills_evenly_and_never_beyond_its_size() -> None:
    clock = Clock()
    limit = FailureLimit(6, clock)
    assert codes(limit, "192.0.2.1", 8) == ["Unauthenticated"] * 6 + ["TooManyFailures"] * 2
    assert limit.judged(Problem("Unauthenticated"), "192.0.2.1").headers == {"Retry-After": "10"}
    clock.now += 9.9
    assert codes(limit, "192.0.2.1", 1) == ["TooManyFailures"]
    clock.now += 0.2
    assert codes(limit, "192.0.2.1", 2) == ["Unauthenticated", "TooManyFailures"]
    clock.now += 86_400
    assert codes(limit, "192.0.2.1", 7) == ["Unauthenticated"] * 6 + ["TooManyFailures"]


def test_memory_is_bounded_and_the_sources_that_failed_last_are_kept() -> None:
    limit = FailureLimit(1, Clock())
    for number in range(3 * SOURCES_MAX):
        codes(limit, f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 1)
        codes(limit, "192.0.2.1", 1)
    assert len(limit._buckets) == SOURCES_MAX
    assert codes(limit, "192.0.2.1", 1) == ["TooManyFailures"]


@pytest.mark.parametrize(
    ("address", "source"),
    [
        ("192.0.2.1", "192.0.2.1"), ("192.0.2.1:443", "192.0.2.1"), (" 192.0.2.1 ", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"), ("[2001:db8:1:2::9]:443", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.1", "192.0.2.1"), ("", ""), ("unknown", ""), ("192.0.2.1, 192.0.2.2", ""),
        ("１９２.0.2.1", ""), ("x" * 100_000, ""),
    ],
)  # fmt: skip
def test_an_address_counts_without_its_port_and_ipv6_by_its_network(address: str, source: str) -> None:
    assert source_of(address) == source
