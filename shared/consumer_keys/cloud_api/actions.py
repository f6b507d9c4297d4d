"""The vendor's actions: which use case each one is, and what it answers. No rule of its own about keys is here.

Where one action has another word or another limit in the two services, the wider one holds for both; every action is
served under both, since a key's whole life needs them both at the vendor's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from consumer_keys import audit, consumers, groups, keys
from consumer_keys.cloud_api import answers, requests
from consumer_keys.cloud_api.errors import BAD_VALUE, MISSING, UNSUPPORTED, Refused
from consumer_keys.cloud_api.requests import ours
from consumer_keys.model import (
    BindConsumer,
    Caller,
    CreateConsumer,
    CreateGroup,
    CreateKey,
    ListKeys,
    Resource,
    RevealKey,
    UpdateConsumer,
    UpdateGroup,
    UpdateKey,
)

if TYPE_CHECKING:
    from consumer_keys.store.reads import Reads
    from consumer_keys.wiring import Services

_NAME = re.compile(r"([A-Z][a-z]+)CloudNativeAPIGateway([A-Z][A-Za-z]+)")
CLOUD_API, REVEAL_KEY = "cloud_api", "reveal_key"
NOTHING: Any = object()  # an answer without the member Result


class Given(NamedTuple):
    """One call of an action: who calls, by which service, and the parsed request."""

    caller: Caller
    service: str
    request: Any

    @property
    def gateway_id(self) -> str:
        """The gateway that the call is about."""
        return str(self.request.GatewayId)


Run = Callable[["Services", Given], Any]


class Action(NamedTuple):
    """`functions` are those whose roles may call it; `again` makes the result from the first call's stored answer.

    `denied(app, actor, request_id, params, problem)` is called before a known operator is refused, as in `Operation`.
    `served_by` is the function that does it, which cloud_api hands the request on to if it is another one.
    """

    functions: tuple[str, ...]
    request: type[requests.Call]
    run: Run
    again: Callable[[Mapping[str, Any]], Any] | None = None
    denied: Callable[..., None] | None = None
    served_by: str = CLOUD_API


def _create_key(app: Services, given: Given) -> Any:
    wanted = given.request
    if wanted.GenerateType == "KMS":
        for name in ("KmsKeyName", "KmsKeyVersion"):
            if not getattr(wanted, name):
                raise Refused(MISSING, f"The parameter {name} is required with GenerateType KMS.")
    if wanted.GenerateType == "Custom" and not wanted.SecretValue:
        raise Refused(MISSING, "The parameter SecretValue is required with GenerateType Custom.")
    named = bool(wanted.KmsKeyName or wanted.KmsKeyVersion)
    key, _ = keys.create(
        app, given.caller, given.gateway_id,
        ours(
            CreateKey, **wanted.edited(), generation=wanted.GenerateType, type=wanted.SecretType,
            value=wanted.SecretValue or None,
            credential={"name": wanted.KmsKeyName, "version": wanted.KmsKeyVersion} if named else None,
        ),
    )  # fmt: skip
    return answers.created(key.key_id)


def _describe_key(app: Services, given: Given) -> Any:
    found = keys.get(app, given.gateway_id, given.request.SecretKeyId)
    return answers.key(found, creation_info=given.request.IncludeCreationInfo)


def _describe_key_value(app: Services, given: Given) -> Any:
    """The vendor's answer holds the value in clear, and SCF logs answers: only where CLEAR_VALUES allows it."""
    if not app.settings.clear_values:
        raise Refused(UNSUPPORTED, "This deployment returns no value in clear; use reveal_key with a public key.")
    return keys.reveal(app, given.caller, given.gateway_id, given.request.SecretKeyId, RevealKey()).text()


# Filter of the vendor's -> filter of ours, and what it may be. The values after None are the vendor's own.
_FILTERS: dict[str, tuple[str, frozenset[str]]] = {
    "Status": ("status", frozenset({"Enable", "Disable"})),
    "GenerateType": ("stored_generation", frozenset({"System", "Custom", "KMS", "AutoWithConsumer"})),
    "SecretType": ("type", frozenset({"ApiKey"})),
    "CredentialGenerateType": ("generation", frozenset({"System", "Custom", "KMS"})),
    "CreationSource": ("creation_source", frozenset({"Manual", "AutoWithConsumer", "Batch"})),
}


def _key_filters(wanted: requests.DescribeSecretKeyList) -> dict[str, Any]:
    """AND between filters, OR between the values of one."""
    filters: dict[str, Any] = {}
    for each in wanted.Filters:
        name, allowed = _FILTERS[each.Name]
        values = frozenset(each.Values)
        if values - allowed:
            out = each.Name == "SecretType" and values - allowed <= requests.OTHER_SECRET_TYPES
            text = "is not supported here" if out else f"must be of {', '.join(sorted(allowed))}"
            raise Refused(UNSUPPORTED if out else BAD_VALUE, f"A value of the filter {each.Name} {text}.")
        filters[name] = tuple(sorted(values & frozenset(filters.get(name, values))))
    if wanted.Keyword:
        filters["keyword"] = ours(ListKeys, keyword=wanted.Keyword).keyword
    return filters


