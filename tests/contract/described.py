"""Holds answers against the OpenAPI document, more strictly than it reads: a member that it does not name is wrong."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import jsonschema_rs

from ckeys.deployment import ROOT
from ckeys.template import Match, load_template

DOCUMENT: dict[str, Any] = json.loads((ROOT / "openapi.json").read_text(encoding="utf-8"))
TEMPLATE = load_template(ROOT / "template.yaml")
OPERATIONS = {
    operation["operationId"]: operation for methods in DOCUMENT["paths"].values() for operation in methods.values()
}
# Errors of what is no call of the API at all, and of the command line: they belong to no operation.
OUTSIDE = {"MalformedEvent", "MethodNotAllowed", "LastAdmin", "OperatorNotFound"}


def closed(components: dict[str, Any]) -> dict[str, Any]:
    """The components with every object limited to the members that it names."""
    strict = copy.deepcopy(components)
    for schema in strict["schemas"].values():
        if schema.get("type") == "object":
            schema.setdefault("additionalProperties", False)
    return strict


COMPONENTS = closed(DOCUMENT["components"])


def check(function: str, event: Any, answer: Any, body: Any, status: int) -> None:
    """Fails unless the document describes this answer of a function to an event."""
    operation = operation_of(function, event)
    if operation is None or (isinstance(body, dict) and body.get("code") in OUTSIDE):
        return
    headers = answer["headers"] if isinstance(answer, dict) and "statusCode" in answer else None
    if event.get("httpMethod") != "HEAD":
        check_answer(operation, status, headers, body)


def check_answer(operation: dict[str, Any], status: int, headers: Mapping[str, str] | None, body: Any) -> None:
    """Fails unless the operation describes this answer; `headers` None where only a body was returned."""
    assert str(status) in operation["responses"], f"{operation['operationId']} does not describe {status}"
    response = resolved(operation["responses"][str(status)])
    check_headers(response, headers)
    if body is None:
        assert "content" not in response
        return
    (content_type,) = response["content"]
    assert headers is None or headers["Content-Type"] == content_type
    faults = [
        f"{error.instance_path}: {error.message}"
        for error in validator(json.dumps(response["content"][content_type]["schema"])).iter_errors(body)
    ]
    assert faults == []


def check_headers(response: dict[str, Any], headers: Mapping[str, str] | None) -> None:
    """Every header of ours is described, and every required one is there."""
    if headers is None:
        return
    known = {name: resolved(header) for name, header in response.get("headers", {}).items()}
    given = {name for name in headers if name in DOCUMENT["components"]["headers"]}
    assert given <= known.keys()
    assert {name for name, header in known.items() if header.get("required")} <= given
    for name in given:
        assert validator(json.dumps(known[name]["schema"])).is_valid(headers[name]), (name, headers[name])


def operation_of(function: str, event: Any) -> dict[str, Any] | None:
    """The operation that an event calls; None where it calls none, such as a wrong path."""
    if not isinstance(event, dict) or "Type" in event:
        return None
    if "httpMethod" not in event:
        name = "verify" if function == "validate_key" else function
        return OPERATIONS.get(name)
    path = event.get("path")
    found = TEMPLATE.match(event["httpMethod"], path) if isinstance(path, str) else None
    if not isinstance(found, Match) or function not in (found.route.function, "front_door"):
        return None
    methods: dict[str, Any] = DOCUMENT["paths"].get(found.route.path, {})
    operation: dict[str, Any] | None = methods.get(event["httpMethod"].lower().replace("head", "get"))
    return operation


def resolved(item: dict[str, Any]) -> dict[str, Any]:
    """The item, or the component that it names."""
    if "$ref" not in item:
        return item
    _, _, kind, name = item["$ref"].split("/")
    found: dict[str, Any] = DOCUMENT["components"][kind][name]
    return found


@lru_cache(maxsize=1000)
def validator(schema: str) -> Any:
    """A validator for a schema of the document."""
    return jsonschema_rs.Draft202012Validator({**json.loads(schema), "components": COMPONENTS}, validate_formats=True)
