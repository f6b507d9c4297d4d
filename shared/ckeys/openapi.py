"""The OpenAPI 3.1 document, made from template.yaml, the functions' input models, their answers and errors.py."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from ckeys.answers import DESCRIBED, Described, PresentedKey, ProblemDocument, VerdictBody
from ckeys.events import Handler
from ckeys.template import Function, Route, Template
from consumer_keys.access import ROLES
from consumer_keys.errors import CODES
from consumer_keys.model import Input
from consumer_keys.operation import Operation
from consumer_keys.validate_wiring import IDENTITY_HEADERS

JSON, PROBLEM = "application/json", "application/problem+json"
ANY_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")
# What any management call may answer besides its own codes.
_COMMON = (
    "InvalidParameter", "Unauthenticated", "TooManyFailures", "Forbidden", "RouteNotFound", "HeadersTooLarge",
    "InternalError", "DependencyUnavailable",
)  # fmt: skip
_OPERATOR: list[dict[str, list[str]]] = [{"operatorBearer": []}, {"operatorSignature": []}]
_PARAMETERS = {
    "gateway_id": {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$", "examples": ["default"]},
    "key_id": {"type": "string", "pattern": "^secret-[0-9a-f]{14}$"},
    "consumer_id": {"type": "string", "pattern": "^consumer-[0-9a-f]{14}$"},
    "group_id": {"type": "string", "pattern": "^cg-[0-9a-f]{14}$"},
    "rest": {"type": "string", "description": "Any path below, slashes included; it changes no decision."},
}
_IF_MATCH = {
    "name": "If-Match", "in": "header", "required": False,
    "description": "The revisions that the resource may have, as ETag gave them; otherwise the answer is 412.",
    "schema": {"type": "string", "pattern": r'^(\*|"[0-9]{1,18}"( *, *"[0-9]{1,18}")*)$', "examples": ['"17"']},
}  # fmt: skip
_IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key", "in": "header", "required": False,
    "description": "Makes the call repeatable for a day: the first answer again, without a secret.",
    "schema": {"type": "string", "pattern": r"^[!-~]{1,255}$"},
}  # fmt: skip
_TEXT = {"schema": {"type": "string"}}
_HEADERS: dict[str, dict[str, Any]] = {
    "ETag": {"description": "The resource's revision.", "schema": {"type": "string", "pattern": '^"[0-9]+"$'}},
    "Idempotency-Replayed": {
        "description": "There when this is the answer to an earlier request.",
        "schema": {"type": "string", "enum": ["true"]},
    },
    "WWW-Authenticate": {"description": "How to authenticate.", **_TEXT},
    "Retry-After": {"description": "Seconds.", "schema": {"type": "string", "pattern": "^[0-9]+$"}},
    **{name: {"description": "Percent-encoded UTF-8.", "required": True, **_TEXT} for name in IDENTITY_HEADERS},
}


def document(template: Template, handlers: Mapping[str, Handler]) -> dict[str, Any]:
    """The whole document. Raises LookupError for a route whose function is described nowhere."""
    paths: dict[str, dict[str, Any]] = {}
    used: list[type[BaseModel]] = []
    problems: dict[str, Any] = {}
    for function in template.functions:
        for route in function.routes:
            if function.name == "cloud_api":  # the vendor's contract, not this one
                continue
            for method, operation in _operations(function, route, handlers[function.name], used):
                operation["responses"] |= _problems(operation.pop("codes"), problems)
                paths.setdefault(route.path, {})[method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "consumer-keys",
            "version": "1",
            "description": "Consumer keys of an AI gateway: manage them, and ask whether a presented key is good.",
            "license": {"name": "see the repository"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": _schemas(used),
            "responses": problems,
            "securitySchemes": _SECURITY,
            "headers": _HEADERS,
        },
    }


def text(template: Template, handlers: Mapping[str, Handler]) -> str:
    """The document as it is kept in the repository."""
    return json.dumps(document(template, handlers), indent=1, ensure_ascii=False) + "\n"


_SECURITY = {
    "operatorBearer": {"type": "http", "scheme": "bearer", "description": "An operator's secret_key."},
    "operatorSignature": {
        "type": "apiKey", "in": "header", "name": "Authorization",
        "description": "TC3-HMAC-SHA256 with an operator's secret_id and secret_key, service `ckeys`.",
    },
    "keyBearer": {"type": "http", "scheme": "bearer", "description": "A consumer key."},
    **{
        name: {"type": "apiKey", "in": "header", "name": name, "description": "A consumer key."}
        for name in ("x-api-key", "api-key", "apikey")
    },
}  # fmt: skip


def _operations(
    function: Function, route: Route, handler: Handler, used: list[type[BaseModel]]
) -> Iterator[tuple[str, dict[str, Any]]]:
    found = getattr(handler, "__globals__", {}).get("OPERATION")
    if isinstance(found, Operation):
        if function.name not in DESCRIBED:
            raise LookupError(f"{function.name} has no answers in ckeys.answers.DESCRIBED.")
        yield route.method, _management(function, found, DESCRIBED[function.name], used)
    elif function.name == "validate_key" and route.path.endswith("/verify"):
        yield route.method, _verify(route, used)
    elif function.name == "validate_key":
        for method in ANY_METHODS:
            yield method, _validate(route, method)
    else:
        raise LookupError(f"Nothing says what {function.name} answers at {route.path}.")


def _management(
    function: Function, operation: Operation, described: Described, used: list[type[BaseModel]]
) -> dict[str, Any]:
    parameters = _path_parameters(operation.path)
    codes = [*_COMMON, *described.codes]
    made: dict[str, Any] = {"operationId": function.name, "summary": function.description, "security": _OPERATOR}
    if "{gateway_id}" in operation.path:
        codes.append("GatewayNotFound")
    if operation.query is not None:
        parameters += list(_query_parameters(operation.query))
    if described.conditional:
        parameters.append(_IF_MATCH)
        codes.append("RevisionMismatch")
    if operation.method == "POST":
        parameters.append(_IDEMPOTENCY_KEY)
        codes.append("IdempotencyKeyReused")
    if operation.method != "GET":
        codes += ["SignatureReused", "OutcomeUnknown"]
    if operation.query is None:  # a body is read, be it only to say that it holds nothing of use
        codes += ["MalformedJson", "BodyTooLarge"]
    if operation.body is not None:
        made["requestBody"] = _body(operation.body, used)
    answers = {
        str(status): _answer(status, model, described.etag, operation.method == "POST", used)
        for status, model in described.answers.items()
    }
    roles = ", ".join(role for role, functions in ROLES.items() if function.name in functions)
    made["description"] = f"Roles: {roles}."
    return {**made, "parameters": parameters, "responses": answers, "codes": codes}


def _answer(
    status: int, model: type[BaseModel] | None, etag: bool, replayed: bool, used: list[type[BaseModel]]
) -> dict[str, Any]:
    names = [name for name, there in (("ETag", etag), ("Idempotency-Replayed", replayed)) if there]
    made: dict[str, Any] = {"description": "Done." if model is None else (model.__doc__ or "").split("\n")[0]}
    if names:
        made["headers"] = {name: {"$ref": f"#/components/headers/{name}"} for name in names}
    if model is not None:
        used.append(model)
        made["content"] = {JSON: {"schema": _ref(model)}}
    return made | _links(status, model)


_LINKED = {
    "key_id": (
        "get_key", "update_key", "enable_key", "disable_key", "delete_key", "reveal_key", "unbind_consumer",
    ),
    "consumer_id": ("get_consumer", "update_consumer", "delete_consumer"),
    "group_id": ("get_group", "update_group", "delete_group"),
}  # fmt: skip


def _links(status: int, model: type[BaseModel] | None) -> dict[str, Any]:
    """Where one can go from something that was just made."""
    if status != 201 or model is None:
        return {}
    ident = next(name for name in _LINKED if name in model.model_fields)
    names = _LINKED[ident]
    given = {"gateway_id": "$response.body#/gateway_id", ident: f"$response.body#/{ident}"}
    return {"links": {name: {"operationId": name, "parameters": given} for name in names}}


def _problems(codes: list[str], components: dict[str, Any]) -> dict[str, Any]:
    """The error answers of a call; calls with the same codes under a status share one component."""
    by_status: dict[int, list[str]] = {}
    for code in CODES:
        if code in codes:
            by_status.setdefault(CODES[code][0], []).append(code)
    answers = {}
    for status, names in by_status.items():
        name = ".".join(names)
        components[name] = _problem(status, names)
        answers[str(status)] = {"$ref": f"#/components/responses/{name}"}
    return answers


def _problem(status: int, codes: list[str]) -> dict[str, Any]:
    schema = {**_ref(ProblemDocument), "properties": {"code": {"enum": codes}, "status": {"const": status}}}
    header = {401: "WWW-Authenticate", 412: "ETag", 429: "Retry-After", 503: "Retry-After"}.get(status)
    return {
        "description": " ".join(f"`{code}`: {CODES[code][1]}" for code in codes),
        "content": {PROBLEM: {"schema": schema}},
        **({"headers": {header: {"$ref": f"#/components/headers/{header}"}}} if header else {}),
    }


def _verify(route: Route, used: list[type[BaseModel]]) -> dict[str, Any]:
    used.append(VerdictBody)
    codes = [*_COMMON, "GatewayNotFound", "MalformedJson", "BodyTooLarge", "SnapshotUnavailable"]
    return {
        "operationId": "verify",
        "summary": "Say whether a key is good, whose it is, and why not.",
        "description": f"Roles: {', '.join(role for role, may in ROLES.items() if 'verify' in may)}.",
        "security": [{"operatorBearer": []}],
        "parameters": _path_parameters(route.path),
        "requestBody": _body(PresentedKey, used),
        "responses": {"200": _answer(200, VerdictBody, False, False, used)},
        "codes": codes,
    }


def _validate(route: Route, method: str) -> dict[str, Any]:
    rest = "_below" if "{rest}" in route.path else ""
    good = {
        "description": "The key is good; the headers say whose it is.",
        "headers": {name: {"$ref": f"#/components/headers/{name}"} for name in IDENTITY_HEADERS},
    }
    return {
        "operationId": f"validate{rest}_{method.lower()}",
        "summary": "Forward auth: let a caller in, or not.",
        "description": "Any method and any body; the presented key alone counts.",
        "security": [{name: []} for name in ("keyBearer", "x-api-key", "api-key", "apikey")],
        "parameters": _path_parameters(route.path),
        "responses": {"200": good},
        "codes": [
            "KeyRefused",
            "RouteNotFound",
            "HeadersTooLarge",
            "InternalError",
            "DependencyUnavailable",
            "SnapshotUnavailable",
        ],
    }  # fmt: skip


def _path_parameters(path: str) -> list[dict[str, Any]]:
    names = [part[1:-1] for part in path.split("/") if part.startswith("{")]
    return [{"name": name, "in": "path", "required": True, "schema": _PARAMETERS[name]} for name in names]


def _query_parameters(model: type[Input]) -> Iterator[dict[str, Any]]:
    for name, schema in model.model_json_schema(by_alias=True)["properties"].items():
        # A parameter that is absent is absent: there is no null in a query.
        choices = [choice for choice in schema.pop("anyOf", []) if choice.get("type") != "null"]
        plain = {**schema, **(choices[0] if choices else {})}
        if "default" in plain and plain["default"] is None:
            del plain["default"]
        plain.pop("title", None)
        for name_here, standard in (("ge", "minimum"), ("le", "maximum")):  # pydantic's own words beside a converter
            if name_here in plain:
                plain[standard] = plain.pop(name_here)
        yield {"name": name, "in": "query", "required": False, "schema": plain}


def _body(model: type[BaseModel], used: list[type[BaseModel]]) -> dict[str, Any]:
    used.append(model)
    required = any(field.is_required() for field in model.model_fields.values()) or hasattr(model, "_something")
    return {"required": required, "content": {JSON: {"schema": _ref(model)}}}


def _ref(model: type[BaseModel]) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{model.__name__}"}


def _schemas(used: list[type[BaseModel]]) -> dict[str, Any]:
    models: list[type[BaseModel]] = list(dict.fromkeys([*used, ProblemDocument]))
    pairs = [(model, "validation" if _is_input(model) else "serialization") for model in models]
    _, found = models_json_schema(pairs, ref_template="#/components/schemas/{model}")  # type: ignore[arg-type]
    schemas: dict[str, Any] = {name: _tidy(schema) for name, schema in sorted(found["$defs"].items())}
    for name in ("UpdateKey", "UpdateConsumer", "UpdateGroup"):
        schemas[name]["minProperties"] = 1
        for member in schemas[name]["properties"].values():
            member.pop("default", None)  # what is absent stays as it is
    optional = {"ProblemDocument": ("errors", "blockers", "consumer"), "CreatedKey": ("value", "value_jwe")}
    optional["RevealedValue"] = ("value", "value_jwe")
    for name, members in optional.items():
        required = schemas[name]["required"]
        schemas[name]["required"] = [member for member in required if member not in members]
        for member in members:
            schemas[name]["properties"][member].pop("default", None)
    schemas["CreateKey"] = _by_generation(schemas["CreateKey"])
    return schemas


def _is_input(model: type[BaseModel]) -> bool:
    return issubclass(model, Input) or model is PresentedKey


def _tidy(schema: dict[str, Any]) -> dict[str, Any]:
    schema.pop("title", None)
    for name, member in schema.get("properties", {}).items():
        member.pop("title", None)
        if name == "at" or name.endswith("_at"):
            for choice in member.get("anyOf", [member]):
                if choice.get("type") == "string":
                    choice["format"] = "date-time"
    return schema


def _by_generation(schema: dict[str, Any]) -> dict[str, Any]:
    """The one rule over several fields: `value` goes with Custom, `credential` with KMS, neither with System."""
    brings = {"System": None, "Custom": "value", "KMS": "credential"}
    choices = []
    for generation, needed in brings.items():
        members = {**schema["properties"], "generation": {"const": generation}}
        for name in ("value", "credential"):
            given = [choice for choice in members[name]["anyOf"] if choice.get("type") != "null"]
            members[name] = given[0] if name == needed else {"type": "null"}
        required = [*schema["required"], *([needed] if needed else [])]
        choices.append({**schema, "title": generation, "properties": members, "required": required})
        choices[-1].pop("description", None)
    return {"description": schema["description"], "oneOf": choices}
