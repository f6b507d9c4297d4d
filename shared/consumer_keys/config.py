"""Settings: the environment, read once into one frozen tuple, with every problem reported at once.

`SETTINGS` is the only list; the README's table is checked against it.
"""

from __future__ import annotations

import os
import re
from _thread import _local
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache

from consumer_keys.light_typing import Any, NamedTuple


class ConfigError(Exception):
    """The environment does not make a configuration; the text names every fault, and repeats no value."""

    safe_to_log = True


class Setting(NamedTuple):
    """One environment variable. `default` None means that it may be absent."""

    name: str
    default: str | None
    parse: Callable[[str], Any]
    meaning: str


class Gateway(NamedTuple):
    """A namespace of keys and consumers."""

    gateway_id: str
    title: str


def _text(text: str) -> str:
    return text


def _database_url(text: str) -> str:
    # The URL may hold a password, so the message does not repeat it.
    if not re.match(r"(sqlite|postgresql|mysql|mariadb)(\+[a-z]+)?://", text):
        raise ValueError("must begin with sqlite://, postgresql://, mysql:// or mariadb://")
    return text


def _number(minimum: float, maximum: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,3})?", text) or not minimum <= float(text) <= maximum:
            raise ValueError(f"must be a number from {minimum:g} to {maximum:g}")
        return float(text)

    return parse


def _switch(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError("must be true or false")
    return text == "true"


def _prefix(text: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9]{1,7}", text):
        raise ValueError("must be 2 to 8 lower-case letters or digits and begin with a letter")
    return text


def _endpoint(text: str) -> str:
    # `ckeys env` exports it with the scheme, which tccli needs.
    endpoint = text.removeprefix("http://").removesuffix("/")
    match = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.-]*:([0-9]{1,5})", endpoint)
    if match is None or not 1 <= int(match[1]) <= 65535:
        raise ValueError("must be host:port, of a service that speaks plain http")
    return endpoint


def _bucket(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?-[0-9]{5,20}", text):
        raise ValueError("must be a bucket's name with the -appid of its account")
    return text


def _folder(text: str) -> str:
    if text and not re.fullmatch(r"([A-Za-z0-9_-][A-Za-z0-9._-]*/)+", text):
        raise ValueError("must be path segments, each followed by a slash")
    return text


def _secret_name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}", text):
        raise ValueError("must be 1 to 128 letters, digits, _ or -, and begin with a letter or digit")
    return text


def _secret_prefix(text: str) -> str:
    return text and _secret_name(text)


def _gateways(text: str) -> tuple[Gateway, ...]:
    gateways = []
    for item in text.split(","):
        gateway_id, _, title = item.strip().partition("=")
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", gateway_id):
            raise ValueError("must be id=title pairs, the id being 1 to 64 letters, digits, - or _")
        gateways.append(Gateway(gateway_id, title.strip() or gateway_id))
    if len({gateway.gateway_id for gateway in gateways}) != len(gateways):
        raise ValueError("names a gateway twice")
    return tuple(gateways)


SETTINGS = (
    Setting("DATABASE_URL", None, _database_url, "SQLAlchemy URL of the database; SQLite is refused on SCF"),
    Setting("ENVIRONMENT", "default", _text, "name of this deployment; bound into sealed values and snapshots"),
    Setting("GATEWAYS", "default", _gateways, "`id=title,...`: the gateways that keys and consumers belong to"),
    Setting("KEY_PREFIX", "ck", _prefix, "prefix of generated values, reserved against custom ones"),
    Setting("CUSTOM_VALUE_MIN_BITS", "40", _number(0, 256), "estimated strength below which a custom value is weak"),
    Setting(
        "CREDENTIAL_CACHE_SECONDS", "300", _number(0, 86400), "overlap of former content, grace of a gone credential"
    ),
    Setting("SNAPSHOT_POLL_SECONDS", "10", _number(0, 3600), "how often validation looks for a newer snapshot"),
    Setting("SNAPSHOT_MAX_AGE_SECONDS", "3600", _number(60, 604800), "older than this, validation answers 503"),
    Setting("SNAPSHOT_PREFIX", "consumer-keys/", _folder, "folder of the snapshot's objects in the bucket"),
    Setting("AUDIT_PREFIX", "consumer-keys-audit/", _folder, "folder of the audit log's signed heads in the bucket"),
    Setting("SNAPSHOT_DIR", None, _text, "where validation keeps base files; the temporary folder if unset"),
    Setting("KEY_IN_QUERY", "false", _switch, "also accept the key as query parameter `apikey` (URLs get logged)"),
    Setting("REVEAL_ENABLED", "true", _switch, "whether values are revealed at all"),
    Setting("REVEALS_PER_MINUTE", "5", _number(1, 100_000), "values that one operator may have revealed in a minute"),
    Setting("REVEALS_PER_DAY", "50", _number(1, 100_000), "values that one operator may have revealed in a day"),
    Setting(
        "AUTH_FAILURES_PER_MINUTE",
        "20",
        _number(1, 1_000_000),
        "failed authentications per source and instance before further ones get 429",
    ),
    Setting(
        "CLEAR_VALUES",
        "false",
        _switch,
        "let `create_key` and `reveal_key` answer in clear where `reveal_to` is absent",
    ),
    Setting("CREDENTIAL_PREFIX", "", _secret_prefix, "keys may only refer to credentials whose names begin with this"),
    Setting("SSM_REQUESTS_PER_SECOND", "20", _number(0.1, 10000), "rate limit of the timer's SSM reads"),
    Setting("KMS_KEY_ID", None, _text, "KMS key that wraps the data keys of key values"),
    Setting("KMS_OPERATOR_KEY_ID", None, _text, "KMS key that wraps the data keys of operators' secrets"),
    Setting("ROOT_SECRET_NAME", "consumer-keys-root", _secret_name, "SSM secret with the 32 root bytes"),
    Setting(
        "ROOT_SECRET_VERSION",
        "v1",
        _text,
        "version of the root secret; once it was rotated, only validation goes by this",
    ),
    Setting("COS_BUCKET", None, _bucket, "bucket with its `-appid`, for the snapshot"),
    Setting("TENCENTCLOUD_REGION", "ap-guangzhou", _text, "region of SSM, KMS, COS and SCF"),
    Setting(
        "CLOUD_ENDPOINT",
        None,
        _endpoint,
        "`host:port` that serves SSM, KMS, COS and SCF over plain http, for local runs",
    ),
    Setting("FRONT_DOOR_ROUTES", None, _text, "front_door only: the routes of template.yaml as JSON"),
)


