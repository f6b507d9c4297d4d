"""Secrets Manager, version 2019-09-23: custom secrets with named versions.

States follow the API descriptions (CN 1140): Enabled -> DisableSecret -> Disabled -> DeleteSecret -> gone, or
PendingDelete until its time is over; RestoreSecret leads to Disabled.  What no document says is decided here and listed
in the README's table of differences: a call in the wrong state answers FailedOperation unless it has a code of its own.
"""

# ruff: noqa: N802 - a method is named exactly as the API action it answers
from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from typing import Any

from tencent_emulator.actions import Params
from tencent_emulator.cam import UIN
from tencent_emulator.errors import CloudError
from tencent_emulator.storage import Doc, Store

ENABLED, DISABLED, PENDING = "Enabled", "Disabled", "PendingDelete"
VERSIONS_MAX = 10
SECRETS_MAX = 1000
VALUE_BYTES_MAX = 32 * 1024
DESCRIPTION_BYTES_MAX = 2048
LIST_MAX = 200  # the vendor names no maximum; its Terraform provider asks for 200
DAY_S = 86_400
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_STATES = (None, ENABLED, DISABLED, PENDING, "PendingCreate", "CreateFailed")


class Ssm:
    """Each public method is the API action of that name: checked parameters in, response members out."""

    def __init__(self, store: Store, clock: Callable[[], float], key_is_usable: Callable[[str], bool]) -> None:
        """`key_is_usable` asks KMS whether a customer master key can be used at the moment."""
        self._store = store
        self._clock = clock
        self._key_is_usable = key_is_usable

    def CreateSecret(self, params: Params) -> Doc:
        """Create an enabled secret with its first version, named SSM_Current unless the caller names it."""
        name, version = params["SecretName"], params.get("VersionId") or "SSM_Current"
        _check_name(name)
        _check_version(version)
        _check_description(params.get("Description", ""))
        if params.get("SecretType", 0) != 0:
            raise _bad("Only custom secrets (SecretType 0) are emulated.")
        tags = _checked_tags(params.get("Tags", []))
        value, doc = self._version(params)
        self._purge(name)
        if self._store.doc("secret", "", name) is not None:
            raise CloudError("ResourceInUse.SecretExists", "A secret of this name exists.")
        if self._store.count("secret") >= SECRETS_MAX:
            raise CloudError("LimitExceeded", "The number of secrets has reached the limit.")
        self._check_key(params.get("KmsKeyId", ""))
        secret: Doc = {
            "Description": params.get("Description", ""),
            "KmsKeyId": params.get("KmsKeyId", ""),
            "Status": ENABLED,
            "DeleteTime": 0,
            "CreateTime": int(self._clock()),
            "AdditionalConfig": params.get("AdditionalConfig", ""),
            "EncryptType": params.get("EncryptType", 0),
            "Tags": tags,
        }
        self._store.put("secret", "", name, secret)
        self._store.put("secret_version", name, version, doc, value)
        return {"SecretName": name, "VersionId": version, "TagCode": 0, "TagMsg": ""}

    def PutSecretValue(self, params: Params) -> Doc:
        """Add a version under a new name; at most ten exist at a time."""
        name, version = params["SecretName"], params["VersionId"]
        _check_version(version)
        value, doc = self._version(params)
        self._check_key(self._in_state(name, ENABLED, DISABLED)["KmsKeyId"])
        if self._store.doc("secret_version", name, version) is not None:
            raise CloudError("ResourceInUse.VersionIdExists", "A version of this name exists.")
        if self._store.count("secret_version", name) >= VERSIONS_MAX:
            raise CloudError("LimitExceeded", f"A secret has at most {VERSIONS_MAX} versions.")
        self._store.put("secret_version", name, version, doc, value)
        return _named(name, version)

    def UpdateSecret(self, params: Params) -> Doc:
        """Overwrite the value of an existing version in place."""
        name, version = params["SecretName"], params["VersionId"]
        _check_version(version)
        value, doc = self._version(params)
        self._check_key(self._in_state(name, ENABLED, DISABLED)["KmsKeyId"])
        old = self._existing_version(name, version)
        self._store.put("secret_version", name, version, {**doc, "CreateTime": old["CreateTime"]}, value)
        return _named(name, version)

    def GetSecretValue(self, params: Params) -> Doc:
        """Return one version of an enabled secret; exactly one of the two value members is non-empty."""
        name, version = params["SecretName"], params["VersionId"]
        if params.get("EncryptionPublicKey") or params.get("EncryptionAlgorithm"):
            raise _bad("EncryptionPublicKey is not emulated.")
        secret = self._secret(name, missing="ResourceNotFound.SecretNotExist")
        if secret["Status"] == DISABLED:
            raise CloudError("ResourceUnavailable.ResourceDisabled", "The secret is disabled.")
        if secret["Status"] == PENDING:
            raise CloudError("ResourceUnavailable.ResourcePendingDeleted", "The secret is waiting for its deletion.")
        doc = self._existing_version(name, version)
        self._check_key(secret["KmsKeyId"])
        value = self._store.body("secret_version", name, version)
        text = base64.b64encode(value) if doc["Binary"] else value
        members = ("SecretString", "SecretBinary")
        empty, full = members if doc["Binary"] else reversed(members)
        return {**_named(name, version), full: text.decode(), empty: ""}

    def DescribeSecret(self, params: Params) -> Doc:
        """Everything about a secret but its values, versions and time of change, which the API does not tell."""
        name = params["SecretName"]
        secret = self._secret(name)
        return {
            **_metadata(name, secret),
            "AdditionalConfig": secret["AdditionalConfig"],
            "RotationStatus": False,
            "NextRotationTime": "",
            "AccountInfoList": [],
        }

    def ListSecrets(self, params: Params) -> Doc:
        """One page of secrets, newest first unless OrderType is 1; TotalCount counts what the filters let through."""
        offset, limit, state = params.get("Offset", 0), params.get("Limit", 0) or 20, params.get("State", 0)
        if offset < 0 or not 0 < limit <= LIST_MAX or not 0 <= state < len(_STATES):
            raise _bad("Offset, Limit or State is out of range.")
        for item in self._store.items("secret"):
            self._purge(item.name)
        found = [item for item in self._store.items("secret") if _passes(item.name, item.doc, params)]
        if params.get("OrderType", 0) == 0:
            found.reverse()
        page = [{**_metadata(name, doc), **_only_in_lists(doc)} for name, doc in found[offset : offset + limit]]
        return {"TotalCount": len(found), "SecretMetadatas": page}

    def ListSecretVersionIds(self, params: Params) -> Doc:
        """All version names with whole-second creation times, newest first."""
        name = params["SecretName"]
        self._secret(name)
        versions = reversed(self._store.items("secret_version", name))
        rows = [{"VersionId": version, "CreateTime": doc["CreateTime"]} for version, doc in versions]
        return {"SecretName": name, "Versions": rows}

    def EnableSecret(self, params: Params) -> Doc:
        """Disabled -> Enabled."""
        return self._move(params["SecretName"], DISABLED, ENABLED)

    def DisableSecret(self, params: Params) -> Doc:
        """Enabled -> Disabled: values can no longer be read."""
        return self._move(params["SecretName"], ENABLED, DISABLED)

    def DeleteSecret(self, params: Params) -> Doc:
        """Disabled -> gone at once (0 days), or -> PendingDelete for 1 to 30 days."""
        name, days = params["SecretName"], params.get("RecoveryWindowInDays", 0)
        if not 0 <= days <= 30:
            raise _bad("RecoveryWindowInDays must lie between 0 and 30.")
        secret = self._in_state(name, DISABLED)
        when = int(self._clock()) + days * DAY_S
        if days == 0:
            self._remove(name)
        else:
            self._store.put("secret", "", name, {**secret, "Status": PENDING, "DeleteTime": when})
        return {"SecretName": name, "DeleteTime": when, "FlowID": 0}

    def RestoreSecret(self, params: Params) -> Doc:
        """PendingDelete -> Disabled."""
        return self._move(params["SecretName"], PENDING, DISABLED)

    def DeleteSecretVersion(self, params: Params) -> Doc:
        """Remove a version at once, whatever the state of the secret."""
        name, version = params["SecretName"], params["VersionId"]
        self._secret(name)
        self._existing_version(name, version)
        self._store.delete("secret_version", name, version)
        return _named(name, version)

    def UpdateDescription(self, params: Params) -> Doc:
        """Replace the description."""
        name = params["SecretName"]
        _check_description(params["Description"])
        secret = self._in_state(name, ENABLED, DISABLED)
        self._store.put("secret", "", name, {**secret, "Description": params["Description"]})
        return {"SecretName": name}

    def GetServiceStatus(self, params: Params) -> Doc:  # noqa: ARG002 - every action takes the same argument
        """A bought, working service."""
        return {
            "ServiceEnabled": True,
            "InvalidType": 1,
            "AccessKeyEscrowEnabled": False,
            "ExpireTime": "2099-12-31 23:59:59",
            "QPSLimit": 1000,
            "SecretLimit": SECRETS_MAX,
            "PayModel": "Prepaid_SSM",
            "RenewFlag": 1,
            "ResourceId": "SSM-Prepaid-emulator",
            "TotalCount": self._store.count("secret"),
            "ResourceRegion": 1,
        }

    def _secret(self, name: str, missing: str = "ResourceNotFound") -> Doc:
        _check_name(name)
        self._purge(name)
        secret = self._store.doc("secret", "", name)
        if secret is None:
            raise CloudError(missing, "The secret does not exist.")
        return secret

    def _in_state(self, name: str, *states: str) -> Doc:
        secret = self._secret(name)
        if secret["Status"] not in states:
            raise CloudError("FailedOperation", f"The secret is {secret['Status']}; this needs {' or '.join(states)}.")
        return secret

    def _move(self, name: str, old: str, new: str) -> Doc:
        self._store.put("secret", "", name, {**self._in_state(name, old), "Status": new, "DeleteTime": 0})
        return {"SecretName": name}

    def _existing_version(self, name: str, version: str) -> Doc:
        _check_version(version)
        doc = self._store.doc("secret_version", name, version)
        if doc is None:
            raise CloudError("ResourceNotFound", "The version does not exist.")
        return doc

    def _version(self, params: Params) -> tuple[bytes, Doc]:
        """The value as bytes and the document of a version; exactly one of the two members must be given."""
        text, binary = params.get("SecretString", ""), params.get("SecretBinary", "")
        if bool(text) == bool(binary):
            raise _bad("Exactly one of SecretString and SecretBinary must be given.")
        try:
            value = base64.b64decode(binary, validate=True) if binary else text.encode()
        except (binascii.Error, ValueError):
            raise _bad("SecretBinary is not base64, or SecretString is not text.") from None
        if not 0 < len(value) <= VALUE_BYTES_MAX:
            raise _bad(f"A value has at most {VALUE_BYTES_MAX} bytes.")
        return value, {"CreateTime": int(self._clock()), "Binary": bool(binary)}

    def _check_key(self, key_id: str) -> None:
        if key_id and not self._key_is_usable(key_id):
            raise CloudError("FailedOperation.AccessKmsError", "The KMS key of this secret cannot be used.")

    def _purge(self, name: str) -> None:
        """A scheduled deletion takes effect when anyone looks after its time."""
        secret = self._store.doc("secret", "", name)
        if secret is not None and secret["Status"] == PENDING and secret["DeleteTime"] <= self._clock():
            self._remove(name)

    def _remove(self, name: str) -> None:
        self._store.delete("secret_version", name)
        self._store.delete("secret", "", name)


