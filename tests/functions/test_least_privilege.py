"""Roles at run time: each function's temporary credential is tried on everything, and used by the function itself."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import pytest

from ckeys.deployment import BUCKET, Deployment
from ckeys.policies import ADMINISTRATOR
from consumer_keys.cloud.cos import Bucket
from consumer_keys.cloud.kms import Kms
from consumer_keys.cloud.scf import Scf
from consumer_keys.cloud.ssm import Ssm
from consumer_keys.errors import CloudFailure
from tencent_emulator.pytest_plugin import REGION, TestClock
from tests.conftest import Api
from tests.functions.helpers import kms_key
from tests.tc3_signer import signed_event

ROOT, SIBLING, CREDENTIAL = "consumer-keys-root", "consumer-keys-root-of-another", "some-credential"
DENIED = ("UnauthorizedOperation", "AccessDenied")
CHANGING = {
    "update_key", "enable_key", "disable_key", "delete_key", "bind_consumer", "unbind_consumer", "create_consumer",
    "update_consumer", "delete_consumer", "create_group", "update_group", "delete_group", "add_to_group",
    "remove_from_group",
}  # fmt: skip
READING = {
    "list_keys", "get_key", "list_consumers", "get_consumer", "list_groups", "get_group", "get_status", "list_audit",
}  # fmt: skip
PUBLISH = {"snapshot get", "snapshot head", "snapshot put"}
OPERATED = {"root get", "operators decrypt"}
CREDENTIALS = {"root get", "credential get"}
# What each function may do, written down once more and by hand: the policies are what is tested.
ALLOWED: dict[str, set[str]] = {
    **dict.fromkeys(CHANGING, OPERATED | PUBLISH),
    **dict.fromkeys(READING, OPERATED),
    "create_key": OPERATED | PUBLISH | CREDENTIALS | {"values generate"},
    "reveal_key": OPERATED | {"values decrypt"},
    "cloud_api": OPERATED | PUBLISH | CREDENTIALS | {"values generate", "invoke reveal_key"},
    "validate_key": {"root get", "snapshot get"},
    "sync_credentials": PUBLISH | CREDENTIALS | {"snapshot delete", "audit get", "audit put"},
    "front_door": {"invoke create_key", "invoke reveal_key", "invoke validate_key"},
}


def attempts(deployment: Deployment, credential: tuple[str, str, str]) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Everything worth trying with a stolen credential, through the official SDKs."""
    reach = (lambda: credential, REGION, deployment.server.endpoint)
    ssm, kms, scf, cos = Ssm(*reach), Kms(*reach), Scf(*reach), Bucket(*reach, BUCKET)
    for name, secret in (("root", ROOT), ("sibling", SIBLING), ("credential", CREDENTIAL)):
        value: dict[str, Any] = {"SecretName": secret, "VersionId": "v1"}
        added: dict[str, Any] = {"SecretName": secret, "VersionId": f"v-{credential[0]}", "SecretString": "x"}
        yield f"{name} get", partial(ssm.secret_value, secret, "v1")
        yield f"{name} describe", partial(ssm.call, "DescribeSecret", SecretName=secret)
        yield f"{name} update", partial(ssm.call, "UpdateSecret", **value, SecretString="x")
        yield f"{name} put", partial(ssm.call, "PutSecretValue", **added)
    yield "list secrets", partial(ssm.call, "ListSecrets")
    for name, setting in (("values", "KMS_KEY_ID"), ("operators", "KMS_OPERATOR_KEY_ID")):
        key = deployment.environment[setting]
        blob = deployment.cloud.call("kms", "GenerateDataKey", KeyId=key, KeySpec="AES_256")["CiphertextBlob"]
        yield f"{name} decrypt", partial(kms.decrypt, blob, "")
        yield f"{name} generate", partial(kms.generate_data_key, key, "{}")
        yield f"{name} encrypt", partial(kms.call, "Encrypt", KeyId=key, Plaintext=b64encode(b"x").decode())
        yield f"{name} reencrypt", partial(kms.call, "ReEncrypt", CiphertextBlob=blob)
        yield f"{name} disable", partial(kms.call, "DisableKey", KeyId=key)
    for name, path in (
        ("snapshot", "consumer-keys/probe"),
        ("audit", "consumer-keys-audit/probe"),
        ("elsewhere", "other/probe"),
    ):
        deployment.cloud.cos.put_object(BUCKET, path, b"x")
        yield f"{name} get", partial(cos.get, path)
        yield f"{name} head", partial(cos.exists, path)
        yield f"{name} put", partial(cos.put, path, b"y", "text/plain")
        yield f"{name} delete", partial(cos.delete, path)
    yield "audit list", partial(cos.list, "consumer-keys-audit/")
    yield "snapshot list", partial(cos.list, "consumer-keys/")
    yield "list objects", partial(cos._call, "ListObjects", lambda client: client.list_objects(Bucket=BUCKET))
    for name in ("create_key", "reveal_key", "validate_key", "sync_credentials", "front_door"):
        yield f"invoke {name}", partial(scf.invoke, name, deployment.template.namespace, {"key": 1})
    yield "invoke elsewhere", partial(scf.invoke, "reveal_key", "another-namespace", {"key": 1})
    for close in (ssm.close, kms.close, scf.close, cos.close):
        close()


