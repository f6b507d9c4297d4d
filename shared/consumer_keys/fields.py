"""The kinds of text and number that input models are made of: lengths, patterns, closed lists; what a fault is told.

Rules come from the vendor's contract: names and descriptions (document 1364/127922), lengths (1826/133141).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    GetPydanticSchema,
    PlainSerializer,
    WithJsonSchema,
    WrapValidator,
)

from consumer_keys.errors import FieldError, FieldFault, field_name
from consumer_keys.keytext import VALUE_BYTES_MAX, VALUE_BYTES_MIN
from consumer_keys.secret import REDACTED, Secret

Status = Literal["Enable", "Disable"]
Generation = Literal["System", "Custom", "KMS"]
KeyType = Literal["ApiKey"]
# The closed list of what an audit row can be about; a row with another action is never written.
AuditAction = Literal[
    "key.create", "key.update", "key.enable", "key.disable", "key.bind", "key.unbind", "key.delete", "key.sync",
    "key.overlap_end", "key.reveal", "key.reveal_denied",
    "consumer.create", "consumer.update", "consumer.delete",
    "operator.create", "operator.rotate", "operator.disable", "operator.enable",
    "group.create", "group.update", "group.add", "group.remove", "group.authorise", "group.revoke", "group.delete",
    "root.begin", "root.complete", "root.finish",
    "data_key.begin", "data_key.rewrap", "data_key.retire", "data_key.destroy",
]  # fmt: skip
AUDIT_ACTIONS = frozenset(get_args(AuditAction))
CreationSource = Literal["Manual", "AutoWithConsumer"]
ResourceType = Literal["ModelAPI", "MCPServer"]
LIMIT_MAX, LIMIT_DEFAULT = 100, 20

_EPOCH, _SECOND = datetime(1970, 1, 1, tzinfo=timezone.utc), timedelta(seconds=1)
_HAN = "\u3400-\u4dbf\u4e00-\u9fff"
_NAME = re.compile(rf"[A-Za-z{_HAN}](?:[A-Za-z0-9{_HAN}_-]*[A-Za-z0-9{_HAN}])?")
# What `_plain` lets through but for lone surrogates, which are no text in JSON either: no control characters other than
# tab and new line, no line or paragraph separators, and nothing that turns the direction of the text around it.
_PLAIN = r"[^\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]*"
_IS_PLAIN = re.compile(_PLAIN).fullmatch
_SECRET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")
_MOMENT = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt]([0-9]{2}:[0-9]{2}:[0-9]{2})(\.[0-9]{1,9})?([Zz]|[+-][0-9]{2}:[0-9]{2})"
)
_COORDINATE, _KEY_NAME = re.compile(r"[A-Za-z0-9_-]{43}"), re.compile(r"[!-~]{1,64}")
_RESOURCE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_SECRET_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


def _name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise ValueError(
            "may contain Chinese and Latin letters, digits, - and _; begins with a letter, ends with a letter or digit"
        )
    return text


def _plain(text: str) -> str:
    if not _IS_PLAIN(text) or any("\ud800" <= char <= "\udfff" for char in text):
        raise ValueError(
            "must not contain control characters, line separators, marks of text direction or lone surrogates"
        )
    return text


def _matching(pattern: re.Pattern[str], what: str) -> AfterValidator:
    def check(text: str) -> str:
        if not pattern.fullmatch(text):
            raise ValueError(f"is not a valid {what}")
        return text

    return AfterValidator(check)


def _schema(pattern: re.Pattern[str]) -> Any:
    return Field(json_schema_extra={"pattern": f"^{pattern.pattern}$"})


def _integer(value: Any) -> Any:
    """Query parameters are text; only plain ASCII digits count as a number."""
    return int(value) if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,9}", value) else value


def _boolean(value: Any) -> Any:
    return {"true": True, "false": False}.get(value, value) if isinstance(value, str) else value


def _moment(value: Any) -> Any:
    """RFC 3339 to Unix milliseconds, a fraction of one being cut off."""
    match = _MOMENT.fullmatch(value) if isinstance(value, str) else None
    try:
        if match is not None:
            zone = "+00:00" if match[4] in "Zz" else match[4]
            moment = datetime.fromisoformat(f"{match[1]}T{match[2]}{zone}")
            return (moment - _EPOCH) // _SECOND * 1000 + int((match[3] or ".")[1:].ljust(3, "0")[:3])
    except ValueError:
        pass  # no such day, or no such hour
    raise ValueError("must be a time as in RFC 3339, such as 2026-01-31T08:00:00Z")


def _secret(value: Any, text: Callable[[Any], str]) -> Secret:
    """A text from outside, wrapped at once: a model that holds it shows stars, and cannot be pickled."""
    # A lone surrogate becomes a character that no key value may have.
    return value if isinstance(value, Secret) else Secret(text(value).encode("utf-8", "replace"))


def _text(minimum: int, maximum: int, pattern: str = _PLAIN) -> Any:
    """The length of a text, and for the API's schema the rule that a validator of ours checks."""
    return Field(min_length=minimum, max_length=maximum, json_schema_extra={"pattern": f"^{pattern}$"})