def _bad(message: str) -> CloudError:
    return CloudError("InvalidParameterValue", message)


def _named(name: str, version: str) -> Doc:
    return {"SecretName": name, "VersionId": version}


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise _bad("SecretName: 1 to 128 letters, digits, '-' and '_', beginning with a letter or a digit.")


def _check_version(version: str) -> None:
    if not _VERSION.fullmatch(version):
        raise _bad("VersionId: 1 to 64 letters, digits, '-', '_' and '.', beginning with a letter or a digit.")


def _check_description(text: str) -> None:
    if len(text.encode("utf-8", "surrogatepass")) > DESCRIPTION_BYTES_MAX:
        raise _bad(f"A description has at most {DESCRIPTION_BYTES_MAX} bytes.")


def _checked_tags(tags: list[Any]) -> list[dict[str, str]]:
    pairs = []
    for tag in tags:
        if (
            not isinstance(tag, dict)
            or not isinstance(tag.get("TagKey"), str)
            or not set(tag) <= {"TagKey", "TagValue"}
        ):
            raise CloudError("InvalidParameter", "Tags must be a list of {TagKey, TagValue}.")
        pairs.append({"TagKey": tag["TagKey"], "TagValue": str(tag.get("TagValue", ""))})
    if len({pair["TagKey"] for pair in pairs}) != len(pairs):
        raise CloudError("InvalidParameterValue.TagKeysDuplicated", "A tag key is given twice.")
    return pairs


