"""POST /keys: the three generation methods, their rules, and that a refused creation leaves nothing behind."""

from __future__ import annotations

import random
import re
import tempfile
from binascii import crc32
from collections.abc import Callable
from typing import Any

import pytest

from ckeys.deployment import Deployment
from tests.conftest import Api
from tests.functions.helpers import STRONG, as_operator, code_of, kms_key, nothing_changes, problem, sql, ssm

BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
LONG = "".join(random.Random(1).choices(BASE62, k=256))


def create(api: Api, **fields: Any) -> Any:
    return api("create_key", "POST", "/keys", {"name": "key", "generation": "System", **fields})


def custom(api: Api, value: Any, name: str = "key", path: str = "/keys") -> Any:
    return api("create_key", "POST", path, {"name": name, "generation": "Custom", "value": value})


def credential(name: str = "cred", version: str = "v1") -> dict[str, Any]:
    return {"generation": "KMS", "credential": {"name": name, "version": version}}


# System


def test_a_system_key_is_answered_with_every_field_and_its_value(api: Api) -> None:
    answer = create(api, name="生产-key_1", description="for the 网关")
    assert answer.status == 201
    key = answer.body
    assert re.fullmatch(r"secret-[0-9a-f]{14}", key["key_id"])
    assert (key["gateway_id"], key["name"], key["description"]) == ("default", "生产-key_1", "for the 网关")
    assert (key["type"], key["generation"], key["status"]) == ("ApiKey", "System", "Enable")
    assert (key["credential"], key["consumer"], key["sync"]) == (None, None, None)
    assert key["masked_value"] == f"{key['value'][:3]}****{key['value'][-3:]}"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", key["created_at"])
    assert key["modified_at"] == key["created_at"]
    assert answer.headers["ETag"] == f'"{key["revision"]}"'
    assert answer.headers["Cache-Control"] == "no-store"


def test_a_system_value_has_prefix_random_part_and_checksum(api: Api) -> None:
    value = api.create_key()["value"]
    assert re.fullmatch(r"ck_[0-9A-Za-z]{38}", value)
    number, digits = crc32(value[:-6].encode()), ""
    for _ in range(6):
        number, digit = divmod(number, 62)
        digits = BASE62[digit] + digits
    assert value[-6:] == digits


def test_the_prefix_of_generated_values_is_a_setting(make_deployment: Callable[..., Deployment]) -> None:
    deployment = make_deployment(KEY_PREFIX="acme")
    api = Api(deployment, deployment.operator[1])
    key = api.bound_key()
    assert key["value"].startswith("acme_")
    assert api.validate(key["value"]).status == 200
    problem(custom(api, "acme_" + STRONG), 400, "InvalidParameter", "value")


def test_a_system_value_is_given_once_and_never_by_get_or_list(api: Api) -> None:
    key = api.create_key()
    assert "value" not in api("get_key", "GET", f"/keys/{key['key_id']}").body
    assert "value" not in api("list_keys", "GET", "/keys").body["items"][0]
    assert api("get_key", "GET", f"/keys/{key['key_id']}").body == {k: v for k, v in key.items() if k != "value"}


def test_system_values_differ(api: Api) -> None:
    assert len({api.create_key(f"key{number}")["value"] for number in range(20)}) == 20


def test_a_new_key_is_refused_until_it_is_bound_and_valid_at_once_afterwards(api: Api) -> None:
    key = api.create_key()
    assert (api.validate(key["value"]).status, code_of(api, key["value"])) == (401, "KeyUnbound")
    api.bind(key, api.create_consumer())
    assert (api.validate(key["value"]).status, code_of(api, key["value"])) == (200, "Valid")


# Custom


@pytest.mark.parametrize("value", [STRONG, LONG, "q9.w-X_t~7+k/P3=", "CK_" + STRONG, "=kT7vQ2xM-8="])
def test_a_strong_custom_value_of_8_to_256_characters_is_accepted_and_kept_byte_for_byte(api: Api, value: str) -> None:
    answer = custom(api, value)
    assert answer.status == 201, answer.body
    assert "value" not in answer.body
    api.bind(answer.body, api.create_consumer())
    assert api.validate(value).status == 200
    revealed = api("reveal_key", "POST", f"/keys/{answer.body['key_id']}/reveal", {})
    assert revealed.body["value"] == value
    assert api.validate(value.swapcase()).status == 401