KeyName = Annotated[str, _text(2, 60, _NAME.pattern), AfterValidator(_name)]
ConsumerName = Annotated[str, _text(1, 60, _NAME.pattern), AfterValidator(_name)]
GroupName = ConsumerName
Description = Annotated[str, _text(0, 200), AfterValidator(_plain)]
ConsumerId = Annotated[str, _text(1, 64), AfterValidator(_plain)]
GroupId = ConsumerId
Keyword = Annotated[str, _text(1, 60), AfterValidator(_plain)]
_VALUE = {"minLength": VALUE_BYTES_MIN, "maxLength": VALUE_BYTES_MAX, "pattern": "^[A-Za-z0-9._~+/=-]+$"}
_STARS = PlainSerializer(lambda _secret: REDACTED, return_type=str)
_SECRET_TEXT = Annotated[str, WrapValidator(_secret), _STARS]
KeyValue = Annotated[
    Secret,
    GetPydanticSchema(lambda _type, handler: handler.generate_schema(_SECRET_TEXT)),
    WithJsonSchema({"type": "string", "format": "password", "writeOnly": True, **_VALUE}),
]
Limit = Annotated[int, BeforeValidator(_integer), Field(ge=1, le=LIMIT_MAX)]
Offset = Annotated[int, BeforeValidator(_integer), Field(ge=0, le=10_000_000)]
Moment = Annotated[int, BeforeValidator(_moment), WithJsonSchema({"type": "string", "format": "date-time"})]
Flag = Annotated[bool, BeforeValidator(_boolean)]
SecretName = Annotated[
    str, _schema(_SECRET_NAME), _matching(_SECRET_NAME, "secret name (1 to 128 letters, digits, _ or -)")
]
SecretVersion = Annotated[
    str, _schema(_SECRET_VERSION), _matching(_SECRET_VERSION, "secret version (1 to 64 letters, digits, _ . or -)")
]
Coordinate = Annotated[
    str, _schema(_COORDINATE), _matching(_COORDINATE, "coordinate (32 bytes in base64url without padding)")
]
JwkName = Annotated[str, _schema(_KEY_NAME), _matching(_KEY_NAME, "name of a key (1 to 64 printable ASCII characters)")]
ResourceId = Annotated[
    str, _schema(_RESOURCE_ID), _matching(_RESOURCE_ID, "resource id (1 to 64 letters, digits, _ . or -)")
]
ActorText = Annotated[str, _text(1, 80), AfterValidator(_plain)]
TargetText = Annotated[str, _text(1, 64), AfterValidator(_plain)]

# Kind of a fault, as pydantic names it -> what the answer says; the numbers are those of the model.
_MESSAGES = {
    "extra_forbidden": "is not a field of this call",
    "missing": "is required",
    "string_type": "must be a string",
    "int_type": "must be a whole number",
    "bool_type": "must be true or false",
    "list_type": "must be a list",
    "model_type": "must be an object",
    "dict_type": "must be an object",
    "literal_error": "must be {expected}",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "too_short": "must have at least {min_length} entries",
    "too_long": "must have at most {max_length} entries",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
}


def field_error(fault: Any) -> FieldError:
    """One of pydantic's faults as the field and what is wrong with it, in our words."""
    cause = fault.get("ctx", {}).get("error")
    if isinstance(cause, FieldFault):
        return FieldError(cause.field, str(cause))
    return FieldError(".".join(field_name(str(part)) for part in fault["loc"]) or "body", fault_text(fault))


def fault_text(fault: Any) -> str:
    """What is wrong, never the input."""
    details = fault.get("ctx", {})
    cause = details.get("error")
    if isinstance(cause, ValueError):
        return str(cause)
    return _MESSAGES.get(fault["type"], "is not valid").format(**details)
