"""The CAM policies of the roles: policies/<role>.json, with placeholders that one account's names replace."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ckeys.template import Template
from consumer_keys import config

# The role of whoever runs `ckeys` against a deployment: operators, publication, rotations.
ADMINISTRATOR = "ckeys-administrator"
Policy = dict[str, Any]
_PLACEHOLDER = re.compile(r"\$\{([A-Z_]+)\}")
_UIN = re.compile(r"[0-9]{5,20}")
_PREFIX_IS_EMPTY = (
    "CREDENTIAL_PREFIX is empty, so create_key, cloud_api, sync_credentials and the administrator could read every "
    "secret of the account; set it in template.yaml, or say --any-secret if that is what you want."
)


class PolicyError(Exception):
    """The policies cannot be made; the text is one sentence that names the file or the value."""


def policies(
    root: Path, template: Template, uin: str, settings: Mapping[str, str] | None = None, *, any_secret: bool = False
) -> dict[str, Policy]:
    """Role -> policy document of every role of the template and of the administrator.

    `uin` is the account's; names come from `settings`, else from the template's variables, else from defaults. Without
    a CREDENTIAL_PREFIX, roles that follow credentials may read every secret: only `any_secret` allows that.
    Raises PolicyError, and ConfigError for settings that no function would start with.
    """
    if not _UIN.fullmatch(uin):
        raise PolicyError("The account's UIN must be a number.")
    values = {setting.name: setting.default for setting in config.SETTINGS if setting.default is not None}
    given: dict[str, str] = {}
    for function in template.functions:
        given |= function.environment
    # As for the functions, what is empty is not set.
    values |= {name: value for name, value in {**given, **(settings or {})}.items() if value}
    config.load(values, ("COS_BUCKET",))
    if not values["CREDENTIAL_PREFIX"] and not any_secret:
        raise PolicyError(_PREFIX_IS_EMPTY)
    values |= {"UIN": uin, "APPID": values["COS_BUCKET"].rpartition("-")[2], "NAMESPACE": template.namespace}
    roles = [*(function.role for function in template.functions), ADMINISTRATOR]
    return {role: _rendered(root / "policies" / f"{role}.json", values) for role in roles}


def _rendered(path: Path, values: Mapping[str, str]) -> Policy:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as fault:
        raise PolicyError(f"The role {path.stem} has no policy: {path} cannot be read ({fault.strerror}).") from None

    def value(match: re.Match[str]) -> str:
        if match[1] not in values:
            raise PolicyError(f"{path} has the placeholder {match[0]}, for which there is no value.")
        if set(values[match[1]]) & set("*?"):
            raise PolicyError(f"{match[1]} must not hold * or ?, which would stand for any name in a policy.")
        return json.dumps(values[match[1]])[1:-1]

    filled = _PLACEHOLDER.sub(value, text)
    try:
        rendered: Policy = json.loads(filled)
    except ValueError as fault:
        raise PolicyError(f"{path} is not JSON: {fault}.") from None
    return rendered