NO_VALUES: list[str] = [
    "", STRONG[:7], LONG + "x", STRONG + " ",
    " " + STRONG, STRONG + "\n", STRONG + "\x00", STRONG + ",a", "密钥" * 8,
    "kT7vQ2x\u00e9", "kT7vQ2x\uff2d", "kT7vQ2xM\ud800", STRONG + "%20", '"' + STRONG + '"', "ck_" + STRONG,
]  # fmt: skip


def test_a_custom_value_of_wrong_length_alphabet_or_prefix_is_refused_naming_value(
    api: Api, subtests: pytest.Subtests
) -> None:
    for value in NO_VALUES:
        with subtests.test(value=value):
            with nothing_changes(api.deployment):
                body = problem(custom(api, value), 400, "InvalidParameter", "value")
            assert not value or value not in str(body)


WEAK: list[tuple[str, str]] = [
    ("12345678", "bits"), ("aaaaaaaaaaaaaaaa", "bits"), ("password", "common word"), ("changeme-changeme", "bits"),
    ("qwertyuiop", "bits"), ("abcdefghijklmnop", "bits"), ("sk-1234567", "bits"), ("your-api-key-here",
    "common word"),
    ("abcabcabcabcabc", "bits"), ("sk-ant-api03-kT7vQ2xM9fB3", "Anthropic"), ("sk-proj-kT7vQ2xM9fB3aaaa", "OpenAI"),
    ("ghp_kT7vQ2xM9fB3kT7vQ2xM9fB3kT7vQ2xM9fB3", "GitHub"), ("AKIDkT7vQ2xM9fB3kT7vQ2xM9fB3", "Tencent"),
    ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.kT7vQ2xM9fB3", "JSON Web Token"),
]  # fmt: skip


def test_a_weak_custom_value_is_refused_with_the_reason_and_without_the_value(
    api: Api, subtests: pytest.Subtests
) -> None:
    for value, reason in WEAK:
        with subtests.test(value=value, reason=reason):
            with nothing_changes(api.deployment):
                body = problem(custom(api, value), 400, "WeakValue", "value")
            assert reason in body["errors"][0]["message"]
            assert value not in str(body)


def test_a_value_in_use_in_the_gateway_is_refused_whatever_its_key(api: Api) -> None:
    first = api.create_key("first")
    disabled = custom(api, LONG, "second").body
    api("disable_key", "POST", f"/keys/{disabled['key_id']}/disable")
    kms_key(api, "third", "content-Zq7x9Lk3", bound=False)
    with nothing_changes(api.deployment):
        for value in (LONG, "content-Zq7x9Lk3"):
            body = problem(custom(api, value, "another"), 409, "ValueInUse")
            assert value not in str(body)
        problem(custom(api, first["value"], "another"), 400, "InvalidParameter", "value")  # reserved before all else


def test_the_same_value_in_another_gateway_is_fine_and_each_is_judged_on_its_own(
    make_deployment: Callable[..., Deployment],
) -> None:
    deployment = make_deployment(GATEWAYS="default=One,other=Two")
    api = Api(deployment, deployment.operator[1])
    first, second = custom(api, LONG).body, custom(api, LONG, path="/v1/gateways/other/keys").body
    api.bind(first, api.create_consumer())
    assert api("validate_key", "GET", "/v1/gateways/default/validate", token=LONG).status == 200
    assert api("validate_key", "GET", "/v1/gateways/other/validate", token=LONG).status == 401
    consumer = api("create_consumer", "POST", "/v1/gateways/other/consumers", {"name": "app"}).body
    body = {"consumer_id": consumer["consumer_id"]}
    api("bind_consumer", "PUT", f"/v1/gateways/other/keys/{second['key_id']}/consumer", body)
    answer = api("validate_key", "GET", "/v1/gateways/other/validate", token=LONG)
    assert (answer.status, answer.headers["X-Key-Id"]) == (200, second["key_id"])


def test_a_short_value_is_masked_whole_because_six_of_eight_characters_would_give_it_away(api: Api) -> None:
    assert custom(api, STRONG).body["masked_value"] == "****"
    assert custom(api, LONG, "long").body["masked_value"] == f"{LONG[:3]}****{LONG[-3:]}"


def test_a_mask_shows_nothing_of_a_value_whose_hidden_part_would_be_weak(api: Api) -> None:
    for number, (value, mask) in enumerate(
        (
            ("k7qhello2x9zw", "****"), ("passwordXk3n9Qz7", "****"), ("kT7vQ2xM9wLp", "****"),
            ("K7Qhwzpnktb4ZX", "****"), ("kT7vQ2xM9wLp4", "kT7****Lp4"), ("k7qhello2x9zwVb4Nm8", "k7q****Nm8"),
        )
    ):  # fmt: skip
        key = custom(api, value, f"key-{number}").body
        assert key["masked_value"] == mask, value
        path = f"/keys/{key['key_id']}"
        assert api("get_key", "GET", path).body["masked_value"] == mask
        assert api("reveal_key", "POST", f"{path}/reveal", {}).body["value"] == value


