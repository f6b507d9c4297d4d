"""Is a custom key value too easy to guess? A judgement apart from its length and alphabet.

The estimate is deliberately simple: characters that continue a run, a keyboard walk or a repetition count for
nothing, the rest count log2 of the alphabet that they come from. NIST SP 800-63B asks for throttling below 64 bits;
the floor is a setting (`CUSTOM_VALUE_MIN_BITS`).
"""

from __future__ import annotations

import math
import re

_KEYBOARD = ("qwertyuiop", "asdfghjkl", "zxcvbnm", "1234567890", "qazwsxedcrfvtgbyhnujm")
_COMMON = (
    "password", "passwort", "secret", "changeme", "letmein", "welcome", "admin", "administrator", "default",
    "example", "sample", "dummy", "consumer", "apikey", "api-key", "api_key", "token", "bearer", "test", "testing",
    "demo", "foobar", "hello", "world", "qwerty", "master", "monkey", "dragon", "iloveyou", "your", "insert", "replace",
    "here", "placeholder", "todo", "root", "user", "login", "access", "tencent", "gateway", "openai",
)  # fmt: skip
_FOREIGN = (
    ("sk-ant-", "an Anthropic key"), ("sk-proj-", "an OpenAI key"), ("ghp_", "a GitHub token"),
    ("gho_", "a GitHub token"), ("github_pat_", "a GitHub token"), ("glpat-", "a GitLab token"),
    ("akid", "a Tencent Cloud secret id"), ("akia", "an AWS access key"), ("asia", "an AWS access key"),
    ("aiza", "a Google API key"), ("xoxb-", "a Slack token"), ("xoxp-", "a Slack token"),
)  # fmt: skip
_JWT = re.compile(r"eyJ[\w-]+\.[\w-]+\.[\w-]*")


def weakness(value: str, bits_min: float) -> str | None:
    """Why the value is refused, or None. The text names the pattern, never the value."""
    lower = value.lower()
    for prefix, name in _FOREIGN:
        if lower.startswith(prefix):
            return f"it has the form of {name}; another vendor's secret must not become a consumer key"
    if _JWT.fullmatch(value):
        return "it has the form of a JSON Web Token"
    words = [word for word in _COMMON if word in lower]
    bits = estimated_bits(value)
    if bits < bits_min:
        pattern = "a common word" if words else "runs, repetitions or few different characters"
        return f"it is worth about {int(bits)} bits ({pattern}); at least {bits_min:g} are needed"
    return None


def estimated_bits(value: str) -> float:
    """A lower estimate of the bits that somebody who knows these patterns has to guess."""
    text = value.lower()
    words = 0
    for word in sorted(_COMMON, key=len, reverse=True):
        words += text.count(word)
        text = text.replace(word, "\0")
    fresh = [char for position, char in enumerate(text) if char != "\0" and not _continues(text, position)]
    per_char = min(math.log2(_alphabet(value)), 1 + math.log2(max(1, len(set(fresh)))))
    return len(fresh) * per_char + 4 * words


def _alphabet(value: str) -> int:
    classes = (
        (10, any("0" <= char <= "9" for char in value)),
        (26, any("a" <= char <= "z" for char in value)),
        (26, any("A" <= char <= "Z" for char in value)),
        (6, not value.isalnum()),
    )
    return max(2, sum(size for size, present in classes if present))


def _continues(text: str, position: int) -> bool:
    """Whether the character follows from those before it: same, next, previous, keyboard neighbour, repetition."""
    if position == 0:
        return False
    before, here = text[position - 1], text[position]
    if abs(ord(here) - ord(before)) <= 1 or any(before + here in row or here + before in row for row in _KEYBOARD):
        return True
    return position >= 3 and text[position - 2 : position + 1] in text[:position]
