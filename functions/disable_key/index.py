"""Disable a consumer key; repeating it is no error."""

from typing import Any

from consumer_keys import keys, web, wiring
from consumer_keys.model import Caller

OPERATION = web.Operation("disable_key", "POST", "/v1/gateways/{gateway_id}/keys/{key_id}/disable")


def main_handler(event: Any, context: Any) -> Any:
    """Entry point of SCF."""
    return web.serve(OPERATION, _run, event, context, wiring.services)


def _run(app: wiring.Services, caller: Caller, call: web.Call) -> web.Reply:
    return web.resource(keys.set_status(app, caller, call.params["gateway_id"], call.params["key_id"], "Disable"))
