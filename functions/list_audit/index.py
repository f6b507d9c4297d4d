"""List and search the audit log of a gateway."""

from typing import Any

from consumer_keys import audit, wiring
from consumer_keys.model import Caller, ListAudit
from consumer_keys.operation import Call, Operation, serve
from consumer_keys.web import Reply

OPERATION = Operation("list_audit", "GET", "/v1/gateways/{gateway_id}/audit", query=ListAudit)


def main_handler(event: Any, context: Any) -> Any:
    """Entry point of SCF."""
    return serve(OPERATION, _run, event, context, wiring.services)


def _run(app: wiring.Services, _caller: Caller, call: Call) -> Reply:
    return Reply(200, audit.find(app, call.params["gateway_id"], call.input))