def done(deployment: Deployment, role: str) -> set[str]:
    """The names of the attempts that were not refused for want of permission, as the cloud's own journal has it."""
    from tencentcloud.common.exception.tencent_cloud_sdk_exception import TencentCloudSDKException

    found = set()
    secret_id, secret_key, token = deployment.roles[role].values()
    for name, attempt in attempts(deployment, (secret_id, secret_key, token)):
        deployment.cloud.clear_calls()
        with suppress(CloudFailure, TencentCloudSDKException):
            attempt()
        [call] = [call for call in deployment.cloud.calls if call.secret_id == secret_id]
        if call.code not in DENIED:
            found.add(name)
    return found


@pytest.fixture
def prepared(deployment: Deployment) -> Deployment:
    for name in (SIBLING, CREDENTIAL):
        deployment.cloud.call("ssm", "CreateSecret", SecretName=name, VersionId="v1", SecretString="content-Zq7x9Lk3")
    return deployment


def test_each_role_can_do_what_its_function_needs_and_nothing_else(prepared: Deployment) -> None:
    assert ALLOWED.keys() == {function.name for function in prepared.template.functions}
    for function in prepared.template.functions:
        assert done(prepared, function.role) == ALLOWED[function.name], function.name


def test_exactly_one_function_opens_values(prepared: Deployment) -> None:
    """Those who run `ckeys rotate-data-keys` may too, with the administrator's role; that is no function's."""
    roles = {item.role: item.name for item in prepared.template.functions} | {ADMINISTRATOR: "people"}
    opening = {name for role, name in roles.items() if {"values decrypt", "values reencrypt"} & done(prepared, role)}
    assert opening == {"reveal_key", "people"}


def test_the_administrators_role_rotates_and_publishes_but_reads_no_sibling_and_calls_nothing(
    prepared: Deployment,
) -> None:
    keys = {f"{key} {action}" for key in ("values", "operators") for action in ("decrypt", "generate", "reencrypt")}
    assert done(prepared, ADMINISTRATOR) == keys | PUBLISH | CREDENTIALS | {"root put", "audit get", "audit list"}


def test_each_function_has_a_credential_and_an_environment_of_its_own(deployment: Deployment) -> None:
    environments = {item.name: deployment.environment_of(item.name) for item in deployment.template.functions}
    assert len({environment["TENCENTCLOUD_SECRETID"] for environment in environments.values()}) == len(environments)
    assert all(environment["TENCENTCLOUD_SESSIONTOKEN"] for environment in environments.values())
    assert deployment.operator[1] not in str(environments)
    named = {setting for item in deployment.template.functions for setting in item.environment}
    for item in deployment.template.functions:  # what the template keeps from a function, the local run keeps from it
        assert environments[item.name].keys() & named == item.environment.keys(), item.name
    for name in ("validate_key", "front_door"):
        assert not {"DATABASE_URL", "KMS_KEY_ID", "KMS_OPERATOR_KEY_ID"} & environments[name].keys()
    assert "COS_BUCKET" not in environments["front_door"]


