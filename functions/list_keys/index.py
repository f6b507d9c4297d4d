"""List and search the consumer keys of a gateway."""

from typing import Any

from consumer_keys import keys, wiring
from consumer_keys.model import Caller, ListKeys
from consumer_keys.operation import Call, Operation, serve
from consumer_keys.web import Reply

OPERATION = Operation("list_keys", "GET", "/v1/gateways/{gateway_id}/keys", query=ListKeys)


def main_handler(event: Any, context: Any) -> Any:
    """Entry point of SCF."""
    return serve(OPERATION, _run, event, context, wiring.services)


def _run(app: wiring.Services, _caller: Caller, call: Call) -> Reply:
    return Reply(200, keys.find(app, call.params["gateway_id"], call.input))