def _describe_key_list(app: Services, given: Given) -> Any:
    wanted = given.request
    filters = _key_filters(wanted)
    if wanted.UseToBind:
        # cngw: only what can be bound. tse: everything, with the answer to that question.
        if given.service == "cngw":
            if wanted.ResourceType is None:
                raise Refused(MISSING, "The parameter ResourceType is required with UseToBind.")
            filters["bound"] = False
        if wanted.ResourceId is not None:
            consumers.get(app, given.gateway_id, wanted.ResourceId)
    elif wanted.ResourceId is not None:
        filters["consumer_id"] = wanted.ResourceId
    page = app.store.read(lambda db: db.keys(given.gateway_id, filters, wanted.Limit, wanted.Offset, None))
    shown = []
    for found in page.items:
        members = answers.key(found, creation_info=wanted.IncludeCreationInfo)
        if given.service == "cngw":
            members |= {"SourceType": "Private", "SyncedVersion": "v0", "Provider": ""}
        if wanted.UseToBind:
            members["CanBind"] = found.consumer is None
        shown.append(members)
    return {"TotalCount": page.total_count, "SecretKeys": shown}


def _modify_key(app: Services, given: Given) -> Any:
    wanted = given.request
    keys.update(app, given.caller, given.gateway_id, wanted.SecretKeyId, ours(UpdateKey, **wanted.edited()))
    return NOTHING


def _modify_key_status(app: Services, given: Given) -> Any:
    keys.set_status(app, given.caller, given.gateway_id, given.request.SecretKeyId, given.request.Status)
    return NOTHING


def _delete_key(app: Services, given: Given) -> Any:
    keys.delete(app, given.caller, given.gateway_id, given.request.SecretKeyId, dry_run=False)
    return NOTHING


def _bind_key(app: Services, given: Given) -> Any:
    to = ours(BindConsumer, consumer_id=given.request.ResourceIds[0])
    keys.bind(app, given.caller, given.gateway_id, given.request.SecretKeyId, to)
    return True


def _unbind_key(app: Services, given: Given) -> Any:
    consumer_id = given.request.ResourceIds[0]
    keys.unbind(app, given.caller, given.gateway_id, given.request.SecretKeyId, consumer_id)
    return NOTHING


def _create_consumer(app: Services, given: Given) -> Any:
    wanted = given.request
    wanted.check()
    new, key = ours(CreateConsumer, **wanted.edited()), wanted.AutoSecretKey
    if key is None:
        made = consumers.create(app, given.caller, given.gateway_id, new, wanted.SecretKeyId)
    else:
        try:
            automatic = ours(CreateKey, name=key.Name, description=key.Description, generation="System")
        except Refused as refused:
            raise Refused(refused.code, f"AutoSecretKey: {refused.message}") from None
        made = consumers.create(app, given.caller, given.gateway_id, new, automatic)
    return answers.created(made.consumer_id)


def _describe_consumer(app: Services, given: Given) -> Any:
    def read(db: Reads) -> dict[str, Any]:
        found = db.consumer(given.gateway_id, given.request.ConsumerId)
        of_it = [db.group(given.gateway_id, each.group_id) for each in found.groups]
        return {**answers.consumer(found), "ConsumerGroups": [answers.group(each) for each in of_it]}

    return app.store.read(read)


def _describe_consumer_list(app: Services, given: Given) -> Any:
    wanted = given.request
    resource = (wanted.ResourceType, wanted.ResourceId)
    filters = {} if resource == (None, None) else {"resource": resource}
    page = app.store.read(lambda db: db.consumers(given.gateway_id, filters, wanted.Limit, wanted.Offset, None))
    return {"TotalCount": page.total_count, "Consumers": [answers.consumer(found) for found in page.items]}


def _modify_consumer(app: Services, given: Given) -> Any:
    wanted = given.request
    consumers.update(app, given.caller, given.gateway_id, wanted.ConsumerId, ours(UpdateConsumer, **wanted.edited()))
    return NOTHING


def _delete_consumer(app: Services, given: Given) -> Any:
    consumers.delete(app, given.caller, given.gateway_id, given.request.ConsumerId, dry_run=False)
    return NOTHING


def _create_group(app: Services, given: Given) -> Any:
    wanted = given.request
    new = ours(CreateGroup, **wanted.edited(), status=wanted.Status)
    return answers.created(groups.create(app, given.caller, given.gateway_id, new).group_id)


def _describe_group(app: Services, given: Given) -> Any:
    return answers.group(groups.get(app, given.gateway_id, given.request.ConsumerGroupId))


def _describe_group_list(app: Services, given: Given) -> Any:
    wanted = given.request
    page = app.store.read(lambda db: db.groups(given.gateway_id, {}, wanted.Limit, wanted.Offset, None))
    shown = [{**answers.group(found), "BindCount": found.consumer_count} for found in page.items]
    return {"TotalCount": page.total_count, "ConsumerGroups": shown}


