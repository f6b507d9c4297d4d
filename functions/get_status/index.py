"""Show gateways, revisions, the published snapshot and the last synchronisation."""

from typing import Any

from consumer_keys import status, web, wiring
from consumer_keys.model import Caller

OPERATION = web.Operation("get_status", "GET", "/v1/status")


def main_handler(event: Any, context: Any) -> Any:
    """Entry point of SCF."""
    return web.serve(OPERATION, _run, event, context, wiring.services)


def _run(app: wiring.Services, caller: Caller, _call: web.Call) -> web.Reply:
    return web.Reply(200, status.show(app, caller))
