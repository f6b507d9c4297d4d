"""policies/*.json: a role per function, exact names, and no star that was not thought about."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from ckeys.main import cli
from ckeys.policies import ADMINISTRATOR, PolicyError, policies
from ckeys.template import load_template
from consumer_keys.config import ConfigError
from tencent_emulator.cam import OPERATION_LEVEL, Policy

ROOT = Path(__file__).parents[2]
TEMPLATE = load_template(ROOT / "template.yaml")
UIN = "100000000001"
RENDERED = policies(ROOT, TEMPLATE, UIN, {})
SECRET, KEY = f"qcs::ssm:ap-guangzhou:uin/{UIN}:secret/creatorUin/{UIN}/", f"qcs::kms:ap-guangzhou:uin/{UIN}:key/"
CREDENTIALS, SIBLINGS = f"{SECRET}ckeys-credential-*", f"{SECRET}consumer-keys-root-*"
VALUES_KEY, OPERATORS_KEY = (f"{KEY}creatorUin/{UIN}/00000000-0000-0000-0000-00000000000{number}" for number in (1, 2))
FOLDER = "qcs::cos:ap-guangzhou:uid/1250000000:consumer-keys-1250000000/consumer-keys/*"
AUDIT = FOLDER.replace("/consumer-keys/", "/consumer-keys-audit/")
CREATING, REVEALING = {"ckeys-create-key", "ckeys-cloud-api"}, {"ckeys-reveal-key"}
# Reviewed: a resource may end with a star only here. The folder's objects are named by their hashes; keys refer to
# any credential of the template's prefix, and the deny beside it keeps the root secret's siblings away.
STARS = {
    FOLDER: None,
    AUDIT: {"ckeys-sync-credentials", ADMINISTRATOR},
    CREDENTIALS: {*CREATING, "ckeys-sync-credentials", ADMINISTRATOR},
    SIBLINGS: {*CREATING, "ckeys-sync-credentials", ADMINISTRATOR},
}
# Never, reviewed or not: everything of a kind that the account, the bucket or the namespace holds.
EVERYTHING = re.compile(r"(.*(creatorUin/[0-9]+|uid/[0-9]+:[^/]*|function)/)?\*")
MUST_HAVE_ROOT = {function.role for function in TEMPLATE.functions} - {"ckeys-front-door"}


def permissions(
    role: str, effect: str = "allow", rendered: dict[str, dict[str, Any]] = RENDERED
) -> set[tuple[str, str]]:
    """Every (action, resource) of a role's statements with this effect."""
    return {
        (action, resource)
        for statement in rendered[role]["statement"]
        if statement["effect"] == effect
        for action in statement["action"]
        for resource in statement["resource"]
    }


def holders(action: str, resource: str | None = None) -> set[str]:
    """The roles of functions that are allowed an action on a resource, or on any."""
    return {
        role
        for role in RENDERED
        if role != ADMINISTRATOR and any(a == action and resource in (None, r) for a, r in permissions(role))
    }


def test_every_function_has_a_role_of_its_own_and_no_policy_is_without_a_role() -> None:
    roles = [function.role for function in TEMPLATE.functions]
    assert len(set(roles)) == len(roles)
    assert {path.stem for path in (ROOT / "policies").glob("*")} == {*roles, ADMINISTRATOR} == RENDERED.keys()
    assert [f"ckeys-{function.name.replace('_', '-')}" for function in TEMPLATE.functions] == roles


@pytest.mark.parametrize("role", sorted(RENDERED))
def test_a_policy_names_its_actions_and_resources(role: str) -> None:
    Policy(RENDERED[role])
    assert len(json.dumps(RENDERED[role])) < 6144, "the length that CAM allows"
    for effect in ("allow", "deny"):
        for action, resource in permissions(role, effect):
            assert re.fullmatch(r"(ssm|kms|cos|scf):[A-Za-z]+", action), action
            assert tuple(action.split(":")) not in OPERATION_LEVEL, "it would need every resource"
            assert resource.startswith(f"qcs::{action.partition(':')[0]}:ap-guangzhou:"), resource
            if "*" in resource:
                assert resource in STARS, f"{role}: {resource} has not been reviewed"
                assert STARS[resource] is None or role in (STARS[resource] or ()), f"{role}: {resource}"
    assert "${" not in json.dumps(RENDERED[role])


def all_of_a_kind(rendered: dict[str, dict[str, Any]]) -> set[tuple[str, str]]:
    """(role, resource) wherever a star alone stands for a name, so that everything of that kind is allowed."""
    return {
        (role, resource)
        for role in rendered
        for _, resource in permissions(role, "allow", rendered)
        if EVERYTHING.fullmatch(resource)
    }


