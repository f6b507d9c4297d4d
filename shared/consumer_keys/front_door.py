"""One Function URL in front of all functions. It decides nothing: the function that it reaches authenticates.

The routes come from template.yaml, as JSON in FRONT_DOOR_ROUTES: `{"POST /v1/...": "create_key"}`, `ANY` for every
method and `{rest}` for everything below a path.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import Any

from consumer_keys import config, log, web
from consumer_keys.cloud.scf import Scf
from consumer_keys.errors import Problem, Unavailable

FUNCTION = "front_door"
UNANSWERED = "The function behind this path did not answer; whether the call took effect is not known."
Routes = tuple[tuple[str, "re.Pattern[str]", str], ...]


def handle(event: Any, context: Any) -> Any:
    """Answers with exactly what the function answered."""
    answered: list[Any] = []

    def answer(request: web.Request) -> web.Reply:
        if request.kind != "http":
            raise Problem("MalformedEvent", "The front door takes HTTP events only; invoke the function itself.")
        settings = config.load(config.environment(), ("FRONT_DOOR_ROUTES",))
        function = find(routes(settings.front_door_routes or ""), request.method, request.path)
        try:
            result = _scf(settings).invoke(function, settings.front_door_namespace, event)
        except Unavailable as failure:
            log.emit_exception("cloud_failure", failure, function=FUNCTION, code=failure.cloud_code, stage=function)
            raise Problem("DependencyUnavailable", UNANSWERED) from None
        if not isinstance(result, dict) or not isinstance(result.get("statusCode"), int):
            raise Problem("InternalError")
        answered.append(result)
        return web.Reply(result["statusCode"], None)

    own = web.respond(FUNCTION, event, context, answer)
    return answered[0] if answered else own


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


def close() -> None:
    """Closes kept connections; the next call opens new ones."""
    for scf in _live:
        scf.close()
    _live.clear()
    _scf.cache_clear()


_live: list[Scf] = []


@lru_cache(maxsize=2)
def _scf(settings: config.Settings) -> Scf:
    # The functions behind may take up to their own timeout; the front door waits as long as its own allows.
    built = Scf(config.role_credential, settings.tencentcloud_region, settings.cloud_endpoint, (1.0, 55.0))
    _live.append(built)
    return built
