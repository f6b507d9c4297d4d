"""Show one consumer key with its consumer and its last synchronisation."""

from typing import Any

from consumer_keys import keys, web, wiring
from consumer_keys.model import Caller

OPERATION = web.Operation("get_key", "GET", "/v1/gateways/{gateway_id}/keys/{key_id}")


def main_handler(event: Any, context: Any) -> Any:
    """Entry point of SCF."""
    return web.serve(OPERATION, _run, event, context, wiring.services)


def _run(app: wiring.Services, _caller: Caller, call: web.Call) -> web.Reply:
    return web.resource(keys.get(app, call.params["gateway_id"], call.params["key_id"]))
