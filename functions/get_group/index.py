"""Show one consumer group."""

from typing import Any

from consumer_keys import groups, wiring
from consumer_keys.model import Caller
from consumer_keys.operation import Call, Operation, resource, serve
from consumer_keys.web import Reply

OPERATION = Operation("get_group", "GET", "/v1/gateways/{gateway_id}/groups/{group_id}")


def main_handler(event: Any, context: Any) -> Any:
    """Entry point of SCF."""
    return serve(OPERATION, _run, event, context, wiring.services)


def _run(app: wiring.Services, _caller: Caller, call: Call) -> Reply:
    return resource(groups.get(app, call.params["gateway_id"], call.params["group_id"]))
