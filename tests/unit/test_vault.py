"""Sealed values open in their own place and nowhere else; the real KMS client against the emulated KMS."""

from __future__ import annotations

import json
import os
from base64 import b64encode
from collections.abc import Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from consumer_keys.cloud.kms import Kms
from consumer_keys.errors import SealBroken, Unavailable
from consumer_keys.secret import Secret
from consumer_keys.vault import PLAINTEXT_KEYS_MAX, PLAINTEXT_SECONDS_MAX, USES_MAX, DataKey, Place, Vault, _message_key
from tencent_emulator.cloud import Cloud
from tencent_emulator.pytest_plugin import REGION, SECRET_ID, SECRET_KEY, TestClock
from tencent_emulator.server import Server

PLACE = Place("default", "secret-00000000000001", "value")
VALUE = b"Jx8Rr1vQ0ZkT4mYbW2nL7cHs9EoUaGfD"
HEAD_BYTES, TAG_BYTES = 3 + 16 + 32 + 12 + 32, 16


class Keeper:
    """Stored data keys and vaults that share them, as instances share the database."""

    def __init__(self, cloud: Cloud, kms: Kms, kms_key_id: str) -> None:
        self.cloud, self.kms, self.kms_key_id = cloud, kms, kms_key_id
        self.stored: dict[str, DataKey] = {}

    def vault(self, **other: Any) -> Vault:
        """A fresh instance: nothing in memory yet."""
        options: dict[str, Any] = {"environment": "prod", "purpose": "values"}
        return Vault(
            self.kms, self.kms_key_id, add_data_key=lambda key: self.stored.update({key.data_key_id: key}),
            find_data_key=self.stored.get, **options | other,
        )  # fmt: skip

    def wrap(self, data_key: bytes, ident: str, purpose: str = "values", environment: str = "prod") -> DataKey:
        """A plaintext wrapped by KMS as the data key of this id, as somebody with the right to encrypt could."""
        context = self.vault(purpose=purpose, environment=environment).context(ident)
        given = {"KeyId": self.kms_key_id, "Plaintext": b64encode(data_key).decode(), "EncryptionContext": context}
        blob = self.cloud.call("kms", "Encrypt", **given)["CiphertextBlob"]
        self.stored[ident] = DataKey(ident, purpose, self.kms_key_id, blob, context)
        return self.stored[ident]

    def unwrap(self, ident: str) -> bytes:
        """The plaintext of a stored data key."""
        return self.kms.decrypt(self.stored[ident].blob, self.stored[ident].context)

    def actions(self) -> list[str]:
        """What KMS was asked since the last time."""
        asked = [call.action for call in self.cloud.calls]
        self.cloud.clear_calls()
        return asked


@pytest.fixture
def keeper(tencent_cloud: Cloud, tencent_server: Server) -> Iterator[Keeper]:
    key_id = tencent_cloud.call("kms", "CreateKey", Alias="values")["KeyId"]
    kms = Kms(lambda: (SECRET_ID, SECRET_KEY, None), REGION, tencent_server.endpoint)
    tencent_cloud.clear_calls()
    yield Keeper(tencent_cloud, kms, key_id)
    kms.close()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(st.binary(max_size=600), st.text(max_size=20), st.text(max_size=20))
def test_what_was_sealed_opens_in_its_place(keeper: Keeper, value: bytes, gateway: str, owner: str) -> None:
    place = Place(gateway.encode("utf-8", "replace").decode(), owner.encode("utf-8", "replace").decode(), "value")
    vault = keeper.vault()
    sealed, data_key_id = vault.seal(place, value)
    assert vault.open(place, sealed) == Secret(value)
    assert keeper.vault().open(place, sealed) == Secret(value)
    assert data_key_id in keeper.stored
    assert len(sealed) == HEAD_BYTES + len(value) + TAG_BYTES


def test_every_flipped_bit_breaks_the_seal(keeper: Keeper) -> None:
    vault = keeper.vault()
    sealed, _ = vault.seal(PLACE, VALUE)
    for position in range(len(sealed)):
        for bit in range(8):
            flipped = sealed[:position] + bytes([sealed[position] ^ 1 << bit]) + sealed[position + 1 :]
            with pytest.raises(SealBroken):
                vault.open(PLACE, flipped)