def test_no_role_may_use_everything_of_a_kind_unless_whoever_deploys_says_any_secret() -> None:
    assert all_of_a_kind(RENDERED) == set()
    wide = policies(ROOT, TEMPLATE, UIN, {"CREDENTIAL_PREFIX": ""}, any_secret=True)
    following = {*CREATING, "ckeys-sync-credentials", ADMINISTRATOR}
    assert all_of_a_kind(wide) == {(role, f"{SECRET}*") for role in following}
    for role in following:
        assert ("ssm:GetSecretValue", SIBLINGS) in permissions(role, "deny", wide)
    assert policies(ROOT, TEMPLATE, UIN, {}, any_secret=True) == RENDERED, "it allows, and does not widen by itself"


def test_an_empty_prefix_is_refused_in_a_sentence_unless_any_secret_is_meant(tmp_path: Path) -> None:
    """By the command, in a tree whose template has none."""
    for name in ("shared", "policies"):
        shutil.copytree(ROOT / name, tmp_path / name)
    text = (ROOT / "template.yaml").read_text(encoding="utf-8")
    given = "CREDENTIAL_PREFIX: ckeys-credential-"
    assert given in text
    (tmp_path / "template.yaml").write_text(text.replace(given, 'CREDENTIAL_PREFIX: ""'), encoding="utf-8")
    command = [sys.executable, "-m", "ckeys.main", "policies", "--uin", UIN, "--out", str(tmp_path / "out")]
    environ = {"PYTHONPATH": str(tmp_path / "shared"), "PATH": ""}
    refused = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert (refused.returncode, refused.stdout, len(refused.stderr.splitlines())) == (1, "", 1)
    assert re.match("Error: CREDENTIAL_PREFIX is empty, .* --any-secret ", refused.stderr)
    assert not (tmp_path / "out").exists()
    subprocess.run([*command, "--any-secret"], env=environ, capture_output=True, check=True)
    assert f'"{SECRET}*"' in (tmp_path / "out" / "ckeys-create-key.json").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "settings",
    [{"KMS_KEY_ID": "*"}, {"KMS_OPERATOR_KEY_ID": "0000*"}, {"TENCENTCLOUD_REGION": "ap-?"}],
)
def test_a_name_that_stands_for_any_is_refused_by_its_setting(settings: dict[str, str]) -> None:
    with pytest.raises(PolicyError, match=r" must not hold \* or \?"):
        policies(ROOT, TEMPLATE, UIN, settings)


def test_settings_that_no_function_would_start_with_make_no_policy() -> None:
    wrong = {"COS_BUCKET": "*-1250000000"}, {"COS_BUCKET": "a-*"}, {"COS_BUCKET": ""}
    for settings in ({"SNAPSHOT_PREFIX": "../"}, *wrong):
        with pytest.raises(ConfigError, match=next(iter(settings))):
            policies(ROOT, TEMPLATE, UIN, settings)


def test_the_validator_reads_the_snapshot_and_the_root_secret_and_nothing_else() -> None:
    expected = {("ssm:GetSecretValue", SECRET + "consumer-keys-root"), ("cos:GetObject", FOLDER)}
    assert permissions("ckeys-validate-key") == expected


def test_in_all_policies_exactly_one_function_may_decrypt_under_the_key_of_values() -> None:
    """Over the documents as they are written, stars and other spellings included; the administrator is no function."""
    opening = set()
    for path in (ROOT / "policies").glob("*.json"):
        for statement in json.loads(path.read_text(encoding="utf-8"))["statement"]:
            actions = [re.compile(re.escape(action).replace(r"\*", ".*"), re.I) for action in statement["action"]]
            opens = any(action.fullmatch(f"kms:{name}") for action in actions for name in ("Decrypt", "ReEncrypt"))
            named = any("${KMS_KEY_ID}" in one or one.endswith("*") for one in statement["resource"])
            if statement["effect"] == "allow" and opens and named:
                opening.add(path.stem)
    assert opening == {"ckeys-reveal-key", ADMINISTRATOR}


def test_only_what_reveals_may_decrypt_under_the_key_of_values_and_only_what_creates_seals() -> None:
    assert holders("kms:Decrypt", VALUES_KEY) == REVEALING
    assert holders("kms:GenerateDataKey") == CREATING
    assert holders("kms:Decrypt", OPERATORS_KEY) & {"ckeys-validate-key", "ckeys-sync-credentials"} == set()
    assert not any(holders(f"kms:{action}") for action in ("Encrypt", "ReEncrypt", "ScheduleKeyDeletion"))


def test_who_reads_which_secret() -> None:
    assert holders("ssm:GetSecretValue", SECRET + "consumer-keys-root") == MUST_HAVE_ROOT
    assert holders("ssm:GetSecretValue", CREDENTIALS) == {*CREATING, "ckeys-sync-credentials"}
    for role in holders("ssm:GetSecretValue", CREDENTIALS):
        assert ("ssm:GetSecretValue", SIBLINGS) in permissions(role, "deny")
    written = {action for role in RENDERED if role != ADMINISTRATOR for action, _ in permissions(role)}
    assert {action for action in written if action.startswith("ssm:")} == {"ssm:GetSecretValue"}


