"""Create a consumer."""

from typing import Any

from consumer_keys import consumers, web, wiring
from consumer_keys.model import Caller, CreateConsumer

OPERATION = web.Operation(
    "create_consumer", "POST", "/v1/gateways/{gateway_id}/consumers", status=201, body=CreateConsumer
)


def main_handler(event: Any, context: Any) -> Any:
    """Entry point of SCF."""
    return web.serve(OPERATION, _run, event, context, wiring.services)


def _run(app: wiring.Services, caller: Caller, call: web.Call) -> web.Reply:
    return web.resource(consumers.create(app, caller, call.params["gateway_id"], call.input), status=201)
