"""Reveal the value of a System or Custom key, by REST or by the vendor's action; audited first, a refusal too."""

from typing import Any

from consumer_keys import audit, keys, wiring
from consumer_keys.cloud_api import handler
from consumer_keys.disclosure import Disclosure
from consumer_keys.model import Caller, RevealKey
from consumer_keys.operation import Call, Operation, answer
from consumer_keys.web import Reply, Request, respond

OPERATION = Operation(
    "reveal_key", "POST", "/v1/gateways/{gateway_id}/keys/{key_id}/reveal", body=RevealKey,
    denied=audit.note_denied_reveal,
)  # fmt: skip


def main_handler(event: Any, context: Any) -> Any:
    """Entry point of SCF."""
    return respond(OPERATION.function, event, context, _answer)


def _answer(request: Request) -> Reply:
    # cloud_api hands the vendor's action on to here, since no other function may decrypt values.
    if handler.server_of(request) == OPERATION.function:
        return handler.answer(OPERATION.function, request, wiring.services)
    return answer(OPERATION, _run, request, wiring.services)


def _run(app: wiring.Services, caller: Caller, call: Call) -> Reply:
    disclosure = Disclosure(call.input.reveal_to, clear_values=app.settings.clear_values)
    value = keys.reveal(app, caller, call.params["gateway_id"], call.params["key_id"], call.input)
    return Reply(200, {"key_id": call.params["key_id"], **disclosure.members(value)})
