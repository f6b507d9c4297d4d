"""What an attacker may present: mutations of real values, everything derived from them, and plain nonsense."""

from __future__ import annotations

import hashlib
import random
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

from consumer_keys.keytext import BASE62, checksum, make_system_value, masked
from tests.safety.fleet import PREFIX, Fleet, Key

_LOOK_ALIKES = str.maketrans(
    "aceopxykABCEHKMOPTX", "асеорхук\u0410\u0412\u0421\u0415\u041d\u212a\u041c\u041e\u0420\u0422\u0425"
)
_CONTROLS = "\x00\x01\t\n\r\x0b\x1b\x7f\x85\xa0\xad\u200b\u2028\u202e\ufeff"
_SURROGATES = ("\ud800", "\udbff", "\udc00", "\udc80", "\udfff")
SQL = [
    template.replace("$", word)
    for word in (
        "1", "a", "admin", "key", "secret", "keys", "consumers", "digest", "operators", "x' --", "0x41", "NULL", "%",
        "version()", "@@version", "sqlite_version()", "information_schema.tables", "sqlite_master", "pg_sleep(9)",
        "sleep(9)", "benchmark(9,md5(1))", "load_file('/etc/passwd')", "char(65)", "current_user", "1e999",
    )
    for template in (
        "' OR '$'='$", "' OR 1=1 -- $", "\" OR \"$\"=\"$", "'; DROP TABLE $; --", "' UNION SELECT $ --",
        "') OR ('$'='$",
        "$' AND 1=0 UNION ALL SELECT NULL,$ --", "'||(SELECT $)||'", "$%' OR name LIKE '%", "\\' OR $ #", "1;SELECT $",
        "' AND (SELECT $)>0 --", "$'/**/OR/**/1=1--", "' OR digest=x'$", "*/$/*", "';EXEC $;--", "' HAVING $=$--",
        "' ORDER BY $--", "`$`", "${$}",
    )
]  # fmt: skip

Make = Callable[[random.Random, Fleet, Key], Any]


def _flip(draw: random.Random, _: Fleet, key: Key) -> str:
    raw = bytearray(key.value.encode())
    raw[draw.randrange(len(raw))] ^= 1 << draw.randrange(8)
    return raw.decode("latin-1")


def _other_case(draw: random.Random, _: Fleet, key: Key) -> str:
    at = draw.randrange(len(key.value))
    return key.value[:at] + key.value[at].swapcase() + key.value[at + 1 :]


def _any_case(draw: random.Random, _: Fleet, key: Key) -> str:
    return draw.choice((key.value.lower(), key.value.upper(), key.value.swapcase(), key.value.title()))


def _cut(draw: random.Random, _: Fleet, key: Key) -> str:
    at = draw.randrange(len(key.value))
    return draw.choice((key.value[:at], key.value[at:]))


def _longer(draw: random.Random, _: Fleet, key: Key) -> str:
    more = "".join(draw.choices(BASE62 + "=-.", k=draw.choice((1, 1, 2, 38, 300))))
    return draw.choice((key.value + more, more + key.value, key.value * 2))


def _prefix(length: int) -> Make:
    def make(draw: random.Random, _: Fleet, key: Key) -> str:
        rest = max(1, len(key.value) - length)
        return key.value[:length] + "".join(draw.choices(BASE62, k=rest))

    return make


def _right_checksum(draw: random.Random, _: Fleet, key: Key) -> str:
    """One character of a generated value changed, and the checksum made good again."""
    body = list(key.value[:-6] if key.value.startswith(PREFIX + "_") else f"{PREFIX}_" + key.value[:32].rjust(32, "0"))
    body[draw.randrange(3, len(body))] = draw.choice(BASE62)
    text = "".join(body)
    return text + checksum(text)


def _joined(draw: random.Random, fleet: Fleet, key: Key) -> str:
    glue = draw.choice((",", ", ", " ", ";", "\t", "\n", "\r\n", ", Bearer ", "&apikey="))
    return key.value + glue + draw.choice((key.value, draw.choice(fleet.keys).value, ""))


def _around(draw: random.Random, _: Fleet, key: Key) -> str:
    left = draw.choice((" ", "\t", '"', "'", "Bearer ", "<", "\ufeff", "b'"))
    right = draw.choice((" ", '"', "'", ">", ""))
    return draw.choice((left + key.value + right, left + key.value, key.value + (right or " ")))


def _inserted(texts: str | tuple[str, ...]) -> Make:
    def make(draw: random.Random, _: Fleet, key: Key) -> str:
        at = draw.randrange(len(key.value) + 1)
        return key.value[:at] + draw.choice(texts) + key.value[at:]

    return make


