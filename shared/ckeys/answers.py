"""What each function answers, for the OpenAPI document: the models of bodies, and the error codes of each call.

Never deployed: functions build their answers themselves, and a test holds every replayed event against this.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, Field

from consumer_keys.errors import CODES
from consumer_keys.model import AuditEntry, Consumer, ConsumerRef, Group, Key
from consumer_keys.verdict import CODES as VERDICTS

ErrorCode = Annotated[str, Field(json_schema_extra={"enum": list(CODES)})]
VerdictCode = Annotated[str, Field(json_schema_extra={"enum": list(VERDICTS)})]


class FieldErrorItem(BaseModel):
    """One thing wrong with one field."""

    field: str
    message: str


class Resource(BaseModel):
    """What stands in the way."""

    type: Literal["key", "consumer", "group", "ModelAPI", "MCPServer"]
    id: str
    name: str


class Blocker(BaseModel):
    """One reason why something cannot be deleted yet."""

    code: Literal["KeyEnabled", "KeyBound", "ConsumerHasKey", "ConsumerInGroup", "GroupHasConsumer", "GroupAuthorised"]
    resource: Resource


class ProblemDocument(BaseModel):
    """RFC 9457 problem details. An error means that nothing was changed."""

    type: Literal["about:blank"]
    title: str
    status: int = Field(ge=400, le=599)
    code: ErrorCode
    detail: str
    request_id: str
    errors: list[FieldErrorItem] = Field(default_factory=list, description="With bad input: every faulty field.")
    blockers: list[Blocker] = Field(default_factory=list, description="With UnresolvedDependencies: all of them.")
    consumer: ConsumerRef = Field(default=None, description="With AlreadyBound: the other consumer.")  # type: ignore[assignment]


class CreatedKey(Key):
    """A new key; its value is there once, for System, and not when the answer is repeated."""

    value: str = Field(default="", description="In clear, without `reveal_to` and where the deployment allows it.")
    value_jwe: str = Field(default="", description="As a compact JWE to the key in `reveal_to`.")


class RevealedValue(BaseModel):
    """The value of a key, in one of two forms; null when the answer is repeated under an Idempotency-Key."""

    key_id: str
    value: str | None = Field(default=None, description="In clear, without `reveal_to`.")
    value_jwe: str = Field(default="", description="As a compact JWE to the key in `reveal_to`.")


class KeyPage(BaseModel):
    """A page of keys, newest first."""

    items: list[Key]
    total_count: int
    next_cursor: str | None


class ConsumerPage(BaseModel):
    """A page of consumers, newest first."""

    items: list[Consumer]
    total_count: int
    next_cursor: str | None


class GroupPage(BaseModel):
    """A page of groups, newest first."""

    items: list[Group]
    total_count: int
    next_cursor: str | None


class AuditPage(BaseModel):
    """A page of the audit log, newest first."""

    items: list[AuditEntry]
    next_cursor: str | None


class Deletable(BaseModel):
    """What a dry run found."""

    deletable: bool
    blockers: list[Blocker]


class GatewayItem(BaseModel):
    """A gateway, as declared in the settings."""

    gateway_id: str
    title: str


class UndeclaredGateway(BaseModel):
    """A gateway that has keys and is not declared in the settings."""

    gateway_id: str
    keys: int


class SnapshotState(BaseModel):
    """What was published last; nulls before the first time."""

    version: int
    revision: int
    published_at: str | None
    age_seconds: float | None
    values: int


class DeploymentStatus(BaseModel):
    """The state of the deployment, with the gateways that the caller may see."""

    environment: str
    gateways: list[GatewayItem]
    undeclared: list[UndeclaredGateway]
    revision: int
    snapshot: SnapshotState
    last_sync: dict[str, Any] | None


class SnapshotUsed(BaseModel):
    """The snapshot that a verdict came from."""

    version: int
    revision: int
    age_seconds: float


class VerdictBody(BaseModel):
    """Whether a key is good and whose it is; ids and names are null unless the value is known."""

    valid: bool
    code: VerdictCode
    key_id: str | None
    key_name: str | None
    consumer_id: str | None
    consumer_name: str | None
    consumer_groups: list[str]
    snapshot: SnapshotUsed


class PresentedKey(BaseModel):
    """POST /verify."""

    model_config = {"extra": "forbid"}

    key: str


class Described(NamedTuple):
    """The answers of one function: model per status (None: no body), and its own error codes beside the common ones.

    `etag` says that the answer is a resource at a revision, `conditional` that If-Match is looked at.
    """

    answers: dict[int, type[BaseModel] | None]
    codes: tuple[str, ...] = ()
    etag: bool = False
    conditional: bool = False


_CREDENTIAL = (
    "CredentialNotFound", "CredentialDisabled", "CredentialPendingDeletion", "CredentialUnreadable",
    "CredentialInvalid",
)  # fmt: skip
_KEY: dict[int, type[BaseModel] | None] = {200: Key}
_CONSUMER: dict[int, type[BaseModel] | None] = {200: Consumer}
_GROUP: dict[int, type[BaseModel] | None] = {200: Group}
DESCRIBED: dict[str, Described] = {
    "create_key": Described({201: CreatedKey}, ("WeakValue", "NameInUse", "ValueInUse", *_CREDENTIAL), etag=True),
    "list_keys": Described({200: KeyPage}),
    "get_key": Described(_KEY, ("KeyNotFound",), etag=True),
    "update_key": Described(_KEY, ("KeyNotFound", "NameInUse"), etag=True, conditional=True),
    "enable_key": Described(_KEY, ("KeyNotFound",), etag=True, conditional=True),
    "disable_key": Described(_KEY, ("KeyNotFound",), etag=True, conditional=True),
    "delete_key": Described(
        {200: Deletable, 204: None}, ("KeyNotFound", "UnresolvedDependencies"), conditional=True
    ),
    "reveal_key": Described(
        {200: RevealedValue},
        ("KeyNotFound", "ManagedByKms", "RevealDisabled", "RevealLimitExceeded", "ValueDamaged"),
    ),
    "bind_consumer": Described(
        _KEY, ("KeyNotFound", "ConsumerNotFound", "AlreadyBound"), etag=True, conditional=True
    ),
    "unbind_consumer": Described(_KEY, ("KeyNotFound",), etag=True, conditional=True),
    "create_consumer": Described({201: Consumer}, ("NameInUse",), etag=True),
    "list_consumers": Described({200: ConsumerPage}),
    "get_consumer": Described(_CONSUMER, ("ConsumerNotFound",), etag=True),
    "update_consumer": Described(_CONSUMER, ("ConsumerNotFound", "NameInUse"), etag=True, conditional=True),
    "delete_consumer": Described(
        {200: Deletable, 204: None}, ("ConsumerNotFound", "UnresolvedDependencies"), conditional=True
    ),
    "create_group": Described({201: Group}, ("NameInUse",), etag=True),
    "list_groups": Described({200: GroupPage}),
    "get_group": Described(_GROUP, ("GroupNotFound",), etag=True),
    "update_group": Described(_GROUP, ("GroupNotFound", "NameInUse"), etag=True, conditional=True),
    "delete_group": Described(
        {200: Deletable, 204: None}, ("GroupNotFound", "UnresolvedDependencies"), conditional=True
    ),
    "add_to_group": Described(_GROUP, ("GroupNotFound", "ConsumerNotFound"), etag=True, conditional=True),
    "remove_from_group": Described(_GROUP, ("GroupNotFound", "ConsumerNotFound"), etag=True, conditional=True),
    "list_audit": Described({200: AuditPage}),
    "get_status": Described({200: DeploymentStatus}),
}  # fmt: skip
