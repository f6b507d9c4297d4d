"""From an HTTP request to an HTTP reply: which service is meant, who signed it, what comes of it.

One port serves everything: `X-TC-Action` means the cloud API, whose service is named by the credential scope because
Host says nothing on loopback; otherwise Host must name a bucket.  Anything else is refused, never guessed.
"""

from __future__ import annotations

import json
import logging
import re
import traceback
import uuid
from collections.abc import Callable, Container
from typing import Any
from urllib.parse import parse_qsl

from tencent_emulator import cam, cos_http, cos_sign, tc3
from tencent_emulator.actions import ACTIONS, VERSIONS, Params, fields, from_query
from tencent_emulator.cloud import Cloud
from tencent_emulator.errors import CloudError, StateError
from tencent_emulator.faults import Plan
from tencent_emulator.wire import ConnectionDropped, Reply, Request

API_BODY_BYTES_MAX = 10 * 1024 * 1024  # CN 1130/46710
API_QUERY_BYTES_MAX = 32 * 1024
COS_BODY_BYTES_MAX = 512 * 1024 * 1024
_log = logging.getLogger(__name__)


class Gateway:
    """Stateless; `pause` is how a planned delay waits, so that a closing server can cut it short."""

    def __init__(self, cloud: Cloud, pause: Callable[[float], object]) -> None:
        """Answer for this cloud."""
        self._cloud = cloud
        self._pause = pause
        self._cos = cos_http.CosApi(cloud.cos, cloud.clock)

    @staticmethod
    def body_bytes_max(headers: dict[str, str]) -> int:
        """How large a body may be; a larger one is refused by `too_large` without being kept."""
        return API_BODY_BYTES_MAX if _is_api(headers) else COS_BODY_BYTES_MAX

    def too_large(self, request: Request) -> Reply:
        """The refusal of an oversized body."""
        aim = None if _is_api(request.headers) else cos_http.target(request)
        if aim is None:
            return _api_error(CloudError("RequestSizeLimitExceeded", "The request is larger than 10 MB."))
        return self._cos.refusal(request, aim, CloudError("EntityTooLarge", "The object is too large."))

    def no_length(self, request: Request) -> Reply:
        """The refusal of a body without Content-Length."""
        aim = cos_http.target(request)
        if aim is None or _is_api(request.headers):
            return _api_error(CloudError("InvalidParameter", "Content-Length is required."))
        return self._cos.refusal(request, aim, CloudError("MissingContentLength", "Content-Length is required."))

    def answer(self, request: Request) -> Reply:
        """The reply; ConnectionDropped when a planned fault wants the connection reset."""
        if _is_api(request.headers):
            return self._answer_api(request)
        aim = cos_http.target(request)
        if aim is not None:
            return self._answer_cos(request, aim)
        missing = CloudError("MissingParameter", "Neither X-TC-Action nor a bucket host says what is meant.")
        return _api_error(missing)

    def _answer_api(self, request: Request) -> Reply:
        action = request.headers["x-tc-action"]
        try:
            auth = tc3.parse(request.headers.get("authorization"))
        except CloudError as error:
            self._cloud.record("", action, "", error.code)
            return _api_error(error)
        plan = self._plan(auth.service, action, _values(request.body))
        if plan.status is not None:
            self._cloud.record(auth.service, action, "", "InternalError")
            return Reply(plan.status, {"Content-Type": "text/html"}, b"<html>the front end failed</html>")
        try:
            caller = auth.secret_id if auth.secret_id in self._cloud.credentials else ""
            with self._cloud.recorded(auth.service, action, caller):
                response = self._perform(request, auth, action, caller, plan)
            reply = _api_reply(response)
        except CloudError as error:
            reply = _api_error(error)
        except Exception as error:  # noqa: BLE001 - a bug of ours must not take the connection down
            _log_bug(error)
            reply = _api_error(CloudError("InternalError", "The emulator failed; its log says where."))
        if plan.charset:
            reply.headers["Content-Type"] = "application/json; charset=utf-8"
        return _finished(reply, plan)

    def _perform(
        self, request: Request, auth: tc3.Authorization, action: str, caller: str, plan: Plan
    ) -> dict[str, Any]:
        tc3.verify(request, auth, self._cloud.credentials, self._cloud.clock())
        _check_common(request, auth.service, action)
        params = _params(request, auth.service, action)
        return self._cloud.execute(auth.service, action, params, caller, plan, request.headers["x-tc-region"])

    def _answer_cos(self, request: Request, aim: cos_http.Target) -> Reply:
        plan = self._plan("cos", aim.action, (aim.key,))
        secret_id = cos_sign.fields(request).get("q-ak", "")
        caller = secret_id if secret_id in self._cloud.credentials else ""
        try:
            with self._cloud.recorded("cos", aim.action, caller):
                cos_sign.verify(request, self._cloud.credentials, self._cloud.clock())
                prefix = dict(parse_qsl(request.query)).get("prefix", "") if aim.action == "ListObjects" else aim.key
                wanted = cam.wanted_of_cos(aim.action, aim.region, aim.bucket, prefix)
                cam.check(self._cloud.policy_of(caller), wanted, cos=True)
                self._cloud.gate("cos", aim.action, caller, plan)
                if plan.status is not None:
                    raise CloudError("InternalError", "We encountered an internal error.")
                reply = self._cos.answer(request, aim)
        except CloudError as error:
            reply = self._cos.refusal(request, aim, error, plan.status)
        except Exception as error:  # noqa: BLE001 - a bug of ours must not take the connection down
            _log_bug(error)
            reply = self._cos.refusal(request, aim, CloudError("InternalError", "The emulator failed; see its log."))
        return _finished(reply, plan)

    def _plan(self, service: str, action: str, names: Container[str]) -> Plan:
        """What shall happen to this request; waits out its delay, and resets the connection before any effect."""
        if action not in ACTIONS.get(service, {}):
            return Plan()
        plan = self._cloud.faults.take(service, action, names)
        self._pause(plan.delay_s)
        if plan.drop == "before":
            self._cloud.record(service, action, "", "ConnectionDropped")
            raise ConnectionDropped
        return plan


