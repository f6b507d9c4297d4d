"""What callers send and get: input models, resources and their rules.

Every input model refuses unknown fields and never repeats the input in its messages. Rules come from the vendor's
contract: names and descriptions (document 1364/127922), generation methods and lengths (1826/133141).
"""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, model_validator

from consumer_keys.errors import FieldFault
from consumer_keys.fields import (
    LIMIT_DEFAULT,
    ActorText,
    AuditAction,
    ConsumerId,
    ConsumerName,
    Coordinate,
    CreationSource,
    Description,
    Flag,
    Generation,
    GroupId,
    GroupName,
    JwkName,
    KeyName,
    KeyType,
    KeyValue,
    Keyword,
    Limit,
    Moment,
    Offset,
    ResourceId,
    ResourceType,
    SecretName,
    SecretVersion,
    Status,
    TargetText,
)


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
    x: Coordinate
    y: Coordinate | None = None
    kid: JwkName | None = None
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

    actor: ActorText | None = None
    action: AuditAction | None = None
    target: TargetText | None = None
    from_: Moment | None = Field(default=None, alias="from")
    to: Moment | None = None

    @model_validator(mode="after")
    def _some_time(self) -> ListAudit:
        if self.from_ is not None and self.to is not None and self.to < self.from_:
            raise FieldFault("to", "must not be before `from`")
        return self


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
    id: ResourceId


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

    With an `idempotency_key` there are `fingerprints` of the request (`Roots.fingerprints`); the first is kept.
    `signature` is 32 bytes that stand for a signed request and the function that it reached; None for other callers.
    """

    actor: str
    role: str
    gateways: tuple[str, ...] | None
    function: str
    request_id: str
    revisions: frozenset[int] | None = None
    idempotency_key: str | None = None
    fingerprints: tuple[str, ...] = ()
    signature: bytes | None = None


def timestamp(unix_ms: int) -> str:
    """RFC 3339 in UTC with milliseconds."""
    moment = datetime.fromtimestamp(unix_ms / 1000, timezone.utc)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{unix_ms % 1000:03d}Z"


def milliseconds(text: str) -> int:
    """The reverse of `timestamp`."""
    moment = datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=timezone.utc)
    return round(moment.timestamp() * 1000)