def _look_alike(draw: random.Random, _: Fleet, key: Key) -> str:
    if draw.random() < 0.5:
        return key.value.translate(_LOOK_ALIKES)
    at = draw.randrange(len(key.value))
    wide = chr(ord(key.value[at]) + 0xFEE0)
    return key.value[:at] + draw.choice((wide, key.value[at] + "\u0301", "\u0660")) + key.value[at + 1 :]


def _escaped(draw: random.Random, _: Fleet, key: Key) -> str:
    at = draw.randrange(len(key.value))
    every = "".join(f"%{byte:02x}" for byte in key.value.encode())
    one = f"{key.value[:at]}%{ord(key.value[at]):02X}{key.value[at + 1 :]}"
    return draw.choice((every, one, quote(every), "&#" + str(ord(key.value[0])) + ";" + key.value[1:]))


def _digest(draw: random.Random, _: Fleet, key: Key) -> str:
    raw = key.value.encode()
    data = draw.choice((key.digest, hashlib.sha256(raw).digest(), hashlib.md5(raw).digest(), raw))
    in_base64, url_safe = b64encode(data).decode(), urlsafe_b64encode(data).decode().rstrip("=")
    return draw.choice((data.hex(), data.hex().upper(), in_base64, url_safe, data.hex()[:32], "0x" + data.hex()))


def _foreign(draw: random.Random, fleet: Fleet, _: Key) -> str:
    return draw.choice(fleet.foreign).value


def _operator(draw: random.Random, fleet: Fleet, _: Key) -> str:
    return draw.choice(fleet.operators)


def _masked(_draw: random.Random, _: Fleet, key: Key) -> str:
    return masked(key.value)


def _ident(draw: random.Random, _: Fleet, key: Key) -> str:
    return draw.choice((key.record.key_id, key.record.name, key.record.consumer_id or "consumer-" + "0" * 14))


def _token(draw: random.Random, _: Fleet, _key: Key) -> str:
    if draw.random() < 0.5:
        return make_system_value(PREFIX, draw.randbytes)
    return "".join(draw.choices(BASE62, k=draw.randrange(300)))


def _noise(draw: random.Random, _: Fleet, _key: Key) -> str:
    data = draw.randbytes(2 * draw.randrange(64))
    return data.decode("latin-1") if draw.random() < 0.5 else data.decode("utf-16-le", "surrogatepass")


def _sql(draw: random.Random, _: Fleet, key: Key) -> str:
    return draw.choice((draw.choice(SQL), key.value + draw.choice(SQL)))


def _word(draw: random.Random, _: Fleet, _key: Key) -> str:
    """Words that mean something inside: a verdict's own name must not pass for a verdict."""
    words = (
        "Valid",
        "valid",
        "True",
        "MissingKey",
        "null",
        "undefined",
        "None",
        "0",
        "*",
        "%",
        "",
        "Bearer",
        "../../x",
    )
    return draw.choice(words)


def _wrong_type(draw: random.Random, _: Fleet, key: Key) -> Any:
    value = key.value
    return draw.choice(
        (0, 1, -1, True, False, 1.5, float("nan"), None, [], {}, [None], [value, None, 7], {"value": value}, [[value]],
         [value, value + "x"], [value, ""], [{}], {value: value}, [value, value.swapcase() + "~"], ["", None], 10**400)
    )  # fmt: skip


def _surrogates(draw: random.Random, _: Fleet, key: Key) -> str:
    alone = draw.choice(_SURROGATES)
    return draw.choice((alone * 9, key.value[:-1] + alone, key.value.encode().decode("utf-16-le", "replace")))


def _itself(_draw: random.Random, _: Fleet, key: Key) -> str:
    return key.value


TEXTS: tuple[Make, ...] = (
    _flip, _other_case, _any_case, _cut, _longer, _prefix(20), _prefix(31), _right_checksum, _joined, _around,
    _inserted(_CONTROLS), _inserted(_SURROGATES), _look_alike, _escaped, _digest, _foreign, _operator, _masked, _ident,
    _token, _noise, _sql, _word, _surrogates, _wrong_type, _itself,
)  # fmt: skip


def hostile(seed: int, count: int, fleet: Fleet) -> Iterator[Any]:
    """`count` things to present; each kind equally often. Real values are among them: not everything is refused."""
    draw = random.Random(seed)
    for number in range(count):
        yield TEXTS[number % len(TEXTS)](draw, fleet, fleet.keys[draw.randrange(len(fleet.keys))])
