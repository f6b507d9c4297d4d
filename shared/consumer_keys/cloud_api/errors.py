"""What the vendor's clients are told when something is refused: the one table from our codes to the vendor's.

The codes are those that the vendor ties to a condition, or else the best fit among those that its API lists
(documents 1826/133170 and 1364/54623, error codes of the official SDKs).
"""

from __future__ import annotations

from consumer_keys import tc3
from consumer_keys.errors import Problem

BAD_FORMAT = "InvalidParameterValue.BadRequestFormat"
BAD_VALUE = "InvalidParameterValue.InvalidParameterValue"
DENIED = "OperationDenied.OperationDenied"
EXISTS = "InvalidParameterValue.ResourceAlreadyExist"
NOT_FOUND = "ResourceNotFound.ResourceNotFound"
MISSING, UNKNOWN, UNSUPPORTED = "MissingParameter", "UnknownParameter", "UnsupportedOperation"
CREATE_ERROR = "InvalidParameterValue.CreateError"
NO_ACTION, NO_VERSION = "InvalidAction", "NoSuchVersion"
NOT_SIGNED = "AuthFailure.InvalidAuthorization"

# Code of `errors.CODES` -> the vendor's.
FROM_OURS: dict[str, str] = {
    "MalformedEvent": BAD_FORMAT,
    "MalformedJson": BAD_FORMAT,
    "InvalidParameter": BAD_VALUE,
    "WeakValue": BAD_VALUE,
    "Unauthenticated": NOT_SIGNED,
    "SignatureReused": "AuthFailure.SignatureExpire",
    "KeyRefused": "AuthFailure.UnauthorizedOperation",
    "Forbidden": "UnauthorizedOperation.CamNoAuth",
    "RevealDisabled": UNSUPPORTED,
    "RouteNotFound": NO_ACTION,
    "GatewayNotFound": "ResourceNotFound.InstanceNotFound",
    "KeyNotFound": NOT_FOUND,
    "ConsumerNotFound": NOT_FOUND,
    "GroupNotFound": NOT_FOUND,
    "OperatorNotFound": NOT_FOUND,
    "MethodNotAllowed": "UnsupportedProtocol",
    "NameInUse": EXISTS,
    "ValueInUse": EXISTS,
    "AlreadyBound": DENIED,
    "UnresolvedDependencies": DENIED,
    "ManagedByKms": DENIED,
    "LastAdmin": DENIED,
    "RevisionMismatch": DENIED,
    "BodyTooLarge": "RequestSizeLimitExceeded",
    "CredentialNotFound": NOT_FOUND,
    "CredentialDisabled": BAD_VALUE,
    "CredentialPendingDeletion": BAD_VALUE,
    "CredentialUnreadable": BAD_VALUE,
    "CredentialInvalid": BAD_VALUE,
    "IdempotencyKeyReused": BAD_VALUE,
    "HeadersTooLarge": "RequestSizeLimitExceeded",
    "RevealLimitExceeded": "RequestLimitExceeded",
    "TooManyFailures": "RequestLimitExceeded",
    "InternalError": "InternalError",
    "ValueDamaged": "InternalError",
    "DependencyUnavailable": "FailedOperation",
    "OutcomeUnknown": "InternalError.UnknownError",
    "SnapshotUnavailable": "FailedOperation",
}
# Why a signature was refused -> the vendor's code.
FROM_SIGNATURE: dict[str, str] = {
    tc3.MALFORMED: NOT_SIGNED,
    tc3.EXPIRED: "AuthFailure.SignatureExpire",
    tc3.UNKNOWN_ID: "AuthFailure.SecretIdNotFound",
    tc3.DISABLED: "AuthFailure.SecretIdNotFound",
    tc3.MISMATCH: "AuthFailure.SignatureFailure",
    tc3.DAMAGED: "AuthFailure.SignatureFailure",
    tc3.TOKEN: "AuthFailure.TokenFailure",
    tc3.UNSIGNED_PAYLOAD: NOT_SIGNED,
    tc3.FOREIGN_SERVICE: NOT_SIGNED,
}
# A field of ours -> the name under which the vendor's clients send it.
FIELD_NAMES: dict[str, str] = {
    "name": "Name",
    "description": "Description",
    "status": "Status",
    "generation": "GenerateType",
    "type": "SecretType",
    "value": "SecretValue",
    "credential": "KmsKeyName",
    "credential.name": "KmsKeyName",
    "credential.version": "KmsKeyVersion",
    "consumer_id": "ConsumerId",
    "id": "ResourceId",
    "keyword": "Keyword",
}


class Refused(Exception):  # noqa: N818 - the answer to a request, not a fault
    """An answer with an error: the vendor's code, and a text that holds no secret.

    `reason` is a fixed word for the log, never told.
    """

    def __init__(self, code: str, message: str, reason: str | None = None) -> None:
        self.code, self.message, self.reason = code, message, reason
        super().__init__(f"{code}: {message}")


def from_problem(problem: Problem) -> Refused:
    """A refusal by a use case in the vendor's words: its code, the fields by their vendor's names, every blocker."""
    message = problem.detail
    if problem.errors:
        faults = ((FIELD_NAMES.get(error.field, error.field), error.message) for error in problem.errors)
        message = "; ".join(f"{field}: {text}" for field, text in faults)
    blockers = [f"{item['code']} {item['resource']['id']}" for item in problem.members.get("blockers", [])]
    if blockers:
        message += f" {', '.join(blockers)}."
    return Refused(FROM_OURS[problem.code], message, problem.reason)


def from_signature(refused: tc3.SignatureRefused) -> Refused:
    """A signature that does not hold."""
    return Refused(FROM_SIGNATURE[refused.reason], tc3.REASONS[refused.reason], refused.reason)
