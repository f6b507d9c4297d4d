"""Which key a request presents: the matrix of headers, in every event shape, judged as validation judges it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer_keys import web
from consumer_keys.keytext import TOKEN68, is_well_formed
from consumer_keys.presented import KEY_HEADERS, presented_key
from consumer_keys.verdict import AMBIGUOUS, MALFORMED, MISSING

KEY, OTHER = "Jx8Rr1vQ0ZkT4mYb", "9eoUaGfD5iXpW2nL"
SHAPES: dict[str, dict[str, Any]] = {
    "gateway": {"requestContext": {"stage": "release"}, "queryString": {}, "pathParameters": {}},
    "url": {"queryStringParameters": {}, "payload": ""},
    "bare": {},
}
GOOD: dict[str, Any] = {
    "bearer": {"Authorization": f"Bearer {KEY}"},
    "bearer in another case": {"authorization": f"bEaReR {KEY}"},
    "x-api-key": {"X-Api-Key": KEY},
    "api-key": {"Api-Key": KEY},
    "apikey": {"APIKEY": KEY},
    "one value in two sources": {"authorization": f"Bearer {KEY}", "x-api-key": KEY},
    "one value in every source": {"authorization": f"Bearer {KEY}", **dict.fromkeys(KEY_HEADERS, KEY)},
    "one header twice, equal": {"X-Api-Key": KEY, "x-api-key": KEY},
    "a list of equal lines": {"x-api-key": [KEY, KEY]},
    "a list of one": {"authorization": [f"Bearer {KEY}"]},
    "an empty second source": {"authorization": "", "x-api-key": KEY},
    "another scheme beside it": {"authorization": "Basic dXNlcjpwYXNz", "x-api-key": KEY},
    "hop-by-hop and forwarded headers": {
        "authorization": f"Bearer {KEY}", "connection": "authorization", "x-forwarded-for": "1.2.3.4",
        "x-forwarded-host": "admin", "x-consumer-id": "consumer-00000000000001", "x-key-id": "secret-1",
    },
}  # fmt: skip
BAD: dict[str, tuple[Any, str]] = {
    "no header": ({}, MISSING),
    "an empty value": ({"x-api-key": ""}, MISSING),
    "a null value": ({"x-api-key": None}, MISSING),
    "an empty list": ({"x-api-key": []}, MISSING),
    "bearer without a token": ({"authorization": "Bearer "}, MISSING),
    "the scheme alone": ({"authorization": "Bearer"}, MISSING),
    "a token without a scheme": ({"authorization": KEY}, MISSING),
    "a tab after the scheme": ({"authorization": f"Bearer\t{KEY}"}, MISSING),
    "another scheme": ({"authorization": f"Basic {KEY}"}, MISSING),
    "the scheme in other letters": ({"authorization": f"Beare\u027d {KEY}"}, MISSING),
    "an alias with underscores": ({"X_Api_Key": KEY}, MISSING),
    "a name with a trailing space": ({"x-api-key ": KEY}, MISSING),
    "a name with a leading space": ({" x-api-key": KEY}, MISSING),
    "a name with a letter that only looks like k": ({"x-api-\u212aey": KEY}, MISSING),
    "two spaces": ({"authorization": f"Bearer  {KEY}"}, MALFORMED),
    "a trailing space": ({"authorization": f"Bearer {KEY} "}, MALFORMED),
    "two sources, different": ({"authorization": f"Bearer {KEY}", "x-api-key": OTHER}, AMBIGUOUS),
    "two sources, one of them malformed": ({"authorization": f"Bearer {KEY}", "api-key": "a,b"}, AMBIGUOUS),
    "one header twice, different": ({"X-Api-Key": KEY, "x-api-key": OTHER}, AMBIGUOUS),
    "a list of different lines": ({"x-api-key": [KEY, OTHER]}, AMBIGUOUS),
    "two bearer lines": ({"authorization": [f"Bearer {KEY}", f"Bearer {OTHER}"]}, AMBIGUOUS),
    "lines joined by a proxy": ({"authorization": f"Bearer {KEY}, Bearer {KEY}"}, MALFORMED),
    "values joined by a proxy": ({"x-api-key": f"{KEY},{KEY}"}, MALFORMED),
    "a number": ({"x-api-key": 12345678}, MALFORMED),
    "true": ({"x-api-key": True}, MALFORMED),
    "zero": ({"x-api-key": 0}, MALFORMED),
    "an object": ({"x-api-key": {"value": KEY}}, MALFORMED),
    "a list in a list": ({"x-api-key": [[KEY]]}, MALFORMED),
    "a good line and a number": ({"x-api-key": [KEY, 5]}, MALFORMED),
    "a bearer line and an object": ({"authorization": [f"Bearer {KEY}", {}]}, MALFORMED),
    "257 bytes": ({"x-api-key": "x" * 257}, MALFORMED),
    "1 MiB": ({"x-api-key": "x" * (1 << 20)}, MALFORMED),
    "7 bytes": ({"x-api-key": "x" * 7}, MALFORMED),
    "256 characters of more bytes": ({"x-api-key": "密" * 256}, MALFORMED),
    "a comma": ({"x-api-key": f"{KEY},"}, MALFORMED),
    "a space": ({"x-api-key": f"{KEY} {KEY}"}, MALFORMED),
    "a tab": ({"x-api-key": f"{KEY}\t"}, MALFORMED),
    "NUL": ({"x-api-key": f"{KEY}\0"}, MALFORMED),
    "CR LF": ({"x-api-key": f"{KEY}\r\n"}, MALFORMED),
    "LF": ({"x-api-key": f"{KEY}\n"}, MALFORMED),
    "NBSP": ({"x-api-key": f"{KEY}\u00a0"}, MALFORMED),
    "a full-width letter": ({"x-api-key": f"{KEY}\uff21"}, MALFORMED),
    "a lone surrogate": ({"x-api-key": f"{KEY}\ud800"}, MALFORMED),
}


def judged(headers: Any, *, shape: str = "url", query: dict[str, Any] | None = None, key_in_query: bool = False) -> Any:
    """The bytes of a possible key, or the verdict that refuses the request before any lookup."""
    event = {"httpMethod": "GET", "path": "/", "headers": headers, **SHAPES[shape]}
    if query is not None:
        event["queryStringParameters"] = query
    request = web.parse_event(event, None)
    found = presented_key(request.headers, request.query, key_in_query=key_in_query)
    return found if isinstance(found, str) or is_well_formed(found, b"ck") else MALFORMED


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("case", GOOD)
def test_one_value_is_judged_wherever_it_stands(case: str, shape: str) -> None:
    assert judged(GOOD[case], shape=shape) == KEY.encode()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("case", BAD)
def test_everything_doubtful_is_refused_and_nothing_raises(case: str, shape: str) -> None:
    headers, code = BAD[case]
    assert judged(headers, shape=shape) == code


@pytest.mark.parametrize("byte", sorted(set(range(256)) - TOKEN68))
def test_no_byte_outside_the_alphabet_is_let_through(byte: int) -> None:
    assert judged({"x-api-key": KEY + chr(byte)}) == MALFORMED


@pytest.mark.parametrize("length", [8, 256])
def test_the_shortest_and_the_longest_value_are_judged(length: int) -> None:
    assert judged({"authorization": "Bearer " + "x" * length}) == b"x" * length


def test_the_query_counts_only_when_it_is_switched_on() -> None:
    assert judged({}, query={"apikey": KEY}) == MISSING
    assert judged({}, query={"apikey": KEY}, key_in_query=True) == KEY.encode()
    assert judged({"x-api-key": OTHER}, query={"apikey": KEY}) == OTHER.encode()
    assert judged({"x-api-key": OTHER}, query={"apikey": KEY}, key_in_query=True) == AMBIGUOUS
    assert judged({}, query={"apikey": [KEY, OTHER]}, key_in_query=True) == AMBIGUOUS
    assert judged({}, query={"ApiKey": KEY}, key_in_query=True) == MISSING


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just(KEY) | st.just(f"Bearer {KEY}"),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
names = st.sampled_from(["authorization", "Authorization", *KEY_HEADERS, "X-API-KEY"])


@given(json_values | st.dictionaries(names, json_values), json_values, st.booleans())
def test_whatever_comes_is_one_value_or_a_verdict(headers: Any, query: Any, key_in_query: bool) -> None:
    asked = query if isinstance(query, dict) else {"apikey": query}
    found = judged(headers, query=asked, key_in_query=key_in_query)
    assert found in (MISSING, MALFORMED, AMBIGUOUS) or is_well_formed(found, b"ck")


@given(
    st.lists(st.tuples(names, st.sampled_from([KEY, OTHER])), min_size=2, max_size=6, unique_by=lambda pair: pair[0])
)
def test_two_different_values_never_pass_in_any_place_or_order(lines: list[tuple[str, str]]) -> None:
    headers = {name: f"Bearer {value}" if name.lower() == "authorization" else value for name, value in lines}
    values = {value for _, value in lines}
    assert judged(headers) == (AMBIGUOUS if len(values) > 1 else values.pop().encode())
