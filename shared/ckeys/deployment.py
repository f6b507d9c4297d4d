"""The whole product on this machine: emulated cloud, database, KMS keys, root secret, bucket, functions.

The local run, `ckeys invoke` and the tests all stand on this one class.
"""

from __future__ import annotations

import json
import os
import secrets
from base64 import b64encode
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError, DatabaseError

from ckeys.database import migrate
from ckeys.events import Context, Event, Handler, invoke
from ckeys.front import load_handlers
from ckeys.policies import ADMINISTRATOR, policies
from ckeys.reach import ENVIRONMENT_FILE, OPERATOR_FILE
from ckeys.template import Function, Template, load_template
from consumer_keys import config, invocation, operator_admin, validate_wiring, wiring
from consumer_keys.access import token_digest
from consumer_keys.errors import CloudFailure
from consumer_keys.roots import ROOT_BYTES
from consumer_keys.store.rotation import RootState
from tencent_emulator.cam import UIN
from tencent_emulator.cloud import Cloud, CloudError, StateInUse

ROOT = Path(__file__).resolve().parents[2]
DATABASE_FILE = "consumer-keys.db"
BUCKET = "consumer-keys-1250000000"
KMS_ALIASES = {"KMS_KEY_ID": "consumer-keys-values", "KMS_OPERATOR_KEY_ID": "consumer-keys-operators"}


class DeploymentError(Exception):
    """The local deployment cannot start; the text is one sentence for the person who started it."""


