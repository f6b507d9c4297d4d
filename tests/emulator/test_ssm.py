"""SSM through the official SDK over HTTP: every action, every transition, every limit."""

from __future__ import annotations

import base64
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest

from tencent_emulator.cloud import Cloud
from tencent_emulator.pytest_plugin import TestClock

Ask = Callable[..., dict[str, Any]]
Refused = Callable[[str], AbstractContextManager[None]]
DAY_S = 86_400


@pytest.fixture
def pepper(ssm: Ask) -> str:
    """An enabled secret with one version named v1."""
    ssm("CreateSecret", SecretName="ck-pepper", VersionId="v1", SecretString="first")
    return "ck-pepper"


def bring(ssm: Ask, name: str, state: str) -> None:
    if state != "Enabled":
        ssm("DisableSecret", SecretName=name)
    if state == "PendingDelete":
        ssm("DeleteSecret", SecretName=name, RecoveryWindowInDays=1)
    assert ssm("DescribeSecret", SecretName=name)["Status"] == state


def read(ssm: Ask, name: str, version: str) -> str:
    return str(ssm("GetSecretValue", SecretName=name, VersionId=version)["SecretString"])


def test_a_text_comes_back_as_it_was_and_the_other_member_is_empty(ssm: Ask) -> None:
    text = '凭据 ☃ " \\ \n\x00 end'
    created = ssm("CreateSecret", SecretName="a", VersionId="v1", SecretString=text)
    assert (created["SecretName"], created["VersionId"]) == ("a", "v1")
    got = ssm("GetSecretValue", SecretName="a", VersionId="v1")
    assert (got["SecretString"], got["SecretBinary"]) == (text, "")


def test_bytes_come_back_as_base64_and_the_other_member_is_empty(ssm: Ask) -> None:
    binary = base64.b64encode(bytes(range(256))).decode()
    ssm("CreateSecret", SecretName="a", VersionId="v1", SecretBinary=binary)
    got = ssm("GetSecretValue", SecretName="a", VersionId="v1")
    assert (got["SecretString"], got["SecretBinary"]) == ("", binary)


def test_a_first_version_without_a_name_is_called_ssm_current_and_is_not_an_alias(ssm: Ask, refused: Refused) -> None:
    assert ssm("CreateSecret", SecretName="a", SecretString="x")["VersionId"] == "SSM_Current"
    ssm("PutSecretValue", SecretName="a", VersionId="v2", SecretString="newer")
    assert read(ssm, "a", "SSM_Current") == "x"
    ssm("CreateSecret", SecretName="b", VersionId="v1", SecretString="x")
    with refused("ResourceNotFound"):
        read(ssm, "b", "SSM_Current")


def test_update_overwrites_in_place_and_put_needs_a_new_name(ssm: Ask, pepper: str, refused: Refused) -> None:
    ssm("UpdateSecret", SecretName=pepper, VersionId="v1", SecretString="second")
    assert read(ssm, pepper, "v1") == "second"
    with refused("ResourceInUse.VersionIdExists"):
        ssm("PutSecretValue", SecretName=pepper, VersionId="v1", SecretString="third")
    with refused("ResourceNotFound"):
        ssm("UpdateSecret", SecretName=pepper, VersionId="v2", SecretString="third")
    assert read(ssm, pepper, "v1") == "second"


def test_a_version_keeps_its_time_when_its_value_is_overwritten(
    ssm: Ask, pepper: str, tencent_clock: TestClock
) -> None:
    before = ssm("ListSecretVersionIds", SecretName=pepper)["Versions"]
    tencent_clock.shift(60)
    ssm("UpdateSecret", SecretName=pepper, VersionId="v1", SecretString="second")
    assert ssm("ListSecretVersionIds", SecretName=pepper)["Versions"] == before