def test_the_floor_of_the_deployment_decides_what_a_mask_shows(make_deployment: Callable[..., Deployment]) -> None:
    deployment = make_deployment(CUSTOM_VALUE_MIN_BITS="230")
    api = Api(deployment, deployment.operator[1])
    assert custom(api, LONG[:42]).body["masked_value"] == "****"
    assert custom(api, LONG, "long").body["masked_value"] == f"{LONG[:3]}****{LONG[-3:]}"
    system = api.create_key("system")
    assert system["masked_value"] == f"{system['value'][:3]}****{system['value'][-3:]}"


def test_an_operators_secret_cannot_become_a_key_value(api: Api) -> None:
    _, secret = api.deployment.add_operator("colleague", "viewer")
    with nothing_changes(api.deployment):
        for value in (secret, api.token):
            problem(custom(api, value), 409, "ValueInUse")


# KMS


def test_the_content_of_the_credential_becomes_valid(api: Api) -> None:
    key = kms_key(api, "cred", "content-Zq7x9Lk3")
    assert "value" not in key
    assert key["masked_value"] == "****"
    assert key["credential"] == {"name": "cred", "version": "v1"}
    assert (key["sync"]["status"], key["sync"]["error"]) == ("Success", None)
    assert api.validate("content-Zq7x9Lk3").headers["X-Key-Id"] == key["key_id"]


def test_binary_content_is_taken_as_bytes(api: Api) -> None:
    api.deployment.cloud.call("ssm", "CreateSecret", SecretName="cred", VersionId="v1", SecretBinary="Wnh5OXcwdjF1MnQ=")
    api.bind(create(api, **credential()).body, api.create_consumer())
    assert api.validate("Zxy9w0v1u2t").status == 200


def test_a_weak_content_is_the_business_of_ssm(api: Api) -> None:
    kms_key(api, "cred", "12345678")
    assert api.validate("12345678").status == 200


def missing(api: Api) -> None:
    pass


def other_version(api: Api) -> None:
    api.put_credential("cred", "content-Zq7x9Lk3", "v2")


def disabled(api: Api) -> None:
    api.put_credential("cred", "content-Zq7x9Lk3")
    ssm(api, "DisableSecret", "cred")


def pending_deletion(api: Api) -> None:
    disabled(api)
    ssm(api, "DeleteSecret", "cred", RecoveryWindowInDays=7)


def unreadable(api: Api) -> None:
    cloud = api.deployment.cloud
    kms_id = cloud.call("kms", "CreateKey", Alias="of-the-credential")["KeyId"]
    cloud.call(
        "ssm", "CreateSecret", SecretName="cred", VersionId="v1", SecretString="content-Zq7x9Lk3", KmsKeyId=kms_id
    )
    cloud.call("kms", "DisableKey", KeyId=kms_id)


def forbidden(api: Api) -> None:
    api.create_key("warm")  # the instance has its root secret
    api.put_credential("cred", "content-Zq7x9Lk3")
    api.deployment.cloud.fail_next("ssm", "GetSecretValue", "UnauthorizedOperation")


@pytest.mark.parametrize(
    ("prepare", "code"),
    [
        (missing, "CredentialNotFound"), (other_version, "CredentialNotFound"), (disabled, "CredentialDisabled"),
        (pending_deletion, "CredentialPendingDeletion"), (unreadable, "CredentialUnreadable"),
        (forbidden, "CredentialUnreadable"),
    ],
)  # fmt: skip
def test_a_credential_that_gives_no_content_is_refused_with_its_own_code_and_nothing_is_written(
    api: Api, prepare: Callable[[Api], None], code: str
) -> None:
    prepare(api)
    with nothing_changes(api.deployment):
        problem(create(api, **credential()), 422, code, "credential")


@pytest.mark.parametrize(
    "content",
    [
        "kT7vQ2x", LONG + "x", "with space", "line\nbreak", "逗号逗号逗号", "a,b,c,d,e,f", '{"key": "kT7vQ2xM"}',
        "ck_kT7vQ2xMkT7vQ2xM",
    ],
)  # fmt: skip
def test_a_content_that_cannot_be_a_key_value_is_refused_without_showing_it(api: Api, content: str) -> None:
    api.put_credential("cred", content)
    with nothing_changes(api.deployment):
        body = problem(create(api, **credential()), 422, "CredentialInvalid", "credential")
    assert content not in str(body)


