"""What bad input is told: the field, and in plain words what it must be."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from ckeys.deployment import Deployment
from tests.conftest import Api
from tests.functions.helpers import nothing_changes, problem

SYSTEM = {"name": "good-key", "generation": "System"}
KMS = {"name": "good-key", "generation": "KMS"}
LIST, CREATE = ("list_keys", "GET"), ("create_key", "POST")
CASES: list[tuple[tuple[str, str], Any, str, str]] = [
    (LIST, {"limit": "0"}, "limit", "must be at least 1"),
    (LIST, {"limit": "101"}, "limit", "must be at most 100"),
    (LIST, {"limit": "many"}, "limit", "must be a whole number"),
    (LIST, {"limit": ["1", "2"]}, "limit", "is given more than once"),
    (LIST, {"offset": "-1"}, "offset", "must be at least 0"),
    (LIST, {"bound": "yes"}, "bound", "must be true or false"),
    (LIST, {"status": "on"}, "status", "must be 'Enable' or 'Disable'"),
    (LIST, {"keyword": ""}, "keyword", "must have at least 1 characters"),
    (LIST, {"nonsense": "1"}, "nonsense", "is not a field of this call"),
    (CREATE, {"generation": "System"}, "name", "is required"),
    (CREATE, {**SYSTEM, "name": 5}, "name", "must be a string"),
    (CREATE, {**SYSTEM, "description": "x" * 201}, "description", "must have at most 200 characters"),
    (CREATE, {**KMS, "credential": "a:v1"}, "credential", "must be an object"),
    (CREATE, {**SYSTEM, "reveal_to": "key"}, "reveal_to", "must be an object"),
    (CREATE, {**SYSTEM, "reveal_to": {"kty": "EC", "crv": "P-256", "x": "A" * 43, "key_ops": "x"}},
     "reveal_to.key_ops", "must be a list"),
    (CREATE, {**SYSTEM, "reveal_to": {"kty": "EC", "crv": "P-256", "x": "A" * 43, "key_ops": ["deriveKey"] * 3}},
     "reveal_to.key_ops", "must have at most 2 entries"),
]  # fmt: skip


@pytest.fixture
def database() -> str:
    """What is refused before the database is asked is refused alike on each."""
    return "sqlite"


@pytest.fixture
def own(deployment: Deployment) -> Iterator[Api]:
    api = Api(deployment, deployment.operator[1])
    with nothing_changes(deployment):
        yield api


def test_bad_input_is_told_in_plain_words_what_the_field_must_be(own: Api, subtests: pytest.Subtests) -> None:
    for (function, method), given, field, message in CASES:
        with subtests.test(field=field, message=message):
            sent = {"query": given} if method == "GET" else {"body": given}
            refused = problem(own(function, method, "/keys", **sent), 400, "InvalidParameter", field)
            assert {"field": field, "message": message} in refused["errors"]
            assert not re.search(r"\b(Input|String|List|Value) should\b", str(refused))