def test_the_eleventh_version_is_refused_until_one_is_deleted(ssm: Ask, pepper: str, refused: Refused) -> None:
    for number in range(2, 11):
        ssm("PutSecretValue", SecretName=pepper, VersionId=f"v{number}", SecretString="x")
    with refused("LimitExceeded"):
        ssm("PutSecretValue", SecretName=pepper, VersionId="v11", SecretString="x")
    ssm("DeleteSecretVersion", SecretName=pepper, VersionId="v1")
    ssm("PutSecretValue", SecretName=pepper, VersionId="v11", SecretString="x")
    listed = ssm("ListSecretVersionIds", SecretName=pepper)["Versions"]
    assert [row["VersionId"] for row in listed] == ["v11", *(f"v{number}" for number in range(10, 1, -1))]


def test_a_secret_may_have_no_version_left(ssm: Ask, pepper: str) -> None:
    ssm("DeleteSecretVersion", SecretName=pepper, VersionId="v1")
    assert ssm("ListSecretVersionIds", SecretName=pepper)["Versions"] == []
    assert ssm("DescribeSecret", SecretName=pepper)["Status"] == "Enabled"


def test_a_name_is_taken_until_the_secret_is_gone(ssm: Ask, pepper: str, refused: Refused) -> None:
    for state in ("Enabled", "PendingDelete"):
        bring(ssm, pepper, state)
        with refused("ResourceInUse.SecretExists"):
            ssm("CreateSecret", SecretName=pepper, SecretString="x")
    ssm("RestoreSecret", SecretName=pepper)
    ssm("DeleteSecret", SecretName=pepper)
    ssm("CreateSecret", SecretName=pepper, VersionId="v9", SecretString="x")
    assert [row["VersionId"] for row in ssm("ListSecretVersionIds", SecretName=pepper)["Versions"]] == ["v9"]


OK = ""
ACTIONS: dict[str, dict[str, Any]] = {
    "GetSecretValue": {"VersionId": "v1"},
    "PutSecretValue": {"VersionId": "v2", "SecretString": "x"},
    "UpdateSecret": {"VersionId": "v1", "SecretString": "x"},
    "UpdateDescription": {"Description": "new"},
    "EnableSecret": {},
    "DisableSecret": {},
    "DeleteSecret": {},
    "RestoreSecret": {},
    "DeleteSecretVersion": {"VersionId": "v1"},
    "DescribeSecret": {},
    "ListSecretVersionIds": {},
}
WRONG = "FailedOperation"
DISABLED = "ResourceUnavailable.ResourceDisabled"
PENDING = "ResourceUnavailable.ResourcePendingDeleted"
TABLE = {  # action: (Enabled, Disabled, PendingDelete)
    "GetSecretValue": (OK, DISABLED, PENDING),
    "PutSecretValue": (OK, OK, WRONG),
    "UpdateSecret": (OK, OK, WRONG),
    "UpdateDescription": (OK, OK, WRONG),
    "EnableSecret": (WRONG, OK, WRONG),
    "DisableSecret": (OK, WRONG, WRONG),
    "DeleteSecret": (WRONG, OK, WRONG),
    "RestoreSecret": (WRONG, WRONG, OK),
    "DeleteSecretVersion": (OK, OK, OK),
    "DescribeSecret": (OK, OK, OK),
    "ListSecretVersionIds": (OK, OK, OK),
}


@pytest.mark.parametrize("action", TABLE)
@pytest.mark.parametrize("column", [0, 1, 2], ids=["Enabled", "Disabled", "PendingDelete"])
def test_each_action_in_each_state(ssm: Ask, pepper: str, refused: Refused, action: str, column: int) -> None:
    bring(ssm, pepper, ("Enabled", "Disabled", "PendingDelete")[column])
    before = ssm("DescribeSecret", SecretName=pepper)
    expected = TABLE[action][column]
    if expected == OK:
        ssm(action, SecretName=pepper, **ACTIONS[action])
        return
    with refused(expected):
        ssm(action, SecretName=pepper, **ACTIONS[action])
    after = ssm("DescribeSecret", SecretName=pepper)
    assert {**after, "RequestId": ""} == {**before, "RequestId": ""}


