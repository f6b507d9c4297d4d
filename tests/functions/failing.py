"""Operations that handle a value, and failures in the middle of them that carry every value in sight in their text."""

from __future__ import annotations

import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import sqlalchemy as sa
from click.testing import CliRunner

from ckeys.deployment import Deployment
from ckeys.main import cli
from consumer_keys import failpoints, operator_admin
from consumer_keys.secret import Secret
from tencent_emulator.pytest_plugin import TestClock
from tests.conftest import Answer, Api
from tests.functions.helpers import change_content, sql
from tests.functions.test_reveal_to import key_pair
from tests.store.proxy import LosingProxy

# What every value of a kind begins with, so that one search finds all of them.
PREFIX = "ckzq7x9w"
CANARIES = {"system": f"{PREFIX}_", "custom": "Zq7+canary/9Xw=~Lk3", "content": "kms+content/Zq7x9Lk3wP"}
CLOUD_API = {"Version": "2023-04-18", "GatewayId": "default", "SecretType": "ApiKey", "ResourceType": "Consumer"}
DATA_KEY_BYTES, DATA_KEYS_MAX = 32, 12
SAME = 2


class PlantedError(Exception):
    """Fails with all that was in memory in its text: the worst that a library could raise."""


def in_sight(value: Any, depth: int = 3) -> Iterator[str]:
    """The texts that a local variable holds, in containers and in objects of ours too."""
    if isinstance(value, Secret):
        yield value.reveal().decode("latin-1")
    elif isinstance(value, (str, bytes)):
        yield value if isinstance(value, str) else value.decode("latin-1")
    elif depth:
        ours = type(value).__module__.startswith("consumer_keys") and hasattr(value, "__dict__")
        parts = vars(value) if ours else value
        if isinstance(parts, (tuple, list, dict)) and len(parts) < 50:
            for part in list(parts.values()) if isinstance(parts, dict) else parts:
                yield from in_sight(part, depth - 1)


