"""Is a custom key value too easy to guess? A judgement apart from its length and alphabet.

The estimate is deliberately simple: characters that continue a run, a keyboard walk or a repetition count for
nothing and a common word for little; the rest count log2 of the alphabet that they seem to be drawn from. NIST
SP 800-63B asks for throttling below 64 bits; the floor is a setting (`CUSTOM_VALUE_MIN_BITS`).
"""

from __future__ import annotations

import math
import re

_KEYBOARD = (
    "qwertyuiop", "asdfghjkl", "zxcvbnm", "1234567890", "qazwsxedcrfvtgbyhnujm", "1qaz2wsx3edc4rfv5tgb6yhn7ujm",
)  # fmt: skip
_COMMON = (
    "password", "passwort", "secret", "changeme", "letmein", "welcome", "admin", "administrator", "default",
    "example", "sample", "dummy", "consumer", "apikey", "api-key", "api_key", "token", "bearer", "test", "testing",
    "demo", "foobar", "hello", "world", "qwerty", "master", "monkey", "dragon", "iloveyou", "your", "insert", "replace",
    "here", "placeholder", "todo", "root", "user", "login", "access", "tencent", "gateway", "openai",
    "please", "super", "key",
)  # fmt: skip
# Letter case counts: in lower case these would catch a random value now and then.
_FOREIGN = (
    ("sk-ant-", "an Anthropic key"), ("sk-proj-", "an OpenAI key"), ("ghp_", "a GitHub token"),
    ("gho_", "a GitHub token"), ("ghs_", "a GitHub token"), ("github_pat_", "a GitHub token"),
    ("glpat-", "a GitLab token"), ("AKID", "a Tencent Cloud secret id"), ("AKIA", "an AWS access key"),
    ("ASIA", "an AWS access key"), ("AIza", "a Google API key"), ("xoxb-", "a Slack token"), ("xoxp-", "a Slack token"),
)  # fmt: skip
_JWT = re.compile(r"eyJ[\w-]+\.[\w-]+\.[\w-]*")
_JOINT = re.compile(r"(?<=\0)[._~-]+|[._~-]+(?=\0)")
_LEET = str.maketrans("013457", "oieast")
# Random text of n characters shows most of the different characters to be expected; much fewer mean a small alphabet.
_DISTINCT_SHARE_MIN = 0.6


def weakness(value: str, bits_min: float) -> str | None:
    """Why the value is refused, or None. The text names the pattern, never the value."""
    for prefix, name in _FOREIGN:
        if value.startswith(prefix):
            return f"it has the form of {name}; another vendor's secret must not become a consumer key"
    if _JWT.fullmatch(value):
        return "it has the form of a JSON Web Token"
    bits = estimated_bits(value)
    if bits < bits_min:
        pattern = "a common word" if _without_words(value)[1] else "runs, repetitions or few different characters"
        return f"it is worth about {int(bits)} bits ({pattern}); at least {bits_min:g} are needed"
    return None


def estimated_bits(value: str) -> float:
    """A lower estimate of the bits that somebody who knows these patterns has to guess."""
    text, words = _without_words(value)
    fresh = sum(char != "\0" and not _continues(text, position) for position, char in enumerate(text))
    return fresh * math.log2(_alphabet(value)) + 4 * words


def _without_words(value: str) -> tuple[str, int]:
    """The value in lower case, common words (pa55w0rd too) and what joins them made NUL; and how many words."""
    text, words = value.lower(), 0
    for word in sorted(_COMMON, key=len, reverse=True):
        while (start := text.translate(_LEET).find(word)) >= 0 or (start := text.find(word)) >= 0:
            text = text[:start] + "\0" * len(word) + text[start + len(word) :]
            words += 1
    return _JOINT.sub(lambda joint: "\0" * len(joint[0]), text), words


def _alphabet(value: str) -> float:
    """How many different characters each place of the value seems to be drawn from."""
    classes = (
        (10, any("0" <= char <= "9" for char in value)),
        (26, any("a" <= char <= "z" for char in value)),
        (26, any("A" <= char <= "Z" for char in value)),
        (6, not value.isalnum()),
    )
    size, distinct = max(2, sum(size for size, present in classes if present)), len(set(value))
    expected = size * (1 - (1 - 1 / size) ** len(value))
    return size if distinct >= _DISTINCT_SHARE_MIN * expected else distinct


def _continues(text: str, position: int) -> bool:
    """Whether the character goes on with those before it: third or later in a walk, or end of a triple seen before.

    A walk takes every place or every second one (1q2w3e). One neighbouring pair is none: random text has many.
    """
    for stride in (1, 2):
        walk = text[position - 2 * stride : position + 1 : stride] if position >= 2 * stride else ""
        if len(walk) == 3 and _steps(walk[0], walk[1]) & _steps(walk[1], walk[2]):
            return True
    return position >= 3 and text[position - 2 : position + 1] in text[:position]


def _steps(before: str, here: str) -> set[tuple[str, int]]:
    """The runs and keyboard rows, each with its direction, on which `here` comes right after `before`."""
    difference = ord(here) - ord(before)
    steps = {("", difference)} if abs(difference) <= 1 else set()
    steps |= {(row, 1) for row in _KEYBOARD if before + here in row}
    return steps | {(row, -1) for row in _KEYBOARD if here + before in row}
