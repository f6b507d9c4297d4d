"""Show gateways, revisions, the published snapshot and the last synchronisation."""

from typing import Any

from consumer_keys import status, wiring
from consumer_keys.model import Caller
from consumer_keys.operation import Call, Operation, serve
from consumer_keys.web import Reply

OPERATION = Operation("get_status", "GET", "/v1/status")


def main_handler(event: Any, context: Any) -> Any:
    """Entry point of SCF."""
    return serve(OPERATION, _run, event, context, wiring.services)


def _run(app: wiring.Services, caller: Caller, _call: Call) -> Reply:
    return Reply(200, status.show(app, caller))