class Deployment:
    """Prepares what is missing and finds what is there; used as a context manager.

    `home` keeps the state; with `durable=False` the emulated cloud lives in memory. The settings of the environment
    are passed on to the functions, except those that name the cloud.
    """

    def __init__(
        self, home: Path, *, cloud_port: int = 0, durable: bool = True, environ: Mapping[str, str] | None = None
    ) -> None:
        self.home = home
        self.template: Template = load_template(ROOT / "template.yaml")
        self._saved: dict[str, str] | None = None
        _make_folder(home)
        self.operator = _operator_pair(home / OPERATOR_FILE)
        try:
            self.cloud = Cloud(state_dir=home / "cloud" if durable else None)
        except StateInUse:
            raise DeploymentError(
                f"Another `ckeys run` uses {home}; stop it, or set CKEYS_HOME to another folder."
            ) from None
        try:
            self.cloud.add_credential(*self.operator)
            self.server = self.cloud.serve(cloud_port)
            self.environment = self._environment(os.environ if environ is None else environ)
            self.roles = self._roles()
            self._enter_environment()
            _keep_environment(home / ENVIRONMENT_FILE, self.environment)
            loaded = load_handlers(ROOT / "functions", self.template)
            self.handlers = {item.name: self._hosted(item, loaded[item.name]) for item in self.template.functions}
            for function in self.template.functions:
                self.cloud.functions[function.name] = partial(self.call, function.name)
            self._first_operator()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Deployment:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def services(self) -> wiring.Services:
        """The collaborators of the management functions, in the role of the administrator."""
        return wiring.services()

    def call(self, function: str, event: Event) -> Any:
        """What the function returns for an event."""
        found, namespace = self.template.function(function), self.template.namespace
        return invoke(found, self.handlers[function], event, namespace=namespace)

    def close(self) -> None:
        """Stops the emulator, closes connections and gives the environment back; repeating it is harmless."""
        if self._saved is not None:
            wiring.close()
            validate_wiring.close()
            invocation.close()
            os.environ.clear()
            os.environ.update(self._saved)
            self._saved = None
        self.cloud.close()

    def _environment(self, given: Mapping[str, str]) -> dict[str, str]:
        variables: dict[str, str] = {}
        for function in self.template.functions:
            variables |= function.environment
        variables["DATABASE_URL"] = f"sqlite:///{self.home.resolve() / DATABASE_FILE}"
        variables["CLEAR_VALUES"] = "true"  # what a function returns here is written nowhere
        variables["CREDENTIAL_PREFIX"] = ""  # the emulated account holds nothing but what somebody tries out
        variables |= {item.name: given[item.name] for item in config.SETTINGS if given.get(item.name)}
        migrate_database(variables["DATABASE_URL"])
        return variables | {
            **self._cloud_resources(),
            **self._root_secret(variables["DATABASE_URL"], given.get("ROOT_SECRET_VERSION")),
            "CLOUD_ENDPOINT": self.server.endpoint,
            "COS_BUCKET": BUCKET,
            "SNAPSHOT_DIR": str(self.home.resolve() / "validator"),
            "FRONT_DOOR_ROUTES": front_door_routes(self.template),
        }

    def _roles(self) -> dict[str, dict[str, str]]:
        """Role -> the variables of its temporary credential, as the platform sets them; each may what its policy says.

        The first operator's pair is also the root account's of the emulated cloud, for tccli and the SDKs.
        """
        roles = {}
        for role, policy in policies(ROOT, self.template, str(UIN), self.environment, any_secret=True).items():
            pair = f"AKID{secrets.token_hex(16)}", secrets.token_urlsafe(24), secrets.token_urlsafe(48)
            self.cloud.add_credential(*pair, policy)
            names = ("TENCENTCLOUD_SECRETID", "TENCENTCLOUD_SECRETKEY", "TENCENTCLOUD_SESSIONTOKEN")
            roles[role] = dict(zip(names, pair, strict=True))
        return roles

    def environment_of(self, name: str) -> dict[str, str]:
        """What a function finds in its environment: its role, and no variable that the template keeps from it."""
        function = self.template.function(name)
        withheld = {item for other in self.template.functions for item in other.environment} - {*function.environment}
        kept = {item: value for item, value in self.environment.items() if item not in withheld}
        return kept | self.roles[function.role]

    def _hosted(self, function: Function, handler: Handler) -> Handler:
        environment = self.environment_of(function.name)

        def run(event: Event, context: Context) -> Any:
            with config.Hosted(function.name, environment):
                return handler(event, context)

        return run

    def _cloud_resources(self) -> dict[str, str]:
        """KMS keys by alias, and the bucket: found, or made."""
        listed = self.cloud.call("kms", "ListKeys", Limit=200)["Keys"]
        known = {}
        for item in listed:
            metadata = self.cloud.call("kms", "DescribeKey", KeyId=item["KeyId"])["KeyMetadata"]
            known[metadata["Alias"]] = item["KeyId"]
        ids = {
            name: known.get(alias) or self.cloud.call("kms", "CreateKey", Alias=alias)["KeyId"]
            for name, alias in KMS_ALIASES.items()
        }
        if not self.cloud.cos.has_bucket(BUCKET):
            self.cloud.cos.create_bucket(BUCKET)
        return ids

    def _root_secret(self, url: str, wanted: str | None) -> dict[str, str]:
        """The root secret that the functions go by: what the database says is in force, or made with a new database.

        While two versions are alive it is the coming one as soon as validators can go by it, so that a restart is what
        the deployment of every validator is elsewhere.
        """
        defaults = {item.name: str(item.default) for item in config.SETTINGS}
        name, first = defaults["ROOT_SECRET_NAME"], defaults["ROOT_SECRET_VERSION"]
        state, known = _state_of(url, self.operator[0])
        ready = state.coming if state.complete and state.published else None
        version = wanted or ready or state.version or first
        alive = {version} if state.version is None else {state.version, state.coming}
        if version not in alive:
            raise DeploymentError(
                f"ROOT_SECRET_VERSION is {version}, which the database does not go by (any longer);"
                f" unset it, or set it to {state.version}."
            )
        try:
            self.cloud.call("ssm", "GetSecretValue", SecretName=name, VersionId=version)
        except CloudError as error:
            listed = self.cloud.call("ssm", "ListSecrets", SearchSecretName=name)["SecretMetadatas"]
            if name in [item["SecretName"] for item in listed]:
                raise DeploymentError(
                    f"The root secret {name} has no usable version {version} (ROOT_SECRET_VERSION): {error.code}."
                ) from None
            if known or state.version is not None:
                raise DeploymentError(
                    f"The emulated cloud's state in {self.home / 'cloud'} is gone, but the database is there, which"
                    f" is of no use without it; delete the state folder {self.home} to begin anew."
                ) from None
            root = b64encode(secrets.token_bytes(ROOT_BYTES)).decode()
            self.cloud.call("ssm", "CreateSecret", SecretName=name, VersionId=version, SecretBinary=root)
        return {"ROOT_SECRET_NAME": name, "ROOT_SECRET_VERSION": version}

    def _enter_environment(self) -> None:
        self._saved = dict(os.environ)
        os.environ.pop("TENCENTCLOUD_RUNENV", None)
        os.environ.update(self.environment | self.roles[ADMINISTRATOR])
        validate_wiring.close()  # it reads its settings once per process, as an instance of the platform does

    def _first_operator(self) -> None:
        app = self.services
        digest, now_ms = token_digest(app.root.operator_key, self.operator[1]), app.now_ms()
        known = app.store.read(lambda db: db.operator_by_digest(digest, now_ms))
        if known is not None:
            return
        try:
            self.add_operator(self.operator[0], "admin", pair=self.operator)
        except CloudFailure:
            raise DeploymentError(
                f"The parts of the state folder {self.home} do not belong together; move it away to begin anew."
            ) from None

    def add_operator(
        self, name: str, role: str, gateways: tuple[str, ...] | None = None, pair: tuple[str, str] | None = None
    ) -> tuple[str, str]:
        """A further operator: (secret id, secret key)."""
        return operator_admin.add(self.services, name, role, gateways, pair)


