"""Every action of the cloud API by every kind of caller, through every entrance, at every path and under every Host.

The table is written by hand, so that an action which is decided by the roles of another function shows. The requests
are complete and name what does not exist: whoever may make one gets the answer of the action, and nothing changes.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import pytest

from ckeys.deployment import Deployment
from consumer_keys.cloud_api.actions import ACTIONS
from tests.cloud_api.clients import VERSIONS, full
from tests.functions.callers import (
    FILLED,
    FORWARDED,
    HOST,
    HOSTS,
    Credential,
    Entrance,
    Route,
    callers,
    every_entrance,
    tricks,
    two_gateways,
)
from tests.functions.helpers import nothing_changes
from tests.tc3_signer import signed_headers

ROLES = ("verifier", "viewer", "editor", "revealer", "admin")
READ, WRITE, REVEAL = {"viewer", "editor", "admin"}, {"editor", "admin"}, {"revealer", "admin"}

NOT_SIGNED, UNKNOWN_ID = "AuthFailure.InvalidAuthorization", "AuthFailure.SecretIdNotFound"
MISMATCH, FORBIDDEN = "AuthFailure.SignatureFailure", "UnauthorizedOperation.CamNoAuth"
NO_GATEWAY, NOT_FOUND = "ResourceNotFound.InstanceNotFound", "ResourceNotFound.ResourceNotFound"
BAD, OK = "InvalidParameterValue.InvalidParameterValue", "OK"
# Those who are no operator, or no longer.
NOBODY = {
    "disabled": UNKNOWN_ID, "rotated away": MISMATCH, "wrong secret": MISMATCH, "unknown id": UNKNOWN_ID,
    "consumer key": UNKNOWN_ID, "consumer key for an operator's secret": MISMATCH,
}  # fmt: skip

KEY, APP = {"SecretKeyId": FILLED["key_id"]}, {"ConsumerId": FILLED["consumer_id"]}
GROUP, PAGE = {"ConsumerGroupId": FILLED["group_id"]}, {"Limit": 1, "Offset": 0}
NAMED, ENABLED = {"Name": "new"}, {"Status": "Enable"}
HOLDER = {"ResourceType": "Consumer", "ResourceIds": [FILLED["consumer_id"]]}
MEMBERS = {"ConsumerIds": [FILLED["consumer_id"]]}
MODEL = {"ResourceType": "ModelAPI", "ResourceId": "a-model", "ConsumerGroupIds": [FILLED["group_id"]]}


class Row(NamedTuple):
    """Who may call an action, a request for it, and what they are answered."""

    roles: set[str]
    fields: dict[str, Any]
    answer: str = NOT_FOUND


MAY = {
    "CreateSecretKey": Row(
        WRITE, {**NAMED, "SecretType": "ApiKey", "ResourceType": "Consumer", "GenerateType": "Custom"},
        "MissingParameter",
    ),
    "DescribeSecretKey": Row(READ, KEY),
    "DescribeSecretKeyList": Row(READ, PAGE, OK),
    "DescribeSecretKeyValue": Row(REVEAL, KEY),
    "ModifySecretKey": Row(WRITE, {**KEY, **NAMED}),
    "ModifySecretKeyStatus": Row(WRITE, {**KEY, **ENABLED}),
    "DeleteSecretKey": Row(WRITE, KEY),
    "BindSecretKey": Row(WRITE, {**KEY, **HOLDER}),
    "UnbindSecretKey": Row(WRITE, {**KEY, **HOLDER}),
    "DeleteSecretKeyRef": Row(WRITE, {**KEY, **HOLDER}),
    "CreateConsumer": Row(WRITE, {**NAMED, "SecretBindType": "AutoGenerate"}, "InvalidParameterValue.CreateError"),
    "DescribeConsumer": Row(READ, APP),
    "DescribeConsumerList": Row(READ, PAGE, OK),
    "ModifyConsumer": Row(WRITE, {**APP, **NAMED}),
    "DeleteConsumer": Row(WRITE, APP),
    "CreateConsumerGroup": Row(WRITE, {**ENABLED, "Name": "1st"}, BAD),
    "DescribeConsumerGroup": Row(READ, GROUP),
    "DescribeConsumerGroupList": Row(READ, PAGE, OK),
    "ModifyConsumerGroup": Row(WRITE, {**GROUP, **NAMED, **ENABLED}),
    "DeleteConsumerGroup": Row(WRITE, GROUP),
    "AddConsumerInGroup": Row(WRITE, {**GROUP, **MEMBERS}),
    "RemoveConsumerInGroup": Row(WRITE, {**GROUP, **MEMBERS}),
    "AddConsumerGroupAuth": Row(WRITE, MODEL),
    "RemoveConsumerGroupAuth": Row(WRITE, MODEL),
}  # fmt: skip
# One of each kind, where all of them would only say the same once more.
SOME = ("DescribeSecretKeyList", "DeleteSecretKey", "DescribeSecretKeyValue")
ROOT = Route("cloud_api", "cloud_api", "POST", "/")


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with two_gateways(tmp_path_factory.mktemp("matrix") / "home") as made:
        yield made


@pytest.fixture(scope="module")
def credentials(deployment: Deployment) -> list[Credential]:
    return callers(deployment, ROLES)


@pytest.fixture(scope="module")
def entrances(deployment: Deployment) -> Iterator[list[Entrance]]:
    with every_entrance(deployment) as opened:
        yield opened


class Request(NamedTuple):
    """A call of an action in the gateway `default`, not signed yet."""

    action: str
    service: str = "cngw"
    more: Mapping[str, Any] = {}

    @property
    def body(self) -> str:
        return json.dumps({"GatewayId": "default", **MAY[self.action].fields, **self.more})

    def unsigned(self, authorization: str | None = None) -> dict[str, str]:
        headers = {"host": HOST, "content-type": "application/json", "x-tc-timestamp": str(int(time.time()))}
        headers |= {"x-tc-action": full(self.action), "x-tc-version": VERSIONS[self.service]}
        return headers | ({} if authorization is None else {"authorization": authorization})

    def signed(self, credential: Credential, path: str = "/", host: str = HOST) -> dict[str, str]:
        return signed_headers(
            credential.pair, "POST", path, self.body, service=self.service, host=host,
            x_tc_action=full(self.action), x_tc_version=VERSIONS[self.service],
        )  # fmt: skip


def decision(status: int, body: Any) -> str:
    """The code inside the envelope, which is there whatever happened."""
    assert status == 200, body
    content = body["Response"]
    assert content["RequestId"]
    return str(content["Error"]["Code"]) if "Error" in content else OK


def expected(credential: Credential, action: str) -> str:
    if credential.role is None:
        return NOBODY[credential.kind]
    if credential.role not in MAY[action].roles:
        return FORBIDDEN
    return MAY[action].answer if credential.gateways is None else NO_GATEWAY


def ways(action: str, entrances: list[Entrance]) -> list[tuple[Entrance, Route]]:
    """Every entrance; the action that shows a value is also served by the function behind, which has a handler too."""
    direct = [(entrances[0], ROOT._replace(handler="reveal_key"))] if action == "DescribeSecretKeyValue" else []
    return [*((entrance, ROOT) for entrance in entrances), *direct]


def test_the_table_speaks_of_every_action() -> None:
    assert MAY.keys() == ACTIONS.keys()


@pytest.mark.parametrize("action", MAY)
def test_who_may_call_an_action_and_who_may_not(
    action: str, deployment: Deployment, credentials: list[Credential], entrances: list[Entrance]
) -> None:
    with nothing_changes(deployment):
        for number, (entrance, route) in enumerate(ways(action, entrances)):
            request = Request(action, ("cngw", "tse")[number % 2])
            tokens = [None, *(f"Bearer {credential.pair[1]}" for credential in credentials)]
            for token in tokens:
                found = decision(*entrance(route, request.unsigned(token), request.body))
                assert found == NOT_SIGNED, (entrance.name, token)
            for credential in credentials:
                found = decision(*entrance(route, request.signed(credential), request.body))
                assert found == expected(credential, action), (entrance.name, credential.kind)


@pytest.mark.parametrize("action", MAY)
def test_a_role_is_judged_before_anything_of_a_request_but_its_action_is_looked_at(
    action: str, deployment: Deployment, credentials: list[Credential], entrances: list[Entrance]
) -> None:
    request = Request(action, more={"Nonsense": 1, "GatewayId": ["default"]})
    with nothing_changes(deployment):
        for credential in credentials:
            may = credential.role in MAY[action].roles
            wanted = "UnknownParameter" if may else expected(credential, action)
            found = decision(*entrances[0](ROOT, request.signed(credential), request.body))
            assert found == wanted, credential.kind


@pytest.mark.parametrize("action", SOME)
def test_no_host_decides_about_an_action(
    action: str, deployment: Deployment, credentials: list[Credential], entrances: list[Entrance]
) -> None:
    request = Request(action)
    kinds = {"role admin", "role viewer", "role revealer", "admin of other", "disabled", "consumer key"}
    asking = [each for each in credentials if each.kind in kinds]
    with nothing_changes(deployment):
        for entrance, route in ways(action, entrances):
            for host in HOSTS:
                more = {"host": host, "x-forwarded-host": host, **FORWARDED}
                assert decision(*entrance(route, {**request.unsigned(), **more}, request.body)) == NOT_SIGNED
                for credential in asking:
                    headers = {**request.signed(credential, host=host), **more}
                    found = decision(*entrance(route, headers, request.body))
                    assert found == expected(credential, action), (entrance.name, host, credential.kind)


def paths(deployment: Deployment) -> list[str]:
    """Those of every other call, and spellings of some of them and of the API's own that lead somewhere else."""
    of_others = {route.path for function in deployment.template.functions for route in function.routes} - {"/"}
    filled = {re.sub(r"\{([a-z_]+)\}", lambda match: {"gateway_id": "default", **FILLED}.get(match[1], "x"), path)
              for path in of_others}  # fmt: skip
    near = ("//", "/.", "/..", "/./", "/%2e", "/%2f", "/;x", "/%00", "/%3f", "/index", "/cloud_api", "/v1", "/x/..")
    return [*near, *sorted(filled), *tricks(f"/v1/gateways/default/keys/{FILLED['key_id']}/reveal")]


@pytest.mark.parametrize("action", SOME)
def test_no_path_decides_about_an_action(
    action: str, deployment: Deployment, credentials: list[Credential], entrances: list[Entrance]
) -> None:
    """At another path the same is decided as at the API's own, or there is nothing that serves the action at all."""
    request = Request(action)
    asking = [each for each in credentials if each.kind in ("role admin", "role viewer", "disabled")]
    with nothing_changes(deployment):
        for path in paths(deployment):
            for entrance, route in ways(action, entrances):
                moved = route._replace(path=path)
                for credential in asking:
                    status, body = entrance(moved, request.signed(credential, path), request.body)
                    if entrance.name != "handler" and "Response" not in body:
                        assert status in (400, 401, 404, 405), (entrance.name, path)
                        continue
                    assert decision(status, body) == expected(credential, action), (entrance.name, path)
                    if credential.kind == "role admin":
                        elsewhere = entrance(moved, request.signed(credential, "/"), request.body)
                        assert decision(*elsewhere) == MISMATCH, "the path is signed"
