"""Which key a request presents. Exactly one value counts; everything doubtful is a refusal, never an exception."""

from __future__ import annotations

from collections.abc import Mapping

from consumer_keys.keytext import VALUE_BYTES_MAX
from consumer_keys.light_typing import Any
from consumer_keys.verdict import AMBIGUOUS, MALFORMED, MISSING

KEY_HEADERS = ("x-api-key", "api-key", "apikey")
QUERY_PARAMETER = "apikey"
HEADER_BYTES_MAX = 16_384
_SCHEME = "bearer"


def presented_key(headers: Mapping[str, Any], query: Mapping[str, Any], *, key_in_query: bool) -> bytes | str:
    """The bytes of the one presented value, or the verdict code that refuses the request.

    `headers` have lower-case names; several lines of one name are a list. The same value twice is one value.
    """
    given: list[Any] = []
    if "authorization" in headers:
        given += _bearer_values(headers["authorization"])
    for name in KEY_HEADERS:
        if name in headers:
            given += _values(headers[name])
    if key_in_query:
        given += _values(query.get(QUERY_PARAMETER))
    if not given:
        return MISSING
    for value in given:
        if not isinstance(value, str) or len(value) > VALUE_BYTES_MAX:
            return MALFORMED
    if len(given) > 1 and len(set(given)) > 1:
        return AMBIGUOUS
    # A lone surrogate survives this as bytes outside the alphabet, so it is refused like any other text.
    encoded: bytes = given[0].encode("utf-8", "surrogatepass")
    return encoded


def _values(value: Any) -> list[Any]:
    values = value if isinstance(value, list) else [value]
    return [item for item in values if item is not None and item != ""]


def _bearer_values(value: Any) -> list[Any]:
    """Tokens of `Bearer <token>` lines; other schemes are somebody else's business. What is no text is refused."""
    found: list[Any] = []
    for line in _values(value):
        if not isinstance(line, str):
            found.append(line)
            continue
        scheme, _, token = line.partition(" ")
        if scheme.isascii() and scheme.lower() == _SCHEME and token:
            found.append(token)
    return found