def test_every_cut_and_any_byte_behind_breaks_the_seal(keeper: Keeper) -> None:
    vault = keeper.vault()
    sealed, _ = vault.seal(PLACE, VALUE)
    for length in range(len(sealed)):
        with pytest.raises(SealBroken):
            vault.open(PLACE, sealed[:length])
    for tail in (b"\x00", b"\n", sealed):
        with pytest.raises(SealBroken):
            vault.open(PLACE, sealed + tail)


@pytest.mark.parametrize(
    "place",
    [
        PLACE._replace(gateway_id="other"), PLACE._replace(owner_id="secret-00000000000002"),
        PLACE._replace(field="secret"), PLACE._replace(gateway_id="defaults", owner_id="ecret-00000000000001"),
        PLACE._replace(owner_id=PLACE.owner_id + "v", field="alue"), Place(PLACE.owner_id, PLACE.gateway_id, "value"),
    ],
)  # fmt: skip
def test_a_sealed_value_does_not_open_in_another_place(keeper: Keeper, place: Place) -> None:
    vault = keeper.vault()
    sealed, _ = vault.seal(PLACE, VALUE)
    with pytest.raises(SealBroken):
        vault.open(place, sealed)


@pytest.mark.parametrize("other", [{"environment": "test"}, {"purpose": "operators"}])
def test_a_sealed_value_does_not_open_in_another_environment_or_for_another_purpose(
    keeper: Keeper, other: dict[str, str]
) -> None:
    sealed, _ = keeper.vault().seal(PLACE, VALUE)
    with pytest.raises(SealBroken):
        keeper.vault(**other).open(PLACE, sealed)


def test_a_data_key_swapped_in_the_store_opens_nothing(keeper: Keeper) -> None:
    one, two = keeper.vault(), keeper.vault()
    sealed, ident = one.seal(PLACE, VALUE)
    _, other = two.seal(PLACE, VALUE)
    assert ident != other
    # KMS refuses a blob under another context, whatever the store says that its context is.
    keeper.stored[ident] = keeper.stored[ident]._replace(blob=keeper.stored[other].blob)
    for context in (keeper.stored[ident].context, keeper.stored[other].context):
        keeper.stored[ident] = keeper.stored[ident]._replace(context=context)
        with pytest.raises(SealBroken, match="unwrap"):
            keeper.vault().open(PLACE, sealed)
    keeper.stored[ident] = keeper.stored[ident]._replace(blob="no blob at all")
    with pytest.raises(SealBroken, match="unwrap"):
        keeper.vault().open(PLACE, sealed)


def test_kms_binds_a_data_key_to_app_environment_purpose_and_id_and_to_nothing_else(keeper: Keeper) -> None:
    sealed, ident = keeper.vault().seal(PLACE, VALUE)
    fields = {"app": "consumer-keys", "dek": ident, "env": "prod", "purpose": "values"}
    exact = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    blob = keeper.stored[ident].blob
    # KMS compares it as text, so what it got is what opens the blob.
    assert len(keeper.kms.decrypt(blob, exact)) == 32
    for other in ("{}", json.dumps(fields), *(exact.replace(f'"{value}"', '"x"') for value in fields.values())):
        with pytest.raises(SealBroken):
            keeper.kms.decrypt(blob, other)
    # And it is asked for that, not for what the store says.
    keeper.stored[ident] = keeper.stored[ident]._replace(context="{}")
    assert keeper.vault().open(PLACE, sealed) == Secret(VALUE)


def test_the_same_data_key_under_another_id_opens_nothing(keeper: Keeper) -> None:
    sealed, ident = keeper.vault().seal(PLACE, VALUE)
    other = os.urandom(16).hex()
    keeper.wrap(keeper.unwrap(ident), other)
    assert keeper.vault()._opening_key(other) == keeper.vault()._opening_key(ident), "only the id differs"
    with pytest.raises(SealBroken, match="commitment"):
        keeper.vault().open(PLACE, sealed[:3] + bytes.fromhex(other) + sealed[19:])


