"""Bind a consumer key to a consumer."""

from typing import Any

from consumer_keys import keys, web, wiring
from consumer_keys.model import BindConsumer, Caller

OPERATION = web.Operation("bind_consumer", "PUT", "/v1/gateways/{gateway_id}/keys/{key_id}/consumer", body=BindConsumer)


def main_handler(event: Any, context: Any) -> Any:
    """Entry point of SCF."""
    return web.serve(OPERATION, _run, event, context, wiring.services)


def _run(app: wiring.Services, caller: Caller, call: web.Call) -> web.Reply:
    return web.resource(keys.bind(app, caller, call.params["gateway_id"], call.params["key_id"], call.input))
