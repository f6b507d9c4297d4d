"""The vendor's envelope around its actions, whichever function serves them.

The official clients take an answer for an error only when it is HTTP 200, has exactly `application/json` as its content
type, and holds Error and RequestId beside each other. So everything that can go wrong is answered in that form.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from consumer_keys import log, operators, tc3, web
from consumer_keys.access import READING, authorise
from consumer_keys.cloud_api import requests
from consumer_keys.cloud_api.actions import CLOUD_API, NOTHING, Action, Given, find
from consumer_keys.cloud_api.errors import (
    MISSING,
    NO_ACTION,
    NO_VERSION,
    Refused,
    from_problem,
    from_signature,
)
from consumer_keys.errors import CloudFailure, Problem, Replayed
from consumer_keys.model import Caller
from consumer_keys.operation import BAD_REQUEST
from consumer_keys.snapshot import OperatorRecord

if TYPE_CHECKING:
    from consumer_keys.wiring import Services

# Service in the signature -> its version of the API. Both are served on one state.
VERSIONS = {"cngw": "2023-04-18", "tse": "2020-12-07"}
_SERVICE_OF = {version: service for service, version in VERSIONS.items()}


def action_name(request: web.Request) -> Any:
    """What a request, of an official client or direct (`{Action, Version, ...}`), names as its action, if it does."""
    if request.kind == "http":
        return request.header("x-tc-action")
    return request.fields.get("Action") if request.kind == "direct" else None


def server_of(request: web.Request) -> str | None:
    """The one function that serves the request's action, None if there is no such action."""
    action = find(action_name(request))
    return None if action is None else action.served_by


def answer(function: str, request: web.Request, services: Callable[[], Services]) -> web.Reply:
    """The envelope: always 200, `Response` with RequestId, and either Error, Result or neither."""
    request_id, noted = id_of(request), dict[str, Any]()
    try:
        result = _run(function, services(), request, request_id, noted)
    except Exception as error:  # noqa: BLE001 - the edge: whatever happened inside, clients get an envelope
        return refusal(function, error, request_id, noted)
    content = {} if result is NOTHING else {"Result": result}
    return web.Reply(200, {"Response": {**content, "RequestId": request_id}}, {}, noted)


def id_of(request: web.Request) -> str:
    """A RequestId in any case: the official clients take an answer without one for none."""
    return request.request_id or str(uuid.uuid4())


def refusal(function: str, error: Exception, request_id: str, noted: Mapping[str, Any]) -> web.Reply:
    """The envelope around what went wrong; its code goes into the log, and its reason if it has one."""
    refused = _refused(function, error, request_id)
    content = {"Error": {"Code": refused.code, "Message": refused.message}, "RequestId": request_id}
    why = {} if refused.reason is None else {"reason": refused.reason}
    return web.Reply(200, {"Response": content}, {}, {**noted, "code": refused.code, **why})


def _refused(function: str, error: Exception, request_id: str) -> Refused:
    if isinstance(error, Refused):
        return error
    if isinstance(error, Problem):
        return from_problem(error)
    if isinstance(error, CloudFailure):
        log.emit_exception("cloud_failure", error, function=function, code=error.cloud_code, stage=error.action)
        return from_problem(Problem(error.code))
    log.emit_exception("internal_error", error, function=function, request_id=request_id)
    return from_problem(Problem("InternalError"))


def _run(function: str, app: Services, request: web.Request, request_id: str, noted: dict[str, Any]) -> Any:
    """Authenticate, authorise, parse, run. A function runs its own actions only, however the request came here."""
    operator, signature = _operator(app, request)
    name, service, fields = _named(request, signature)
    action = find(name)
    if action is None or action.served_by != function:
        raise Refused(NO_ACTION, "The action does not exist; it must be one of those of consumer keys.")
    noted["action"] = name
    caller = _caller(app, operator, action, name, request, request_id, signature)
    if caller.signature is not None and READING.issuperset(action.functions):
        # Its signature would do for any other action with these fields, so it counts once as well.
        app.store.change(caller, app.now_ms(), lambda _db: None)
    try:
        return action.run(app, Given(caller, service, _allowed(app, action, operator, fields)))
    except Replayed as replay:
        if action.again is None:
            raise
        app.publish_pending()  # the first attempt may have ended between its commit and its publication
        return action.again(replay.body)
    except Problem as problem:
        if action.denied is not None and problem.status != BAD_REQUEST:
            ids = {"gateway_id": str(fields.get("GatewayId")), "key_id": str(fields.get("SecretKeyId"))}
            action.denied(app, operator.secret_id, request_id, ids, problem)
        raise


def _allowed(app: Services, action: Action, operator: OperatorRecord, fields: Mapping[str, Any]) -> Any:
    """The parsed request of an operator who may make it. Raises Forbidden, GatewayNotFound and Refused."""
    for function in action.functions:
        authorise(function, operator, None)
    parsed = requests.parse(action.request, fields)
    authorise(action.functions[0], operator, parsed.GatewayId)
    if parsed.GatewayId not in {gateway.gateway_id for gateway in app.settings.gateways}:
        raise Problem("GatewayNotFound")
    return parsed


def _operator(app: Services, request: web.Request) -> tuple[OperatorRecord, tc3.Signature | None]:
    """Who signed this request. A direct invocation is authenticated by CAM: it acts as the platform."""
    if request.kind == "direct":
        return OperatorRecord("function-invoke", "admin", None), None
    if request.kind != "http":
        raise Problem("MalformedEvent")
    try:
        return operators.signed_by(app, operators.signed_request(request), VERSIONS)
    except tc3.SignatureRefused as refused:
        failed = Problem("Unauthenticated", reason=refused.reason)
        judged = app.failures.judged(failed, web.source_address(request))
        raise (from_signature(refused) if judged.code == "Unauthenticated" else from_problem(judged)) from None


def _named(request: web.Request, signature: tc3.Signature | None) -> tuple[str, str, Mapping[str, Any]]:
    """Action, service and fields of a request."""
    name = action_name(request)
    if signature is None:
        fields = {field: value for field, value in request.fields.items() if field != "Action"}
        version = fields.pop("Version", None)
    else:
        version = request.header("x-tc-version")
        fields = web.parse_json(request.body) if request.body.strip() else {}
    for header, value in (("X-TC-Action", name), ("X-TC-Version", version)):
        if not isinstance(value, str):
            raise Refused(MISSING, f"{header} is missing.")
    service = _SERVICE_OF.get(str(version))
    if service is None or (signature is not None and signature.service != service):
        raise Refused(NO_VERSION, f"The version must be one of {', '.join(VERSIONS.values())}, that of its service.")
    return str(name), service, fields


def _caller(
    app: Services, operator: OperatorRecord, action: Action, name: str, request: web.Request, request_id: str,
    signature: tc3.Signature | None,
) -> Caller:  # fmt: skip
    key = web.idempotency_key(request) if action.again is not None else None
    return Caller(
        operator.secret_id, operator.role, operator.gateways, action.functions[0], request_id, None, key,
        () if key is None else app.fingerprints(name, request.body),
        # The official clients leave the action out of what they sign: a signature counts once, for any of them, so
        # whichever function serves an action, it is used under one name.
        None if signature is None else operators.signed_use(CLOUD_API, signature),
    )  # fmt: skip