@pytest.mark.parametrize("other", [{"environment": "test"}, {"purpose": "operators"}])
def test_the_same_data_key_under_the_same_id_opens_nothing_of_another_environment_or_purpose(
    keeper: Keeper, other: dict[str, str]
) -> None:
    sealed, ident = keeper.vault().seal(PLACE, VALUE)
    data_key = keeper.unwrap(ident)
    keeper.wrap(data_key, ident, **other)
    assert keeper.vault(**other)._opening_key(ident) == data_key, "nothing else stands in the way"
    with pytest.raises(SealBroken, match="commitment"):
        keeper.vault(**other).open(PLACE, sealed)


def test_a_data_key_that_is_stored_for_another_purpose_opens_nothing_and_kms_is_not_asked(keeper: Keeper) -> None:
    sealed, ident = keeper.vault().seal(PLACE, VALUE)
    keeper.stored[ident] = keeper.stored[ident]._replace(purpose="operators")
    keeper.actions()
    with pytest.raises(SealBroken, match="not known"):
        keeper.vault().open(PLACE, sealed)
    assert keeper.actions() == []


def test_a_sealed_value_that_names_another_data_key_does_not_open(keeper: Keeper) -> None:
    one, two = keeper.vault(), keeper.vault()
    sealed, _ = one.seal(PLACE, VALUE)
    _, other = two.seal(PLACE, VALUE)
    with pytest.raises(SealBroken):
        keeper.vault().open(PLACE, sealed[:3] + bytes.fromhex(other) + sealed[19:])


def test_a_data_key_that_is_not_stored_opens_nothing(keeper: Keeper) -> None:
    sealed, _ = keeper.vault().seal(PLACE, VALUE)
    keeper.stored.clear()
    with pytest.raises(SealBroken):
        keeper.vault().open(PLACE, sealed)


def test_the_data_key_is_stored_before_it_is_used(keeper: Keeper) -> None:
    def fail(key: DataKey) -> None:
        raise Unavailable("DependencyUnavailable", "store", "insert", "down")

    vault = Vault(
        keeper.kms, keeper.kms_key_id, environment="prod", purpose="values", add_data_key=fail,
        find_data_key=keeper.stored.get,
    )  # fmt: skip
    for _ in range(2):
        with pytest.raises(Unavailable):
            vault.seal(PLACE, VALUE)


def test_sealing_never_asks_kms_to_decrypt_and_reuses_its_data_key(keeper: Keeper) -> None:
    vault = keeper.vault()
    for _ in range(20):
        vault.seal(PLACE, VALUE)
    assert keeper.actions() == ["GenerateDataKey"]
    keeper.vault().seal(PLACE, VALUE)
    assert keeper.actions() == ["GenerateDataKey"]


def test_the_instance_that_sealed_opens_without_kms_and_another_asks_once(keeper: Keeper) -> None:
    vault, other = keeper.vault(), keeper.vault()
    sealed, _ = vault.seal(PLACE, VALUE)
    keeper.actions()
    vault.open(PLACE, sealed)
    assert keeper.actions() == []
    other.open(PLACE, sealed)
    other.open(PLACE, sealed)
    assert keeper.actions() == ["Decrypt"]


def test_plaintext_data_keys_are_forgotten_after_15_minutes(tencent_clock: TestClock, keeper: Keeper) -> None:
    vault, other = keeper.vault(), keeper.vault()
    sealed, _ = vault.seal(PLACE, VALUE)
    other.open(PLACE, sealed)
    tencent_clock.shift(PLAINTEXT_SECONDS_MAX - 1)
    keeper.actions()
    assert vault.open(PLACE, sealed) == other.open(PLACE, sealed) == Secret(VALUE)
    vault.seal(PLACE, VALUE)
    assert keeper.actions() == []
    tencent_clock.shift(1)
    assert vault.open(PLACE, sealed) == other.open(PLACE, sealed) == Secret(VALUE)
    assert keeper.actions() == ["Decrypt", "Decrypt"]
    vault.seal(PLACE, VALUE)
    assert keeper.actions() == ["GenerateDataKey"]
    assert len(keeper.stored) == 2


