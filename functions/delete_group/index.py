"""Delete an empty group, or check first with dry_run=true."""

from typing import Any

from consumer_keys import groups, wiring
from consumer_keys.model import Caller, DeleteOptions
from consumer_keys.operation import Call, Operation, serve
from consumer_keys.web import Reply

OPERATION = Operation(
    "delete_group", "DELETE", "/v1/gateways/{gateway_id}/groups/{group_id}", status=204, query=DeleteOptions
)


def main_handler(event: Any, context: Any) -> Any:
    """Entry point of SCF."""
    return serve(OPERATION, _run, event, context, wiring.services)


def _run(app: wiring.Services, caller: Caller, call: Call) -> Reply:
    found = groups.delete(app, caller, call.params["gateway_id"], call.params["group_id"], dry_run=call.input.dry_run)
    return Reply(204 if found is None else 200, found)
