"""The requests of the vendor's API: names, types and what is out of scope.

Only what is the vendor's own is decided here. Names, lengths, values and everything else that has a rule goes on to the
input models of `model`, which know the rule.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from consumer_keys.cloud_api.errors import (
    BAD_FORMAT,
    BAD_VALUE,
    CREATE_ERROR,
    MISSING,
    UNKNOWN,
    UNSUPPORTED,
    Refused,
    from_problem,
)
from consumer_keys.errors import Problem, field_name
from consumer_keys.fields import LIMIT_MAX, KeyValue, fault_text, field_error
from consumer_keys.fields import ResourceType as _ResourceType
from consumer_keys.fields import Status as _Status

_ID_CHARS_MAX, _OFFSET_MAX, _IDS_MAX = 64, 10_000_000, 10
OTHER_SECRET_TYPES = frozenset(
    {"Basic", "Hmac", "OAuth2", "JWT", "OAuth", "OIDC", "AKSK", "CAM", "BearerToken", "CustomHeader", "QueryParam"}
)
_M = TypeVar("_M", bound=BaseModel)


class _OutOfScope(ValueError):  # noqa: N818 - not a fault of the caller
    pass


def _one_of(*allowed: str, elsewhere: frozenset[str]) -> AfterValidator:
    """One of the values that are served; `elsewhere` are those that only the vendor's own gateway serves."""

    def check(text: str) -> str:
        if text in elsewhere:
            raise _OutOfScope(f"{text} is not supported here; supported: {', '.join(filter(None, allowed))}")
        if text not in allowed:
            raise ValueError(f"must be one of {', '.join(filter(None, allowed))}")
        return text

    return AfterValidator(check)


def _id(text: str) -> str:
    # What no id can look like never reaches a database.
    if not text or len(text) > _ID_CHARS_MAX or not text.isascii() or not text.isprintable():
        raise ValueError("is not an id")
    return text


Id = Annotated[str, AfterValidator(_id)]
Ids = Annotated[list[Id], Field(min_length=1, max_length=_IDS_MAX)]
_Limit = Annotated[int, Field(ge=1, le=LIMIT_MAX)]
_Offset = Annotated[int, Field(ge=0, le=_OFFSET_MAX)]
_SecretType = Annotated[str, _one_of("ApiKey", elsewhere=OTHER_SECRET_TYPES)]
_KeyHolder = Annotated[str, _one_of("Consumer", elsewhere=frozenset({"ModelService", "LLM"}))]
_Priority = Annotated[str, _one_of("", "Medium", elsewhere=frozenset({"High", "Low"}))]
_Source = Annotated[str, _one_of("", "Legacy", elsewhere=frozenset({"CustomOrganization"}))]


class _Members(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)


class Call(_Members):
    """A request. Absent and null are the same. Members in OUT_OF_SCOPE must be absent or empty."""

    OUT_OF_SCOPE: ClassVar[frozenset[str]] = frozenset()

    GatewayId: Id


class _Described(Call):
    Name: str
    Description: str | None = None

    def edited(self) -> dict[str, Any]:
        """The members that a change of name and description has."""
        return {"name": self.Name} | ({} if self.Description is None else {"description": self.Description})


class CreateSecretKey(_Described):
    """A new key."""

    OUT_OF_SCOPE = frozenset(
        {
            "Provider", "JWTCredentialConfig", "OAuthCredentialConfig", "OIDCCredentialConfig", "AKSKCredentialConfig",
            "CAMCredentialConfig", "BearerTokenCredentialConfig", "CustomHeaderCredentialConfig",
            "QueryParamCredentialConfig", "BasicCredentialConfig",
        }
    )  # fmt: skip

    SecretType: _SecretType
    GenerateType: str
    ResourceType: _KeyHolder
    SecretValue: KeyValue | None = None
    KmsKeyName: str = ""
    KmsKeyVersion: str = ""


class _OfKey(Call):
    SecretKeyId: Id


class DescribeSecretKey(_OfKey):
    """One key."""

    IncludeCreationInfo: bool = False


class DescribeSecretKeyValue(_OfKey):
    """The value of a key."""

    OUT_OF_SCOPE = frozenset({"SecretValueType"})


class ModifySecretKey(_OfKey, _Described):
    """A key's name and description."""


class ModifySecretKeyStatus(_OfKey):
    """Enable or disable a key."""

    Status: _Status


class DeleteSecretKey(_OfKey):
    """The end of a key."""


class BindSecretKey(_OfKey):
    """A key and the one consumer that it is bound to, or unbound from."""

    ResourceType: _KeyHolder
    ResourceIds: Annotated[list[Id], Field(min_length=1, max_length=1)]


class Filter(_Members):
    """A filter of the list of keys: one of the values."""

    Name: Literal["Status", "GenerateType", "SecretType", "CredentialGenerateType", "CreationSource"]
    Values: Annotated[list[str], Field(min_length=1, max_length=20)]


class DescribeSecretKeyList(Call):
    """Keys by filters, part of a name, consumer."""

    Limit: _Limit
    Offset: _Offset
    Filters: Annotated[list[Filter], Field(max_length=20)] = []
    Keyword: Annotated[str, Field(max_length=60)] = ""
    ResourceId: Id | None = None
    ResourceType: _KeyHolder | None = None
    UseToBind: bool = False
    IncludeCreationInfo: bool = False


