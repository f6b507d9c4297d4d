"""Cloud Access Management: what a credential may do, decided from policies as CAM evaluates them.

The grammar is that of documents 598/10604 (elements) and 598/10606 (resources in six segments); the resources of each
action are those of 598/57154 (SSM), 598/57129 (KMS), 583/47934 (SCF) and 436/30580 (COS). What is not allowed is
denied, and a deny wins over every allow. Conditions and principals are not emulated, so a policy with them is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from tencent_emulator.errors import CloudError

UIN = 100000000001
_ELEMENTS = {"effect", "action", "resource"}
# These cannot be limited to a resource: CAM takes a statement that names one as not being about them.
OPERATION_LEVEL = {
    ("ssm", "ListSecrets"), ("ssm", "GetServiceStatus"), ("ssm", "CreateSecret"), ("kms", "CreateKey"),
    ("kms", "ListKeys"), ("kms", "DescribeKeys"), ("kms", "GetServiceStatus"),
}  # fmt: skip
_COS_NAMES = {"ListObjects": "GetBucket"}  # the permission's name where it is not the API's


class Wanted(NamedTuple):
    """One permission that a request needs; `resource` None where the action has none."""

    action: str
    resource: str | None


class _Statement(NamedTuple):
    allow: bool
    actions: tuple[re.Pattern[str], ...]
    resources: tuple[str, ...]

    def covers(self, wanted: Wanted) -> bool:
        if not any(pattern.fullmatch(wanted.action.lower()) for pattern in self.actions):
            return False
        if wanted.resource is None:
            return "*" in self.resources
        return any(_matches(pattern, wanted.resource) for pattern in self.resources)


class Policy:
    """A parsed policy document."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        """ValueError for anything but version 2.0 and statements of effect, action and resource."""
        if set(document) != {"version", "statement"} or document["version"] != "2.0" or not document["statement"]:
            raise ValueError("a policy has a version, 2.0, and a statement")
        self._statements = [_statement(part) for part in document["statement"]]

    def allows(self, wanted: Wanted) -> bool:
        """Whether an allow covers it and no deny does."""
        covering = [statement for statement in self._statements if statement.covers(wanted)]
        return bool(covering) and all(statement.allow for statement in covering)


def check(policy: Policy | None, wanted: Sequence[Wanted], *, cos: bool = False) -> None:
    """Refuse what the policy does not allow; a root account (None) may do everything."""
    for one in wanted:
        if policy is not None and not policy.allows(one):
            about = f"you are not authorized to perform operation ({one.action}) resource ({one.resource or '*'})"
            raise CloudError("AccessDenied" if cos else "UnauthorizedOperation", f"{about} has no permission")


def wanted_of_api(
    service: str, action: str, params: Mapping[str, Any], region: str, key_ids: list[str]
) -> list[Wanted]:
    """What an API call needs; `key_ids` are the KMS keys that it uses."""
    name = f"{service}:{action}"
    if (service, action) in OPERATION_LEVEL:
        return [Wanted(name, None)]
    if service == "ssm":
        return [Wanted(name, _qcs(service, region, f"secret/creatorUin/{UIN}/{params.get('SecretName', '')}"))]
    if service == "kms":
        return [Wanted(name, _qcs(service, region, f"key/creatorUin/{UIN}/{key_id}")) for key_id in key_ids]
    path = f"namespace/{params.get('Namespace') or 'default'}/function/{params.get('FunctionName', '')}"
    return [Wanted(name, _qcs(service, region, path))]


def wanted_of_cos(action: str, region: str, bucket: str, key: str) -> list[Wanted]:
    """What a COS request needs; `key` is the prefix of a list."""
    appid = bucket.rpartition("-")[2]
    return [Wanted(f"cos:{_COS_NAMES.get(action, action)}", f"qcs::cos:{region}:uid/{appid}:{bucket}/{key}")]


def _qcs(service: str, region: str, path: str) -> str:
    return f"qcs::{service}:{region}:uin/{UIN}:{path}"


def _statement(part: Mapping[str, Any]) -> _Statement:
    if set(part) != _ELEMENTS or part["effect"] not in ("allow", "deny"):
        raise ValueError("a statement has an effect, allow or deny, an action and a resource, and nothing else")
    actions, resources = _listed(part["action"]), _listed(part["resource"])
    for resource in resources:
        if resource != "*" and (len(resource.split(":", 5)) != 6 or not resource.startswith("qcs::")):
            raise ValueError(f"not a resource in six segments: {resource}")
    # `name/cos:GetObject` is the older spelling of `cos:GetObject`.
    patterns = tuple(_glob(action.removeprefix("name/").lower()) for action in actions)
    return _Statement(part["effect"] == "allow", patterns, tuple(resources))


def _listed(value: Any) -> list[str]:
    texts = value if isinstance(value, list) else [value]
    if not texts or not all(isinstance(text, str) and text for text in texts):
        raise ValueError("action and resource are a text or a list of texts")
    return texts


def _matches(pattern: str, resource: str) -> bool:
    """Segment by segment; an empty region or account stands for any region and one's own account."""
    if pattern == "*":
        return True
    wanted, given = pattern.split(":", 5), resource.split(":", 5)
    region_and_account = all(part in ("", own) for part, own in zip(wanted[3:5], given[3:5], strict=True))
    return wanted[:3] == given[:3] and region_and_account and _glob(wanted[5]).fullmatch(given[5]) is not None


@lru_cache(maxsize=1024)
def _glob(text: str) -> re.Pattern[str]:
    return re.compile(".*".join(re.escape(part) for part in text.split("*")), re.DOTALL)
