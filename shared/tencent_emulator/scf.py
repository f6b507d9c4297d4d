"""Serverless Cloud Function, version 2018-04-16: only Invoke and InvokeFunction, answered by Python callables."""

# ruff: noqa: N802 - a method is named exactly as the API action it answers
from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable
from typing import Any

from tencent_emulator.actions import Params
from tencent_emulator.errors import CloudError
from tencent_emulator.storage import Doc

EVENT_BYTES_MAX = 6 * 1024 * 1024  # CN 583/11637: synchronous event and response
ASYNC_EVENT_BYTES_MAX = 128 * 1024
Function = Callable[[dict[str, Any]], object]


class Scf:
    """`functions` maps a function name to the callable that receives the event."""

    def __init__(self) -> None:
        """Start without functions."""
        self.functions: dict[str, Function] = {}

    def Invoke(self, params: Params) -> Doc:
        """Run the function; with InvocationType Event the result is dropped, as for an asynchronous call."""
        kind = params.get("InvocationType") or "RequestResponse"
        if kind not in ("RequestResponse", "Event"):
            raise CloudError("InvalidParameterValue.InvocationType", "InvocationType: RequestResponse or Event.")
        function = self._function(params["FunctionName"], "ResourceNotFound.Function")
        limit = ASYNC_EVENT_BYTES_MAX if kind == "Event" else EVENT_BYTES_MAX
        event = _event(params.get("ClientContext", ""), limit, "InvalidParameterValue.ClientContext")
        outcome = _run(function, event)
        if kind == "Event":
            outcome = {**outcome, "RetMsg": "", "ErrMsg": "", "InvokeResult": 0, "Duration": 0.0}
        return {"Result": outcome}

    def InvokeFunction(self, params: Params) -> Doc:
        """Run the function and return its result."""
        function = self._function(params["FunctionName"], "ResourceNotFound.FunctionName")
        event = _event(params.get("Event", ""), EVENT_BYTES_MAX, "InvalidParameterValue.Param")
        return {"Result": _run(function, event)}

    def _function(self, name: str, missing: str) -> Function:
        function = self.functions.get(name)
        if function is None:
            raise CloudError(missing, "The function does not exist.")
        return function


def _event(text: str, bytes_max: int, code: str) -> dict[str, Any]:
    if len(text.encode("utf-8", "surrogatepass")) > bytes_max:
        raise CloudError("InvalidParameter.RequestTooLarge", f"The event is larger than {bytes_max} bytes.")
    try:
        event = json.loads(text) if text else {}
    except ValueError:
        raise CloudError(code, "The event is not JSON.") from None
    if not isinstance(event, dict):
        raise CloudError(code, "The event is not a JSON object.")
    return event


def _run(function: Function, event: dict[str, Any]) -> Doc:
    """A failing function is a result, not an error of the cloud; only the exception's type is told, never its text."""
    started, returned, failed = time.perf_counter(), "", ""
    try:
        returned = json.dumps(function(event), ensure_ascii=False)
        if len(returned.encode("utf-8", "surrogatepass")) > EVENT_BYTES_MAX:
            returned, failed = "", _error_text(407, "ResponseTooLarge")
    except Exception as error:  # noqa: BLE001 - user code may raise anything
        failed = _error_text(430, type(error).__name__)
    duration_ms = (time.perf_counter() - started) * 1000
    return {
        "MemUsage": 0,
        "Log": "",
        "RetMsg": returned,
        "BillDuration": int(duration_ms) + 1,
        "FunctionRequestId": str(uuid.uuid4()),
        "Duration": round(duration_ms, 3),
        "ErrMsg": failed,
        "InvokeResult": 1 if failed else 0,
    }


def _error_text(status: int, name: str) -> str:
    return json.dumps({"errorCode": 1, "errorMessage": f"user code exception caught: {name}", "statusCode": status})
