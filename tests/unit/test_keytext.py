"""Key values as text: what is made here, what can be a key at all, and the digests it is found by."""

from __future__ import annotations

import math
import os
import random
from collections import Counter
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st

from consumer_keys import keytext
from consumer_keys.keytext import (
    BASE62,
    BODY_CHARS,
    CHECKSUM_CHARS,
    LookupDigester,
    checksum,
    derive_key,
    foreign_fault,
    is_well_formed,
    lookup_digest,
    make_system_value,
    masked,
    new_id,
    random_base62,
)

PREFIX = b"ck"
TOKEN68 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~+/="  # RFC 9110 section 11.2
# 0.1 % of uniform samples exceed this with 61 degrees of freedom.
CHI_SQUARE_61_MAX = 100.9


def seeded(seed: int = 1) -> Callable[[int], bytes]:
    return random.Random(seed).randbytes


def test_a_system_value_is_prefix_32_base62_characters_and_the_checksum_of_both() -> None:
    value = make_system_value("ck", seeded())
    assert len(value) == 3 + 32 + 6
    assert value.startswith("ck_")
    assert set(value[3:]) <= set(BASE62)
    assert value[-6:] == checksum(value[:-6])
    assert is_well_formed(value.encode(), PREFIX)


def test_the_checksum_is_crc32_in_base62_with_leading_zeros() -> None:
    # CRC-32 of "123456789" is 0xCBF43926, the check value of the algorithm's definition.
    number, digits = 0xCBF43926, ""
    for _ in range(6):
        number, digit = divmod(number, 62)
        digits = BASE62[digit] + digits
    assert checksum("123456789") == digits
    assert checksum("") == "000000"


def test_a_million_values_are_all_different() -> None:
    """As they are made for keys, without prefix and checksum, which follow from the rest."""
    assert make_system_value("ck", seeded())[3:-CHECKSUM_CHARS] == random_base62(BODY_CHARS, seeded())
    assert len({random_base62(BODY_CHARS, os.urandom) for _ in range(1_000_000)}) == 1_000_000


def test_a_value_carries_190_random_bits() -> None:
    assert BODY_CHARS * math.log2(len(BASE62)) > 190
    assert len(set(BASE62)) == len(BASE62) == 62


def test_bytes_from_248_on_are_rejected_so_that_no_character_is_favoured() -> None:
    pieces = iter([bytes(range(248, 256)), bytes([247, 248, 0, 255, 61, 62, 1, 2])])
    assert random_base62(4, lambda size: next(pieces)) == "z0z0"


def chi_square(text: str) -> float:
    """How far the counts of characters are from uniform ones."""
    counts, expected = Counter(text), len(text) / 62
    assert set(counts) == set(BASE62)
    return sum((count - expected) ** 2 / expected for count in counts.values())


