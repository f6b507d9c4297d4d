"""Handing a whole event on to another function of the same namespace, by SCF Invoke."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from consumer_keys import config, log, web
from consumer_keys.cloud.scf import Scf
from consumer_keys.errors import Problem, Unavailable

UNANSWERED = "The function that serves this call did not answer; whether the call took effect is not known."


class Handed(NamedTuple):
    """What another function returned; `status` and `noted` are for the line in this function's own log."""

    result: Any
    status: int
    noted: Mapping[str, Any] = {}

    def __repr__(self) -> str:
        """The status alone, as `web.Reply` does."""
        return f"Handed(status={self.status!r})"


def respond(function: str, event: Any, context: Any, answer: Callable[[web.Request], web.Reply | Handed]) -> Any:
    """`web.respond` for an `answer` that may hand the event on: its result is then returned exactly as it came."""
    handed: list[Handed] = []

    def reply(request: web.Request) -> web.Reply:
        given = answer(request)
        if isinstance(given, web.Reply):
            return given
        handed.append(given)
        return web.Reply(given.status, None, {}, given.noted)

    own = web.respond(function, event, context, reply)
    return handed[0].result if handed else own


def invoke(function: str, target: str, event: Any, context: Any) -> Any:
    """What `target` returned for the event. Called once; raises DependencyUnavailable, and logs why."""
    settings = config.load(config.environment())
    try:
        return _scf(config.hosted_function(), settings).invoke(target, _namespace(context), event)
    except Unavailable as failure:
        log.emit_exception("cloud_failure", failure, function=function, code=failure.cloud_code, stage=target)
        raise Problem("DependencyUnavailable", UNANSWERED) from None


def _namespace(context: Any) -> str:
    """The function's own, as the platform tells it (document 583/9210)."""
    name = context.get("namespace") if isinstance(context, dict) else None
    return name if isinstance(name, str) and name else "default"


def close() -> None:
    """Closes kept connections; the next call opens new ones."""
    for scf in _live:
        scf.close()
    _live.clear()
    _scf.cache_clear()


_live: list[Scf] = []


@lru_cache(maxsize=4)
def _scf(function: str, settings: config.Settings) -> Scf:  # noqa: ARG001 - each function has its own role
    # The functions behind may take up to their own timeout; whoever waits does so as long as its own allows.
    built = Scf(config.role_credential, settings.tencentcloud_region, settings.cloud_endpoint, (1.0, 55.0))
    _live.append(built)
    return built
