"""The table of supported actions and the check of a request against it.

Field names, types and obligations are those of the vendor's API 3.0 descriptions (SSM 2019-09-23, KMS 2019-01-18,
SCF 2018-04-16).  Notation: `Name` is a string, `Name:int|bool|list|obj` another type, `*` marks a required field.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl

from tencent_emulator.errors import CloudError

Params = dict[str, Any]

VERSIONS = {"ssm": "2019-09-23", "kms": "2019-01-18", "scf": "2018-04-16"}

_VALUE = "SecretName* VersionId* SecretBinary SecretString"
_KEY = "KeyId* MemberAccount:obj"

ACTIONS: dict[str, dict[str, str]] = {
    "ssm": {
        "CreateSecret": "SecretName* VersionId Description KmsKeyId SecretType:int SecretBinary SecretString "
        "AdditionalConfig Tags:list KmsHsmClusterId EncryptType:int",
        "PutSecretValue": _VALUE,
        "UpdateSecret": _VALUE,
        "GetSecretValue": "SecretName* VersionId* EncryptionPublicKey EncryptionAlgorithm",
        "DescribeSecret": "SecretName*",
        "ListSecrets": "Offset:int Limit:int OrderType:int State:int SearchSecretName TagFilters:list SecretType:int "
        "ProductName EncryptType:int InstanceID",
        "ListSecretVersionIds": "SecretName*",
        "EnableSecret": "SecretName*",
        "DisableSecret": "SecretName*",
        "DeleteSecret": "SecretName* RecoveryWindowInDays:int CleanSSHKey:bool DeleteMode:int",
        "RestoreSecret": "SecretName*",
        "DeleteSecretVersion": "SecretName* VersionId*",
        "UpdateDescription": "SecretName* Description*",
        "GetServiceStatus": "",
    },
    "kms": {
        "CreateKey": "Alias* Description KeyUsage Type:int Tags:list HsmClusterId",
        "DescribeKey": _KEY,
        "DescribeKeys": "KeyIds:list* MemberAccount:obj",
        "ListKeys": "Offset:int Limit:int Role:int HsmClusterId",
        "EnableKey": _KEY,
        "DisableKey": _KEY,
        "GenerateDataKey": "KeyId* KeySpec NumberOfBytes:int EncryptionContext EncryptionPublicKey "
        "EncryptionAlgorithm IsHostedByKms:int DataKeyName Description HsmClusterId Tags:list",
        "Encrypt": "KeyId* Plaintext* EncryptionContext",
        "Decrypt": "CiphertextBlob* EncryptionContext EncryptionPublicKey EncryptionAlgorithm",
        "ReEncrypt": "CiphertextBlob* DestinationKeyId SourceEncryptionContext DestinationEncryptionContext",
        "ScheduleKeyDeletion": "KeyId* PendingWindowInDays:int* MemberAccount:obj",
        "CancelKeyDeletion": _KEY,
        "EnableKeyRotation": "KeyId* RotateDays:int MemberAccount:obj",
        "DisableKeyRotation": _KEY,
        "GetKeyRotationStatus": _KEY,
        "GetServiceStatus": "",
    },
    "scf": {
        "Invoke": "FunctionName* InvocationType Qualifier ClientContext LogType Namespace RoutingKey",
        "InvokeFunction": "FunctionName* Qualifier Event LogType Namespace RoutingKey",
    },
    # COS has no request schema: these are the names used by faults, limits and the journal.
    "cos": dict.fromkeys(
        (
            "PutObject",
            "GetObject",
            "HeadObject",
            "DeleteObject",
            "PutBucket",
            "HeadBucket",
            "DeleteBucket",
            "ListObjects",
        ),
        "",
    ),
}

_TYPES: dict[str, type] = {"str": str, "int": int, "bool": bool, "list": list, "obj": dict}


def fields(service: str, action: str) -> dict[str, tuple[str, bool]]:
    """Field name -> (type name, required), or InvalidAction for an action that is not emulated."""
    spec = ACTIONS.get(service, {}).get(action)
    if spec is None or service == "cos":
        raise CloudError("InvalidAction", f"Action {action[:64]!r} does not exist in service {service[:32]!r}.")
    found = {}
    for word in spec.split():
        name, _, kind = word.rstrip("*").partition(":")
        found[name] = (kind or "str", word.endswith("*"))
    return found


def checked(service: str, action: str, given: Params) -> Params:
    """The request without its null members; refused when a field is unknown, missing or of the wrong type."""
    known = fields(service, action)
    params = {name: value for name, value in given.items() if value is not None}
    for name, value in params.items():
        if name not in known:
            raise CloudError("UnknownParameter", f"The parameter {name[:64]!r} is not recognized.")
        kind = known[name][0]
        if type(value) is not _TYPES[kind]:
            raise CloudError("InvalidParameter", f"The parameter {name} must be of type {kind}.")
    for name, (_, required) in known.items():
        if required and name not in params:
            raise CloudError("MissingParameter", f"The parameter {name} is missing.")
    return params


def from_query(service: str, action: str, query: str) -> Params:
    """The request of the GET form, where nested fields arrive as `Tags.0.TagKey=..` and every value as text."""
    tree: Params = {}
    for path, value in parse_qsl(query, keep_blank_values=True):
        node = tree
        *parents, leaf = path.split(".")
        for name in parents:
            node = node.setdefault(name, {})
            if not isinstance(node, dict):
                raise CloudError("InvalidParameter", "A parameter is given both as a value and as a structure.")
        node[leaf] = value
    known = fields(service, action)
    return {name: _typed(name, known.get(name, ("str", False))[0], value) for name, value in tree.items()}


def _typed(name: str, kind: str, value: Any) -> Any:
    if kind == "bool" and str(value).lower() in ("true", "false"):
        return str(value).lower() == "true"
    if kind == "int":
        try:
            return int(value)
        except (TypeError, ValueError):
            raise CloudError("InvalidParameter", f"The parameter {name} must be of type int.") from None
    return _listed(value)


def _listed(value: Any) -> Any:
    """Turn `{"0": a, "1": b}` into `[a, b]`, at every level."""
    if not isinstance(value, dict):
        return value
    if value and all(key.isdecimal() for key in value):
        return [_listed(value[key]) for key in sorted(value, key=int)]
    return {key: _listed(part) for key, part in value.items()}
