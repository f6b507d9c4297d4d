"""Management operations: route, authenticate, parse, run, answer. Validation, which needs none of it, stays lean.

Who may call is decided by the function's name, never by the path.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import unquote

from pydantic import ValidationError

from consumer_keys.errors import Problem, Replayed, field_name, invalid
from consumer_keys.fields import field_error
from consumer_keys.web import Reply, Request, allowed_methods, parse_json, plain_id, respond

BAD_REQUEST = 400
_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")


class Operation(NamedTuple):
    """What one function serves: who may call it is decided by `function`, never by the path.

    `denied(app, actor, request_id, params, problem)` is called before a known operator is refused something that was
    understood.
    """

    function: str
    method: str
    path: str
    status: int = 200
    body: Any = None
    query: Any = None
    denied: Any = None


class Call(NamedTuple):
    """A request that was understood: ids from the path, and the validated input."""

    request: Request
    params: Mapping[str, str]
    input: Any


Run = Callable[[Any, Any, Call], Reply]


def serve(operation: Operation, run: Run, event: Any, context: Any, services: Any) -> Any:
    """Runs one management operation: authenticate, authorise, parse, run, answer.

    `services` builds the collaborators at the first call. Whatever goes wrong becomes one problem document.
    """
    return respond(operation.function, event, context, lambda request: answer(operation, run, request, services))


def answer(operation: Operation, run: Run, request: Request, services: Any) -> Reply:
    """The reply to one request for the operation. Raises Problem."""
    params = path_params(operation, request)
    app, caller = services(), None
    try:
        caller = app.authenticate(operation.function, request, params.get("gateway_id"))
        return run(app, caller, Call(request, params, read_input(operation, request, params)))
    except Replayed as replay:
        app.publish_pending()  # the first attempt may have ended between its commit and its publication
        return Reply(operation.status, replay.body, {"Idempotency-Replayed": "true"})
    except Problem as problem:
        actor = problem.actor if caller is None else caller.actor
        if operation.denied is not None and actor is not None and problem.status != BAD_REQUEST:
            operation.denied(app, actor, request.request_id, params, problem)
        raise


def resource(found: Any, *, status: int = 200, **more: Any) -> Reply:
    """A resource with its ETag."""
    return Reply(status, {**found.model_dump(mode="json"), **more}, {"ETag": f'"{found.revision}"'})


def path_params(operation: Operation, request: Request) -> dict[str, str]:
    """The ids of a call. Raises RouteNotFound, MethodNotAllowed, or InvalidParameter for a missing direct field."""
    names = _PLACEHOLDER.findall(operation.path)
    if request.kind == "direct":
        return {name: _direct_id(request, name) for name in names}
    pattern = _PLACEHOLDER.sub(lambda match: f"(?P<{match[1]}>[^/]+)", operation.path)
    match = re.fullmatch(pattern, request.path)
    if match is None:
        raise Problem("RouteNotFound")
    if request.method not in allowed_methods(operation.method):
        raise Problem("MethodNotAllowed", headers={"Allow": ", ".join(allowed_methods(operation.method))})
    return {name: plain_id(unquote(text, errors="replace")) for name, text in match.groupdict().items()}


def _direct_id(request: Request, name: str) -> str:
    value = request.fields.get(name)
    if not isinstance(value, str):
        raise invalid(name, "is required and must be a string")
    return plain_id(value)


def read_input(operation: Operation, request: Request, params: Mapping[str, str]) -> Any:
    """The validated input of a call. Raises Problem naming every faulty field."""
    if request.kind == "direct":
        fields = {name: value for name, value in request.fields.items() if name not in params}
        return validate(operation.body or operation.query, fields)
    for name, value in request.query.items():
        if isinstance(value, list):
            raise invalid(field_name(str(name)), "is given more than once")
    if operation.query is None and request.query:
        raise invalid(field_name(str(next(iter(request.query)))), "is not a parameter of this call")
    if operation.query is not None:
        return validate(operation.query, dict(request.query))
    # An empty body is an empty object, so that the answer names the fields that are missing.
    return validate(operation.body, parse_json(request.body) if request.body.strip() else {})


def validate(model: Any, fields: Mapping[str, Any]) -> Any:
    """An instance of a pydantic model, or InvalidParameter with one entry per fault; never repeats the input."""
    if model is None:
        if fields:
            raise invalid(field_name(str(next(iter(fields)))), "is not a field of this call")
        return None
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        faults = [field_error(fault) for fault in error.errors(include_url=False, include_input=False)]
    first = faults[0]
    raise Problem("InvalidParameter", f"{first.field}: {first.message}", errors=faults)