def group_calls(api: Api) -> list[tuple[str, str, str, Any]]:
    """The life of a group, and a key by the cloud API, called directly as another function may."""
    group = api("create_group", "POST", "/groups", {"name": "team"}).body["group_id"]
    member = api.create_consumer("member")["consumer_id"]
    path = f"/groups/{group}"
    return [
        ("list_groups", "GET", "/groups", None), ("get_group", "GET", path, None),
        ("update_group", "PATCH", path, {"description": "x"}),
        ("add_to_group", "PUT", f"{path}/consumers/{member}", None),
        ("remove_from_group", "DELETE", f"{path}/consumers/{member}", None), ("delete_group", "DELETE", path, None),
    ]  # fmt: skip


def use_cloud_api(api: Api) -> None:
    """The cloud API called directly, as another function may."""
    common = {"Version": "2023-04-18", "GatewayId": "default"}
    given = {"SecretType": "ApiKey", "GenerateType": "System", "Name": "by-cloud-api", "ResourceType": "Consumer"}
    made = api.deployment.call("cloud_api", {"Action": "CreateCloudNativeAPIGatewaySecretKey", **common, **given})
    key_id = made["Response"]["Result"]["ID"]
    shown = {"Action": "DescribeCloudNativeAPIGatewaySecretKeyValue", **common, "SecretKeyId": key_id}
    assert api.deployment.call("cloud_api", shown)["Response"]["Result"]


def use_every_function(api: Api, clock: TestClock) -> None:
    """Each function with its whole work, the timer's clean-up included."""
    key = api.create_key("key")
    kms_key(api, "followed", "content-Vw4t2Np8", bound=False)
    consumer = api.create_consumer("app")
    path, other = f"/keys/{key['key_id']}", f"/consumers/{consumer['consumer_id']}"
    body = {"consumer_id": consumer["consumer_id"]}
    calls = [
        ("bind_consumer", "PUT", f"{path}/consumer", body), ("unbind_consumer", "DELETE", f"{path}/consumer", None),
        ("update_key", "PATCH", path, {"description": "x"}), ("disable_key", "POST", f"{path}/disable", None),
        ("enable_key", "POST", f"{path}/enable", None), ("disable_key", "POST", f"{path}/disable", None),
        ("reveal_key", "POST", f"{path}/reveal", {}), ("get_key", "GET", path, None),
        ("list_keys", "GET", "/keys", None), ("list_audit", "GET", "/audit", None),
        ("get_status", "GET", "/v1/status", None), ("list_consumers", "GET", "/consumers", None),
        ("get_consumer", "GET", other, None),
        ("update_consumer", "PATCH", other, {"description": "x"}), ("delete_key", "DELETE", path, None),
        ("delete_consumer", "DELETE", other, None),
        *group_calls(api),
    ]  # fmt: skip
    for function, method, where, given in calls:
        answer = api(function, method, where, given)
        assert answer.status < 300, (function, answer.body)
    use_cloud_api(api)
    for _ in range(25):
        api.tick()
    clock.shift(2 * 86_400)
    assert api.tick()["cleaned_objects"] > 0
    assert api("front_door", "GET", "/keys").status == 200
    assert api.validate(key["value"]).status == 401
    sign_in_everywhere(api, clock)


def sign_in_everywhere(api: Api, clock: TestClock) -> None:
    """A signed request for each function that takes one, whose memory holds no data key any more."""
    deployment = api.deployment
    clock.shift(901)
    for item in deployment.template.functions:
        if "operators decrypt" in ALLOWED[item.name]:
            route = item.routes[0]
            path = re.sub(r"\{[a-z_]+\}", "secret-00000000000000", route.path.replace("{gateway_id}", "default"))
            options: dict[str, Any] = {"service": "cngw"} if item.name == "cloud_api" else {}
            options["at"] = deployment.services.now_ms() / 1000
            answer = deployment.call(item.name, signed_event(deployment.operator, route.method, path, **options))
            assert answer["statusCode"] in (200, 400, 404), (item.name, answer)