class NewSecretKey(_Members):
    """The key that is made together with its consumer."""

    Name: str
    Description: str = ""


class CreateConsumer(_Described):
    """A new consumer, with a new key, an existing one, or none.

    `SecretKeyId` is in no client's declaration, although the vendor's texts speak of it: CommonClient can send it.
    """

    OUT_OF_SCOPE = frozenset({"Status"})  # of the organisation directory; a plain consumer has none

    Priority: _Priority = ""
    OperationSource: _Source = ""
    SecretBindType: Literal["", "None", "AutoGenerate", "Existing"] = ""
    AutoSecretKey: NewSecretKey | None = None
    SecretKeyId: Id | None = None

    def check(self) -> None:
        """The rules over several members. Raises Refused."""
        automatic = self.SecretBindType == "AutoGenerate"
        if automatic != (self.AutoSecretKey is not None):
            text = "is required with" if automatic else "is only allowed with"
            raise Refused(CREATE_ERROR, f"AutoSecretKey {text} SecretBindType AutoGenerate.")
        if self.AutoSecretKey is not None and self.AutoSecretKey.Name.endswith("-share"):
            raise Refused(BAD_VALUE, "AutoSecretKey.Name must not end with -share.")
        if self.SecretBindType == "Existing" and self.SecretKeyId is None:
            raise Refused(MISSING, "The parameter SecretKeyId is required with SecretBindType Existing.")
        if self.SecretKeyId is not None and self.SecretBindType not in ("", "Existing"):
            raise Refused(BAD_VALUE, f"SecretKeyId is not allowed with SecretBindType {self.SecretBindType}.")


class _OfConsumer(Call):
    ConsumerId: Id


class DescribeConsumer(_OfConsumer):
    """One consumer."""


class ModifyConsumer(_OfConsumer, _Described):
    """A consumer's name and description."""

    Priority: _Priority = ""


class DeleteConsumer(_OfConsumer):
    """The end of a consumer."""

    OperationSource: _Source = ""


class DescribeConsumerList(Call):
    """Consumers, or those whose groups are authorised on a resource."""

    OUT_OF_SCOPE = frozenset({"Origin", "Status", "SyncSourceId", "WithoutSyncSource"})  # of the directory

    Limit: _Limit
    Offset: _Offset
    ResourceType: _ResourceType | None = None
    ResourceId: Id | None = None


class CreateConsumerGroup(_Described):
    """A new group."""

    OUT_OF_SCOPE = frozenset({"ParentConsumerGroupIds"})

    Status: _Status
    OperationSource: _Source = ""


class _OfGroup(Call):
    ConsumerGroupId: Id


class DescribeConsumerGroup(_OfGroup):
    """One group."""


class DescribeConsumerGroupList(Call):
    """The groups."""

    Limit: _Limit
    Offset: _Offset


class ModifyConsumerGroup(_OfGroup, _Described):
    """A group's name, description and status."""

    Status: _Status


class DeleteConsumerGroup(_OfGroup):
    """The end of a group."""

    OperationSource: _Source = ""


class ConsumersInGroup(_OfGroup):
    """Consumers that are added to a group or removed."""

    ConsumerIds: Ids


class ConsumerGroupAuth(Call):
    """Groups that are authorised on a resource, or no longer."""

    ResourceType: _ResourceType
    ResourceId: Id
    ConsumerGroupIds: Ids


def parse(model: type[Call], fields: Mapping[str, Any]) -> Any:
    """The request. Raises Refused naming each faulty member; never repeats a value."""
    given = _without_null(fields)
    for name in sorted(model.OUT_OF_SCOPE & given.keys()):
        if given.pop(name) not in ("", [], {}, False):
            raise Refused(UNSUPPORTED, f"The parameter {name} is not supported here.")
    try:
        return model.model_validate(given)
    except ValidationError as error:
        faults = [_fault(fault) for fault in error.errors(include_url=False, include_input=False)]
    # What the sender could not know comes first: a member that nobody here knows, or serves.
    order = (UNKNOWN, UNSUPPORTED, MISSING, BAD_FORMAT, BAD_VALUE)
    code = min((fault.code for fault in faults), key=order.index)
    raise Refused(code, " ".join(fault.message for fault in faults if fault.code == code))


def _without_null(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _without_null(item) for name, item in value.items() if item is not None}
    return [_without_null(item) for item in value] if isinstance(value, list) else value


def _fault(fault: Any) -> Refused:
    field = ".".join(field_name(str(part)) for part in fault["loc"])
    kind, cause = str(fault["type"]), fault.get("ctx", {}).get("error")
    if kind == "extra_forbidden":
        return Refused(UNKNOWN, f"The parameter {field} is not recognized.")
    if kind == "missing":
        return Refused(MISSING, f"The parameter {field} is missing.")
    if kind.endswith("_type"):
        return Refused(BAD_FORMAT, f"The parameter {field} has the wrong type.")
    code = UNSUPPORTED if isinstance(cause, _OutOfScope) else BAD_VALUE
    return Refused(code, f"The parameter {field} is not valid: {fault_text(fault)}.")


def ours(model: type[_M], **values: Any) -> _M:
    """Input of a use case, checked by its own rules. Raises Refused with the vendor's names of the fields."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        faults = [field_error(fault) for fault in error.errors(include_url=False, include_input=False)]
    raise from_problem(Problem("InvalidParameter", errors=faults))
