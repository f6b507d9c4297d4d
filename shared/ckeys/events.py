"""What a function receives besides its code: the events of its triggers and the context, as SCF documents them."""

import json
import os
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from uuid import uuid4

from ckeys.template import Function, Timer

Event = dict[str, Any]
Context = dict[str, Any]
Handler = Callable[[Event, Context], Any]


class EventError(ValueError):
    """The event file cannot be used; the message is one sentence."""


def read_event(path: Path) -> Event:
    """The event in a file; EventError if it is missing, is no JSON, or is no JSON object."""
    try:
        event = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as fault:
        raise EventError(f"There is no event file {path}.") from fault
    except OSError as fault:
        raise EventError(f"The event file {path} cannot be read: {fault.strerror}.") from fault
    except UnicodeDecodeError as fault:
        raise EventError(f"The event file {path} is not UTF-8 text.") from fault
    except (ValueError, RecursionError) as fault:
        raise EventError(f"The event file {path} is not JSON: {fault}.") from fault
    if not isinstance(event, dict):
        raise EventError(f"The event file {path} holds no JSON object.")
    return event


def make_context(function: Function, request_id: str | None = None, *, namespace: str = "default") -> Context:
    """The second argument of a handler (Tencent document 583/9210): a plain dict, without any credentials."""
    return {
        "memory_limit_in_mb": function.memory_mb,
        "time_limit_in_ms": function.timeout_seconds * 1000,
        "request_id": request_id or str(uuid4()),
        "environment": json.dumps({"SCF_NAMESPACE": namespace}),
        "environ": f"SCF_NAMESPACE={namespace}",
        "function_version": "$LATEST",
        "function_name": function.name,
        "namespace": namespace,
        "tencentcloud_region": os.environ.get("TENCENTCLOUD_REGION", "ap-guangzhou"),
        "tencentcloud_appid": "1250000000",
        "tencentcloud_uin": "100000000000",
    }


def invoke(
    function: Function, handler: Handler, event: Event, request_id: str | None = None, *, namespace: str = "default"
) -> Any:
    """Call a handler as the platform does; the result goes through JSON, so what SCF cannot carry fails here too."""
    result = handler(event, make_context(function, request_id, namespace=namespace))
    return json.loads(json.dumps(result, allow_nan=False))


def function_url_event(
    method: str, path: str, query: dict[str, str | list[str]], headers: dict[str, str], body: str
) -> Event:
    """The event of a Function URL (Tencent document 583/96099)."""
    return {"body": body, "headers": headers, "httpMethod": method, "path": path, "queryString": query}


def timer_event(timer: Timer, created_at: datetime) -> Event:
    """The event of a timer (Tencent document 583/9708). `Time` is when the trigger was made, not the time of a tick."""
    time = created_at.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"Type": "Timer", "TriggerName": timer.name, "Time": time, "Message": timer.message}
