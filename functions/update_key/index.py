"""Edit the name and description of a consumer key."""

from typing import Any

from consumer_keys import keys, wiring
from consumer_keys.model import Caller, UpdateKey
from consumer_keys.operation import Call, Operation, resource, serve
from consumer_keys.web import Reply

OPERATION = Operation("update_key", "PATCH", "/v1/gateways/{gateway_id}/keys/{key_id}", body=UpdateKey)


def main_handler(event: Any, context: Any) -> Any:
    """Entry point of SCF."""
    return serve(OPERATION, _run, event, context, wiring.services)


def _run(app: wiring.Services, caller: Caller, call: Call) -> Reply:
    return resource(keys.update(app, caller, call.params["gateway_id"], call.params["key_id"], call.input))
