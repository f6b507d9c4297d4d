"""One Function URL in front of all functions. It decides nothing: the function that it reaches authenticates.

The routes come from template.yaml, as JSON in FRONT_DOOR_ROUTES: `{"POST /v1/...": "create_key"}`, `ANY` for every
method and `{rest}` for everything below a path.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import Any

from consumer_keys import config, invocation, web
from consumer_keys.errors import Problem

FUNCTION = "front_door"
Routes = tuple[tuple[str, "re.Pattern[str]", str], ...]


def handle(event: Any, context: Any) -> Any:
    """Answers with exactly what the function answered."""

    def answer(request: web.Request) -> invocation.Handed:
        if request.kind != "http":
            raise Problem("MalformedEvent", "The front door takes HTTP events only; invoke the function itself.")
        settings = config.load(config.environment(), ("FRONT_DOOR_ROUTES",))
        function = find(routes(settings.front_door_routes or ""), request.method, request.path)
        result = invocation.invoke(FUNCTION, function, event, context)
        if not isinstance(result, dict) or not isinstance(result.get("statusCode"), int):
            raise Problem("InternalError")
        return invocation.Handed(result, result["statusCode"])

    return invocation.respond(FUNCTION, event, context, answer)


def find(table: Routes, method: str, path: str) -> str:
    """The function behind a method and a raw path, compared exactly: no decoding, no normalising.

    Raises RouteNotFound or MethodNotAllowed.
    """
    matching = [(allowed, function) for allowed, pattern, function in table if pattern.fullmatch(path)]
    for allowed, function in matching:
        if allowed == "ANY" or method in web.allowed_methods(allowed):
            return function
    if matching:
        allow = sorted({each for allowed, _ in matching for each in web.allowed_methods(allowed)})
        raise Problem("MethodNotAllowed", headers={"Allow": ", ".join(allow)})
    raise Problem("RouteNotFound")


@lru_cache(maxsize=2)
def routes(text: str) -> Routes:
    """Parses FRONT_DOOR_ROUTES. Raises ConfigError."""
    try:
        table = json.loads(text)
        return tuple((*_method_and_pattern(route), str(function)) for route, function in table.items())
    except (ValueError, AttributeError):
        raise config.ConfigError("FRONT_DOOR_ROUTES is not a JSON object of routes") from None


def _method_and_pattern(route: str) -> tuple[str, re.Pattern[str]]:
    method, path = route.split(" ")
    # A gateway may ask at `/validate/`, its prefix and the path `/`: below a path there may be nothing.
    pattern = re.sub(r"\\\{rest\\\}", ".*", re.escape(path))
    return method, re.compile(re.sub(r"\\\{[a-z_]+\\\}", "[^/]+", pattern), re.DOTALL)
