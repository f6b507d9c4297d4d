"""What callers send and get: input models, resources and their rules.

Every input model refuses unknown fields and never repeats the input in its messages. Rules come from the vendor's
contract: names and descriptions (document 1364/127922), generation methods and lengths (1826/133141).
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone
from typing import Annotated, Any, Literal, NamedTuple, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    WithJsonSchema,
    model_validator,
)

from consumer_keys.errors import FieldFault
from consumer_keys.keytext import VALUE_BYTES_MAX, VALUE_BYTES_MIN

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
]  # fmt: skip
AUDIT_ACTIONS = frozenset(get_args(AuditAction))
CreationSource = Literal["Manual", "AutoWithConsumer"]
ResourceType = Literal["ModelAPI", "MCPServer"]
LIMIT_MAX, LIMIT_DEFAULT = 100, 20

_EPOCH, _SECOND = datetime(1970, 1, 1, tzinfo=timezone.utc), timedelta(seconds=1)
_HAN = "\u3400-\u4dbf\u4e00-\u9fff"
_NAME = re.compile(rf"[A-Za-z{_HAN}](?:[A-Za-z0-9{_HAN}_-]*[A-Za-z0-9{_HAN}])?")
# What `_plain` lets through, as far as a pattern can say it.
_PLAIN = r"[^\u0000-\u0008\u000b-\u001f]*"
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
    if any((ord(char) < 32 and char not in "\n\t") or 0xD800 <= ord(char) <= 0xDFFF for char in text):
        raise ValueError("must not contain control characters or lone surrogates")
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
    return int(value) if isinstance(value, str) and re.fullmatch(r"[0-9]{1,9}", value) else value


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
KeyValue = Annotated[SecretStr, WithJsonSchema({"type": "string", "format": "password", "writeOnly": True, **_VALUE})]
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


class Input(BaseModel):
    """Strict, closed input."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)


class Credential(Input):
    """A credential in SSM: (name, version)."""

    name: SecretName
    version: SecretVersion


class PublicKey(Input):
    """A caller's public key as a JWK (RFC 7517): P-256, or X25519 (RFC 8037). What WebCrypto exports is accepted."""

    kty: Literal["EC", "OKP"]
    crv: Literal["P-256", "X25519"]
    x: Annotated[str, _matching(_COORDINATE, "coordinate (32 bytes in base64url without padding)")]
    y: Annotated[str, _matching(_COORDINATE, "coordinate (32 bytes in base64url without padding)")] | None = None
    kid: Annotated[str, _matching(_KEY_NAME, "name of a key (1 to 64 printable ASCII characters)")] | None = None
    use: Literal["enc"] | None = None
    alg: Literal["ECDH-ES"] | None = None
    ext: bool | None = None
    key_ops: Annotated[list[Literal["deriveKey", "deriveBits"]], Field(max_length=2)] | None = None

    @model_validator(mode="after")
    def _one_curve(self) -> PublicKey:
        if (self.kty == "EC") != (self.crv == "P-256"):
            raise FieldFault("reveal_to.crv", "must be P-256 with kty EC, X25519 with kty OKP")
        if (self.y is None) == (self.kty == "EC"):
            raise FieldFault("reveal_to.y", "is required with kty EC and has no place with kty OKP")
        return self


class CreateKey(Input):
    """POST /keys. `value` goes with Custom, `credential` with KMS, neither with System; `reveal_to` with System."""

    name: KeyName
    generation: Generation
    type: KeyType = "ApiKey"
    description: Description = ""
    value: KeyValue | None = None
    credential: Credential | None = None
    status: Status = "Enable"
    reveal_to: PublicKey | None = None

    @model_validator(mode="after")
    def _value_or_credential(self) -> CreateKey:
        if self.reveal_to is not None and self.generation != "System":
            raise FieldFault("reveal_to", "is only allowed with generation System: no other value is returned")
        for field, generation in (("value", "Custom"), ("credential", "KMS")):
            given = getattr(self, field) is not None
            if given != (self.generation == generation):
                raise FieldFault(field, f"is {'only allowed' if given else 'required'} with generation {generation}")
        return self


class UpdateResource(Input):
    """PATCH: absent keeps, given sets; null is refused, "" clears a description."""

    description: Description = ""

    @model_validator(mode="after")
    def _something(self) -> UpdateResource:
        if not self.model_fields_set:
            raise FieldFault("body", f"give at least one of {', '.join(type(self).model_fields)}")
        return self


class UpdateKey(UpdateResource):
    """PATCH /keys/{key_id}."""

    name: KeyName = ""


class BindConsumer(Input):
    """PUT /keys/{key_id}/consumer."""

    consumer_id: ConsumerId


class RevealKey(Input):
    """POST /keys/{key_id}/reveal; the reason is kept in the audit row."""

    reason: Description = ""
    reveal_to: PublicKey | None = None


class DeleteOptions(Input):
    """DELETE ?dry_run=true: only report what stands in the way."""

    dry_run: Flag = False