@pytest.mark.parametrize("action", TABLE)
def test_a_missing_secret_has_its_own_code_only_when_its_value_is_read(ssm: Ask, refused: Refused, action: str) -> None:
    code = "ResourceNotFound.SecretNotExist" if action == "GetSecretValue" else "ResourceNotFound"
    with refused(code):
        ssm(action, SecretName="none", **ACTIONS[action])


def test_a_scheduled_deletion_can_be_undone_until_its_time(
    ssm: Ask, pepper: str, refused: Refused, tencent_clock: TestClock
) -> None:
    bring(ssm, pepper, "Disabled")
    when = ssm("DeleteSecret", SecretName=pepper, RecoveryWindowInDays=30)["DeleteTime"]
    assert when == int(tencent_clock.now()) + 30 * DAY_S
    tencent_clock.shift(30 * DAY_S - 1)
    assert ssm("DescribeSecret", SecretName=pepper)["DeleteTime"] == when
    ssm("RestoreSecret", SecretName=pepper)
    restored = ssm("DescribeSecret", SecretName=pepper)
    assert (restored["Status"], restored["DeleteTime"]) == ("Disabled", 0)
    ssm("EnableSecret", SecretName=pepper)
    assert read(ssm, pepper, "v1") == "first"


def test_a_scheduled_deletion_happens_at_its_time(
    ssm: Ask, pepper: str, refused: Refused, tencent_clock: TestClock
) -> None:
    bring(ssm, pepper, "PendingDelete")
    tencent_clock.shift(DAY_S)
    with refused("ResourceNotFound"):
        ssm("RestoreSecret", SecretName=pepper)
    assert ssm("ListSecrets")["TotalCount"] == 0
    ssm("CreateSecret", SecretName=pepper, SecretString="x")


@pytest.mark.parametrize("days", [-1, 31])
def test_a_recovery_window_lies_between_0_and_30_days(ssm: Ask, pepper: str, refused: Refused, days: int) -> None:
    bring(ssm, pepper, "Disabled")
    with refused("InvalidParameterValue"):
        ssm("DeleteSecret", SecretName=pepper, RecoveryWindowInDays=days)


@pytest.mark.parametrize("name", ["", "-a", "_a", "a b", "a.b", "a" * 129, "凭据", "a/b"])
def test_a_bad_secret_name_is_refused(ssm: Ask, refused: Refused, name: str) -> None:
    with refused("InvalidParameterValue"):
        ssm("CreateSecret", SecretName=name, SecretString="x")


@pytest.mark.parametrize("version", ["-a", ".a", "a b", "a" * 65, "v/1"])
def test_a_bad_version_name_is_refused(ssm: Ask, pepper: str, refused: Refused, version: str) -> None:
    for action in ("PutSecretValue", "UpdateSecret"):
        with refused("InvalidParameterValue"):
            ssm(action, SecretName=pepper, VersionId=version, SecretString="x")
    with refused("InvalidParameterValue"):
        ssm("GetSecretValue", SecretName=pepper, VersionId=version)


def test_the_longest_names_are_accepted(ssm: Ask) -> None:
    name, version = "a" * 128, "v1.2_3-" + "x" * 57
    ssm("CreateSecret", SecretName=name, VersionId=version, SecretString="x")
    assert read(ssm, name, version) == "x"


