"""Create a consumer key: System, Custom or KMS."""

from typing import Any

from consumer_keys import keys, wiring
from consumer_keys.disclosure import Disclosure
from consumer_keys.model import Caller, CreateKey
from consumer_keys.operation import Call, Operation, resource, serve
from consumer_keys.web import Reply

OPERATION = Operation("create_key", "POST", "/v1/gateways/{gateway_id}/keys", status=201, body=CreateKey)


def main_handler(event: Any, context: Any) -> Any:
    """Entry point of SCF."""
    return serve(OPERATION, _run, event, context, wiring.services)


def _run(app: wiring.Services, caller: Caller, call: Call) -> Reply:
    shown = call.input.generation == "System"
    disclosure = Disclosure(call.input.reveal_to, clear_values=app.settings.clear_values or not shown)
    key, value = keys.create(app, caller, call.params["gateway_id"], call.input)
    return resource(key, status=201, **({} if value is None else disclosure.members(value)))