class Cursored(Input):
    """Paging by the cursor of the page before."""

    limit: Limit = LIMIT_DEFAULT
    cursor: Annotated[str, Field(max_length=512)] | None = None

    def filters(self) -> dict[str, Any]:
        """The filters without the paging; a cursor is bound to them."""
        return self.model_dump(exclude={"limit", "offset", "cursor"}, exclude_none=True, by_alias=True)


class Page(Cursored):
    """Paging of a list: limit with offset, or limit with the cursor of the page before."""

    offset: Offset = 0

    @model_validator(mode="after")
    def _one_way(self) -> Page:
        if self.cursor is not None and "offset" in self.model_fields_set:
            raise FieldFault("cursor", "must not be given together with offset")
        return self


class ListKeys(Page):
    """GET /keys."""

    keyword: Keyword | None = None
    status: Status | None = None
    generation: Generation | None = None
    type: KeyType | None = None
    consumer_id: ConsumerId | None = None
    bound: Flag | None = None


class ListConsumers(Page):
    """GET /consumers."""

    keyword: Keyword | None = None
    status: Status | None = None
    group_id: GroupId | None = None


class ListAudit(Cursored):
    """GET /audit: rows of one gateway; `from` is the first moment that counts, `to` the first that no longer does."""

    actor: Annotated[str, _text(1, 80), AfterValidator(_plain)] | None = None
    action: AuditAction | None = None
    target: Annotated[str, _text(1, 64), AfterValidator(_plain)] | None = None
    from_: Moment | None = Field(default=None, alias="from")
    to: Moment | None = None


class CreateConsumer(Input):
    """POST /consumers."""

    name: ConsumerName
    description: Description = ""
    status: Status = "Enable"


class UpdateConsumer(UpdateResource):
    """PATCH /consumers/{consumer_id}."""

    name: ConsumerName = ""
    status: Status = "Enable"


class ListGroups(Page):
    """GET /groups."""

    keyword: Keyword | None = None
    status: Status | None = None


class CreateGroup(Input):
    """POST /groups."""

    name: GroupName
    description: Description = ""
    status: Status = "Enable"


class UpdateGroup(UpdateResource):
    """PATCH /groups/{group_id}."""

    name: GroupName = ""
    status: Status = "Enable"


class Nothing(Input):
    """A call without a body or a query."""


class ConsumerRef(BaseModel):
    """The consumer that a key is bound to."""

    consumer_id: str
    name: str


class Sync(BaseModel):
    """What the timer last saw of a KMS key's credential."""

    status: Literal["Success", "Fail"]
    checked_at: str
    error: str | None


class Key(BaseModel):
    """A consumer key as callers see it; never its value."""

    key_id: str
    gateway_id: str
    name: str
    description: str
    type: KeyType
    generation: Generation
    # Told by the cloud API alone.
    creation_source: CreationSource = Field(exclude=True)
    status: Status
    masked_value: str
    credential: Credential | None
    consumer: ConsumerRef | None
    sync: Sync | None
    revision: int
    created_at: str
    modified_at: str


class GroupRef(BaseModel):
    """A group that a consumer is in; one that is disabled stops the consumer."""

    group_id: str
    name: str
    status: Status


class Consumer(BaseModel):
    """Who calls the gateway."""

    consumer_id: str
    gateway_id: str
    name: str
    description: str
    status: Status
    key_count: int
    groups: list[GroupRef]
    revision: int
    created_at: str
    modified_at: str


class Resource(Input):
    """Something behind the gateway that a group is authorised on, by the gateway's own id."""

    type: ResourceType
    id: Annotated[str, _matching(_RESOURCE_ID, "resource id (1 to 64 letters, digits, _ . or -)")]


class Group(BaseModel):
    """Consumers that are named and stopped together."""

    group_id: str
    gateway_id: str
    name: str
    description: str
    status: Status
    consumer_count: int
    resources: list[Resource]
    revision: int
    created_at: str
    modified_at: str


class AuditEntry(BaseModel):
    """One row of the audit log; `hash` is the row's place in the hash chain, in hex."""

    sequence: int
    at: str
    actor: str
    action: AuditAction
    gateway_id: str
    target: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    request_id: str
    revision: int
    hash: str


class Caller(NamedTuple):
    """Who makes a call, and the conditions that came with it. `gateways` None means all.

    `signature` is 32 bytes that stand for a signed request and the function that it reached; None for other callers.
    """

    actor: str
    role: str
    gateways: tuple[str, ...] | None
    function: str
    request_id: str
    revisions: frozenset[int] | None = None
    idempotency_key: str | None = None
    fingerprint: str = ""
    signature: bytes | None = None


def timestamp(unix_ms: int) -> str:
    """RFC 3339 in UTC with milliseconds."""
    moment = datetime.fromtimestamp(unix_ms / 1000, timezone.utc)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{unix_ms % 1000:03d}Z"


def milliseconds(text: str) -> int:
    """The reverse of `timestamp`."""
    moment = datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=timezone.utc)
    return round(moment.timestamp() * 1000)
