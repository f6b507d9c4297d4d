"""What stands in for parts of the standard library at validation's cold start does what they do."""

from __future__ import annotations

import typing
import urllib.parse

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer_keys import light_typing, percent

any_text = st.text(st.characters())  # lone surrogates included
escapes = st.lists(st.sampled_from(["%", "%4", "%41", "%c3%A9", "%C3", "%zz", "%2f", "%2G", "% 1", "é", "+", "a"]))


@given(st.text(), st.text(st.characters(min_codepoint=33, max_codepoint=126)))
def test_encoding_is_that_of_the_standard_library(text: str, keep: str) -> None:
    assert percent.encode(text, keep=keep) == urllib.parse.quote(text, safe=keep)


@given(any_text.filter(lambda text: all(not 0xD800 <= ord(char) < 0xE000 for char in text)))
def test_what_was_encoded_is_decoded(text: str) -> None:
    assert percent.decode(percent.encode(text)) == text


@given(st.text() | escapes.map("".join))
def test_decoding_is_that_of_the_standard_library(text: str) -> None:
    assert percent.decode(text) == urllib.parse.unquote(text, errors="replace")


@given(any_text)
def test_decoding_takes_any_text(text: str) -> None:
    assert isinstance(percent.decode(text), str)


class Light(light_typing.NamedTuple):
    """Documented."""

    one: int
    two: str = "b"

    @property
    def both(self) -> str:
        return f"{self.one}{self.two}"


class Full(typing.NamedTuple):
    """Documented."""

    one: int
    two: str = "b"

    @property
    def both(self) -> str:
        return f"{self.one}{self.two}"


def test_a_named_tuple_is_that_of_typing() -> None:
    light, full = Light(1, two="c"), Full(1, two="c")
    assert tuple(light) == light == (1, "c")
    assert light.both == full.both
    assert repr(light) == repr(full).replace("Full", "Light")
    assert (Light._fields, Light._field_defaults, Light.__doc__) == (Full._fields, Full._field_defaults, Full.__doc__)
    assert Light.__annotations__.keys() == Full.__annotations__.keys()
    assert Light.__module__ == __name__
    assert light._replace(one=2)._asdict() == {"one": 2, "two": "c"}
    with pytest.raises(AttributeError):
        light.one = 2  # type: ignore[misc]
    with pytest.raises(TypeError):
        Light()  # type: ignore[call-arg]