def test_objects_are_deleted_only_where_they_are_cleaned_up_and_written_only_by_publishers() -> None:
    assert holders("cos:DeleteObject") == {"ckeys-sync-credentials"}
    reading = {
        "list_audit",
        "list_keys",
        "get_key",
        "list_consumers",
        "get_consumer",
        "list_groups",
        "get_group",
        "get_status",
        "reveal_key",
        "front_door",
    }
    silent = {f"ckeys-{name.replace('_', '-')}" for name in (*reading, "validate_key")}
    assert holders("cos:PutObject") & silent == set()
    assert holders("cos:GetObject") & (silent - {"ckeys-validate-key"}) == set()


def test_the_front_door_calls_the_functions_with_routes_and_nothing_else() -> None:
    allowed = permissions("ckeys-front-door")
    names = {resource.rpartition("/")[2] for _, resource in allowed}
    assert names == {function.name for function in TEMPLATE.functions if function.routes}
    assert {action for action, _ in allowed} == {"scf:Invoke", "scf:InvokeFunction"}
    assert holders("scf:Invoke") == {"ckeys-front-door", "ckeys-cloud-api"}


def test_the_cloud_api_calls_the_function_that_reveals_and_no_other_in_the_templates_namespace() -> None:
    resource = f"qcs::scf:ap-guangzhou:uin/{UIN}:namespace/{TEMPLATE.namespace}/function/reveal_key"
    allowed = {each for each in permissions("ckeys-cloud-api") if each[0].startswith("scf:")}
    assert allowed == {("scf:Invoke", resource), ("scf:InvokeFunction", resource)}


def test_a_prefix_of_ones_own_takes_the_templates_place() -> None:
    own = policies(ROOT, TEMPLATE, UIN, {"CREDENTIAL_PREFIX": "llm-"})
    for role in (*CREATING, "ckeys-sync-credentials", ADMINISTRATOR):
        read = {resource for action, resource in permissions(role, "allow", own) if action == "ssm:GetSecretValue"}
        assert read == {f"{SECRET}llm-*", f"{SECRET}consumer-keys-root"}


def test_the_command_writes_every_policy_for_an_account(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["policies", "--uin", "123456789", "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    written = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "out").glob("*.json")}
    assert written.keys() == RENDERED.keys()
    assert "uin/123456789:" in json.dumps(written)
    assert UIN not in json.dumps(written)
    assert "placeholders of KMS keys" in done.stderr
    keys = {
        name: f"{number}a7c3d10-1111-4222-8333-444444444444"
        for number, name in enumerate(("KMS_KEY_ID", "KMS_OPERATOR_KEY_ID"))
    }
    done = CliRunner().invoke(cli, ["policies", "--uin", "123456789", "--out", str(tmp_path / "out")], env=keys)
    assert (done.exit_code, done.stderr) == (0, "")


@pytest.mark.parametrize("uin", ["", "root", "1*", "12345\n"])
def test_an_account_that_is_no_number_is_refused(uin: str, tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="UIN"):
        policies(ROOT, TEMPLATE, uin)


def test_a_missing_policy_and_a_missing_name_are_named(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="ckeys-create-key has no policy"):
        policies(tmp_path, TEMPLATE, UIN)
    folder = tmp_path / "policies"
    folder.mkdir()
    for text, message in (("${NOWHERE}", "NOWHERE"), ("{", "not JSON")):
        (folder / "ckeys-create-key.json").write_text(text)
        with pytest.raises(PolicyError, match=message):
            policies(tmp_path, TEMPLATE, UIN)


def test_the_table_of_roles_in_the_documents_is_that_of_the_policies() -> None:
    text = (ROOT / "docs" / "permissions.md").read_text(encoding="utf-8")
    rows = {row[0]: row[1] for row in re.findall(r"^\| `(ckeys-[a-z-]+)` \| (.*) \|$", text, re.M)}
    assert rows == {role: summary(role) for role in RENDERED}


def summary(role: str) -> str:
    """A role's permissions in words, as docs/permissions.md has them."""
    names: dict[str, str] = {
        SECRET + "consumer-keys-root": "root secret", CREDENTIALS: "credentials", VALUES_KEY: "values' key",
        OPERATORS_KEY: "operators' key", FOLDER: "snapshot", AUDIT: "audit heads",
    }  # fmt: skip
    found: dict[str, set[str]] = {}
    for action, resource in permissions(role):
        if resource.startswith("qcs::scf"):
            name = "functions with routes" if role == "ckeys-front-door" else resource.rpartition("/")[2]
        else:
            name = names[resource]
        found.setdefault(name, set()).add(action.partition(":")[2])
    return "; ".join(f"{name}: {', '.join(sorted(actions))}" for name, actions in sorted(found.items()))
