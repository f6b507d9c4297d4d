"""Reveal the value of a System or Custom key; audited first."""

from typing import Any

from consumer_keys import keys, web, wiring
from consumer_keys.model import Caller, RevealKey

OPERATION = web.Operation("reveal_key", "POST", "/v1/gateways/{gateway_id}/keys/{key_id}/reveal", body=RevealKey)


def main_handler(event: Any, context: Any) -> Any:
    """Entry point of SCF."""
    return web.serve(OPERATION, _run, event, context, wiring.services)


def _run(app: wiring.Services, caller: Caller, call: web.Call) -> web.Reply:
    value = keys.reveal(app, caller, call.params["gateway_id"], call.params["key_id"], call.input)
    return web.Reply(200, {"key_id": call.params["key_id"], "value": value})
