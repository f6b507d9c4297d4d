"""Resources as the vendor's API shows them (document 1826/137931 and its neighbours; the samples of its own tools)."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

from consumer_keys.model import Consumer, Group, Key

# The vendor's times have no zone; its products mean the time of Beijing.
_ZONE = timezone(timedelta(hours=8))


def created(resource_id: str) -> dict[str, Any]:
    """The answer to every Create."""
    return {"ID": resource_id, "Success": True}


def time(text: str) -> str:
    """`YYYY-MM-DD hh:mm:ss`, UTC+8, of our RFC 3339 time."""
    return datetime.fromisoformat(text.replace("Z", "+00:00")).astimezone(_ZONE).strftime("%Y-%m-%d %H:%M:%S")


def _times(found: Key | Consumer | Group) -> dict[str, str]:
    return {"CreateTime": time(found.created_at), "ModifyTime": time(found.modified_at)}


def key(found: Key, *, creation_info: bool) -> dict[str, Any]:
    """A key; the value is always masked. With `creation_info` three members more."""
    together = found.creation_source == "AutoWithConsumer"
    members = {
        "SecretKeyId": found.key_id, "Name": found.name, "Description": found.description,
        "SecretType": found.type, "ResourceType": "Consumer",
        "GenerateType": found.creation_source if together else found.generation,
        "SecretValue": found.masked_value, "Status": found.status,
        "KmsKeyName": found.credential.name if found.credential else "",
        "KmsKeyVersion": found.credential.version if found.credential else "",
        "BindCount": 0 if found.consumer is None else 1, **_times(found),
    }  # fmt: skip
    if creation_info:
        members["CredentialGenerateType"] = found.generation
        members["CreationSource"] = found.creation_source
        members["BatchId"] = ""
    return members


def consumer(found: Consumer) -> dict[str, Any]:
    """A consumer, without its groups. A plain consumer has no status at the vendor's; a disabled one must say so."""
    members = {
        "ConsumerId": found.consumer_id, "Name": found.name, "Description": found.description, **_times(found),
    }  # fmt: skip
    return members if found.status == "Enable" else {**members, "Status": "disabled"}


def group(found: Group) -> dict[str, Any]:
    """A group, without the number of its consumers."""
    return {
        "ConsumerGroupId": found.group_id, "Name": found.name, "Description": found.description,
        "Status": found.status, **_times(found),
    }  # fmt: skip
