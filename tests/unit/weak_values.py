"""Values that are easy to guess, made at random from the patterns that people fall for; none is written out here."""

from __future__ import annotations

import random
import string
from collections.abc import Callable, Iterator

from consumer_keys.keytext import VALUE_BYTES_MAX, VALUE_BYTES_MIN

ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm", "1234567890")
# Down a column and on with the next one, and the same up and down.
COLUMNS = ("1qaz2wsx3edc4rfv5tgb6yhn7ujm", "qazwsxedcrfvtgbyhnujm", "1qazxsw23edcvfr45tgbnhy67ujm")
WORDS = (
    "password", "secret", "changeme", "letmein", "welcome", "admin", "default", "example", "sample", "dummy", "token",
    "bearer", "test", "demo", "foobar", "hello", "world", "master", "monkey", "dragon", "iloveyou", "root", "user",
    "login", "access", "tencent", "gateway", "openai", "consumer", "apikey", "super", "placeholder",
)  # fmt: skip
# Of documents and of samples of code.
STARTS = ("sk-", "sk_", "sk-test-", "pk_test_", "key-", "my-api-key-", "your-api-key-", "api_key_", "test-", "ck-", "")
ENDS = ("", "-here", "-key", "_token", "-example", "-1", "-test")
# The forms of other vendors' secrets; a number is so many random characters.
VENDORS: tuple[tuple[str | int, ...], ...] = (
    ("sk-ant-api03-", 93, "AA"), ("sk-proj-", 48), ("sk-svcacct-", 60), ("sk-admin-", 60), ("sk-", 20, "T3BlbkFJ", 20),
    ("sk-or-v1-", 64), ("gsk_", 52), ("hf_", 34), ("ghp_", 36), ("gho_", 36), ("ghs_", 36), ("ghu_", 36), ("ghr_", 76),
    ("github_pat_", 22, "_", 59), ("glpat-", 20), ("AKID", 32), ("LTAI", 20), ("AKIA", 16), ("ASIA", 16), ("AIza", 35),
    ("xoxb-", 11, "-", 12, "-", 24), ("xoxp-", 11, "-", 32), ("xapp-1-", 11, "-", 64), ("sk_live_", 24),
    ("rk_live_", 24), ("npm_", 36), ("pypi-AgEIcHlwaS5vcmc", 150), ("dop_v1_", 64), ("SG.", 22, ".", 43),
    ("eyJ", 17, ".eyJ", 40, ".", 43),
)  # fmt: skip
LEET = str.maketrans("oieast", "013457")
_BASE62 = string.ascii_letters + string.digits


def _run(draw: random.Random) -> str:
    """Part of an alphabet, up or down."""
    alphabet = draw.choice((string.ascii_lowercase, string.ascii_uppercase, string.digits, string.digits * 3))
    alphabet = alphabet if draw.random() < 0.6 else alphabet[::-1]
    start = draw.randrange(len(alphabet) - 4)
    return alphabet[start : start + draw.randint(4, 24)]


def runs(draw: random.Random) -> str:
    """Runs of letters and digits, one or several."""
    return draw.choice(("", "-", "_", ".")).join(_run(draw) for _ in range(draw.randint(1, 3)))


def walks(draw: random.Random) -> str:
    """Fingers along the keyboard."""
    parts = []
    for _ in range(draw.randint(1, 3)):
        row = draw.choice(ROWS + COLUMNS)
        row = row if draw.random() < 0.7 else row[::-1]
        start = draw.randrange(len(row) - 3)
        part = row[start : start + draw.randint(4, 16)]
        parts.append(part.upper() if draw.random() < 0.2 else part)
    return "".join(parts)


def zigzags(draw: random.Random) -> str:
    """Two rows in turn: 1q2w3e4r."""
    one, other = draw.sample(ROWS, 2)
    length, start = draw.randint(4, 7), draw.randrange(3)
    return "".join(a + b for a, b in zip(one[start : start + length], other[start : start + length], strict=False))


def blocks(draw: random.Random) -> str:
    """A few characters again and again."""
    block = "".join(draw.choices(_BASE62 + "-._~", k=draw.randint(1, 5)))
    return (block * VALUE_BYTES_MAX)[: draw.randint(8, 48)]


def doubled(draw: random.Random) -> str:
    """Each character of a run twice or more: aabbcc, 111222."""
    times = draw.randint(2, 4)
    return "".join(char * times for char in _run(draw)[:8])


def few_characters(draw: random.Random) -> str:
    """Two or three characters in any order."""
    return "".join(draw.choices(draw.sample(_BASE62, draw.choice((2, 2, 3))), k=draw.randint(8, 20)))


def digits(draw: random.Random) -> str:
    """Telephone numbers and the like."""
    return "".join(draw.choices(string.digits, k=draw.randint(8, 11)))


def dates(draw: random.Random) -> str:
    """A day, with something around it."""
    year, month, day = draw.randint(1950, 2035), draw.randint(1, 12), draw.randint(1, 28)
    mark = draw.choice(("", "-", ".", "/"))
    return f"{draw.choice((*WORDS, ''))}{draw.choice(('', '-', '_'))}{year}{mark}{month:02}{mark}{day:02}"


def samples(draw: random.Random) -> str:
    """What a manual shows in the place of a key."""
    filling = draw.choice((_run(draw), draw.choice("xXaA01") * draw.randint(6, 40), _word(draw)))
    return draw.choice(STARTS) + filling + draw.choice(ENDS)


def _word(draw: random.Random) -> str:
    word = draw.choice(WORDS)
    word = draw.choice((word, word, word.capitalize(), word.upper()))
    return word.translate(LEET) if draw.random() < 0.2 else word


def words(draw: random.Random) -> str:
    """Common words with digits behind them, in any spelling."""
    joint = draw.choice(("", "", "-", "_", "."))
    parts = [_word(draw) for _ in range(draw.randint(1, 3))]
    number = draw.choice((str(draw.randrange(10**4)), str(draw.randint(1950, 2035)), _run(draw)[:6], ""))
    return joint.join([*parts, number]) + draw.choice(("", "", "1", "="))


def vendors(draw: random.Random) -> str:
    """The secret of another vendor, as random as any."""
    parts = draw.choice(VENDORS)
    return "".join(part if isinstance(part, str) else "".join(draw.choices(_BASE62, k=part)) for part in parts)


CLASSES: tuple[Callable[[random.Random], str], ...] = (
    runs, walks, zigzags, blocks, doubled, few_characters, digits, dates, samples, words, vendors,
)  # fmt: skip


def weak_values(count: int, seed: int) -> Iterator[tuple[str, str]]:
    """(class, value) of this many different values, classes in turn, each value of a length that is allowed."""
    draw, seen = random.Random(seed), set[str]()
    number = 0
    while len(seen) < count:
        made = CLASSES[number % len(CLASSES)]
        number += 1
        value = made(draw)
        if VALUE_BYTES_MIN <= len(value) <= VALUE_BYTES_MAX and value not in seen:
            seen.add(value)
            yield made.__name__, value
