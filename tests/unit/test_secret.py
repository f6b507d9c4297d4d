"""A secret shows itself to nobody who does not ask for it."""

from __future__ import annotations

import copy
import json
import logging
import pickle
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer_keys.secret import REDACTED, Secret

VALUE = b"Zq7x9Lk3-canary"
SECRET = Secret(VALUE)


@pytest.mark.parametrize("show", [repr, str, "{}".format, "{!r}".format, "{:>40}".format, "%s".__mod__, "%r".__mod__])
def test_no_way_of_showing_a_secret_shows_its_bytes(show: object) -> None:
    assert callable(show)
    text = show(SECRET)
    assert REDACTED in text
    assert "canary" not in text
    assert "canary" not in show([SECRET]) if show in (repr, str) else True


@pytest.mark.parametrize(
    "take", [pickle.dumps, copy.copy, copy.deepcopy, json.dumps, lambda secret: pickle.dumps(secret, 0), vars, bytes]
)
def test_no_secret_is_pickled_copied_or_encoded(take: object) -> None:
    assert callable(take)
    with pytest.raises(TypeError) as caught:
        take(SECRET)
    assert "canary" not in str(caught.value)


def test_neither_a_log_nor_a_traceback_with_locals_shows_it(caplog: pytest.LogCaptureFixture) -> None:
    def fail(given: Secret) -> None:
        raise RuntimeError(f"cannot use {given}")

    try:
        fail(SECRET)
    except RuntimeError as error:
        logging.getLogger("probe").exception("with %s", SECRET)
        shown = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
    assert REDACTED in shown
    assert "canary" not in shown + caplog.text


def test_bytes_that_are_no_text_are_not_in_the_error() -> None:
    with pytest.raises(UnicodeDecodeError) as caught:
        Secret(VALUE + b"\xff").text()
    assert "canary" not in str(caught.value) + repr(caught.value.object)
    assert caught.value.__cause__ is None


@given(st.binary(), st.binary())
def test_secrets_are_equal_when_their_bytes_are(one: bytes, other: bytes) -> None:
    assert (Secret(one) == Secret(other)) == (one == other)
    assert Secret(one) != one
    assert (Secret(one).reveal(), len(Secret(one))) == (one, len(one))
    with pytest.raises(TypeError):
        hash(Secret(one))
