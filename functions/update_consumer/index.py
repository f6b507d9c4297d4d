"""Edit the name, description and status of a consumer."""

from typing import Any

from consumer_keys import consumers, wiring
from consumer_keys.model import Caller, UpdateConsumer
from consumer_keys.operation import Call, Operation, resource, serve
from consumer_keys.web import Reply

OPERATION = Operation(
    "update_consumer", "PATCH", "/v1/gateways/{gateway_id}/consumers/{consumer_id}", body=UpdateConsumer
)


def main_handler(event: Any, context: Any) -> Any:
    """Entry point of SCF."""
    return serve(OPERATION, _run, event, context, wiring.services)


def _run(app: wiring.Services, caller: Caller, call: Call) -> Reply:
    return resource(consumers.update(app, caller, call.params["gateway_id"], call.params["consumer_id"], call.input))
