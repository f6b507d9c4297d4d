"""List and search the consumer groups of a gateway."""

from typing import Any

from consumer_keys import groups, wiring
from consumer_keys.model import Caller, ListGroups
from consumer_keys.operation import Call, Operation, serve
from consumer_keys.web import Reply

OPERATION = Operation("list_groups", "GET", "/v1/gateways/{gateway_id}/groups", query=ListGroups)


def main_handler(event: Any, context: Any) -> Any:
    """Entry point of SCF."""
    return serve(OPERATION, _run, event, context, wiring.services)


def _run(app: wiring.Services, _caller: Caller, call: Call) -> Reply:
    return Reply(200, groups.find(app, call.params["gateway_id"], call.input))