def test_a_role_holds_no_permission_that_its_function_does_not_use(api: Api, clock: TestClock) -> None:
    deployment = api.deployment
    use_every_function(api, clock)
    by_id = {deployment.roles[item.role]["TENCENTCLOUD_SECRETID"]: item.name for item in deployment.template.functions}
    used: dict[str, set[str]] = {name: set() for name in by_id.values()}
    for call in deployment.cloud.calls:
        assert call.code not in DENIED, call
        if call.secret_id in by_id:
            used[by_id[call.secret_id]].add(call.action)
    verbs = {"get": "GetSecretValue", "decrypt": "Decrypt", "generate": "GenerateDataKey"}
    cos = {"get": "GetObject", "head": "HeadObject", "put": "PutObject", "delete": "DeleteObject"}
    for name, allowed in ALLOWED.items():
        granted = {
            "Invoke" if subject == "invoke" else (cos if subject in ("snapshot", "audit") else verbs)[verb]
            for subject, verb in (one.split(" ") for one in allowed)
        }
        # Looking for a base is needed now and then, by whoever comes first.
        assert used[name] - {"HeadObject"} == granted - {"HeadObject"}, name
        assert used[name] <= granted, name


def test_a_role_without_its_permission_is_refused_with_a_clear_code_and_nothing_changes(api: Api) -> None:
    """Enforcement is on: were a permission missing from a policy, its function would fail as here."""
    deployment = api.deployment
    key = api.create_key("key")
    secret_id, secret_key, token = deployment.roles["ckeys-reveal-key"].values()
    other = {"version": "2.0", "statement": [{"effect": "allow", "action": "scf:Invoke", "resource": "*"}]}
    deployment.cloud.add_credential(secret_id, secret_key, token, other)
    answer = api("reveal_key", "POST", f"/keys/{key['key_id']}/reveal", {})
    assert (answer.status, answer.body["code"]) == (503, "DependencyUnavailable")


@pytest.mark.parametrize("name", [ROOT, SIBLING])
def test_a_key_cannot_refer_to_the_root_secret_or_what_is_named_after_it(prepared: Deployment, name: str) -> None:
    api = Api(prepared, prepared.operator[1])
    body = {"name": "key", "generation": "KMS", "credential": {"name": name, "version": "v1"}}
    prepared.cloud.clear_calls()
    answer = api("create_key", "POST", "/keys", body)
    assert (answer.status, answer.body["errors"][0]["field"]) == (400, "credential.name")
    assert [call.action for call in prepared.cloud.calls] == ["GetSecretValue"], "the function's own root secret"


def test_a_key_cannot_refer_to_a_credential_without_the_prefix(make_deployment: Callable[..., Deployment]) -> None:
    deployment = make_deployment(CREDENTIAL_PREFIX="llm-")
    api = Api(deployment, deployment.operator[1])
    for name, status in (("llm-provider", 201), ("database-password", 400)):
        api.put_credential(name, f"content-of-{name}-Zq7x9Lk3")
        assert follow(api, name).status == status
    done_by_create = done(deployment, "ckeys-create-key")
    assert "credential get" not in done_by_create, "the policy narrows with the setting"


def role_of(secret_id: str, secret_key: str, token: str) -> tuple[str, str, str | None]:
    return secret_id, secret_key, token


def follow(api: Api, name: str) -> Any:
    """A new key of that credential."""
    body = {"name": f"of-{name}", "generation": "KMS", "credential": {"name": name, "version": "v1"}}
    return api("create_key", "POST", "/keys", body)


def test_a_prefix_that_the_root_secrets_name_begins_with_opens_neither_it_nor_what_is_named_after_it(
    make_deployment: Callable[..., Deployment],
) -> None:
    """Whatever is named otherwise, another deployment's root secret too, is not of the prefix."""
    deployment = make_deployment(CREDENTIAL_PREFIX="consumer-")
    api = Api(deployment, deployment.operator[1])
    names = {"consumer-of-llm": 201, ROOT: 400, SIBLING: 400, "staging-root": 400, CREDENTIAL: 400}
    for name in names.keys() - {ROOT}:
        api.put_credential(name, f"content-of-{name}-Zq7x9Lk3")
    assert {name: follow(api, name).status for name in names} == names
    for function in ("create_key", "cloud_api", "sync_credentials"):
        secret_id, secret_key, token = deployment.roles[deployment.template.function(function).role].values()
        ssm = Ssm(partial(role_of, secret_id, secret_key, token), REGION, deployment.server.endpoint)
        read = set()
        for name in names:
            with suppress(CloudFailure):
                assert ssm.secret_value(name, "v1")
                read.add(name)
        ssm.close()
        # CAM cannot tell the versions of the root secret apart; its own functions need it.
        assert read == {"consumer-of-llm", ROOT}, function