def test_a_content_in_use_in_the_gateway_is_refused(api: Api) -> None:
    custom(api, LONG)
    api.put_credential("cred", LONG)
    with nothing_changes(api.deployment):
        problem(create(api, name="another", **credential()), 409, "ValueInUse")


def test_an_outage_of_ssm_is_a_503_and_nothing_is_written(api: Api) -> None:
    api.put_credential("cred", "content-Zq7x9Lk3")
    with nothing_changes(api.deployment), api.deployment.cloud.outage("ssm"):
        answer = create(api, **credential())
    problem(answer, 503, "DependencyUnavailable")
    assert int(answer.headers["Retry-After"]) > 0
    assert create(api, **credential()).status == 201


def test_a_short_hiccup_of_ssm_is_not_noticed(api: Api) -> None:
    api.put_credential("cred", "content-Zq7x9Lk3")
    api.deployment.cloud.drop_next("ssm", "GetSecretValue")
    api.deployment.cloud.fail_next("ssm", "GetSecretValue", "RequestLimitExceeded")
    assert create(api, **credential()).status == 201


def test_an_outage_of_kms_is_a_503_and_nothing_is_written(make_deployment: Callable[..., Deployment]) -> None:
    deployment = make_deployment()
    api = Api(deployment, deployment.operator[1])
    with nothing_changes(deployment), deployment.cloud.outage("kms"):
        problem(create(api), 503, "DependencyUnavailable")
        problem(custom(api, LONG), 503, "DependencyUnavailable")
    assert create(api).status == 201


def test_an_outage_of_cos_does_not_undo_an_acknowledged_key(api: Api) -> None:
    with api.deployment.cloud.outage("cos"):
        assert create(api).status == 201
    assert api("list_keys", "GET", "/keys").body["total_count"] == 1


def test_a_failing_publication_never_turns_a_committed_key_into_an_error(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "tempdir", "/proc/no-such-folder")  # as with a full disk
        assert create(api).status == 201
    assert api("list_keys", "GET", "/keys").body["total_count"] == 1


# Names and other fields


@pytest.mark.parametrize("name", ["ab", "a" * 60, "密钥", "密" * 60, "生产-Key_1", "A-b_c9", "a--b", "网关a1", "㐀aa"])
def test_names_of_2_to_60_chinese_or_latin_letters_digits_hyphens_and_underscores_are_accepted(
    api: Api, name: str
) -> None:
    assert create(api, name=name).body["name"] == name


NO_NAMES: list[Any] = [
    "", "a", "密", "a" * 61, "密" * 61, "1abc", "-abc", "_abc", "abc-", "abc_", "a b", "a.b",
    "a/b", "käse", "ａｂｃ",
    "ab\n",
    "名\u200b字", "abc\x00d", "a\ud800b", "٣abc", "名字！", "emoji😀", None, 5, ["ab"], True,
]  # fmt: skip


def test_any_other_name_is_refused_naming_the_field(api: Api, subtests: pytest.Subtests) -> None:
    for name in NO_NAMES:
        with subtests.test(name=name), nothing_changes(api.deployment):
            problem(create(api, name=name), 400, "InvalidParameter", "name")


def test_a_name_is_unique_in_its_gateway_only_and_by_exact_characters(
    make_deployment: Callable[..., Deployment],
) -> None:
    deployment = make_deployment(GATEWAYS="default,other")
    api = Api(deployment, deployment.operator[1])
    create(api, name="Billing")
    with nothing_changes(deployment):
        problem(create(api, name="Billing"), 409, "NameInUse")
    assert create(api, name="billing").status == 201
    body = {"name": "Billing", "generation": "System"}
    assert api("create_key", "POST", "/v1/gateways/other/keys", body).status == 201


@pytest.mark.parametrize("description", ["", "x" * 200, "说" * 200, "two\nlines\tand 'quotes' <b>%_\\"])
def test_a_description_of_up_to_200_characters_is_kept(api: Api, description: str) -> None:
    assert create(api, description=description).body["description"] == description