def test_a_data_key_is_used_a_limited_number_of_times(keeper: Keeper) -> None:
    assert USES_MAX <= 2**20
    vault = keeper.vault()
    _, first = vault.seal(PLACE, VALUE)
    assert vault._current is not None
    assert vault._current[3] == 1
    vault._current = (*vault._current[:3], USES_MAX - 1)  # as after so many seals
    assert vault.seal(PLACE, VALUE)[1] == first
    keeper.actions()
    assert vault.seal(PLACE, VALUE)[1] != first
    assert keeper.actions() == ["GenerateDataKey"]


def test_no_more_than_64_opened_data_keys_stay_in_memory(keeper: Keeper) -> None:
    sealed = [keeper.vault().seal(PLACE, VALUE)[0] for _ in range(PLAINTEXT_KEYS_MAX + 1)]
    vault = keeper.vault()
    for one in sealed:
        vault.open(PLACE, one)
    keeper.actions()
    vault.open(PLACE, sealed[-1])
    assert keeper.actions() == []
    vault.open(PLACE, sealed[0])
    assert keeper.actions() == ["Decrypt"]


def test_equal_values_look_different_and_show_nothing(keeper: Keeper) -> None:
    vault = keeper.vault()
    sealed = {vault.seal(PLACE, VALUE)[0] for _ in range(50)}
    assert len(sealed) == 50
    for one in sealed:
        assert not any(VALUE[start : start + 6] in one for start in range(len(VALUE) - 5))
    assert not any(VALUE.decode() in str(key) for key in keeper.stored.values())


def test_an_outage_of_kms_is_unavailable_and_not_a_broken_seal(keeper: Keeper) -> None:
    sealed, _ = keeper.vault().seal(PLACE, VALUE)
    with keeper.cloud.outage("kms"):
        with pytest.raises(Unavailable):
            keeper.vault().open(PLACE, sealed)
        with pytest.raises(Unavailable):
            keeper.vault().seal(PLACE, VALUE)
    assert keeper.vault().open(PLACE, sealed) == Secret(VALUE)


def test_a_disabled_kms_key_opens_and_seals_nothing(keeper: Keeper) -> None:
    sealed, _ = keeper.vault().seal(PLACE, VALUE)
    keeper.cloud.call("kms", "DisableKey", KeyId=keeper.kms_key_id)
    with pytest.raises(Unavailable):
        keeper.vault().open(PLACE, sealed)
    with pytest.raises(Unavailable):
        keeper.vault().seal(PLACE, VALUE)


def test_values_sealed_before_a_rotation_of_the_kms_key_still_open(keeper: Keeper) -> None:
    sealed, _ = keeper.vault().seal(PLACE, VALUE)
    keeper.cloud.rotate_key(keeper.kms_key_id)
    assert keeper.vault().open(PLACE, sealed) == Secret(VALUE)


def test_a_clock_that_goes_back_ends_the_use_of_a_data_key(tencent_clock: TestClock, keeper: Keeper) -> None:
    vault = keeper.vault()
    first = vault.seal(PLACE, VALUE)[1]
    tencent_clock.shift(-1)
    assert vault.seal(PLACE, VALUE)[1] != first
    assert PLAINTEXT_SECONDS_MAX <= 30 * 86_400, "a data key never seals for longer than that"


def test_plaintext_that_is_too_old_is_gone_and_not_only_unused(tencent_clock: TestClock, keeper: Keeper) -> None:
    vault, other = keeper.vault(), keeper.vault()
    sealed, _ = other.seal(PLACE, VALUE)
    vault.open(PLACE, sealed)
    vault.seal(PLACE, VALUE)
    tencent_clock.shift(PLAINTEXT_SECONDS_MAX)
    with keeper.cloud.outage("kms"), pytest.raises(Unavailable):
        vault.open(PLACE, sealed)
    assert vault._current is None
    assert not vault._opened


