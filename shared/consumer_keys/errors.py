"""The closed table of errors: code, HTTP status and public text (RFC 9457 problem details).

A refused *request* is a `Problem`; a refused *key* is a verdict and never an exception.
The public texts come from this table or from our own validators, never from a library's message,
so that no error can echo a secret.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from consumer_keys.light_typing import Any, NamedTuple

NAME_CHARS_MAX = 40
CODES: dict[str, tuple[int, str]] = {
    "MalformedEvent": (400, "The event is neither an HTTP request, a timer tick nor a direct invocation."),
    "MalformedJson": (400, "The body is not one valid JSON object."),
    "InvalidParameter": (400, "A parameter is missing, unknown or not valid."),
    "WeakValue": (400, "The custom key value is too easy to guess."),
    "Unauthenticated": (401, "A valid operator credential is required."),
    "SignatureReused": (401, "The signed request was used before; sign it anew."),
    "KeyRefused": (401, "The presented key is not accepted."),
    "Forbidden": (403, "The operator's role does not allow this call."),
    "RevealDisabled": (403, "Revealing values is switched off in this deployment."),
    "RouteNotFound": (404, "There is nothing at this path."),
    "GatewayNotFound": (404, "The gateway is not declared."),
    "KeyNotFound": (404, "The consumer key does not exist in this gateway."),
    "ConsumerNotFound": (404, "The consumer does not exist in this gateway."),
    "OperatorNotFound": (404, "The operator does not exist."),
    "GroupNotFound": (404, "The consumer group does not exist in this gateway."),
    "MethodNotAllowed": (405, "The method is not allowed at this path."),
    "NameInUse": (409, "The name is already used in this gateway."),
    "ValueInUse": (409, "The key value is already used by a key of this gateway."),
    "AlreadyBound": (409, "The key is bound to another consumer."),
    "UnresolvedDependencies": (409, "Something still depends on the resource."),
    "ManagedByKms": (409, "The value of a KMS key is managed in SSM and cannot be read here."),
    "LastAdmin": (409, "This is the last enabled admin of all gateways."),
    "RevisionMismatch": (412, "The resource has changed since the revision given in If-Match."),
    "BodyTooLarge": (413, "The body is too large."),
    "CredentialNotFound": (422, "The credential, or the named version of it, does not exist in SSM."),
    "CredentialDisabled": (422, "The credential is disabled in SSM."),
    "CredentialPendingDeletion": (422, "The credential is pending deletion in SSM."),
    "CredentialUnreadable": (422, "The credential exists but its content cannot be read."),
    "CredentialInvalid": (422, "The content of the credential is not a usable key value."),
    "IdempotencyKeyReused": (422, "The Idempotency-Key was used before with another request."),
    "RevealLimitExceeded": (429, "The operator has been given as many values as the deployment allows for now."),
    "TooManyFailures": (429, "Too many failed authentications from this address; wait, then try again."),
    "HeadersTooLarge": (431, "The request headers are too large."),
    "InternalError": (500, "Something failed inside; the log has the details under the request id."),
    "ValueDamaged": (500, "The stored value does not open; it was damaged or moved."),
    "DependencyUnavailable": (503, "A service that this call needs does not answer; nothing was changed."),
    "OutcomeUnknown": (503, "The database did not confirm the change, which may have been made; look, or repeat it."),
    "SnapshotUnavailable": (503, "There is no usable snapshot of the keys."),
}


class FieldError(NamedTuple):
    """One thing wrong with one field; `field` is a dotted path in the caller's own input."""

    field: str
    message: str


class Problem(Exception):  # noqa: N818 - the word of RFC 9457
    """A refused request. Guarantees that nothing was changed, and that its texts hold no secret.

    `actor` is set when a known operator may not do what was asked. `reason` is a fixed word for the log, never told.
    """

    def __init__(
        self,
        code: str,
        detail: str | None = None,
        *,
        errors: Sequence[FieldError] = (),
        headers: Mapping[str, str] | None = None,
        members: Mapping[str, Any] | None = None,
        actor: str | None = None,
        reason: str | None = None,
    ) -> None:
        self.code = code
        self.status, self.title = CODES[code]
        self.detail = detail or self.title
        self.errors = tuple(errors)
        self.headers = dict(headers or {})
        self.members = dict(members or {})
        self.actor = actor
        self.reason = reason
        super().__init__(f"{code}: {self.detail}")

    def body(self, request_id: str) -> dict[str, Any]:
        """The problem+json document (RFC 9457 section 3) with our `code`, `request_id` and `errors`."""
        document: dict[str, Any] = {
            "type": "about:blank",
            "title": self.title,
            "status": self.status,
            "code": self.code,
            "detail": self.detail,
            "request_id": request_id,
        }
        if self.errors:
            document["errors"] = [error._asdict() for error in self.errors]
        return {**document, **self.members}


def field_name(name: str) -> str:
    """A name that somebody sent, if an answer may repeat it: up to 40 ASCII letters, dots, dashes and underscores.

    SCF logs what a function returns, so a value that was put where a name belongs must not come back.
    """
    letters = name.replace("_", "").replace("-", "").replace(".", "")
    told = len(name) <= NAME_CHARS_MAX and name.isascii() and (letters.isalpha() or name.isdigit())
    return name if told else "(name withheld)"


def invalid(field: str, message: str) -> Problem:
    """A 400 that names one field."""
    return Problem("InvalidParameter", f"{field}: {message}", errors=[FieldError(field, message)])


class CloudFailure(Exception):  # noqa: N818 - the two kinds below are what is raised
    """A cloud service did not give what was asked. `code` is ours, `cloud_code` the service's own."""

    def __init__(self, code: str, service: str, action: str, cloud_code: str) -> None:
        self.code, self.service, self.action, self.cloud_code = code, service, action, cloud_code
        super().__init__(f"{service} {action}: {cloud_code}")


class Gone(CloudFailure):
    """A fact: the thing is not there, is disabled or is pending deletion."""


class Unavailable(CloudFailure):
    """Nothing is known: timeout, throttling, 5xx, missing permission. Unknown is never gone.

    `passing`: the kind that may well be over in a moment.
    """

    passing = False


class Replayed(Exception):  # noqa: N818 - not an error: the stored answer to a repeated request
    """The Idempotency-Key was seen before with the same request; `body` is the first answer without a secret."""

    def __init__(self, body: Any) -> None:
        self.body = body
        super().__init__("replayed")


class FieldFault(ValueError):  # noqa: N818 - one word for both kinds of fault
    """A fault that a rule over several fields found, and the field that it is about."""

    def __init__(self, field: str, message: str) -> None:
        self.field = field
        super().__init__(message)


class SealBroken(Exception):  # noqa: N818 - what happened, not an error of the caller
    """A sealed value does not open here: damaged, moved, or made under another key. Its text is a fixed one of ours."""