def _metadata(name: str, secret: Doc) -> Doc:
    """The members that DescribeSecret and ListSecrets share; unset ones are empty, not absent."""
    return {
        "SecretName": name,
        **{key: secret[key] for key in ("Description", "KmsKeyId", "Status", "DeleteTime", "CreateTime")},
        "CreateUin": UIN,
        "CreateUinString": str(UIN),
        "SecretType": 0,
        "ProductName": "default",
        "ResourceID": f"1250000000_{UIN}_customize_{name}",
        "RotationFrequency": 0,
        "ResourceName": "",
        "ProjectID": 0,
        "AssociatedInstanceIDs": [],
        "TargetUin": 0,
        "TargetUinString": "0",
        "EncryptType": secret["EncryptType"],
        "EncryptSwitching": False,
    }


def _only_in_lists(secret: Doc) -> Doc:
    """ListSecrets gives two members another type than DescribeSecret does, and adds two."""
    kind = "CUSTOMER" if secret["KmsKeyId"] else "DEFAULT"
    return {"RotationStatus": 0, "NextRotationTime": 0, "RotationBeginTime": "", "KmsKeyType": kind}


def _passes(name: str, secret: Doc, params: Params) -> bool:
    state = _STATES[params.get("State", 0)]
    return (
        state in (None, secret["Status"])
        and params.get("SearchSecretName", "") in name
        and params.get("SecretType", 0) == 0
        and params.get("ProductName", "") in ("", "default")
        and params.get("InstanceID", "") == ""
        and params.get("EncryptType") in (None, secret["EncryptType"])
        and all(_has_tag(secret["Tags"], wanted) for wanted in params.get("TagFilters", []))
    )


def _has_tag(tags: list[dict[str, str]], wanted: Any) -> bool:
    if not isinstance(wanted, dict) or not isinstance(wanted.get("TagValue", []), list):
        raise CloudError("InvalidParameter", "TagFilters must be a list of {TagKey, TagValue[]}.")
    values = wanted.get("TagValue", [])
    return any(tag["TagKey"] == wanted.get("TagKey") and (not values or tag["TagValue"] in values) for tag in tags)