def test_the_data_key_used_longest_ago_makes_room(keeper: Keeper) -> None:
    sealed = [keeper.vault().seal(PLACE, VALUE)[0] for _ in range(PLAINTEXT_KEYS_MAX + 1)]
    vault = keeper.vault()
    for one in (*sealed[:-1], sealed[0], sealed[-1]):
        vault.open(PLACE, one)
    keeper.actions()
    vault.open(PLACE, sealed[0])  # opened again meanwhile, so it stayed
    assert keeper.actions() == []
    vault.open(PLACE, sealed[1])
    assert keeper.actions() == ["Decrypt"]


# AES-GCM does not commit to its key: one ciphertext with one tag can be genuine under two keys (Len, Grubbs,
# Ristenpart: Partitioning Oracle Attacks, USENIX Security 2021, section 3.1).

POLYNOMIAL = 0xE1 << 120


def times(left: int, right: int) -> int:
    """Multiplication in GF(2^128) as GHASH orders its bits (NIST SP 800-38D, 6.3)."""
    product = 0
    for bit in range(127, -1, -1):
        if left >> bit & 1:
            product ^= right
        right = right >> 1 ^ (POLYNOMIAL if right & 1 else 0)
    return product


def inverse(number: int) -> int:
    result, power = 1 << 127, number
    for _ in range(127):
        power = times(power, power)
        result = times(result, power)
    return result


def block(key: bytes, data: bytes) -> int:
    encryptor = Cipher(AES(key), ECB()).encryptor()
    return int.from_bytes(encryptor.update(data) + encryptor.finalize(), "big")


def mask_of_tag(key: bytes, nonce: bytes, associated: bytes, ciphertext: bytes) -> tuple[int, int]:
    """(the tag, the hash key) of any ciphertext under a key."""
    hash_key, tag = block(key, bytes(16)), 0
    lengths = (8 * len(associated)).to_bytes(8, "big") + (8 * len(ciphertext)).to_bytes(8, "big")
    for part in (associated, ciphertext):
        for start in range(0, len(part), 16):
            tag = times(tag ^ int.from_bytes(part[start : start + 16].ljust(16, b"\0"), "big"), hash_key)
    tag = times(tag ^ int.from_bytes(lengths, "big"), hash_key)
    return tag ^ block(key, nonce + b"\0\0\0\1"), hash_key


def collision(one: bytes, two: bytes, nonce: bytes, associated: bytes) -> bytes:
    """Ciphertext and tag that AES-GCM accepts under both keys."""
    first, last = os.urandom(16), bytes(16)
    (tag_one, hash_one), (tag_two, hash_two) = (mask_of_tag(k, nonce, associated, first + last) for k in (one, two))
    # The last block goes in times the square of the hash key, so one linear equation makes both tags equal.
    squares = times(hash_one, hash_one) ^ times(hash_two, hash_two)
    chosen = times(tag_one ^ tag_two, inverse(squares))
    last = chosen.to_bytes(16, "big")
    tag = tag_one ^ times(chosen, times(hash_one, hash_one))
    return first + last + tag.to_bytes(16, "big")


def test_a_ciphertext_made_for_two_keys_opens_under_the_one_it_commits_to_alone(keeper: Keeper) -> None:
    sealed, ident = keeper.vault().seal(PLACE, VALUE)
    _, other = keeper.vault().seal(PLACE, VALUE)
    data_keys = [keeper.unwrap(name) for name in (ident, other)]
    head, salt, nonce = sealed[:19], sealed[19:51], sealed[51:63]
    associated = keeper.vault()._associated(PLACE, ident)
    (key_one, mark_one), (key_two, _) = (_message_key(data_key, salt, associated) for data_key in data_keys)
    twofold = collision(key_one, key_two, nonce, associated)
    for key in (key_one, key_two):
        assert len(AESGCM(key).decrypt(nonce, twofold, associated)) == 32, "AES-GCM alone accepts it under both"
    forged = head + salt + nonce + mark_one + twofold
    assert len(keeper.vault().open(PLACE, forged)) == 32
    # Whoever can write the table of data keys, and may ask KMS to encrypt, puts the other one under the same id.
    keeper.wrap(data_keys[1], ident)
    with pytest.raises(SealBroken, match="commitment"):
        keeper.vault().open(PLACE, forged)
