"""Create a consumer."""

from typing import Any

from consumer_keys import consumers, wiring
from consumer_keys.model import Caller, CreateConsumer
from consumer_keys.operation import Call, Operation, resource, serve
from consumer_keys.web import Reply

OPERATION = Operation("create_consumer", "POST", "/v1/gateways/{gateway_id}/consumers", status=201, body=CreateConsumer)


def main_handler(event: Any, context: Any) -> Any:
    """Entry point of SCF."""
    return serve(OPERATION, _run, event, context, wiring.services)


def _run(app: wiring.Services, caller: Caller, call: Call) -> Reply:
    return resource(consumers.create(app, caller, call.params["gateway_id"], call.input), status=201)
