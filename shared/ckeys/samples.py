"""The sample events under events/: the objects that they speak of, and the placeholders that stand for them.

An event file holds what the platform would send, except for `${...}` where the text depends on the deployment.
`seed` makes the objects, `fill` puts their ids, values and secrets in.
"""

from __future__ import annotations

import json
import os
import re
from typing import Any

from ckeys.deployment import Deployment
from ckeys.events import Event, function_url_event
from consumer_keys import operator_admin
from consumer_keys.keytext import new_id, random_base62
from tencent_emulator.errors import CloudError

# The setting that the samples need: a second gateway, for ids that exist and yet are not there.
GATEWAYS = "default=Default gateway,other=Other gateway"
HOME, OTHER = "default", "other"
VERSION = "v1"
# What was sent with an Idempotency-Key while seeding; the samples send the same again, or another body.
REPEATABLE_KEY = {"name": "retired-key", "generation": "System", "status": "Disable"}
REPEATABLE_CONSUMER = {"name": "batch-jobs", "description": "Jobs of the night."}

PLACEHOLDERS: dict[str, str] = {
    "operator.admin": "secret key of an operator who may do everything",
    "operator.editor": "secret key of an operator who may change keys and consumers, but reveal none",
    "operator.viewer": "secret key of an operator who may only look and verify",
    "operator.revealer": "secret key of an operator who may only reveal and verify",
    "operator.verifier": "secret key of an operator who may only verify",
    "operator.outsider": "secret key of an admin of the gateway `other` alone",
    "operator.unknown": "a secret key that no operator has",
    "consumer.busy": "id of a consumer with keys",
    "consumer.free": "id of a consumer without keys; made with the Idempotency-Key `sample-consumer`",
    "consumer.disabled": "id of a disabled consumer, with a key bound to it",
    "consumer.paused": "id of an enabled consumer in `group.disabled`, with a key bound to it",
    "consumer.other": "id of a consumer of the gateway `other`",
    "consumer.unknown": "an id that no consumer has",
    "group.busy": "id of an enabled group, with `consumer.busy` in it",
    "group.free": "id of an enabled group without consumers",
    "group.disabled": "id of a disabled group, with a consumer in it",
    "group.other": "id of an empty group of the gateway `other`",
    "group.unknown": "an id that no group has",
    "key.system": "id of an enabled System key, bound to `consumer.busy`",
    "key.custom": "id of an enabled Custom key, bound to `consumer.busy`",
    "key.kms": "id of an enabled KMS key with the credential `credential.used`, bound to `consumer.busy`",
    "key.disabled": "id of a disabled System key, bound to `consumer.busy`",
    "key.unbound": "id of an enabled System key without a consumer",
    "key.idle": "id of a disabled System key without a consumer; made with the Idempotency-Key `sample-key`",
    "key.other": "id of an enabled Custom key of the gateway `other`, bound to `consumer.other`",
    "key.unknown": "an id that no key has",
    "value.system": "value of `key.system`",
    "value.custom": "value of `key.custom`",
    "value.kms": "value of `key.kms`, the content of `credential.used`",
    "value.disabled": "value of `key.disabled`",
    "value.unbound": "value of `key.unbound`",
    "value.stopped": "value of an enabled key that is bound to `consumer.disabled`",
    "value.paused": "value of an enabled key whose consumer is in `group.disabled`",
    "value.other": "value of `key.other`",
    "value.unknown": "a usable value that no key has, the content of `credential.name`",
    "credential.name": "name of a credential that a new key can refer to; every version here is `v1`",
    "credential.used": "name of the credential of `key.kms`",
    "credential.disabled": "name of a disabled credential",
    "credential.deleting": "name of a credential that is pending deletion",
    "credential.unreadable": "name of a credential whose master key is disabled in KMS",
    "credential.unusable": "name of a credential whose content cannot be a key value",
    "credential.unknown": "a name that no credential has",
    "revision.system": "the present revision of `key.system`, as in its ETag",
    "cursor.keys": "next_cursor of the list of keys with limit 2 and no filter",
    "cursor.audit": "next_cursor of the audit log with limit 2 and no filter",
}
_PLACEHOLDER = re.compile(r"\$\{([^}]*)\}")