WRONG_FIELDS: list[tuple[dict[str, Any], str]] = [
    ({"description": "x" * 201}, "description"), ({"description": None}, "description"),
    ({"description": "\x1b[31m"}, "description"), ({"description": "\ud800"}, "description"),
    ({"generation": "system"}, "generation"), ({"generation": None}, "generation"), ({"type": "Jwt"}, "type"),
    ({"status": "enable"}, "status"), ({"status": True}, "status"),
    ({"value": STRONG}, "value"), ({"credential": {"name": "cred", "version": "v1"}}, "credential"),
    ({"generation": "Custom"}, "value"), ({"generation": "Custom", "value": 12345678}, "value"),
    ({"generation": "KMS"}, "credential"), ({"generation": "KMS", "credential": "cred"}, "credential"),
    ({"generation": "KMS", "credential": {"name": "cred"}}, "credential.version"),
    ({"generation": "KMS", "credential": {"name": "a b", "version": "v1"}}, "credential.name"),
    ({"generation": "KMS", "credential": {"name": "cred", "version": "../v1"}}, "credential.version"),
    ({"generation": "KMS", "credential": {"name": "c" * 129, "version": "v1"}}, "credential.name"),
    ({"generation": "KMS", "credential": {"name": "c", "version": "v1", "region": "x"}}, "credential.region"),
    ({"key_id": "secret-00000000000000"}, "key_id"), ({"revision": 1}, "revision"), ({"consumer": {}}, "consumer"),
    ({"gateway_id": "other"}, "gateway_id"), ({"masked_value": "x"}, "masked_value"), ({"Name": "x"}, "Name"),
    ({"created_at": "2020-01-01T00:00:00Z"}, "created_at"),
]  # fmt: skip


def test_a_wrong_unknown_or_server_owned_field_is_refused_by_name(api: Api, subtests: pytest.Subtests) -> None:
    for fields, named in WRONG_FIELDS:
        with subtests.test(fields=fields, named=named), nothing_changes(api.deployment):
            problem(create(api, **fields), 400, "InvalidParameter", named)


def test_every_fault_is_named_at_once(api: Api) -> None:
    problem(
        create(api, name="1", description="x" * 201, extra=1), 400, "InvalidParameter", "name", "description", "extra"
    )
    problem(api("create_key", "POST", "/keys", ""), 400, "InvalidParameter", "name", "generation")


NO_OBJECTS: list[tuple[str, int, str]] = [
    ("[]", 400, "MalformedJson"), ("null", 400, "MalformedJson"), ('"text"', 400, "MalformedJson"),
    ("{", 400, "MalformedJson"), ("{'name': 'ab'}", 400, "MalformedJson"), ('{"name": NaN}', 400, "MalformedJson"),
    ('{"name": 1e999}', 400, "MalformedJson"), ('{"name": -Infinity}', 400, "MalformedJson"),
    ('{"name": "ab", "name": "cd", "generation": "System"}', 400, "InvalidParameter"),
    ('{"name": ' + "[" * 5000 + "]" * 5000 + "}", 400, "MalformedJson"),
    ('{"name": ' + "[" * 100_000, 413, "BodyTooLarge"),
    ('{"name": "' + "x" * 70_000 + '"}', 413, "BodyTooLarge"),
]  # fmt: skip


def test_a_body_that_is_not_one_plain_json_object_is_refused(api: Api, subtests: pytest.Subtests) -> None:
    for body, status, code in NO_OBJECTS:
        with subtests.test(body=body, status=status, code=code), nothing_changes(api.deployment):
            problem(api("create_key", "POST", "/keys", body), status, code)


def test_a_query_parameter_is_refused(api: Api) -> None:
    answer = api("create_key", "POST", "/keys", {"name": "ab", "generation": "System"}, query={"value": "x"})
    problem(answer, 400, "InvalidParameter", "value")


def test_an_undeclared_gateway_does_not_exist(api: Api) -> None:
    with nothing_changes(api.deployment):
        answer = api("create_key", "POST", "/v1/gateways/nope/keys", {"name": "ab", "generation": "System"})
    problem(answer, 404, "GatewayNotFound")


def test_a_key_created_disabled_is_refused_until_it_is_enabled(api: Api) -> None:
    key = api.bound_key(status="Disable")
    assert key["status"] == "Disable"
    assert (api.validate(key["value"]).status, code_of(api, key["value"])) == (401, "KeyDisabled")
    api("enable_key", "POST", f"/keys/{key['key_id']}/enable")
    assert api.validate(key["value"]).status == 200


def test_creation_is_audited_with_its_actor_and_never_with_a_value(api: Api) -> None:
    editor = as_operator(api, "editor")
    key = editor.create_key()
    row = sql(api.deployment, "SELECT * FROM audit ORDER BY sequence DESC")[0]
    assert (row["action"], row["target"], row["revision"]) == ("key.create", key["key_id"], key["revision"])
    assert row["actor"].startswith("operator-")
    assert key["value"] not in str(row)