class Settings(NamedTuple):
    """The parsed settings, one field per entry of SETTINGS."""

    database_url: str | None
    environment: str
    gateways: tuple[Gateway, ...]
    key_prefix: str
    custom_value_min_bits: float
    credential_cache_seconds: float
    snapshot_poll_seconds: float
    snapshot_max_age_seconds: float
    snapshot_prefix: str
    audit_prefix: str
    snapshot_dir: str | None
    key_in_query: bool
    reveal_enabled: bool
    reveals_per_minute: float
    reveals_per_day: float
    auth_failures_per_minute: float
    clear_values: bool
    credential_prefix: str
    ssm_requests_per_second: float
    kms_key_id: str | None
    kms_operator_key_id: str | None
    root_secret_name: str
    root_secret_version: str
    cos_bucket: str | None
    tencentcloud_region: str
    cloud_endpoint: str | None
    front_door_routes: str | None


def load(environ: Mapping[str, str], needs: tuple[str, ...] = ()) -> Settings:
    """Settings from an environment; `needs` names variables that this function cannot do without.

    Raises ConfigError with every fault in one text. Cheap when nothing changed, so it may run at each call.
    """
    given = tuple((setting.name, environ.get(setting.name) or None) for setting in SETTINGS)
    return _load(given, needs, environ.get("TENCENTCLOUD_RUNENV") == "SCF")


@lru_cache(maxsize=8)
def _load(given: tuple[tuple[str, str | None], ...], needs: tuple[str, ...], on_scf: bool) -> Settings:
    values: dict[str, Any] = {}
    faults = []
    for setting, (name, text) in zip(SETTINGS, given, strict=True):
        raw = setting.default if text is None else text
        try:
            values[name.lower()] = None if raw is None else setting.parse(raw)
        except ValueError as error:
            faults.append(f"{name} {error}")
        if raw is None and name in needs:
            faults.append(f"{name} is not set")
    database = values.get("database_url")
    if on_scf and database is not None and database.startswith("sqlite"):
        faults.append("DATABASE_URL names a SQLite file, but each SCF instance has a disk of its own")
    faults += _together(values)
    if faults:
        raise ConfigError("; ".join(faults))
    return Settings(**values)


def _together(values: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with settings that are each right by themselves."""
    key, operators_key = values.get("kms_key_id"), values.get("kms_operator_key_id")
    if key and operators_key and key.lower() == operators_key.lower():
        yield "KMS_OPERATOR_KEY_ID is KMS_KEY_ID, but who may decrypt operators' secrets must not decrypt key values"
    snapshots, heads = values.get("snapshot_prefix"), values.get("audit_prefix")
    if snapshots and heads and (snapshots.startswith(heads) or heads.startswith(snapshots)):
        yield "AUDIT_PREFIX must not begin with SNAPSHOT_PREFIX, nor the reverse: publishers could replace audit heads"


class _Hosted(_local):  # threading.local without what else `threading` loads at a cold start
    function = ""
    environ: Mapping[str, str] | None = None


_hosted = _Hosted()


class Hosted:
    """A context in which one function of several in this process runs: its thread sees its own environment and role.

    On SCF each function is a process; the local run is one process, where a shared role would hide what a role lacks.
    """

    def __init__(self, function: str, environ: Mapping[str, str]) -> None:
        self._inner = function, environ

    def __enter__(self) -> None:
        self._outer = _hosted.function, _hosted.environ
        _hosted.function, _hosted.environ = self._inner

    def __exit__(self, *_: object) -> None:
        _hosted.function, _hosted.environ = self._outer


def hosted_function() -> str:
    """Which hosted function runs in this thread; empty where the process is the function."""
    return _hosted.function


def environment() -> Mapping[str, str]:
    """The environment of the function that runs in this thread."""
    return os.environ if _hosted.environ is None else _hosted.environ


def role_credential() -> tuple[str, str, str | None]:
    """(secret id, secret key, token) of the execution role. Read at each call: SCF renews them in place."""
    environ = environment()
    try:
        return (
            environ["TENCENTCLOUD_SECRETID"],
            environ["TENCENTCLOUD_SECRETKEY"],
            environ.get("TENCENTCLOUD_SESSIONTOKEN") or None,
        )
    except KeyError as missing:
        raise ConfigError(
            f"{missing.args[0]} is not set; a function has it from its execution role, elsewhere you set it"
        ) from None
