"""Follow the credentials of KMS keys in SSM and publish the snapshot.

Called by the timer, by other functions, or by hand; over HTTP only by an admin.
"""

import random
import time
from typing import Any

from consumer_keys import follow, log, sync, web, wiring

FUNCTION = "sync_credentials"
TIME_LIMIT_MS_DEFAULT = 60_000


def main_handler(event: Any, context: Any) -> Any:
    """Entry point of SCF."""

    def answer(request: web.Request) -> web.Reply:
        app = wiring.services()
        app.authenticate(FUNCTION, request, None)
        limit = context.get("time_limit_in_ms") if isinstance(context, dict) else None
        seconds = max(1.0, (limit or TIME_LIMIT_MS_DEFAULT) / 1000 - sync.RESERVE_SECONDS)
        report = sync.run(app, request.request_id, follow.Pace(seconds, time.monotonic, time.sleep, random.random))
        log.emit("sync_report", function=FUNCTION, request_id=request.request_id, report=report)
        return web.Reply(200, report)

    return web.respond(FUNCTION, event, context, answer)
