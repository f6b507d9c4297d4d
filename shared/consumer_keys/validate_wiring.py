"""The composition root of validation: what the validate_key function is made of. No SDK, no database, no pydantic."""

from __future__ import annotations

import time
from _thread import allocate_lock
from collections.abc import Mapping

from consumer_keys import access, config, log, percent, web
from consumer_keys.errors import Problem, field_name, invalid
from consumer_keys.keytext import derive_key
from consumer_keys.light_typing import TYPE_CHECKING, Any
from consumer_keys.presented import HEADER_BYTES_MAX, presented_key
from consumer_keys.snapshot_base import Base
from consumer_keys.snapshot_cache import Snapshot, SnapshotCache
from consumer_keys.snapshot_source import Credential, SnapshotSource
from consumer_keys.validate import Validator
from consumer_keys.verdict import VALID, Verdict

if TYPE_CHECKING:
    from consumer_keys.snapshot import OperatorRecord
    from consumer_keys.throttle import FailureLimit

FUNCTION = "validate_key"
SIGNATURES_REFUSED = "This call works without the database, so it cannot check a signature; send the secret as Bearer."
IDENTITY_HEADERS = ("X-Consumer-Id", "X-Consumer-Name", "X-Consumer-Groups", "X-Key-Id", "X-Key-Name")
_refused = web.same_every_time(Problem("KeyRefused"))


class Validation:
    """One instance of validation: its source, cache and judgement.

    `poll_seconds` replaces the setting where something else looks at the pointer in time (`embedded`).
    """

    def __init__(
        self, settings: config.Settings, credential: Credential = config.role_credential,
        poll_seconds: float | None = None,
    ) -> None:  # fmt: skip
        self.settings = settings
        self.gateway_ids = frozenset(gateway.gateway_id for gateway in settings.gateways)
        self.source = source = SnapshotSource(
            credential, region=settings.tencentcloud_region, endpoint=settings.cloud_endpoint,
            bucket=settings.cos_bucket or "", prefix=settings.snapshot_prefix,
        )  # fmt: skip
        root = source.root_secret(settings.root_secret_name, settings.root_secret_version)
        self.operator_key = derive_key(root, "operator")
        self.cache = SnapshotCache(
            source, Base, lambda error: log.emit_exception("refresh_failed", error, function=FUNCTION),
            manifest_key=derive_key(root, "manifest"), environment=settings.environment,
            folder=settings.snapshot_dir or "/tmp/consumer-keys",  # noqa: S108 - the only writable folder on SCF
            poll_seconds=settings.snapshot_poll_seconds if poll_seconds is None else poll_seconds,
            max_age_seconds=settings.snapshot_max_age_seconds, clock=time.time,
        )  # fmt: skip
        self._failures: FailureLimit | None = None
        self.validator = Validator(self.cache, derive_key(root, "lookup"), settings.key_prefix)

    def authorise(self, request: web.Request, gateway_id: str) -> None:
        """An operator by bearer token, from the snapshot alone, which holds digests of operators' secrets.

        A signature can only be checked with the secret itself. Raises Unauthenticated, TooManyFailures, Forbidden and
        GatewayNotFound.
        """
        try:
            access.authorise("verify", self._operator(request), gateway_id)
        except Problem as problem:
            raise self._judged(problem, request) from None
        if gateway_id not in self.gateway_ids:
            raise Problem("GatewayNotFound")

    def _judged(self, problem: Problem, request: web.Request) -> Problem:
        if self._failures is None:
            from consumer_keys.throttle import FailureLimit  # no cold start of a good call loads it

            self._failures = FailureLimit(self.settings.auth_failures_per_minute, time.monotonic)
        return self._failures.judged(problem, web.source_address(request))

    def _operator(self, request: web.Request) -> OperatorRecord | None:
        if (request.header("authorization") or "").lower().startswith("tc3-"):
            raise Problem("Unauthenticated", SIGNATURES_REFUSED)
        token = web.bearer_token(request)
        digest = b"" if token is None else access.token_digest(self.operator_key, token)
        operator = self.cache.current().operator(digest) or self.cache.recheck().operator(digest)
        ended = operator is not None and 0 < operator.ends_at <= self.cache.now_seconds()
        return None if ended else operator

    def close(self) -> None:
        """Releases the connection and the base file."""
        self.source.close()
        self.cache.close()


class _Process:
    """What a process keeps between its calls. Settings do not change under a running function; role credentials do."""

    lock = allocate_lock()
    validation: Validation | None = None


def _validation() -> Validation:
    """The process's validation, built at the first call; a failure is not remembered."""
    if _Process.validation is None:
        with _Process.lock:
            if _Process.validation is None:
                _Process.validation = Validation(config.load(config.environment(), ("COS_BUCKET",)))
    return _Process.validation


def close() -> None:
    """Forgets everything; the next call starts as a cold one does."""
    with _Process.lock:
        if _Process.validation is not None:
            _Process.validation.close()
            _Process.validation = None


