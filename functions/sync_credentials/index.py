"""Follow the credentials of KMS keys in SSM and publish the snapshot.

Called by the timer, by other functions, or by hand; over HTTP only by an admin.
"""

import time
from typing import Any

from consumer_keys import sync, web, wiring

FUNCTION = "sync_credentials"
# What is left of the function's time when polling stops: publishing and the report come after it.
RESERVE_MS = 10_000
TIME_LIMIT_MS_DEFAULT = 60_000


def main_handler(event: Any, context: Any) -> Any:
    """Entry point of SCF."""

    def answer(request: web.Request) -> web.Reply:
        app = wiring.services()
        app.authenticate(FUNCTION, request, None)
        limit = context.get("time_limit_in_ms") if isinstance(context, dict) else None
        budget = max(1_000, (limit or TIME_LIMIT_MS_DEFAULT) - RESERVE_MS)
        pace = sync.Pace(app.now_ms() + budget, time.monotonic, time.sleep)
        return web.Reply(200, sync.run(app, request.request_id, pace))

    return web.respond(FUNCTION, event, context, answer)