class Operations:
    """One deployment, and what is done with values in it; each operation can be made again, whatever became of it."""

    def __init__(self, deployment: Deployment, clock: TestClock, proxy: LosingProxy | None = None) -> None:
        self.deployment, self.clock, self.proxy = deployment, clock, proxy
        self.returned: list[Any] = []  # by functions, and what commands wrote
        self.carried: set[str] = set()  # operations that failed with a canary in the exception's text
        self.data_keys: set[bytes] = set()
        self._failed: Counter[str] = Counter()
        self.tokens = [deployment.operator[1]]
        self.name, self._number, self._losing, self._peace = "", 0, False, False
        self.api = _Recorder(deployment, deployment.operator[1], self.returned)
        self._jwk = key_pair("P-256").as_dict(private=False)
        self.custom = self.api.bound_key("first", generation="Custom", value=CANARIES["custom"])
        self.api.put_credential("followed", CANARIES["content"])
        self.create_kms("followed")

    def all(self) -> dict[str, Callable[[], Any]]:
        """By name; a rotation of the root secret comes last, since no validator here follows it."""
        return {
            "create System": self.create_system, "create Custom": self.create_custom, "create KMS": self.create_kms,
            "reveal": self.reveal, "bind": self.bind, "validate": self.present, "timer": self.sync,
            "cloud API": self.cloud_api, "operators": self.operators, "tidy": self.tidy,
            "rotate-data-keys": self.rotate_data_keys, "rotate-root": self.rotate_root,
        }  # fmt: skip

    def _next(self) -> int:
        self._number += 1
        return self._number

    def create_system(self) -> None:
        body = {"name": f"system-{self._next()}", "generation": "System", "reveal_to": self._jwk}
        self.api("create_key", "POST", "/keys", body, headers={"idempotency-key": body["name"]})

    def create_custom(self) -> None:
        body = {"generation": "Custom", "value": f"{CANARIES['custom']}-{self._next()}"}
        self.api("create_key", "POST", "/keys", {"name": f"custom-{self._number}", **body})
        self.api("create_key", "POST", "/keys", {"name": f"again-{self._number}", **body})

    def create_unconfirmed(self) -> None:
        """The answer to its commit is lost on the way."""
        self._losing = True
        self.create_custom()

    def create_kms(self, credential: str = "") -> None:
        if not credential:
            self.api.put_credential(credential := f"cred-{self._next()}", f"{CANARIES['content']}-{self._number}")
        body = {"name": credential, "generation": "KMS", "credential": {"name": credential, "version": "v1"}}
        self.api("create_key", "POST", "/keys", body)

    def reveal(self) -> None:
        body = {"reason": "lost", "reveal_to": self._jwk}
        self.api("reveal_key", "POST", f"/keys/{self.custom['key_id']}/reveal", body)

    def bind(self) -> None:
        path = f"/keys/{self.custom['key_id']}"
        self.api("unbind_consumer", "DELETE", f"{path}/consumer")
        consumer = self.api("create_consumer", "POST", "/consumers", {"name": f"app-{self._next()}"}).body
        self.api("bind_consumer", "PUT", f"{path}/consumer", {"consumer_id": consumer.get("consumer_id", "")})

    def present(self) -> None:
        for value in (CANARIES["custom"], CANARIES["content"], CANARIES["custom"] + "x"):
            self.api("validate_key", "GET", "/validate", token=value)
            self.api("validate_key", "POST", "/verify", {"key": value})

    def sync(self) -> None:
        change_content(self.api, "followed", f"{CANARIES['content']}-{self._next()}")
        self.clock.shift(1)
        self.returned.append(self.api.tick())

    def cloud_api(self) -> None:
        named = {"Action": "CreateCloudNativeAPIGatewaySecretKey", "Name": f"cloud-{self._next()}", **CLOUD_API}
        custom = {"GenerateType": "Custom", "SecretValue": f"{CANARIES['custom']}-cloud-{self._number}"}
        self._call_cloud_api(named | custom)
        self._call_cloud_api({**named, "Name": f"made-{self._number}", "GenerateType": "System"})
        shown = {"Action": "DescribeCloudNativeAPIGatewaySecretKeyValue", **CLOUD_API}
        del shown["SecretType"], shown["ResourceType"]
        answer = self._call_cloud_api({**shown, "SecretKeyId": self.custom["key_id"]})
        if answer["Response"].get("Result") == CANARIES["custom"]:
            self.returned.pop()  # CLEAR_VALUES is on, and this is what was asked for

    def _call_cloud_api(self, event: dict[str, Any]) -> Any:
        self.returned.append(self.deployment.call("cloud_api", event))
        return self.returned[-1]

    def operators(self) -> None:
        """As a command does it, which then prints the secret for the person at the terminal."""
        app = self.deployment.services
        name = f"operator-{self._next()}"
        add, rotate = partial(operator_admin.add, role="viewer"), partial(operator_admin.rotate, keep_ms=60_000)
        for work in (add, rotate):
            try:
                self.tokens.append(work(app, name)[1])
            except Exception as error:  # noqa: BLE001 - what it carries is looked at by `command`
                self.returned.append(type(error).__name__)

    def tidy(self) -> None:
        """The timer builds a base, and cleans up."""
        with self._in_peace():
            sql(self.deployment, "UPDATE publications SET created_at = 0")
            sql(self.deployment, "UPDATE deployment SET base = NULL, published_revision = 0")
        self.sync()

    def rotate_data_keys(self) -> None:
        self.clock.shift(901)
        self.command("rotate-data-keys", "--older-than", "0", "--rewrap")

    def rotate_root(self) -> None:
        for step in (["begin", "--yes"], ["backfill"], ["finish", "--readers-moved"]):
            self.command("rotate-root", *step)

    def command(self, *arguments: str) -> None:
        """`ckeys` with everything that a terminal would show, a traceback too."""
        done = CliRunner().invoke(cli, arguments)
        self.returned.append(done.output)
        if done.exc_info is not None and not isinstance(done.exception, SystemExit):
            self.returned.append("".join(traceback.format_exception(*done.exc_info)))

    # Failures

    def planted(self) -> str:
        """All text in local variables of our code, in every frame above."""
        frame, texts = sys._getframe(1), list[str]()
        while frame is not None:
            if "/shared/consumer_keys/" in frame.f_code.co_filename:
                texts += [text for value in list(frame.f_locals.values()) for text in in_sight(value)]
                self._note(frame.f_locals)
            frame = frame.f_back  # type: ignore[assignment]
        text = " ".join(texts)
        if any(canary in text for canary in (*CANARIES.values(), *self.tokens)):
            self.carried.add(self.name)
        return text

    def _note(self, variables: Mapping[str, Any]) -> None:
        """Data keys, and operators' secrets that nobody was given since it failed."""
        key, secret = variables.get("plaintext"), variables.get("secret_key")
        if isinstance(key, bytes) and len(key) == DATA_KEY_BYTES and len(self.data_keys) < DATA_KEYS_MAX:
            self.data_keys.add(key)
        if isinstance(secret, str) and secret not in self.tokens:
            self.tokens.append(secret)

    def raise_planted(self) -> None:
        """Raises, with a cause and a note, all of them full of values."""
        text = self.planted()
        try:
            raise ValueError(text)
        except ValueError as cause:
            error = PlantedError(text)
            vars(error)["__notes__"] = [text]  # what add_note does, from Python 3.11 on
            raise error from cause

    def points(self, name: str, work: Callable[[], Any]) -> list[str]:
        """The points that an operation passes, made in peace. Publishing is the same for all: the first `SAME` do."""
        reached: list[str] = []
        with self._hooked(reached.append):
            self.name = name
            work()
        passed = dict.fromkeys(reached)
        self._failed.update(list(passed))
        return [point for point in passed if self._failed[point] <= SAME or point.startswith("change.")]

    def fail_at(self, point: str, work: Callable[[], Any]) -> bool:
        """Makes an operation that fails when it reaches a point; whether it did."""
        failed: list[str] = []

        def hook(reached: str) -> None:
            if reached == point and not failed:
                failed.append(point)
                self.raise_planted()

        with self._hooked(hook):
            work()
        sql(self.deployment, "UPDATE leases SET expires_at = 0")
        return bool(failed)

    @contextmanager
    def _hooked(self, then: Callable[[str], Any]) -> Iterator[None]:
        def hook(point: str) -> None:
            if self._losing and self.proxy is not None and point == "change.before-commit":
                self._losing, self.proxy.lose = False, True
            then(point)

        failpoints.install(hook)
        try:
            yield
        finally:
            failpoints.install(None)

    @contextmanager
    def _in_peace(self) -> Iterator[None]:
        """What the test itself does to the database does not fail."""
        self._peace = True
        yield
        self._peace = False

    def fail_at_statements(self, name: str, work: Callable[[], Any]) -> int:
        """Makes an operation once for every kind of statement that it runs, which fails; how many it runs.

        Those that have failed in `SAME` operations are left out: publishing is the same for all.
        """
        engine, self.name = self.deployment.services.store.engine, name
        seen: dict[str, None] = {}
        with _statements(engine, lambda statement: None if self._peace else seen.setdefault(statement)):
            work()
        for target in seen:
            self._failed[target] += 1
            if self._failed[target] > SAME:
                continue
            left = [1]

            def fail(statement: str, wanted: str = target, left: list[int] = left) -> None:
                if statement == wanted and left[0] and not self._peace:
                    left[0] = 0
                    raise engine.dialect.loaded_dbapi.OperationalError(self.planted())

            with _statements(engine, fail):
                work()
            sql(self.deployment, "UPDATE leases SET expires_at = 0")
        return len(seen)


@contextmanager
def _statements(engine: sa.Engine, then: Callable[[str], Any]) -> Iterator[None]:
    def execute(_cursor: Any, statement: str, *_: Any) -> None:
        then(statement)

    for event in ("do_execute", "do_execute_no_params", "do_executemany"):
        sa.event.listen(engine, event, execute)
    try:
        yield
    finally:
        for event in ("do_execute", "do_execute_no_params", "do_executemany"):
            sa.event.remove(engine, event, execute)


class _Recorder(Api):
    """Keeps every answer. Values come as JWE only, since `reveal_to` is given."""

    def __init__(self, deployment: Deployment, token: str, kept: list[Any]) -> None:
        super().__init__(deployment, token)
        self._kept = kept

    def __call__(self, function: str, *args: Any, **kwargs: Any) -> Answer:
        answer = super().__call__(function, *args, **kwargs)
        self._kept.append(answer)
        return answer
