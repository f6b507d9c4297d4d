"""The function cloud_api: serves the vendor's actions, and hands those on that another function alone may serve."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from consumer_keys import invocation, web
from consumer_keys.cloud_api.actions import CLOUD_API
from consumer_keys.cloud_api.handler import action_name, answer, id_of, refusal, server_of
from consumer_keys.errors import Problem

if TYPE_CHECKING:
    from consumer_keys.wiring import Services


def handle(event: Any, context: Any, services: Callable[[], Services]) -> Any:
    """Answers one request of an official client, or a direct invocation `{Action, Version, ...}`.

    A request that is handed on is not looked at any further: the function behind authenticates the same signature, and
    its answer, RequestId included, is the answer.
    """

    def answer_or_hand_on(request: web.Request) -> web.Reply | invocation.Handed:
        target = server_of(request)
        if target is None or target == CLOUD_API:
            return answer(CLOUD_API, request, services)
        noted = {"action": action_name(request)}
        try:
            result = invocation.invoke(CLOUD_API, target, event, context)
            if not _is_envelope(request, result):
                raise Problem("InternalError")
        except Exception as error:  # noqa: BLE001 - the edge: clients get an envelope, whatever became of the call
            return refusal(CLOUD_API, error, id_of(request), noted)
        return invocation.Handed(result, 200, noted)

    return invocation.respond(CLOUD_API, event, context, answer_or_hand_on)


def _is_envelope(request: web.Request, result: Any) -> bool:
    """Whether the official clients would understand it; a function of another release may answer anything."""
    if not isinstance(result, dict):
        return False
    return result.get("statusCode") == 200 if request.kind == "http" else "Response" in result
