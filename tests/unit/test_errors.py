"""The table of errors is closed: every code that the source names is in it, and every code in it is used."""

from __future__ import annotations

import ast
import http
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from consumer_keys import verdict
from consumer_keys.cloud import ssm
from consumer_keys.errors import CODES, CloudFailure, FieldError, Gone, Problem, Unavailable, invalid

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [
    path
    for folder in ("shared/consumer_keys", "functions")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if path.name != "errors.py"
]
RAISERS = {"Problem", "Gone", "Unavailable", "CloudFailure"}


def strings_of(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def raised_codes(path: Path) -> Iterator[str]:
    """The literal first arguments of what makes errors."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in RAISERS and node.args:
            first = node.args[0]
            if isinstance(first, ast.Constant):
                yield str(first.value)


def test_every_code_that_is_raised_is_in_the_table() -> None:
    raised = {code for path in SOURCES for code in raised_codes(path)}
    assert raised
    assert raised <= CODES.keys()


def test_every_code_of_the_table_is_used_somewhere() -> None:
    # InvalidParameter is raised by `invalid`, beside the table.
    used = {text for path in SOURCES for text in strings_of(path)} | {invalid("a", "b").code}
    assert CODES.keys() - used == set()


def test_the_cloud_edge_names_only_codes_of_the_table() -> None:
    assert {code for _, code in ssm._GONE} <= CODES.keys()


@pytest.mark.parametrize("code", CODES)
def test_a_code_has_an_error_status_and_one_public_sentence(code: str) -> None:
    status, title = CODES[code]
    assert 400 <= status < 600
    assert http.HTTPStatus(status)
    assert title.endswith(".")
    assert title[0].isupper()
    assert code.isalpha()
    assert code[0].isupper()


def test_no_two_codes_share_a_sentence() -> None:
    assert len({title for _, title in CODES.values()}) == len(CODES)


def test_a_verdict_is_never_an_error_code() -> None:
    assert not verdict.CODES.keys() & CODES.keys()


def test_a_problem_document_has_the_members_of_rfc_9457_and_ours() -> None:
    problem = Problem("UnresolvedDependencies", "why", errors=[FieldError("a", "b")], members={"blockers": [1]})
    document = problem.body("request-1")
    assert document == {
        "type": "about:blank", "title": CODES["UnresolvedDependencies"][1], "status": 409,
        "code": "UnresolvedDependencies", "detail": "why", "request_id": "request-1",
        "errors": [{"field": "a", "message": "b"}], "blockers": [1],
    }  # fmt: skip
    assert json.loads(json.dumps(document)) == document


def test_a_problem_says_its_title_when_there_is_nothing_to_add() -> None:
    document = Problem("KeyNotFound").body("")
    assert document["detail"] == document["title"] == CODES["KeyNotFound"][1]
    assert "errors" not in document


def test_an_unknown_code_cannot_be_raised() -> None:
    with pytest.raises(KeyError):
        Problem("NoSuchCode")


def test_gone_and_unavailable_are_told_apart() -> None:
    assert not issubclass(Gone, Unavailable)
    assert not issubclass(Unavailable, Gone)
    assert issubclass(Gone, CloudFailure)
    assert issubclass(Unavailable, CloudFailure)
