"""Which custom values are too easy to guess."""

from __future__ import annotations

import base64
import random
import string
import time
import uuid
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer_keys.keytext import TOKEN68, make_system_value
from consumer_keys.strength import custom_mask, estimated_bits, weakness
from tests.unit.weak_values import CLASSES, WORDS, weak_values

FLOOR = 40.0
WEAK = {
    "runs": "abcdefgh 12345678 87654321 abcdefghijklmnopqrstuvwxyz zyxwvutsrqponm ABCDEFGH12345678 a1b2c3d4e5f6",
    "keyboard walks": "qwertyuiop poiuytrewq asdfghjkl 1q2w3e4r5t q1w2e3r4t5y6 1qaz2wsx3edc zaq12wsx qazwsxedc "
    "qwerty123456 zxcvbnm123 qwer1234asdf",
    "repetitions": "aaaaaaaa xxxxxxxxxxxxxxxx ........ ======== abcabcabcabc testtest aabbccddee 112233445566 "
    "1111222233334444 abcdabcdabcdabcdabcd xK9fxK9fxK9fxK9f testtesttesttesttesttesttesttesttesttest",
    "few characters": "0101010101010101 0110100110010110 deadbeefdeadbeef ababbabaabba",
    "hexadecimal counting": "1234567890abcdef 0123456789abcdef0123456789abcdef",
    "digits only": "20240101 147258369 31415926535 2024-01-01-2024-01-01-2024-01-01-2024-01-01 19991231admin31121999",
    "documentation samples": "sk-1234567 sk-1234567890 sk-test-1234 your-api-key-here insert_your_key_here my-api-key "
    "test-key-123 example-key sk-xxxxxxxxxxxxxxxxxxxx api_key_123456 replace-me-please super-secret-password "
    "demo-key-demo-key hello-world-2024 Consumer-Key-1 ai-gateway-key",
    "common words": "password password123 Passw0rd123 p4ssw0rd pa55w0rd changeme changeme123 letmein123 admin1234 "
    "iloveyou2 monkey123 foobarbaz secret-key-1 adm1n-adm1n",
}
CORPUS = [(kind, value) for kind, values in WEAK.items() for value in values.split()]
FOREIGN = (
    "sk-ant-api03-Jx8Rr1vQ0ZkT4mYbW2nL7cHs9EoUaGfD5iXp",
    "sk-proj-Jx8Rr1vQ0ZkT4mYbW2nL7cHs9EoUaGfD5iXp",
    "ghp_Jx8Rr1vQ0ZkT4mYbW2nL7cHs9EoUaGfD5iXp",
    "gho_Jx8Rr1vQ0ZkT4mYbW2nL7cHs9EoUaGfD5iXp",
    "github_pat_11ABCDEFG0Jx8Rr1vQ0ZkT4mYbW2nL7cHs",
    "glpat-Jx8Rr1vQ0ZkT4mYbW2nL",
    "AKIDz8krbsJ5yKBZQpn74WFkmLPx3EXAMPLE",
    "AKIAIOSFODNN7EXAMPLE",
    "ASIAIOSFODNN7EXAMPLE",
    "AIzaSyJx8Rr1vQ0ZkT4mYbW2nL7cHs9EoUaGfD5",
    "xoxb-123456789012-Jx8Rr1vQ0ZkT4mYbW2nL",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.Jx8Rr1vQ0ZkT4mYbW2nL7cHs9EoUaGfD5iXp",
    "eyJhbGciOiJub25lIn0.eyJzdWIiOiIxMjM0In0.",
)
words_and_random = st.lists(
    st.sampled_from(WORDS) | st.text(string.ascii_letters + string.digits, max_size=6), min_size=2, max_size=5
).map("".join)


@pytest.mark.parametrize(("kind", "value"), CORPUS, ids=[value for _, value in CORPUS])
def test_guessable_values_are_refused(kind: str, value: str) -> None:
    assert weakness(value, FLOOR) is not None, f"{kind}: {estimated_bits(value):.1f} bits"


