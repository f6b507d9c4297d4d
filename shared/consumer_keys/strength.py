"""Is a custom key value too easy to guess? A judgement apart from its length and alphabet.

The estimate is deliberately simple: characters that continue a run, a keyboard walk or a repetition count for
nothing, a common word or a day for little; the rest count log2 of the alphabet that they seem to be drawn from. NIST
SP 800-63B asks for throttling below 64 bits; the floor is a setting (`CUSTOM_VALUE_MIN_BITS`).
"""

from __future__ import annotations

import math
import re

from consumer_keys.keytext import MASK, MASK_SHOWS, masked

_KEYBOARD = (
    "qwertyuiop", "asdfghjkl", "zxcvbnm", "1234567890",
    # Columns: each downwards, each upwards, down one and up the next.
    "qazwsxedcrfvtgbyhnujm", "1qaz2wsx3edc4rfv5tgb6yhn7ujm", "zaqxswcdevfrbgtnhymju", "zaq1xsw2cde3vfr4bgt5nhy6mju7",
    "qazxswedcvfrtgbnhyujm", "1qazxsw23edcvfr45tgbnhy67ujm",
)  # fmt: skip
_COMMON = (
    "password", "passwort", "secret", "changeme", "letmein", "welcome", "admin", "administrator", "default",
    "example", "sample", "dummy", "consumer", "apikey", "api-key", "api_key", "token", "bearer", "test", "testing",
    "demo", "foobar", "hello", "world", "qwerty", "master", "monkey", "dragon", "iloveyou", "your", "insert", "replace",
    "here", "placeholder", "todo", "root", "user", "login", "access", "tencent", "gateway", "openai",
    "please", "super", "key",
)  # fmt: skip
_LONGEST_FIRST = sorted(_COMMON, key=len, reverse=True)
# Letter case counts: in lower case these would catch a random value now and then.
_FOREIGN = (
    ("sk-ant-", "an Anthropic key"), ("sk-proj-", "an OpenAI key"), ("sk-svcacct-", "an OpenAI key"),
    ("sk-admin-", "an OpenAI key"), ("sk-or-v1-", "an OpenRouter key"), ("gsk_", "a Groq key"),
    *((f"{kind}_", "a GitHub token") for kind in ("ghp", "gho", "ghs", "ghu", "ghr", "github_pat")),
    ("glpat-", "a GitLab token"), ("AKID", "a Tencent Cloud secret id"), ("LTAI", "an Alibaba Cloud access key"),
    ("AKIA", "an AWS access key"), ("ASIA", "an AWS access key"), ("AIza", "a Google API key"),
    *((f"{kind}-", "a Slack token") for kind in ("xoxb", "xoxp", "xoxa", "xoxs", "xapp")),
    *((f"{kind}_live_", "a Stripe key") for kind in ("sk", "rk")), ("npm_", "an npm token"),
    ("pypi-", "a PyPI token"), ("dop_v1_", "a DigitalOcean token"),
)  # fmt: skip
# What begins with too few characters to be told by them alone, or has its mark elsewhere.
_FOREIGN_FORMS = (
    (re.compile(r"eyJ[\w-]+\.[\w-]+\.[\w-]*"), "a JSON Web Token"),
    (re.compile(r"sk-\w*T3BlbkFJ\w*"), "an OpenAI key"),
    (re.compile(r"hf_[A-Za-z0-9]{34}"), "a Hugging Face token"),
    (re.compile(r"SG\.[\w-]{22}\.[\w-]{43}"), "a SendGrid key"),
)
# What joins words and runs, and tells nothing there.
_JOINTS = frozenset("._~+/=-")
_JOINT = re.compile(r"(?<=\0)[._~+/=-]+|[._~+/=-]+(?=\0)")
_YEAR, _MONTH, _DAY = "(?:19|20)[0-9]{2}", "(?:0[1-9]|1[0-2])", "(?:0[1-9]|[12][0-9]|3[01])"
_DATE = re.compile(rf"{_YEAR}[-./]?{_MONTH}[-./]?{_DAY}|(?:{_DAY}[-./]?{_MONTH}|{_MONTH}[-./]?{_DAY})[-./]?{_YEAR}")
# A character three times or more counts once: aaabbbccc is abc.
_THRICE = re.compile(r"(.)\1{2,}", re.DOTALL)
_PLAIN = "runs, repetitions or few different characters"
_WORD_BITS, _DATE_BITS = 4, 15
_GUESSED = "\0"
_LEET = str.maketrans("013457", "oieast")
# Random text of n characters shows most of the different characters to be expected; much fewer mean a small alphabet.
_DISTINCT_SHARE_MIN = 0.6


def weakness(value: str, bits_min: float) -> str | None:
    """Why the value is refused, or None. The text names the pattern, never the value."""
    forms = [name for prefix, name in _FOREIGN if value.startswith(prefix)]
    forms += [name for form, name in _FOREIGN_FORMS if form.fullmatch(value)]
    if forms:
        return f"it has the form of {forms[0]}; another vendor's secret must not become a consumer key"
    bits = estimated_bits(value)
    if bits < bits_min:
        patterns = {"a common word": _without_words(value)[1], "a date": _DATE.search(value)}
        pattern = next((name for name, there in patterns.items() if there), _PLAIN)
        return f"it is worth about {int(bits)} bits ({pattern}); at least {bits_min:g} are needed"
    return None


