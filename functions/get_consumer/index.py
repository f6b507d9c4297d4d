"""Show one consumer."""

from typing import Any

from consumer_keys import consumers, web, wiring
from consumer_keys.model import Caller

OPERATION = web.Operation("get_consumer", "GET", "/v1/gateways/{gateway_id}/consumers/{consumer_id}")


def main_handler(event: Any, context: Any) -> Any:
    """Entry point of SCF."""
    return web.serve(OPERATION, _run, event, context, wiring.services)


def _run(app: wiring.Services, _caller: Caller, call: web.Call) -> web.Reply:
    return web.resource(consumers.get(app, call.params["gateway_id"], call.params["consumer_id"]))