def _modify_group(app: Services, given: Given) -> Any:
    wanted = given.request
    edited = ours(UpdateGroup, **wanted.edited(), status=wanted.Status)
    groups.update(app, given.caller, given.gateway_id, wanted.ConsumerGroupId, edited)
    return NOTHING


def _delete_group(app: Services, given: Given) -> Any:
    groups.delete(app, given.caller, given.gateway_id, given.request.ConsumerGroupId, dry_run=False)
    return NOTHING


def _add_to_group(app: Services, given: Given) -> Any:
    wanted = given.request
    groups.add_consumers(app, given.caller, given.gateway_id, wanted.ConsumerGroupId, wanted.ConsumerIds)
    return True


def _remove_from_group(app: Services, given: Given) -> Any:
    wanted = given.request
    groups.remove_consumers(app, given.caller, given.gateway_id, wanted.ConsumerGroupId, wanted.ConsumerIds)
    return NOTHING


def _authorise_group(allowed: bool) -> Run:
    def run(app: Services, given: Given) -> Any:
        wanted = given.request
        resource = ours(Resource, type=wanted.ResourceType, id=wanted.ResourceId)
        groups.authorise(app, given.caller, given.gateway_id, wanted.ConsumerGroupIds, resource, allowed=allowed)
        return NOTHING

    return run


def _made(field: str) -> Callable[[Mapping[str, Any]], Any]:
    return lambda stored: answers.created(stored[field])


def _true(_stored: Mapping[str, Any]) -> Any:
    return True


def _nothing(_stored: Mapping[str, Any]) -> Any:
    return NOTHING


ACTIONS: dict[str, Action] = {
    "CreateSecretKey": Action(("create_key",), requests.CreateSecretKey, _create_key, _made("key_id")),
    "DescribeSecretKey": Action(("get_key",), requests.DescribeSecretKey, _describe_key),
    "DescribeSecretKeyList": Action(("list_keys",), requests.DescribeSecretKeyList, _describe_key_list),
    "DescribeSecretKeyValue": Action(
        (REVEAL_KEY,), requests.DescribeSecretKeyValue, _describe_key_value, denied=audit.note_denied_reveal,
        served_by=REVEAL_KEY,  # no other function may decrypt values
    ),
    "ModifySecretKey": Action(("update_key",), requests.ModifySecretKey, _modify_key, _nothing),
    "ModifySecretKeyStatus": Action(
        ("enable_key", "disable_key"), requests.ModifySecretKeyStatus, _modify_key_status, _nothing
    ),
    "DeleteSecretKey": Action(("delete_key",), requests.DeleteSecretKey, _delete_key),
    "BindSecretKey": Action(("bind_consumer",), requests.BindSecretKey, _bind_key, _true),
    "UnbindSecretKey": Action(("unbind_consumer",), requests.BindSecretKey, _unbind_key, _nothing),
    # The same under its former name, which the vendor's own sample still sends.
    "DeleteSecretKeyRef": Action(("unbind_consumer",), requests.BindSecretKey, _unbind_key, _nothing),
    "CreateConsumer": Action(
        ("create_consumer", "create_key", "bind_consumer"), requests.CreateConsumer, _create_consumer,
        _made("consumer_id"),
    ),
    "DescribeConsumer": Action(("get_consumer",), requests.DescribeConsumer, _describe_consumer),
    "DescribeConsumerList": Action(("list_consumers",), requests.DescribeConsumerList, _describe_consumer_list),
    "ModifyConsumer": Action(("update_consumer",), requests.ModifyConsumer, _modify_consumer, _nothing),
    "DeleteConsumer": Action(("delete_consumer",), requests.DeleteConsumer, _delete_consumer),
    "CreateConsumerGroup": Action(("create_group",), requests.CreateConsumerGroup, _create_group, _made("group_id")),
    "DescribeConsumerGroup": Action(("get_group",), requests.DescribeConsumerGroup, _describe_group),
    "DescribeConsumerGroupList": Action(("list_groups",), requests.DescribeConsumerGroupList, _describe_group_list),
    "ModifyConsumerGroup": Action(("update_group",), requests.ModifyConsumerGroup, _modify_group, _nothing),
    "DeleteConsumerGroup": Action(("delete_group",), requests.DeleteConsumerGroup, _delete_group),
    "AddConsumerInGroup": Action(("add_to_group",), requests.ConsumersInGroup, _add_to_group, _true),
    "RemoveConsumerInGroup": Action(("remove_from_group",), requests.ConsumersInGroup, _remove_from_group, _nothing),
    "AddConsumerGroupAuth": Action(("update_group",), requests.ConsumerGroupAuth, _authorise_group(True), _nothing),
    "RemoveConsumerGroupAuth": Action(
        ("update_group",), requests.ConsumerGroupAuth, _authorise_group(False), _nothing
    ),
}  # fmt: skip


def find(name: Any) -> Action | None:
    """The action of this full name, `CreateCloudNativeAPIGatewayConsumer` for example."""
    match = _NAME.fullmatch(name) if isinstance(name, str) else None
    return None if match is None else ACTIONS.get(match[1] + match[2])