def _values(body: bytes) -> list[str]:
    """The texts that a request names, for faults that are meant for one resource."""
    try:
        given = json.loads(body or b"{}")
    except (ValueError, RecursionError):
        return []
    return [value for value in given.values() if isinstance(value, str)] if isinstance(given, dict) else []


def _is_api(headers: dict[str, str]) -> bool:
    return "x-tc-action" in headers


def _check_common(request: Request, service: str, action: str) -> None:
    """The common parameters, which are headers (CN 213/30654)."""
    fields(service, action)
    version = request.headers.get("x-tc-version")
    if version is None:
        raise CloudError("MissingParameter", "The header X-TC-Version is missing.")
    if version != VERSIONS[service]:
        raise CloudError("NoSuchVersion", f"The version of {service} is {VERSIONS[service]}.")
    region = request.headers.get("x-tc-region")
    if not region:
        raise CloudError("MissingParameter", "The header X-TC-Region is missing.")
    if not re.fullmatch(r"[a-z]{2,3}(-[a-z0-9]+)+", region):
        raise CloudError("UnsupportedRegion", "There is no such region.")


def _params(request: Request, service: str, action: str) -> Params:
    if request.method == "GET":
        if len(request.query) > API_QUERY_BYTES_MAX:
            raise CloudError("RequestSizeLimitExceeded", "The request is larger than 32 KB.")
        return from_query(service, action, request.query)
    if request.method != "POST":
        raise CloudError("UnsupportedProtocol", "Only GET and POST are supported.")
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise CloudError("InvalidParameter", "The Content-Type of a POST must be application/json.")
    try:
        given = json.loads(request.body or b"{}")
    except (ValueError, RecursionError):
        given = None
    if not isinstance(given, dict):
        raise CloudError("InvalidParameter", "The body is not a JSON object.")
    return given


def _api_reply(response: dict[str, Any]) -> Reply:
    body = json.dumps({"Response": response}, ensure_ascii=False).encode("utf-8", "surrogatepass")
    return Reply(200, {"Content-Type": "application/json"}, body)


def _api_error(error: CloudError) -> Reply:
    members = {"Code": error.code, "Message": error.message}
    return _api_reply({"Error": members, "RequestId": str(uuid.uuid4())})


def _finished(reply: Reply, plan: Plan) -> Reply:
    if plan.drop == "after":
        raise ConnectionDropped
    return reply._replace(truncate=plan.truncate)


def _log_bug(error: Exception) -> None:
    """Where, not what: the text of an unexpected exception could hold a value; ours names only the state file."""
    if isinstance(error, StateError):
        _log.error("%s", error)
        return
    where = "".join(traceback.format_tb(error.__traceback__))
    _log.error("%s at\n%s", type(error).__name__, where)