def handle(event: Any, context: Any) -> Any:
    """Forward auth at `/validate` and below, JSON at `/verify`, and direct invocation with {gateway_id, key}."""
    return web.respond(FUNCTION, event, context, lambda request: answer(_validation(), request))


def answer(validation: Validation, request: web.Request) -> web.Reply:
    """What this validation says to a request, whichever way it came. Raises Problem and CloudFailure."""
    if request.kind != "http":
        return _verify(validation, request.fields)
    segments = request.path.split("/")
    if segments[:3] != ["", "v1", "gateways"] or len(segments) < 5:
        raise Problem("RouteNotFound")
    gateway_id, call = web.plain_id(percent.decode(segments[3])), segments[4]
    if call == "validate":
        return _forward_auth(validation, request, gateway_id)
    if call != "verify" or len(segments) != 5:
        raise Problem("RouteNotFound")
    if request.method != "POST":
        raise Problem("MethodNotAllowed", headers={"Allow": "POST"})
    validation.authorise(request, gateway_id)
    if request.query:
        raise invalid(field_name(str(next(iter(request.query)))), "is not a parameter of this call")
    fields = web.parse_json(request.body) if request.body.strip() else {}
    if "gateway_id" in fields:
        raise invalid("gateway_id", "is not a field of this call")
    return _verify(validation, {**fields, "gateway_id": gateway_id})


def _forward_auth(validation: Validation, request: web.Request, gateway_id: str) -> web.Reply:
    """200 with identity headers, or the one refusal that every refused request gets (nginx, Envoy, Traefik, Caddy)."""
    if _size(request.headers) > HEADER_BYTES_MAX:
        raise Problem("HeadersTooLarge")
    presented = presented_key(request.headers, request.query, key_in_query=validation.settings.key_in_query)
    verdict, snapshot = validation.validator.judge(gateway_id, presented)
    noted = _noted(validation, gateway_id, verdict, snapshot)
    if verdict.code != VALID:
        return _refused(request.request_id, noted)
    return web.Reply(200, None, identity_headers(verdict), noted)


def _size(headers: Mapping[str, Any]) -> int:
    """How much text the header values hold, repeated lines included; what is no text is refused later anyway."""
    try:
        return len("".join(headers.values()))
    except TypeError:  # a repeated line, or what is no text
        lines = [line for value in headers.values() for line in (value if isinstance(value, list) else [value])]
        return sum(len(line) for line in lines if isinstance(line, str))


def identity_headers(verdict: Verdict) -> dict[str, str]:
    """Who the caller is; names as percent-encoded UTF-8, ids as they are."""
    consumer_name, key_name = percent.encode(verdict.consumer_name or ""), percent.encode(verdict.key_name or "")
    # There even when it is empty, so that a gateway which copies it overwrites what the client claimed.
    groups = ",".join(map(percent.encode, verdict.consumer_groups))
    values = (verdict.consumer_id or "", consumer_name, groups, verdict.key_id or "", key_name)
    return dict(zip(IDENTITY_HEADERS, values, strict=True))


def _verify(validation: Validation, fields: Mapping[str, Any]) -> web.Reply:
    unknown = fields.keys() - {"gateway_id", "key"}
    if unknown:
        raise invalid(field_name(min(map(str, unknown))), "is not a field of this call")
    for name in ("gateway_id", "key"):
        if not isinstance(fields.get(name), str):
            raise invalid(name, "is required and must be a string")
    gateway_id = web.plain_id(fields["gateway_id"])
    presented = presented_key({"x-api-key": fields["key"]}, {}, key_in_query=False)
    verdict, snapshot = validation.validator.judge(gateway_id, presented)
    noted = _noted(validation, gateway_id, verdict, snapshot)
    body = {
        "valid": verdict.valid, "code": verdict.code, "key_id": verdict.key_id, "key_name": verdict.key_name,
        "consumer_id": verdict.consumer_id, "consumer_name": verdict.consumer_name,
        "consumer_groups": list(verdict.consumer_groups),
        "snapshot": {
            "version": snapshot.manifest.version, "revision": snapshot.manifest.revision,
            "age_seconds": noted["snapshot_age_seconds"],
        },
    }  # fmt: skip
    return web.Reply(200, body, {}, noted)


def _noted(validation: Validation, gateway_id: str, verdict: Verdict, snapshot: Snapshot) -> dict[str, Any]:
    """What the request's line in the log says of the verdict; never the presented text, nor a gateway not declared.

    Every refusal has ids, zeros where there is none: a shorter line would tell by its time.
    """
    key_id, consumer_id = verdict.ids
    return {
        "verdict": verdict.code, "key_id": key_id, "consumer_id": consumer_id,
        "gateway_id": gateway_id if gateway_id in validation.gateway_ids else None,
        "snapshot_version": snapshot.manifest.version, "snapshot_revision": snapshot.manifest.revision,
        "snapshot_age_seconds": round(validation.cache.age_seconds(snapshot), 3),
    }  # fmt: skip