@pytest.mark.parametrize(
    "value",
    [
        {"SecretString": "x" * 32769},
        {"SecretString": "密" * 10923},
        {"SecretBinary": base64.b64encode(b"x" * 32769).decode()},
        {"SecretBinary": "not base64!"},
        {"SecretString": "x", "SecretBinary": "eA=="},
        {"SecretString": "", "SecretBinary": ""},
        {},
    ],
    ids=["text too long", "bytes count", "binary too long", "not base64", "both", "both empty", "neither"],
)
def test_a_value_is_exactly_one_of_text_and_bytes_up_to_32_kb(
    ssm: Ask, pepper: str, refused: Refused, value: dict[str, str]
) -> None:
    with refused("InvalidParameterValue"):
        ssm("CreateSecret", SecretName="b", **value)
    for action, version in (("PutSecretValue", "v2"), ("UpdateSecret", "v1")):
        with refused("InvalidParameterValue"):
            ssm(action, SecretName=pepper, VersionId=version, **value)


def test_a_value_of_32_kb_is_accepted(ssm: Ask) -> None:
    ssm("CreateSecret", SecretName="a", VersionId="v1", SecretString="x" * 32768)
    assert len(read(ssm, "a", "v1")) == 32768


def test_a_description_of_2048_bytes_is_the_longest(ssm: Ask, pepper: str, refused: Refused) -> None:
    ssm("UpdateDescription", SecretName=pepper, Description="x" * 2048)
    assert ssm("DescribeSecret", SecretName=pepper)["Description"] == "x" * 2048
    with refused("InvalidParameterValue"):
        ssm("UpdateDescription", SecretName=pepper, Description="x" * 2049)
    with refused("InvalidParameterValue"):
        ssm("CreateSecret", SecretName="b", SecretString="x", Description="x" * 2049)


def test_the_thousand_and_first_secret_is_refused(ssm: Ask, tencent_cloud: Cloud, refused: Refused) -> None:
    limit = ssm("GetServiceStatus")["SecretLimit"]
    for number in range(limit):
        tencent_cloud.call("ssm", "CreateSecret", SecretName=f"s{number}", SecretString="x")
    with refused("LimitExceeded"):
        ssm("CreateSecret", SecretName="one-more", SecretString="x")


def test_a_description_of_a_secret_shows_no_value_and_leaves_nothing_unset(
    ssm: Ask, pepper: str, tencent_clock: TestClock
) -> None:
    seen = ssm("DescribeSecret", SecretName=pepper)
    assert "first" not in str(seen)
    assert seen["SecretName"] == pepper
    assert (seen["RotationStatus"], seen["NextRotationTime"], seen["AssociatedInstanceIDs"]) == (False, "", [])
    assert [name for name, value in seen.items() if value is None] == []


def test_a_list_is_newest_first_and_paged(ssm: Ask, refused: Refused) -> None:
    for number in range(25):
        ssm("CreateSecret", SecretName=f"s{number:02}", SecretString="x")
    first = ssm("ListSecrets")
    assert first["TotalCount"] == 25
    assert [row["SecretName"] for row in first["SecretMetadatas"]] == [f"s{number:02}" for number in range(24, 4, -1)]
    rest = ssm("ListSecrets", Offset=20, Limit=0)["SecretMetadatas"]
    assert [row["SecretName"] for row in rest] == [f"s{number:02}" for number in range(4, -1, -1)]
    oldest = ssm("ListSecrets", OrderType=1, Limit=1)["SecretMetadatas"]
    assert [row["SecretName"] for row in oldest] == ["s00"]
    assert ssm("ListSecrets", Offset=99)["SecretMetadatas"] == []
    for wrong in ({"Limit": 201}, {"Limit": -1}, {"Offset": -1}, {"State": 6}):
        with refused("InvalidParameterValue"):
            ssm("ListSecrets", **wrong)