def estimated_bits(value: str) -> float:
    """A lower estimate of the bits that somebody who knows these patterns has to guess."""
    fresh, bits, known = _measured(value)
    return fresh * bits + known


def custom_mask(value: str, bits_min: float) -> str:
    """`masked`, or `****` alone when what it hides is worth less than the floor: nobody gets a head start from a mask.

    What is hidden counts by itself, and as part of the value: of a common word the visible letters tell the rest.
    """
    fresh, bits, known = _measured(value)
    in_context = max(0, fresh - 2 * MASK_SHOWS) * bits + known
    hidden = min(in_context, estimated_bits(value[MASK_SHOWS:-MASK_SHOWS]))
    return masked(value) if hidden >= bits_min else MASK


def _measured(value: str) -> tuple[int, float, int]:
    """How many characters have to be guessed, the bits of each, and those of the words and days in between."""
    text, words = _without_words(value)
    dates = len(set(_DATE.findall(text)))
    text = _DATE.sub(lambda date: _GUESSED * len(date[0]), text)
    left = "".join(_GUESSED if mark == _GUESSED else char for char, mark in zip(value, text, strict=True))
    left = _THRICE.sub(r"\1", left)
    text, unknown = left.lower(), left.replace(_GUESSED, "")
    guessable = _walked(text, 1) | _walked(text, 2) | _repeated(text)
    guessable |= {place + 1 for place in guessable if text[place + 1 : place + 2] in _JOINTS}
    fresh = sum(char != _GUESSED and place not in guessable for place, char in enumerate(text))
    return fresh, math.log2(_alphabet(unknown)), _WORD_BITS * words + _DATE_BITS * dates


def _without_words(value: str) -> tuple[str, int]:
    """The value in lower case, common words (pa55w0rd too) and what joins them made NUL; how many different words."""
    text, words = value.lower(), set[str]()
    plain = text.translate(_LEET)
    for word in _LONGEST_FIRST:
        while (start := plain.find(word)) >= 0 or (start := text.find(word)) >= 0:
            end, guessed = start + len(word), _GUESSED * len(word)
            text, plain = text[:start] + guessed + text[end:], plain[:start] + guessed + plain[end:]
            words.add(word)
    return _JOINT.sub(lambda joint: _GUESSED * len(joint[0]), text), len(words)


def _alphabet(unknown: str) -> float:
    """How many different characters each place of what is no word seems to be drawn from."""
    classes = (
        (10, any("0" <= char <= "9" for char in unknown)),
        (26, any("a" <= char <= "z" for char in unknown)),
        (26, any("A" <= char <= "Z" for char in unknown)),
        (6, not unknown.isalnum()),
    )
    size, distinct = max(2, sum(size for size, present in classes if present)), len(set(unknown))
    expected = size * (1 - (1 - 1 / size) ** len(unknown))
    return size if distinct >= _DISTINCT_SHARE_MIN * expected else max(2, distinct)


def _walked(text: str, stride: int) -> set[int]:
    """The places that go on with a run or a keyboard walk which takes every `stride`-th place (1q2w3e has two).

    Of three or four in a row the third and fourth, of five or more all but the first. A pair is no walk: random text
    has many.
    """
    found = set[int]()
    for begin in range(min(stride, len(text))):
        length, steps = 1, _NO_STEPS
        for place in range(begin + stride, len(text), stride):
            here = _steps(text[place - stride], text[place])
            length = length + 1 if steps & here else 2 if here else 1
            steps = steps & here or here
            if length > 2:
                found.add(place)
            if length > 4:
                found.add(place - 3 * stride)
    return found


def _repeated(text: str) -> set[int]:
    """The places that end a triple seen before, and all from where the value begins once more."""
    period = next((place for place in range(1, len(text) - 2) if text.startswith(text[place:])), len(text))
    found = set(range(period, len(text)))
    return found | {place for place in range(3, len(text)) if text.find(text[place - 2 : place + 1], 0, place) >= 0}


def _steps(before: str, here: str) -> frozenset[tuple[str, int]]:
    """The runs and keyboard rows, each with its direction, on which `here` comes right after `before`."""
    steps, difference = _KEYBOARD_STEPS.get(before + here, _NO_STEPS), ord(here) - ord(before)
    return steps | {("", difference)} if abs(difference) <= 1 else steps


_NO_STEPS: frozenset[tuple[str, int]] = frozenset()
_KEYBOARD_STEPS = {
    pair: frozenset((row, direction) for row in _KEYBOARD for direction in (1, -1) if pair[::direction] in row)
    for row in _KEYBOARD
    for pair in {row[place : place + 2][::direction] for place in range(len(row) - 1) for direction in (1, -1)}
}
