"""Unbind a consumer key from its consumer; repeating it is no error."""

from typing import Any

from consumer_keys import keys, web, wiring
from consumer_keys.model import Caller

OPERATION = web.Operation("unbind_consumer", "DELETE", "/v1/gateways/{gateway_id}/keys/{key_id}/consumer")


def main_handler(event: Any, context: Any) -> Any:
    """Entry point of SCF."""
    return web.serve(OPERATION, _run, event, context, wiring.services)


def _run(app: wiring.Services, caller: Caller, call: web.Call) -> web.Reply:
    return web.resource(keys.unbind(app, caller, call.params["gateway_id"], call.params["key_id"]))