def test_ten_thousand_weak_values_are_refused() -> None:
    made = list(weak_values(10_000, seed=20_260_101))
    assert len({value for _, value in made}) == 10_000
    per_class = Counter(kind for kind, _ in made)
    assert len(per_class) == len(CLASSES)
    assert min(per_class.values()) >= 100
    passed = [(kind, value, round(estimated_bits(value), 1)) for kind, value in made if weakness(value, FLOOR) is None]
    assert passed == []


@pytest.mark.parametrize("value", FOREIGN)
def test_the_secret_of_another_vendor_is_refused_however_strong(value: str) -> None:
    reason = weakness(value, 0)
    assert reason is not None
    assert "form of" in reason


def test_ten_thousand_random_values_of_32_bytes_are_strong() -> None:
    random_bytes = random.Random(20_260_101).randbytes
    for _ in range(10_000):
        value = base64.urlsafe_b64encode(random_bytes(32)).rstrip(b"=").decode()
        assert weakness(value, 64) is None  # and so by the lower floor


def test_values_made_here_are_strong() -> None:
    random_bytes = random.Random(1).randbytes
    assert all(weakness(make_system_value("ck", random_bytes), 128) is None for _ in range(500))


def test_what_programs_make_is_strong() -> None:
    draw = random.Random(3)
    for _ in range(1_000):
        value = base64.urlsafe_b64encode(draw.randbytes(16)).rstrip(b"=").decode()
        assert weakness(value, 64) is None
        assert weakness(str(uuid.UUID(int=draw.getrandbits(128), version=4)), 64) is None
        assert weakness(draw.randbytes(16).hex(), 64) is None
        assert weakness(f"prod-{draw.randbytes(16).hex()}", 64) is None


def test_ten_random_letters_and_digits_are_enough() -> None:
    draw = random.Random(2)
    values = ["".join(draw.choices(string.ascii_letters + string.digits, k=10)) for _ in range(5_000)]
    refused = [value for value in values if weakness(value, FLOOR) is not None]
    # Now and then chance itself makes a pattern.
    assert len(refused) <= 5, refused


def test_a_word_in_a_strong_value_does_not_spoil_it() -> None:
    assert weakness("token-Jx8Rr1vQ0ZkT4mYbW2nL", FLOOR) is None
    assert weakness("gateway.prod.Jx8Rr1vQ0ZkT4m", 64) is None


@given(st.text(bytes(sorted(TOKEN68)).decode(), min_size=8, max_size=40) | words_and_random, st.integers(0, 64))
def test_a_mask_shows_six_characters_or_none_and_what_it_hides_reaches_the_floor(value: str, floor: int) -> None:
    shown = custom_mask(value, floor)
    if shown != "****":
        assert shown == f"{value[:3]}****{value[-3:]}"
        assert len(value) > 12
        assert estimated_bits(value[3:-3]) >= floor


def test_masks_of_random_values_of_fourteen_characters_show_their_ends() -> None:
    draw = random.Random(4)
    values = ["".join(draw.choices(string.ascii_letters + string.digits, k=14)) for _ in range(1_000)]
    assert sum(custom_mask(value, FLOOR) == "****" for value in values) < 50


@pytest.mark.parametrize("value", [value for _, value in CORPUS] + list(FOREIGN))
def test_the_reason_never_holds_the_value(value: str) -> None:
    reason = weakness(value, 300)
    assert reason is not None
    assert value not in reason


@given(st.text(bytes(sorted(TOKEN68)).decode(), min_size=8, max_size=256))
def test_every_possible_value_has_a_finite_estimate_below_its_length(value: str) -> None:
    assert 0 <= estimated_bits(value) <= len(value) * 6.1 + 4


@given(st.text(string.ascii_letters + string.digits, min_size=8, max_size=24))
def test_repeating_a_value_adds_little(value: str) -> None:
    # The first two characters of the repetition are not seen to repeat yet, and words may form where the copies meet.
    assert estimated_bits(value * 8) <= estimated_bits(value) + 4 + 40


def test_the_longest_hostile_value_is_judged_in_a_moment() -> None:
    started = time.process_time()
    for value in ("a" * 256, "ab" * 128, "key-" * 64, "eyJ" + "." * 253, "1q2w" * 64):
        weakness(value, FLOOR)
    assert time.process_time() - started < 0.5