class SampleError(ValueError):
    """The sample cannot be made or used; the message is one sentence that holds no secret."""


def fill(event: Event, values: dict[str, str]) -> Event:
    """The event with every placeholder replaced, in strings at any depth; names of fields stay as they are.

    Raises SampleError naming the first placeholder that has no value.
    """
    filled: Event = _filled(event, values)
    return filled


def _filled(part: Any, values: dict[str, str]) -> Any:
    if isinstance(part, str):
        return _PLACEHOLDER.sub(lambda match: _value_of(match[1], values), part)
    if isinstance(part, list):
        return [_filled(item, values) for item in part]
    if isinstance(part, dict):
        return {name: _filled(item, values) for name, item in part.items()}
    return part


def _value_of(name: str, values: dict[str, str]) -> str:
    if name not in values:
        raise SampleError(f"There is no placeholder ${{{name}}}.")
    return values[name]


def seed(deployment: Deployment) -> dict[str, str]:
    """Makes the sample objects, through the functions wherever one can, and returns a value for every placeholder.

    The deployment must have the setting GATEWAYS of this module, and none of the objects yet. Raises SampleError.
    """
    values = {
        "operator.admin": deployment.operator[1],
        "operator.unknown": operator_admin.new_pair()[1],
        "consumer.unknown": new_id("consumer", os.urandom),
        "group.unknown": new_id("cg", os.urandom),
        "key.unknown": new_id("secret", os.urandom),
        "value.unknown": _fresh(),
    }
    values |= _consumers(deployment)
    values |= _groups(deployment, values)
    values |= _credentials(deployment, values["value.unknown"])
    values |= _keys(deployment, values)
    values |= _operators(deployment)
    key = _call(deployment, "get_key", gateway_id=HOME, key_id=values["key.system"])
    page = _call(deployment, "list_keys", gateway_id=HOME, limit=2)
    log = _call(deployment, "list_audit", gateway_id=HOME, limit=2)
    return values | {
        "revision.system": str(key["revision"]), "cursor.keys": str(page["next_cursor"]),
        "cursor.audit": str(log["next_cursor"]),
    }  # fmt: skip


def _fresh() -> str:
    """A strong value of 32 characters that was not made by the service."""
    return random_base62(32, os.urandom)


def _call(deployment: Deployment, function: str, **fields: Any) -> dict[str, Any]:
    answer = deployment.call(function, fields)
    if not isinstance(answer, dict) or "code" in answer:
        reason = answer["code"] if isinstance(answer, dict) else "no answer"
        raise SampleError(f"The samples cannot be made: {function} says {reason}.")
    return answer


def _repeatable(deployment: Deployment, function: str, path: str, mark: str, body: dict[str, str]) -> dict[str, Any]:
    """Over HTTP, since only there is an Idempotency-Key."""
    headers = {"authorization": f"Bearer {deployment.operator[1]}", "idempotency-key": mark}
    path = f"/v1/gateways/{HOME}/{path}"
    answer = deployment.call(function, function_url_event("POST", path, {}, headers, json.dumps(body)))
    made: dict[str, Any] = json.loads(answer["body"])
    if answer["statusCode"] != 201:
        raise SampleError(f"The samples cannot be made: {function} says {made['code']}.")
    return made


def _consumers(deployment: Deployment) -> dict[str, str]:
    def make(gateway_id: str, name: str, status: str = "Enable") -> str:
        made = _call(deployment, "create_consumer", gateway_id=gateway_id, name=name, status=status)
        return str(made["consumer_id"])

    free = _repeatable(deployment, "create_consumer", "consumers", "sample-consumer", REPEATABLE_CONSUMER)
    return {
        "consumer.busy": make(HOME, "chat-app"),
        "consumer.free": str(free["consumer_id"]),
        "consumer.disabled": make(HOME, "former-app", "Disable"),
        "consumer.paused": make(HOME, "paused-app"),
        "consumer.other": make(OTHER, "partner-app"),
    }