def test_a_million_characters_are_uniform_at_each_place_of_a_value() -> None:
    random_bytes = seeded()
    values = [random_base62(BODY_CHARS, random_bytes) for _ in range(1_000_000 // BODY_CHARS)]
    assert chi_square("".join(values)) < CHI_SQUARE_61_MAX
    for place in (0, BODY_CHARS - 1):
        assert chi_square("".join(value[place] for value in values)) < CHI_SQUARE_61_MAX
    assert chi_square(random_base62(1_000_000, random_bytes)) < CHI_SQUARE_61_MAX


def test_plain_modulo_would_fail_the_same_test() -> None:
    """The guard above sees the bias that it is there for."""
    plain = seeded()(1_000_000).translate((BASE62 * 5)[:256].encode()).decode()
    assert chi_square(plain) > 10 * CHI_SQUARE_61_MAX


def test_every_single_substitution_behind_the_prefix_breaks_the_checksum() -> None:
    value = make_system_value("ck", seeded())
    for position in range(3, len(value)):
        for char in BASE62:
            if char != value[position]:
                assert not is_well_formed(f"{value[:position]}{char}{value[position + 1 :]}".encode(), PREFIX)


def test_every_transposition_of_neighbours_breaks_the_checksum() -> None:
    random_bytes = seeded()
    for value in (make_system_value("ck", random_bytes) for _ in range(300)):
        for position in range(3, len(value) - 1):
            left, right = value[position], value[position + 1]
            if left != right:
                swapped = f"{value[:position]}{right}{left}{value[position + 2 :]}"
                assert not is_well_formed(swapped.encode(), PREFIX)


@pytest.mark.parametrize(("length", "accepted"), [(0, False), (7, False), (8, True), (256, True), (257, False)])
def test_a_value_has_8_to_256_bytes(length: int, accepted: bool) -> None:
    assert is_well_formed(b"x" * length, PREFIX) is accepted
    assert (foreign_fault("x" * length, "ck") is None) is accepted


@pytest.mark.parametrize("byte", range(256))
def test_only_token68_bytes_can_stand_in_a_value(byte: int) -> None:
    value = b"abcdefgh" + bytes([byte])
    assert is_well_formed(value, PREFIX) is (byte in TOKEN68)
    assert (foreign_fault(value.decode("latin-1"), "ck") is None) is (byte in TOKEN68)


@given(st.text(min_size=8, max_size=20))
def test_any_text_is_judged_without_an_exception_and_never_repeated(text: str) -> None:
    fault = foreign_fault(text, "ck")
    assert (fault is None) == is_well_formed(text.encode("utf-8", "surrogatepass"), PREFIX) or text.startswith("ck_")
    assert fault is None or text not in fault


def test_text_with_a_lone_surrogate_is_refused_and_not_an_error() -> None:
    assert foreign_fault("abcdefgh\ud800", "ck") is not None


def test_the_reserved_prefix_needs_the_right_length_and_checksum() -> None:
    value = make_system_value("ck", seeded())
    assert not is_well_formed(value[:-1].encode(), PREFIX)
    assert not is_well_formed(f"{value}0".encode(), PREFIX)
    assert not is_well_formed(b"ck_abcdefgh", PREFIX)
    assert not is_well_formed(value.swapcase().replace("CK_", "ck_").encode(), PREFIX)
    # Under another prefix it is a value like any other, as the operator may bring any.
    assert is_well_formed(value[:-1].encode(), b"gw")
    assert is_well_formed(b"ckabcdefgh", PREFIX)


def test_a_custom_value_must_not_use_the_reserved_prefix_even_with_a_right_checksum() -> None:
    fault = foreign_fault(make_system_value("ck", seeded()), "ck")
    assert fault is not None
    assert "reserved" in fault


@given(st.text(BASE62, min_size=8, max_size=256))
def test_a_mask_shows_six_characters_at_most_and_never_half_of_the_value(value: str) -> None:
    shown = masked(value)
    if len(value) > 12:
        assert shown == f"{value[:3]}****{value[-3:]}"
    else:
        assert shown == "****"


@given(
    st.binary(min_size=32, max_size=32), st.text(BASE62 + "-_", min_size=1, max_size=64), st.text(BASE62, min_size=8)
)
def test_moving_the_border_between_gateway_and_value_changes_the_digest(key: bytes, gateway: str, value: str) -> None:
    digest = lookup_digest(key, gateway, value.encode())
    assert len(digest) == 32
    assert digest != lookup_digest(key, gateway + value[0], value[1:].encode())
    assert digest != lookup_digest(key, gateway[:-1], (gateway[-1] + value).encode())


def test_one_value_has_another_digest_in_every_gateway_and_under_every_key() -> None:
    value = b"one-value-for-all"
    digests = {lookup_digest(bytes([key]) * 32, gateway, value) for key in range(3) for gateway in ("a", "b", "ab")}
    assert len(digests) == 9


def test_values_that_share_a_long_beginning_have_different_digests() -> None:
    """A truncated cache key has let callers in as somebody else elsewhere."""
    start = "x" * 250
    digests = {lookup_digest(b"k" * 32, "default", f"{start}{number}".encode()) for number in range(1000)}
    assert len(digests) == 1000


@given(st.binary(min_size=1, max_size=64), st.text(BASE62, max_size=20))
def test_keys_are_derived_as_rfc_5869_says(root: bytes, purpose: str) -> None:
    reference = HKDF(SHA256(), 32, None, f"consumer-keys/{purpose}".encode()).derive(root)
    assert derive_key(root, purpose) == reference


def test_each_purpose_has_a_key_of_its_own() -> None:
    purposes = ("lookup", "manifest", "cursor", "operator")
    assert len({derive_key(b"r" * 32, purpose) for purpose in purposes}) == len(purposes)


def test_an_id_is_its_kind_and_14_hex_digits() -> None:
    assert new_id("secret", lambda size: bytes(range(size))) == "secret-00010203040506"


def test_the_alphabet_is_that_of_the_bearer_scheme() -> None:
    assert frozenset(TOKEN68) == keytext.TOKEN68


@given(st.binary(min_size=32, max_size=32), st.lists(st.tuples(st.text(max_size=64), st.binary(max_size=256))))
def test_the_fast_digester_equals_the_plain_digest(key: bytes, pairs: list[tuple[str, bytes]]) -> None:
    digester = LookupDigester(key)
    for gateway_id, value in pairs:
        if not any(0xD800 <= ord(char) <= 0xDFFF for char in gateway_id):
            assert digester(gateway_id, value) == lookup_digest(key, gateway_id, value)


def test_the_fast_digester_remembers_few_gateways() -> None:
    digester = LookupDigester(b"k" * 32)
    for number in range(1000):
        assert digester(str(number), b"value") == lookup_digest(b"k" * 32, str(number), b"value")
    assert len(digester._gateways) <= 64
