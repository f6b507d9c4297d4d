"""A writer that is killed: `python -m tests.crashes.writer`, with a deployment's environment.

Each line on standard input is a run: {"seed", "point", "visit"} kills it at a visit of a fail point, {"seed", "after"}
after so many seconds. A run is a forked process, so that the imports are paid for once. What it does is written to
standard output before it begins and after it was acknowledged, so that nobody knows more than a caller would.
What only happens under certain conditions is given them: for a confirmation the answer to a commit is lost on its way,
and data keys are rotated where that is to be killed.
"""

from __future__ import annotations

import json
import os
import random
import select
import signal
import sys
from typing import Any

import sqlalchemy as sa

from ckeys.deployment import ROOT
from ckeys.events import invoke
from ckeys.front import load_handlers
from ckeys.template import load_template
from consumer_keys import data_keys, failpoints, wiring
from tests.store.proxy import LosingProxy

RUN_SECONDS_MAX = 20
TICK = {"Type": "Timer", "TriggerName": "every-minute", "Time": "2026-01-01T00:00:00Z", "Message": ""}


class Operator:
    """Makes changes one after the other, each a legal one, and says so."""

    def __init__(self, seed: int) -> None:
        self._random, self._seed = random.Random(seed), seed
        self._template = load_template(ROOT / "template.yaml")
        self._handlers = load_handlers(ROOT / "functions", self._template)
        self._keys: list[dict[str, Any]] = []
        self._consumers: list[str] = []
        self._made = 0

    def step(self) -> None:
        """One change, or a tick of the timer."""
        if not self._consumers:
            self._consumers.append(self._call("create_consumer", name=self._name("app"))["consumer_id"])
        if len(self._keys) < 2:
            self._keys.append(self._call("create_key", name=self._name("key"), generation="System"))
        key = self._random.choice(self._keys)
        choices = ["update_key", "disable_key" if key["status"] == "Enable" else "enable_key", "tick"]
        choices += ["unbind_consumer"] if key["consumer"] else ["bind_consumer"]
        choices += ["delete_key"] * 2 if key["status"] == "Disable" and not key["consumer"] else []
        choice = self._random.choice(choices)
        if choice == "tick":
            out({"call": "tick"})
            invoke(self._template.function("sync_credentials"), self._handlers["sync_credentials"], TICK)
            out({"done": "tick"})
            return
        more = {
            "update_key": {"description": f"{self._random.random()}"},
            "bind_consumer": {"consumer_id": self._consumers[0]},
        }.get(choice, {})  # fmt: skip
        after = self._call(choice, key_id=key["key_id"], **more)
        self._keys.remove(key)
        if choice != "delete_key":
            self._keys.append(after)

    def _name(self, kind: str) -> str:
        self._made += 1
        return f"{kind}-{self._seed}-{self._made}"

    def _call(self, function: str, **fields: Any) -> Any:
        out({"call": function, **fields})
        answer = invoke(
            self._template.function(function), self._handlers[function], {"gateway_id": "default", **fields}
        )
        if isinstance(answer, dict) and "code" in answer:
            raise RuntimeError(f"{function}: {answer}")
        out({"done": function, "answer": answer, **fields})
        return answer


def out(line: dict[str, Any]) -> None:
    """One write, so that a killed process leaves whole lines."""
    os.write(REPORT, json.dumps(line).encode() + b"\n")


def run(order: dict[str, Any]) -> None:
    """Changes until it is killed."""
    if "point" in order:
        left = [order["visit"]]
        proxy = proxied() if order["point"].startswith("confirmation.") else None

        def hook(point: str) -> None:
            if proxy is not None and point == "change.before-commit":
                proxy.lose = proxy.lost == 0
            if point == order["point"]:
                left[0] -= 1
                if left[0] == 0:
                    out({"at": point})
                    os.kill(os.getpid(), signal.SIGKILL)

        failpoints.install(hook)
    operator = Operator(order["seed"])
    out({"ready": True})
    while True:
        operator.step()
        if order.get("point", "").startswith("reseal."):
            data_keys.rotate(wiring.services(), -1, 1)


def proxied() -> LosingProxy:
    """Stands between this run's calls and the database from now on."""
    url = sa.make_url(os.environ["DATABASE_URL"])
    proxy = LosingProxy(int(url.port or 0))
    os.environ["DATABASE_URL"] = url.set(port=proxy.port).render_as_string(hide_password=False)
    return proxy


def killed(order: dict[str, Any]) -> int:
    """The signal that ended a run, or 0."""
    child = os.fork()
    if child == 0:
        try:
            run(order)
        except BaseException as error:  # noqa: BLE001 - the parent shows it
            out({"error": repr(error)})
        finally:
            os._exit(1)
    descriptor = os.pidfd_open(child)
    ended, _, _ = select.select([descriptor], [], [], order.get("after", RUN_SECONDS_MAX))
    os.close(descriptor)
    if not ended:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


if __name__ == "__main__":
    REPORT = os.dup(1)
    sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - the log of the functions is of no interest
    warm = Operator(0)  # imports everything; the runs make connections of their own
    for text in sys.stdin:
        number = killed(json.loads(text))
        out({"ended": number})