def test_a_list_is_filtered_by_state_name_and_tag_before_it_is_counted(ssm: Ask) -> None:
    team = [{"TagKey": "team", "TagValue": "keys"}]
    ssm("CreateSecret", SecretName="ck-a", SecretString="x", Tags=team)
    ssm("CreateSecret", SecretName="ck-b", SecretString="x")
    ssm("CreateSecret", SecretName="other", SecretString="x")
    bring(ssm, "ck-b", "Disabled")
    bring(ssm, "other", "PendingDelete")

    def names(**wanted: Any) -> list[str]:
        page = ssm("ListSecrets", **wanted)
        assert page["TotalCount"] == len(page["SecretMetadatas"])
        return [row["SecretName"] for row in page["SecretMetadatas"]]

    assert names(State=0) == ["other", "ck-b", "ck-a"]
    assert [names(State=number) for number in (1, 2, 3, 4, 5)] == [["ck-a"], ["ck-b"], ["other"], [], []]
    assert names(SearchSecretName="ck-") == ["ck-b", "ck-a"]
    assert names(TagFilters=[{"TagKey": "team", "TagValue": ["keys"]}]) == ["ck-a"]
    assert names(TagFilters=[{"TagKey": "team", "TagValue": ["other"]}]) == []
    assert names(SecretType=1) == names(ProductName="Mysql") == names(EncryptType=1) == names(InstanceID="i") == []


def test_list_rows_give_two_members_another_type_than_descriptions(ssm: Ask, pepper: str) -> None:
    (row,) = ssm("ListSecrets")["SecretMetadatas"]
    assert (row["RotationStatus"], row["NextRotationTime"], row["KmsKeyType"]) == (0, 0, "DEFAULT")
    assert type(row["RotationStatus"]) is int


def test_a_tag_key_may_be_given_once(ssm: Ask, refused: Refused) -> None:
    twice = [{"TagKey": "a", "TagValue": "1"}, {"TagKey": "a", "TagValue": "2"}]
    with refused("InvalidParameterValue.TagKeysDuplicated"):
        ssm("CreateSecret", SecretName="a", SecretString="x", Tags=twice)


def test_a_disabled_customer_key_closes_reading_and_writing(ssm: Ask, kms: Ask, refused: Refused) -> None:
    key_id = kms("CreateKey", Alias="ck")["KeyId"]
    ssm("CreateSecret", SecretName="a", VersionId="v1", SecretString="x", KmsKeyId=key_id)
    kms("DisableKey", KeyId=key_id)
    attempts: list[tuple[str, dict[str, Any]]] = [
        ("GetSecretValue", {"SecretName": "a", "VersionId": "v1"}),
        ("PutSecretValue", {"SecretName": "a", "VersionId": "v2", "SecretString": "x"}),
        ("UpdateSecret", {"SecretName": "a", "VersionId": "v1", "SecretString": "x"}),
        ("CreateSecret", {"SecretName": "b", "SecretString": "x", "KmsKeyId": key_id}),
    ]
    for action, members in attempts:
        with refused("FailedOperation.AccessKmsError"):
            ssm(action, **members)
    assert ssm("DescribeSecret", SecretName="a")["KmsKeyId"] == key_id
    assert ssm("ListSecrets")["SecretMetadatas"][0]["KmsKeyType"] == "CUSTOMER"
    kms("EnableKey", KeyId=key_id)
    assert read(ssm, "a", "v1") == "x"


def test_a_customer_key_must_exist(ssm: Ask, refused: Refused) -> None:
    for key_id in ("6f1d4c1e-0000-4000-8000-000000000000", "nonsense"):
        with refused("FailedOperation.AccessKmsError"):
            ssm("CreateSecret", SecretName="a", SecretString="x", KmsKeyId=key_id)


def test_the_service_says_that_it_works(ssm: Ask, pepper: str) -> None:
    status = ssm("GetServiceStatus")
    assert (status["ServiceEnabled"], status["InvalidType"], status["TotalCount"]) == (True, 1, 1)


def test_what_is_not_emulated_is_refused(ssm: Ask, pepper: str, refused: Refused) -> None:
    with refused("InvalidParameterValue"):
        ssm("CreateSecret", SecretName="b", SecretString="x", SecretType=1)
    with refused("InvalidParameterValue"):
        ssm("GetSecretValue", SecretName=pepper, VersionId="v1", EncryptionPublicKey="pem")
