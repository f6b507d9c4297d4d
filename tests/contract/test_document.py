"""The OpenAPI document is what the code serves; tests/events holds every replayed answer against it."""

from __future__ import annotations

import json
import re

import pytest
import schemathesis
from pydantic import ValidationError

from ckeys.deployment import ROOT, Deployment
from ckeys.front import load_handlers
from ckeys.local import described as described_routes
from ckeys.openapi import ANY_METHODS, document, text
from consumer_keys.errors import CODES
from consumer_keys.model import UpdateKey
from tests.contract import described
from tests.contract.described import DOCUMENT, OPERATIONS, TEMPLATE

HANDLERS = load_handlers(ROOT / "functions", TEMPLATE)


def test_the_kept_document_is_what_the_code_makes() -> None:
    kept = (ROOT / "openapi.json").read_text(encoding="utf-8")
    assert kept == text(TEMPLATE, HANDLERS), "run: .venv/bin/ckeys openapi > openapi.json"


def test_the_pattern_of_free_text_is_what_the_calls_take() -> None:
    """For every character of the first plane, and some beyond; lone surrogates are no text in JSON."""
    described_so = DOCUMENT["components"]["schemas"]["UpdateKey"]["properties"]["description"]["pattern"]
    pattern = re.compile(described_so.removesuffix("$") + r"\Z")
    chars = [chr(code) for code in (*range(0xD800), *range(0xE000, 0x10000), 0x1F600, 0xE0001, 0x10FFFF)]

    def taken(char: str) -> bool:
        try:
            return UpdateKey(description=f"a{char}").description == f"a{char}"
        except ValidationError:
            return False

    assert [char for char in chars if taken(char)] == [char for char in chars if pattern.match(f"a{char}")]


def test_it_is_a_valid_openapi_document() -> None:
    schemathesis.openapi.from_dict(DOCUMENT).validate()
    assert DOCUMENT["openapi"] == "3.1.0"


def test_every_route_is_described_with_its_methods() -> None:
    expected = {
        (route.path, method.lower())
        for function in TEMPLATE.functions
        if function.name != "cloud_api"  # its actions are the vendor's contract
        for route in function.routes
        for method in (ANY_METHODS if route.method == "ANY" else (route.method,))
    }
    assert {(path, method) for path, methods in DOCUMENT["paths"].items() for method in methods} == expected


def test_every_error_code_is_described_somewhere_or_belongs_to_no_operation() -> None:
    used: set[str] = set()
    for operation in OPERATIONS.values():
        for status, response in operation["responses"].items():
            if int(status) >= 400:
                schema = described.resolved(response)["content"]["application/problem+json"]["schema"]
                used.update(schema["properties"]["code"]["enum"])
    assert CODES.keys() - used == described.OUTSIDE
    assert used <= CODES.keys()


def test_the_local_run_serves_it(deployment: Deployment) -> None:
    (route,) = described_routes(deployment).items()
    assert route[0] == ("GET", "/openapi.json")
    assert json.loads(json.dumps(route[1]({}))) == DOCUMENT == document(TEMPLATE, HANDLERS)


@pytest.mark.parametrize(
    "spoiled",
    [
        {"code": "NoSuchCode"}, {"extra": 1}, {"status": "400"}, {"request_id": None}, {"errors": [{"field": "x"}]},
        {"code": "NameInUse"},
    ],
)  # fmt: skip
def test_the_check_of_answers_sees_what_is_not_described(spoiled: dict[str, object]) -> None:
    event = {"httpMethod": "GET", "path": "/v1/gateways/default/keys"}
    body = {
        "type": "about:blank", "title": "t", "status": 400, "code": "InvalidParameter", "detail": "d", "request_id": "",
        "errors": [{"field": "limit", "message": "m"}],
    }  # fmt: skip
    headers = {"Content-Type": "application/problem+json"}
    described.check("list_keys", event, {"statusCode": 400, "headers": headers}, body, 400)
    with pytest.raises(AssertionError):
        described.check("list_keys", event, {"statusCode": 400, "headers": headers}, {**body, **spoiled}, 400)
