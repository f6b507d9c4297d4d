"""Take a consumer out of a group; repeating it is no error."""

from typing import Any

from consumer_keys import groups, wiring
from consumer_keys.model import Caller
from consumer_keys.operation import Call, Operation, resource, serve
from consumer_keys.web import Reply

OPERATION = Operation(
    "remove_from_group", "DELETE", "/v1/gateways/{gateway_id}/groups/{group_id}/consumers/{consumer_id}"
)


def main_handler(event: Any, context: Any) -> Any:
    """Entry point of SCF."""
    return serve(OPERATION, _run, event, context, wiring.services)


def _run(app: wiring.Services, caller: Caller, call: Call) -> Reply:
    gateway_id, group_id, consumer_id = (call.params[name] for name in ("gateway_id", "group_id", "consumer_id"))
    return resource(groups.remove_consumers(app, caller, gateway_id, group_id, [consumer_id]))