def _groups(deployment: Deployment, values: dict[str, str]) -> dict[str, str]:
    def make(gateway_id: str, name: str, consumer_id: str | None = None, status: str = "Enable") -> str:
        made = _call(deployment, "create_group", gateway_id=gateway_id, name=name, status=status)
        if consumer_id is not None:
            member = {"group_id": made["group_id"], "consumer_id": consumer_id}
            _call(deployment, "add_to_group", gateway_id=gateway_id, **member)
        return str(made["group_id"])

    return {
        "group.busy": make(HOME, "production", values["consumer.busy"]),
        "group.free": make(HOME, "trials"),
        "group.disabled": make(HOME, "paused", values["consumer.paused"], "Disable"),
        "group.other": make(OTHER, "partners"),
    }


def _credentials(deployment: Deployment, free_content: str) -> dict[str, str]:
    """Credentials in every state that SSM knows, by its own API: no function of ours makes any."""
    used = _fresh()
    contents = {
        "name": free_content,
        "used": used,
        "disabled": _fresh(),
        "deleting": _fresh(),
        "unreadable": _fresh(),
        "unusable": "two words",
    }
    names = {kind: f"sample-{kind}" for kind in contents}
    cloud = deployment.cloud
    try:
        master = cloud.call("kms", "CreateKey", Alias="sample-disabled")["KeyId"]
        for kind, content in contents.items():
            own_key = {"KmsKeyId": master} if kind == "unreadable" else {}
            fields = {"SecretName": names[kind], "VersionId": VERSION, "SecretString": content}
            cloud.call("ssm", "CreateSecret", **fields, **own_key)
        cloud.call("kms", "DisableKey", KeyId=master)
        for kind in ("disabled", "deleting"):
            cloud.call("ssm", "DisableSecret", SecretName=names[kind])
        cloud.call("ssm", "DeleteSecret", SecretName=names["deleting"], RecoveryWindowInDays=30)
    except CloudError as error:
        raise SampleError(f"The sample credentials cannot be made: {error.code}.") from None
    known = {f"credential.{kind}": name for kind, name in names.items()}
    return known | {"credential.unknown": "sample-unknown", "value.kms": used}


def _keys(deployment: Deployment, values: dict[str, str]) -> dict[str, str]:
    custom, other = _fresh(), _fresh()
    found = {"value.custom": custom, "value.other": other}

    def make(kind: str, consumer: str | None, *, gateway_id: str = HOME, disable: bool = False, **fields: Any) -> None:
        made = _call(deployment, "create_key", gateway_id=gateway_id, **{"generation": "System", **fields})
        key_id = str(made["key_id"])
        found[f"key.{kind}"] = key_id
        if "value" in made:
            found[f"value.{kind}"] = str(made["value"])
        if consumer is not None:
            to = values[f"consumer.{consumer}"]
            _call(deployment, "bind_consumer", gateway_id=gateway_id, key_id=key_id, consumer_id=to)
        if disable:
            _call(deployment, "disable_key", gateway_id=gateway_id, key_id=key_id)

    credential = {"name": values["credential.used"], "version": VERSION}
    make("system", "busy", name="chat-production", description="The chat application in production.")
    make("custom", "busy", name="chat-migrated", generation="Custom", value=custom)
    make("kms", "busy", name="chat-managed", generation="KMS", credential=credential)
    make("disabled", "busy", name="chat-paused", disable=True)
    make("unbound", None, name="spare-key")
    make("stopped", "disabled", name="former-key")
    make("other", "other", name="partner-key", gateway_id=OTHER, generation="Custom", value=other)
    make("paused", "paused", name="paused-key")
    for kind in ("stopped", "paused"):
        del found[f"key.{kind}"]  # only its value is of use
    idle = _repeatable(deployment, "create_key", "keys", "sample-key", REPEATABLE_KEY)
    return found | {"key.idle": str(idle["key_id"])}


def _operators(deployment: Deployment) -> dict[str, str]:
    roles = ("editor", "viewer", "revealer", "verifier")
    made = {f"operator.{role}": deployment.add_operator(f"sample-{role}", role)[1] for role in roles}
    return made | {"operator.outsider": deployment.add_operator("sample-outsider", "admin", (OTHER,))[1]}
