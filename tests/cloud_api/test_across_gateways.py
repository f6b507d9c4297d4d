"""No action of the cloud API reaches anything of another gateway: by no id, filter or Idempotency-Key.

The ids come from the declarations of the requests, so that a new one is covered when it appears. `default` is the
gateway that is called, `other` the one whose things are named.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest

from ckeys.deployment import Deployment
from consumer_keys.cloud_api.actions import ACTIONS
from tests.cloud_api.clients import VERSIONS, full
from tests.cloud_api.test_matrix import BAD, MAY, NO_GATEWAY, NOT_FOUND, OK
from tests.functions.callers import FILLED, two_gateways
from tests.functions.helpers import nothing_changes
from tests.functions.test_across_gateways import Caller, Ids, World
from tests.tc3_signer import signed_event

# What the ids in requests are ids of. ResourceId is none of them: a filter, or the gateway's own name for something.
KINDS = {
    "SecretKeyId": "key_id", "ConsumerId": "consumer_id", "ConsumerGroupId": "group_id",
    "ResourceIds": "consumer_id", "ConsumerIds": "consumer_id", "ConsumerGroupIds": "group_id",
}  # fmt: skip
# These need what is free; the others are shown to work on what is in use.
NEEDS_FREE = {
    "CreateConsumer", "BindSecretKey", "DeleteSecretKey", "DeleteConsumer", "DeleteConsumerGroup", "AddConsumerInGroup",
}  # fmt: skip
PAGE = {"Limit": 100, "Offset": 0}


def ids_of(action: str) -> list[str]:
    return [name for name in ACTIONS[action].request.model_fields if name in KINDS]


WITH_IDS = [action for action in ACTIONS if ids_of(action)]
REPEATABLE = [action for action, served in ACTIONS.items() if served.again is not None]


class Cloud:
    """Signed requests of one operator."""

    def __init__(self, deployment: Deployment, pair: tuple[str, str]) -> None:
        self.deployment, self.pair = deployment, pair

    def __call__(self, action: str, gateway: str, fields: dict[str, Any], **headers: str) -> tuple[str, Any]:
        """(code or OK, message or result)."""
        more: dict[str, Any] = {"x_tc_action": full(action), "x_tc_version": VERSIONS["tse"], **headers}
        body = {"GatewayId": gateway, **fields}
        event = signed_event(self.pair, "POST", "/", body, service="tse", **more)
        return told(json.loads(self.deployment.call("cloud_api", event)["body"]))

    def direct(self, action: str, gateway: str, fields: dict[str, Any]) -> tuple[str, Any]:
        event = {"Action": full(action), "Version": VERSIONS["cngw"], "GatewayId": gateway, **fields}
        return told(self.deployment.call("cloud_api", event))


def told(answer: dict[str, Any]) -> tuple[str, Any]:
    content = answer["Response"]
    error = content.get("Error")
    return (OK, content.get("Result")) if error is None else (error["Code"], error["Message"])


def request(action: str, ids: dict[str, list[str]]) -> dict[str, Any]:
    """A complete request with these ids."""
    fields: dict[str, Any] = {**MAY[action].fields}
    if "Name" in fields:
        fields["Name"] = f"by-{action}"
    if action == "CreateSecretKey":
        fields["GenerateType"] = "System"
    if action == "CreateConsumer":
        fields["SecretBindType"] = "Existing" if ids else "None"
    return fields | {name: given if name.endswith("s") else given[0] for name, given in ids.items()}


def chosen(action: str, ids: Ids) -> dict[str, list[str]]:
    return {name: [ids[KINDS[name]]] for name in ids_of(action)}


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with two_gateways(tmp_path_factory.mktemp("across") / "home") as made:
        yield made


@pytest.fixture(scope="module")
def maker(both: Deployment) -> Caller:
    return Caller(both, both.operator[1])


@pytest.fixture(scope="module")
def admin(both: Deployment) -> Cloud:
    return Cloud(both, both.operator)


@pytest.fixture(scope="module")
def of_default(both: Deployment) -> Cloud:
    return Cloud(both, both.add_operator("of-default", "admin", ("default",)))


@pytest.fixture(scope="module")
def of_other(both: Deployment) -> Cloud:
    return Cloud(both, both.add_operator("of-other", "admin", ("other",)))


@pytest.fixture(scope="module")
def ours(maker: Caller) -> World:
    return maker.world("default", "ours")


def test_every_id_in_a_request_is_known_as_one() -> None:
    named = {name for served in ACTIONS.values() for name in served.request.model_fields}
    assert {name for name in named if name.endswith(("Id", "Ids"))} == KINDS.keys() | {"GatewayId", "ResourceId"}


@pytest.mark.parametrize("action", WITH_IDS)
def test_an_id_of_another_gateway_is_the_id_of_nothing_and_works_in_its_own(
    action: str, both: Deployment, maker: Caller, admin: Cloud, of_default: Cloud, of_other: Cloud, ours: World
) -> None:
    theirs = maker.world("other", f"for-{action}")
    names = ids_of(action)
    with nothing_changes(both):
        for mine, foreign in ((ours.used, theirs.used), (ours.free, theirs.free)):
            for wrong in product((False, True), repeat=len(names)):
                if not any(wrong):
                    continue
                ids, nothing = chosen(action, mine), chosen(action, mine)
                for name, is_theirs in zip(names, wrong, strict=True):
                    if is_theirs:  # a list of several is done for all or none
                        first = ids[name] if name in ("ConsumerIds", "ConsumerGroupIds") else []
                        ids[name] = [*first, foreign[KINDS[name]]]
                        nothing[name] = [*first, FILLED[KINDS[name]]]
                answer = admin(action, "default", request(action, ids))
                assert answer[0] == NOT_FOUND
                assert answer == admin(action, "default", request(action, nothing))
                assert answer == of_default(action, "default", request(action, ids))
                assert answer == admin.direct(action, "default", request(action, ids))
                assert of_other(action, "default", request(action, ids))[0] == NO_GATEWAY
    own = theirs.free if action in NEEDS_FREE else theirs.used
    assert of_other(action, "other", request(action, chosen(action, own)))[0] == OK


LISTS = {"DescribeSecretKeyList": "SecretKeys", "DescribeConsumerList": "Consumers",
         "DescribeConsumerGroupList": "ConsumerGroups"}  # fmt: skip


def test_a_list_shows_nothing_of_another_gateway_whatever_it_is_filtered_by(
    both: Deployment, maker: Caller, admin: Cloud, of_default: Cloud, of_other: Cloud, ours: World
) -> None:
    theirs = maker.world("other", "theirs")
    model = {"ResourceType": "ModelAPI", "ResourceId": "their-model"}
    groups = {"ConsumerGroupIds": [theirs.used["group_id"]]}
    assert of_other("AddConsumerGroupAuth", "other", {**model, **groups}) == (OK, None)
    holder = {"ResourceType": "Consumer", "ResourceId": theirs.used["consumer_id"]}
    asked: list[tuple[str, dict[str, Any]]] = [
        ("DescribeSecretKeyList", holder), ("DescribeSecretKeyList", {"Keyword": "theirs"}),
        ("DescribeConsumerList", model), ("DescribeConsumerList", {"ResourceId": "their-model"}),
    ]  # fmt: skip
    for caller in (admin, of_default):
        for action, items in LISTS.items():
            code, shown = caller(action, "default", PAGE)
            assert (code, len(shown[items])) == (OK, shown["TotalCount"])
            assert shown[items]
            assert not [mark for mark in ("theirs", *theirs.used.values()) if mark in json.dumps(shown)]
        for action, filters in asked:
            assert caller(action, "default", {**PAGE, **filters}) == (OK, {"TotalCount": 0, LISTS[action]: []})
        assert caller("DescribeSecretKeyList", "default", {**PAGE, **holder, "UseToBind": True})[0] == NOT_FOUND
    for action, filters in asked:
        assert of_other(action, "other", {**PAGE, **filters})[1][LISTS[action]]
        assert of_other(action, "default", {**PAGE, **filters})[0] == NO_GATEWAY


@pytest.mark.parametrize("action", REPEATABLE)
def test_an_idempotency_key_of_one_gateway_replays_nothing_in_another(
    action: str, both: Deployment, maker: Caller, admin: Cloud, of_other: Cloud, ours: World
) -> None:
    theirs = maker.world("other", f"twice-{action}")
    marked = {"idempotency_key": action}
    there, here = (request(action, chosen(action, world.free if action in NEEDS_FREE else world.used))
                   for world in (theirs, ours))  # fmt: skip
    for fields in (there, here):
        if "Name" in fields:
            fields["Name"] = f"twice-by-{action}"
    first = admin(action, "other", there, **marked)
    assert first[0] == OK, first
    with nothing_changes(both):
        code, message = admin(action, "default", here, **marked)
        assert (code, "Idempotency-Key" in message) == (BAD, True)
        assert of_other(action, "default", here, **marked)[0] == NO_GATEWAY
        assert admin(action, "other", there, **marked) == first
