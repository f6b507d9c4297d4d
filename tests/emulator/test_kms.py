"""KMS through the official SDK over HTTP: every action, every state, and what a ciphertext is bound to."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest

from tencent_emulator.cloud import Cloud
from tencent_emulator.pytest_plugin import TestClock

Ask = Callable[..., dict[str, Any]]
Refused = Callable[[str], AbstractContextManager[None]]
DAY_S = 86_400
PLAIN = base64.b64encode(b"attack at dawn").decode()
NOBODY = "6f1d4c1e-0000-4000-8000-000000000000"
NOT_FOUND = "ResourceUnavailable.CmkNotFound"
DISABLED = "ResourceUnavailable.CmkDisabled"
BAD_CIPHERTEXT = "InvalidParameterValue.InvalidCiphertext"


@pytest.fixture
def key(kms: Ask) -> str:
    return str(kms("CreateKey", Alias="ck")["KeyId"])


def bring(kms: Ask, key: str, state: str) -> None:
    if state != "Enabled":
        kms("DisableKey", KeyId=key)
    if state == "PendingDelete":
        kms("ScheduleKeyDeletion", KeyId=key, PendingWindowInDays=7)
    assert kms("DescribeKey", KeyId=key)["KeyMetadata"]["KeyState"] == state


def test_what_was_encrypted_is_decrypted_without_naming_the_key(kms: Ask, key: str) -> None:
    sealed = kms("Encrypt", KeyId=key, Plaintext=PLAIN)
    opened = kms("Decrypt", CiphertextBlob=sealed["CiphertextBlob"])
    assert (sealed["KeyId"], opened["KeyId"], opened["Plaintext"]) == (key, key, PLAIN)


@pytest.mark.parametrize(
    ("asked", "size"),
    [
        ({"KeySpec": "AES_128"}, 16),
        ({"KeySpec": "AES_256"}, 32),
        ({"NumberOfBytes": 1024}, 1024),
        ({"KeySpec": "AES_128", "NumberOfBytes": 64}, 64),
    ],
)
def test_a_data_key_has_the_size_asked_for_and_decrypts(kms: Ask, key: str, asked: dict[str, Any], size: int) -> None:
    made = kms("GenerateDataKey", KeyId=key, **asked)
    assert len(base64.b64decode(made["Plaintext"])) == size
    assert kms("Decrypt", CiphertextBlob=made["CiphertextBlob"])["Plaintext"] == made["Plaintext"]
    assert kms("GenerateDataKey", KeyId=key, **asked)["Plaintext"] != made["Plaintext"]


@pytest.mark.parametrize(
    "asked", [{}, {"KeySpec": "AES_512"}, {"NumberOfBytes": 1025}, {"NumberOfBytes": -1}, {"NumberOfBytes": 0}]
)
def test_a_data_key_needs_a_valid_size(kms: Ask, key: str, refused: Refused, asked: dict[str, Any]) -> None:
    with refused("InvalidParameter"):
        kms("GenerateDataKey", KeyId=key, **asked)


def test_a_ciphertext_has_the_measured_shape_and_is_not_base64(kms: Ask, key: str) -> None:
    blob = kms("GenerateDataKey", KeyId=key, KeySpec="AES_256")["CiphertextBlob"]
    assert len(blob) == 210
    assert [len(base64.b64decode(part, validate=True)) for part in blob.split("-k-")] == [64, 16, 68]
    with pytest.raises(binascii.Error):
        base64.b64decode(blob, validate=True)


def test_a_ciphertext_opens_only_under_the_same_context_string(kms: Ask, key: str, refused: Refused) -> None:
    context = json.dumps({"a": "1", "b": "2"})
    blob = kms("Encrypt", KeyId=key, Plaintext=PLAIN, EncryptionContext=context)["CiphertextBlob"]
    assert kms("Decrypt", CiphertextBlob=blob, EncryptionContext=context)["Plaintext"] == PLAIN
    for other in ("", json.dumps({"b": "2", "a": "1"}), json.dumps({"a": "1", "b": "2"}, indent=1), "{}"):
        with refused(BAD_CIPHERTEXT):
            kms("Decrypt", CiphertextBlob=blob, EncryptionContext=other)


def test_an_altered_ciphertext_does_not_open(kms: Ask, key: str, refused: Refused) -> None:
    blob = kms("Encrypt", KeyId=key, Plaintext=PLAIN)["CiphertextBlob"]
    other = kms("Encrypt", KeyId=kms("CreateKey", Alias="b")["KeyId"], Plaintext=PLAIN)["CiphertextBlob"]
    parts, others = blob.split("-k-"), other.split("-k-")
    flipped = parts[2][:-8] + ("A" if parts[2][-8] != "A" else "B") + parts[2][-7:]
    altered = [
        "-k-".join([parts[0], others[1], parts[2]]),
        "-k-".join([others[0], parts[1], parts[2]]),
        "-k-".join([parts[0], parts[1], flipped]),
        "-k-".join(parts[:2]),
        "-k-".join([*parts, parts[0]]),
        "-k-".join([parts[0], parts[1], "eA=="]),
        blob.replace("-k-", ""),
        "nonsense",
        "-k-".join([base64.b64encode(b"\xff" * 64).decode(), parts[1], parts[2]]),
    ]
    for text in altered:
        with refused(BAD_CIPHERTEXT):
            kms("Decrypt", CiphertextBlob=text)


@pytest.mark.parametrize("plaintext", ["", "not base64!", base64.b64encode(b"x" * 4097).decode()])
def test_a_plaintext_is_base64_of_1_to_4096_bytes(kms: Ask, key: str, refused: Refused, plaintext: str) -> None:
    with refused("InvalidParameterValue.InvalidPlaintext"):
        kms("Encrypt", KeyId=key, Plaintext=plaintext)


def test_the_largest_plaintext_is_accepted(kms: Ask, key: str) -> None:
    largest = base64.b64encode(b"x" * 4096).decode()
    blob = kms("Encrypt", KeyId=key, Plaintext=largest)["CiphertextBlob"]
    assert kms("Decrypt", CiphertextBlob=blob)["Plaintext"] == largest


@pytest.mark.parametrize("context", ["text", "[1]", json.dumps({"a": "x" * 1024})])
def test_a_context_is_a_json_object_of_at_most_1024_characters(
    kms: Ask, key: str, refused: Refused, context: str
) -> None:
    with refused("InvalidParameter"):
        kms("Encrypt", KeyId=key, Plaintext=PLAIN, EncryptionContext=context)


def test_rotation_changes_new_ciphertexts_only(kms: Ask, key: str, tencent_cloud: Cloud) -> None:
    old = kms("Encrypt", KeyId=key, Plaintext=PLAIN)["CiphertextBlob"]
    tencent_cloud.rotate_key(key)
    new = kms("Encrypt", KeyId=key, Plaintext=PLAIN)["CiphertextBlob"]
    assert old.split("-k-")[0] != new.split("-k-")[0]
    assert [kms("Decrypt", CiphertextBlob=blob)["Plaintext"] for blob in (old, new)] == [PLAIN, PLAIN]


def test_scheduled_rotation_happens_and_comes_again(kms: Ask, key: str, tencent_clock: TestClock) -> None:
    assert kms("GetKeyRotationStatus", KeyId=key)["KeyRotationEnabled"] is False
    kms("EnableKeyRotation", KeyId=key, RotateDays=7)
    assert kms("GetKeyRotationStatus", KeyId=key)["KeyRotationEnabled"] is True
    blob = kms("Encrypt", KeyId=key, Plaintext=PLAIN)["CiphertextBlob"]
    for _ in range(2):
        assert kms("ReEncrypt", CiphertextBlob=blob)["ReEncrypted"] is False
        tencent_clock.shift(7 * DAY_S)
        renewed = kms("ReEncrypt", CiphertextBlob=blob)
        assert renewed["ReEncrypted"] is True
        blob = renewed["CiphertextBlob"]
        assert kms("Decrypt", CiphertextBlob=blob)["Plaintext"] == PLAIN
    kms("DisableKeyRotation", KeyId=key)
    tencent_clock.shift(7 * DAY_S)
    assert kms("ReEncrypt", CiphertextBlob=blob)["ReEncrypted"] is False


@pytest.mark.parametrize("days", [6, 366, -1])
def test_rotation_comes_every_7_to_365_days(kms: Ask, key: str, refused: Refused, days: int) -> None:
    with refused("InvalidParameter"):
        kms("EnableKeyRotation", KeyId=key, RotateDays=days)


def test_reencryption_moves_to_another_key_or_context(kms: Ask, key: str, refused: Refused) -> None:
    other = kms("CreateKey", Alias="other")["KeyId"]
    blob = kms("Encrypt", KeyId=key, Plaintext=PLAIN, EncryptionContext='{"a":"1"}')["CiphertextBlob"]
    moved = kms(
        "ReEncrypt",
        CiphertextBlob=blob,
        DestinationKeyId=other,
        SourceEncryptionContext='{"a":"1"}',
        DestinationEncryptionContext='{"a":"2"}',
    )
    assert (moved["SourceKeyId"], moved["KeyId"], moved["ReEncrypted"]) == (key, other, True)
    opened = kms("Decrypt", CiphertextBlob=moved["CiphertextBlob"], EncryptionContext='{"a":"2"}')
    assert (opened["KeyId"], opened["Plaintext"]) == (other, PLAIN)
    same = kms(
        "ReEncrypt",
        CiphertextBlob=blob,
        SourceEncryptionContext='{"a":"1"}',
        DestinationEncryptionContext='{"a":"1"}',
    )
    assert (same["ReEncrypted"], same["CiphertextBlob"]) == (False, blob)
    with refused(BAD_CIPHERTEXT):
        kms("ReEncrypt", CiphertextBlob=blob)
    with refused(NOT_FOUND):
        kms("ReEncrypt", CiphertextBlob=blob, SourceEncryptionContext='{"a":"1"}', DestinationKeyId=NOBODY)


EXTRA: dict[str, dict[str, Any]] = {
    "Encrypt": {"Plaintext": PLAIN},
    "GenerateDataKey": {"KeySpec": "AES_256"},
    "ScheduleKeyDeletion": {"PendingWindowInDays": 7},
}
OK = ""
STATE = "ResourceUnavailable.CmkStateNotSupport"
TABLE = {  # action: (Enabled, Disabled, PendingDelete)
    "DescribeKey": (OK, OK, OK),
    "EnableKey": (OK, OK, STATE),
    "DisableKey": (OK, OK, STATE),
    "Encrypt": (OK, DISABLED, DISABLED),
    "Decrypt": (OK, DISABLED, DISABLED),
    "ReEncrypt": (OK, DISABLED, DISABLED),
    "GenerateDataKey": (OK, DISABLED, "ResourceUnavailable.KeyPendingDelete"),
    "ScheduleKeyDeletion": ("ResourceUnavailable.CmkShouldBeDisabled", OK, STATE),
    "CancelKeyDeletion": (STATE, STATE, OK),
    "EnableKeyRotation": (OK, DISABLED, DISABLED),
    "DisableKeyRotation": (OK, OK, OK),
    "GetKeyRotationStatus": (OK, OK, OK),
}


@pytest.mark.parametrize("action", TABLE)
@pytest.mark.parametrize("column", [0, 1, 2], ids=["Enabled", "Disabled", "PendingDelete"])
def test_each_action_in_each_state(kms: Ask, key: str, refused: Refused, action: str, column: int) -> None:
    blob = kms("Encrypt", KeyId=key, Plaintext=PLAIN)["CiphertextBlob"]
    bring(kms, key, ("Enabled", "Disabled", "PendingDelete")[column])
    members: dict[str, Any] = {"KeyId": key}
    if action in ("Decrypt", "ReEncrypt"):
        members = {"CiphertextBlob": blob}
    members |= EXTRA.get(action, {})
    expected = TABLE[action][column]
    if expected == OK:
        kms(action, **members)
        return
    with refused(expected):
        kms(action, **members)


@pytest.mark.parametrize("action", [action for action in TABLE if action not in ("Decrypt", "ReEncrypt")])
def test_a_key_must_exist_and_its_id_be_well_formed(kms: Ask, refused: Refused, action: str) -> None:
    members = EXTRA.get(action, {})
    for key_id, code in ((NOBODY, NOT_FOUND), ("ck", "InvalidParameterValue.InvalidKeyId")):
        with refused(code):
            kms(action, KeyId=key_id, **members)


def test_a_deletion_can_be_cancelled_until_its_time(kms: Ask, key: str, tencent_clock: TestClock) -> None:
    blob = kms("Encrypt", KeyId=key, Plaintext=PLAIN)["CiphertextBlob"]
    kms("DisableKey", KeyId=key)
    when = kms("ScheduleKeyDeletion", KeyId=key, PendingWindowInDays=30)["DeletionDate"]
    assert when == int(tencent_clock.now()) + 30 * DAY_S
    tencent_clock.shift(30 * DAY_S - 1)
    kms("CancelKeyDeletion", KeyId=key)
    seen = kms("DescribeKey", KeyId=key)["KeyMetadata"]
    assert (seen["KeyState"], seen["DeletionDate"]) == ("Disabled", 0)
    kms("EnableKey", KeyId=key)
    assert kms("Decrypt", CiphertextBlob=blob)["Plaintext"] == PLAIN


def test_a_deletion_is_final_at_its_time(
    kms: Ask, key: str, refused: Refused, tencent_clock: TestClock, tencent_cloud: Cloud
) -> None:
    blob = kms("Encrypt", KeyId=key, Plaintext=PLAIN)["CiphertextBlob"]
    bring(kms, key, "PendingDelete")
    tencent_clock.shift(7 * DAY_S)
    for action, members in (("DescribeKey", {"KeyId": key}), ("Decrypt", {"CiphertextBlob": blob})):
        with refused(NOT_FOUND):
            kms(action, **members)
    assert tencent_cloud._store.count("key_material", key) == 0  # the refusal that told us destroyed it for good
    assert kms("GetServiceStatus")["CmkUserCount"] == 0
    kms("CreateKey", Alias="ck")


@pytest.mark.parametrize("days", [6, 31])
def test_a_deletion_waits_7_to_30_days(kms: Ask, key: str, refused: Refused, days: int) -> None:
    bring(kms, key, "Disabled")
    with refused("InvalidParameter.InvalidPendingWindowInDays"):
        kms("ScheduleKeyDeletion", KeyId=key, PendingWindowInDays=days)


@pytest.mark.parametrize("alias", ["", "-a", "kms-a", "KMS-a", "a b", "a" * 61, "密"])
def test_a_bad_alias_is_refused(kms: Ask, refused: Refused, alias: str) -> None:
    with refused("InvalidParameterValue.InvalidAlias"):
        kms("CreateKey", Alias=alias)


def test_a_key_has_limits_of_its_own(kms: Ask, key: str, tencent_cloud: Cloud, refused: Refused) -> None:
    with refused("InvalidParameterValue.AliasAlreadyExists"):
        kms("CreateKey", Alias="ck")
    with refused("InvalidParameterValue.InvalidKeyUsage"):
        kms("CreateKey", Alias="b", KeyUsage="ASYMMETRIC_DECRYPT_RSA_2048")
    with refused("InvalidParameterValue.InvalidType"):
        kms("CreateKey", Alias="b", Type=2)
    with refused("InvalidParameter"):
        kms("CreateKey", Alias="b", Description="x" * 1025)
    for number in range(kms("GetServiceStatus")["CmkLimit"] - 1):
        tencent_cloud.call("kms", "CreateKey", Alias=f"k{number}")
    with refused("LimitExceeded.CmkLimitExceeded"):
        kms("CreateKey", Alias="one-more")


def test_a_key_is_described_alone_and_in_batches(kms: Ask, key: str, refused: Refused) -> None:
    other = kms("CreateKey", Alias="other", Description="spare")["KeyId"]
    batch = kms("DescribeKeys", KeyIds=[other, key])["KeyMetadatas"]
    assert [row["KeyId"] for row in batch] == [other, key]
    assert batch[0] == kms("DescribeKey", KeyId=other)["KeyMetadata"]
    assert (batch[0]["Alias"], batch[0]["Description"], batch[0]["Owner"]) == ("other", "spare", "user")
    with refused(NOT_FOUND):
        kms("DescribeKeys", KeyIds=[key, NOBODY])
    for wrong in ([], [key] * 101):
        with refused("InvalidParameter"):
            kms("DescribeKeys", KeyIds=wrong)


def test_a_list_of_keys_is_paged_and_leaves_out_what_waits_for_deletion(kms: Ask, refused: Refused) -> None:
    made = [kms("CreateKey", Alias=f"k{number}")["KeyId"] for number in range(12)]
    bring(kms, made[0], "PendingDelete")
    bring(kms, made[1], "Disabled")
    page = kms("ListKeys")
    assert (page["TotalCount"], len(page["Keys"])) == (11, 10)
    rest = kms("ListKeys", Offset=10, Limit=200)["Keys"]
    assert [row["KeyId"] for row in [*page["Keys"], *rest]] == made[:0:-1]
    assert kms("ListKeys", Role=1)["TotalCount"] == 0
    for wrong in ({"Limit": 201}, {"Offset": -1}, {"Limit": -1}):
        with refused("InvalidParameter"):
            kms("ListKeys", **wrong)


def test_what_is_not_emulated_is_refused(kms: Ask, key: str, refused: Refused) -> None:
    blob = kms("Encrypt", KeyId=key, Plaintext=PLAIN)["CiphertextBlob"]
    with refused("InvalidParameter"):
        kms("GenerateDataKey", KeyId=key, KeySpec="AES_256", IsHostedByKms=1)
    with refused("InvalidParameter"):
        kms("Decrypt", CiphertextBlob=blob, EncryptionPublicKey="pem")