def front_door_routes(template: Template) -> str:
    """What front_door needs of the template, as its setting FRONT_DOOR_ROUTES."""
    table = {f"{route.method} {route.path}": route.function for item in template.functions for route in item.routes}
    return json.dumps(table, separators=(",", ":"))


def migrate_database(url: str) -> tuple[str | None, str]:
    """Brings the database to this code's schema: (schema before, schema now). Raises DeploymentError."""
    try:
        return migrate(url)
    except TimeoutError as error:
        raise DeploymentError(f"The database cannot be brought to this code's schema: {error}.") from None
    except (DatabaseError, ArgumentError) as error:
        name = url if isinstance(error, ArgumentError) else make_url(url).render_as_string()
        reason = str(getattr(error, "orig", error)).partition("\n")[0].rstrip(".")
        raise DeploymentError(f"The database {name} cannot be used: {reason}.") from None


def _state_of(url: str, secret_id: str) -> tuple[RootState, bool]:
    """Where the rotation of the root secret stands, and whether the database has this operator."""
    store = wiring.database(url)
    try:
        return store.snapshot(
            lambda db: (db.root_state(), secret_id in [row["secret_id"] for row in db.operator_rows()])
        )
    finally:
        store.engine.dispose()


def _make_folder(home: Path) -> None:
    if home.is_file():
        raise DeploymentError(f"{home} is a file; name a folder for the state: --home or CKEYS_HOME.")
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        home.chmod(0o700)
    except OSError as error:
        raise DeploymentError(f"The state folder {home} cannot be used: {error.strerror}.") from None


def _keep_environment(path: Path, environment: Mapping[str, str]) -> None:
    """For commands beside the local run; without the credential, which `operator.json` has."""
    settings = {name: value for name, value in environment.items() if not name.startswith("TENCENTCLOUD_SECRET")}
    path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _operator_pair(path: Path) -> tuple[str, str]:
    """The local operator's credential, made at the first start; also the emulated cloud's credential pair."""
    if path.exists():
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            return str(stored["secret_id"]), str(stored["secret_key"])
        except (OSError, ValueError, KeyError, TypeError):
            raise DeploymentError(f"The file {path} is damaged; delete it to get a new operator.") from None
    pair = operator_admin.new_pair()
    draft = path.with_suffix(".draft")
    draft.touch(mode=0o600)
    draft.write_text(json.dumps({"secret_id": pair[0], "secret_key": pair[1]}, indent=2) + "\n", encoding="utf-8")
    draft.replace(path)
    return pair
