"""What tests of the root secret's rotation need: validators on either version, and management under other settings."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ckeys.deployment import ROOT, Deployment
from ckeys.events import Event, invoke
from ckeys.front import load_handlers
from consumer_keys import config, failpoints, web
from consumer_keys.validate_wiring import Validation, answer
from tests.conftest import GATEWAY, Answer, Api

VALIDATOR = "validate_key"


class Killed(BaseException):
    """The end of a process at a fail point; nothing of ours catches it."""


class Reader:
    """A validator with one version of the root secret, in its own role, asked as a gateway asks it."""

    def __init__(self, deployment: Deployment, version: str) -> None:
        environ = {**deployment.environment_of(VALIDATOR), "ROOT_SECRET_VERSION": version}
        names = ("TENCENTCLOUD_SECRETID", "TENCENTCLOUD_SECRETKEY", "TENCENTCLOUD_SESSIONTOKEN")
        role = (environ[names[0]], environ[names[1]], environ[names[2]])
        self.version = version
        self.validation = Validation(config.load(environ, ("COS_BUCKET",)), lambda: role)

    def status(self, value: str, gateway: str = GATEWAY) -> int:
        """200 or 401 by forward auth, 503 without a usable snapshot."""
        return self._ask("GET", f"{gateway}/validate", value).status

    def knows(self, operator: str, value: str = "any-value") -> bool:
        """Whether /verify lets an operator in."""
        return self._ask("POST", f"{GATEWAY}/verify", operator, {"key": value}).status == 200

    def _ask(self, method: str, path: str, token: str, body: Any = None) -> Answer:
        event = {
            "httpMethod": method, "path": path, "headers": {"authorization": f"Bearer {token}"}, "queryString": {},
            "body": "" if body is None else json.dumps(body),
        }  # fmt: skip
        reply = web.respond(VALIDATOR, event, None, lambda request: answer(self.validation, request))
        return Answer(reply["statusCode"], json.loads(reply["body"]) if reply["body"] else None, reply["headers"])

    def close(self) -> None:
        """Releases what it holds."""
        self.validation.close()


class Elsewhere:
    """Further instances of every function, which keep what they once read, under other settings."""

    def __init__(self, deployment: Deployment, name: str, **settings: str) -> None:
        self._deployment, self._name, self._settings = deployment, name, settings
        self._handlers = load_handlers(ROOT / "functions", deployment.template)
        self.cloud, self.operator = deployment.cloud, deployment.operator

    def call(self, function: str, event: Event) -> Any:
        """What the function returns for an event."""
        environ = {**self._deployment.environment_of(function), **self._settings}
        with config.Hosted(f"{function}-{self._name}", environ):
            return invoke(self._deployment.template.function(function), self._handlers[function], event)


def elsewhere(api: Api, name: str, **settings: str) -> Api:
    """The same operator's calls to other instances."""
    where: Any = Elsewhere(api.deployment, name, **settings)
    return Api(where, api.token)


@contextmanager
def killed_at(count: int, *prefixes: str) -> Iterator[list[str]]:
    """Kills at the n-th fail point with one of these prefixes; gives the points that were reached."""
    reached: list[str] = []

    def hook(point: str) -> None:
        if point.startswith(prefixes):
            reached.append(point)
            if len(reached) == count:
                raise Killed(point)

    failpoints.install(hook)
    try:
        yield reached
    finally:
        failpoints.install(None)
