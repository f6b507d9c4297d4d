"""Writers that are killed: `python -m tests.crashes.writer CONTENT`, with a deployment's environment.

Each line on standard input is an order, done in forked processes, so that imports, compiled statements and the like are
paid for once, before the first of them. {"point", "visit"} kills at a visit of a fail point, {"changes", "after"} so
many seconds after so many acknowledged changes. {"writers"} of them run at once, and all are killed: they wait for each
other after so many changes, and with "point" all but the first make no more. {"function", "event"} is a single call
instead, killed when it has reached so many points ("count") or a certain one.

What credentials come to hold begins with CONTENT.

What a writer does is written to standard output before it begins and after it was acknowledged, so that nobody knows
more than a caller would. What only happens under certain conditions is given them: for a confirmation the answer to a
commit is lost on its way, and data keys are rotated where that is to be killed.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import json
import os
import random
import select
import signal
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa

from ckeys.events import Handler, invoke
from ckeys.front import load_handlers
from ckeys.template import Template, load_template
from consumer_keys import data_keys, failpoints, wiring
from tests.store.proxy import LosingProxy

ROOT = Path(__file__).parents[2]
RUN_SECONDS_MAX = 60
TICK = {"Type": "Timer", "TriggerName": "every-minute", "Time": "2026-01-01T00:00:00Z", "Message": ""}
# What a writer does; "follow" is new content of its credential and then a tick.
CALLS = (
    "create_consumer", "create_key", "update_key", "enable_key", "disable_key", "bind_consumer", "unbind_consumer",
    "delete_key", "tick", "follow",
)  # fmt: skip


class Functions(NamedTuple):
    """The functions, as the platform would call them."""

    template: Template
    handlers: dict[str, Handler]

    def call(self, function: str, event: Any) -> Any:
        """What the function returns for an event."""
        return invoke(self.template.function(function), self.handlers[function], event)


class Operator:
    """Makes changes one after the other, each a legal one, and says so."""

    def __init__(self, functions: Functions, seed: int, number: int, acknowledged: Callable[[], object]) -> None:
        """`number` says which of several writers this is; each has a credential of its own."""
        self._functions, self._random, self._acknowledged = functions, random.Random(f"{seed}-{number}"), acknowledged
        self._number, self._name, self._made = number, f"{number}-{seed}", 0
        # What those before it have left: it goes on where they were killed.
        mine = {"gateway_id": "default", "keyword": f"-{number}-", "limit": 100}
        self._keys: list[dict[str, Any]] = functions.call("list_keys", mine)["items"]
        found = functions.call("list_consumers", mine)["items"]
        self._consumers: list[str] = [consumer["consumer_id"] for consumer in found]

    def step(self, wanted: Collection[str] = ()) -> str:
        """One change, or a tick of the timer; one of those that are wanted, if any of them is legal now."""
        fit = {
            "update_key": self._keys,
            "enable_key": [key for key in self._keys if key["status"] == "Disable"],
            "disable_key": [key for key in self._keys if key["status"] == "Enable"],
            "bind_consumer": [key for key in self._keys if not key["consumer"]] if self._consumers else [],
            "unbind_consumer": [key for key in self._keys if key["consumer"]],
            "delete_key": [key for key in self._keys if key["status"] == "Disable" and not key["consumer"]],
        }
        legal = [call for call in CALLS if fit.get(call, True)] if self._consumers else ["create_consumer"]
        call = self._random.choice([call for call in legal if call in wanted] or legal)
        self._made += 1
        if call in ("tick", "follow"):
            self._tick(call)
        elif call == "create_consumer":
            self._consumers.append(self._call(call, name=f"app-{self._name}-{self._made}")["consumer_id"])
        elif call == "create_key":
            status = self._random.choice(("Enable", "Disable"))
            name = f"key-{self._name}-{self._made}"
            self._keys.append(self._call(call, name=name, generation="System", status=status))
        else:
            self._change(call, self._random.choice(fit[call]))
        return call

    def _change(self, call: str, key: dict[str, Any]) -> None:
        more = {
            "update_key": {"description": f"{self._random.random()}"},
            "bind_consumer": {"consumer_id": self._random.choice(self._consumers)} if self._consumers else {},
        }.get(call, {})
        after = self._call(call, key_id=key["key_id"], **more)
        self._keys.remove(key)
        if call != "delete_key":
            self._keys.append(after)

    def _tick(self, call: str) -> None:
        said: dict[str, Any] = {}
        if call == "follow":
            said = {"credential": f"cred-{self._number}", "content": f"{CONTENT}-{self._name}-{self._made}"}
        self._say(call=call, **said)
        if said:
            wiring.services().ssm.call(
                "UpdateSecret", SecretName=said["credential"], VersionId="v1", SecretString=said["content"]
            )
        report = self._functions.call("sync_credentials", TICK)
        if report.get("errors") or report.get("audit_error"):
            raise RuntimeError(f"{call}: {report}")
        # With another writer's tick under way this one only publishes.
        self._say(done=call, followed=report["lease"] == "held", **said)

    def _call(self, function: str, **fields: Any) -> Any:
        self._say(call=function, **fields)
        answer = self._functions.call(function, {"gateway_id": "default", **fields})
        if isinstance(answer, dict) and "code" in answer:
            raise RuntimeError(f"{function}: {answer}")
        self._say(done=function, answer=answer, **fields)
        return answer

    def _say(self, **line: Any) -> None:
        out({"writer": self._number, **line})
        if "done" in line:
            self._acknowledged()


def out(line: dict[str, Any]) -> None:
    """One write, so that a killed process leaves whole lines, and two do not mix theirs."""
    os.write(REPORT, json.dumps(line).encode() + b"\n")


def run(functions: Functions, order: dict[str, Any], number: int, acknowledged: Callable[[], object], go: int) -> None:
    """Changes until it is killed, or the one call of the order."""
    random.seed(os.urandom(8))  # pauses before a repetition are random, also between the writers
    if "point" in order or "count" in order:
        failpoints.install(deadly(order))
    if "event" in order:
        functions.call(order["function"], order["event"])
        return
    operator = Operator(functions, order["seed"], number, acknowledged)
    for made in itertools.count():
        if made == order.get("changes"):
            os.read(go, 1)
        operator.step(order.get("wanted", ()))
        if order.get("point", "").startswith("reseal."):
            data_keys.rotate(wiring.services(), -1, 1)


def deadly(order: dict[str, Any]) -> Callable[[str], None]:
    """The hook that kills this process where the order says."""
    point, left = order.get("point"), [int(order.get("visit", order.get("count", 1)))]
    proxy = proxied() if str(point).startswith("confirmation.") else None

    def hook(reached: str) -> None:
        if proxy is not None and reached == "change.before-commit":
            proxy.lose = proxy.lost == 0
        if point in (None, reached):
            left[0] -= 1
            if left[0] == 0:
                out({"at": reached})
                os.kill(os.getpid(), signal.SIGKILL)

    return hook


def proxied() -> LosingProxy:
    """Stands between this run's calls and the database from now on."""
    url = sa.make_url(os.environ["DATABASE_URL"])
    proxy = LosingProxy(int(url.port or 0))
    os.environ["DATABASE_URL"] = url.set(port=proxy.port).render_as_string(hide_password=False)
    return proxy


class Child:
    """A forked process that does what an order says."""

    def __init__(self, functions: Functions, order: dict[str, Any], number: int) -> None:
        self.acknowledged, theirs = os.pipe()  # a byte for each acknowledged change
        go, self._go = os.pipe()  # a byte when it may go on
        self._pid = os.fork()
        if self._pid == 0:
            os.close(self._go)  # so that it does not wait for a parent that is gone
            status = 1
            try:
                run(functions, order, number, lambda: os.write(theirs, b"."), go)
                status = 0
            except BaseException as error:  # noqa: BLE001 - the parent shows it
                out({"error": repr(error)})
            finally:
                os._exit(status)
        os.close(theirs)
        os.close(go)
        self.ended = os.pidfd_open(self._pid)

    def go_on(self) -> None:
        """It may make more changes than the order says, unless it has ended."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self._go, b".")

    def kill(self) -> int:
        """The signal that ended it, or 0."""
        signal.pidfd_send_signal(self.ended, signal.SIGKILL)
        _, status = os.waitpid(self._pid, 0)
        os.close(self.ended)
        os.close(self.acknowledged)
        os.close(self._go)
        return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def ended(functions: Functions, order: dict[str, Any]) -> list[int]:
    """The signals that ended those who did what an order says."""
    children = [Child(functions, order, number) for number in range(order.get("writers", 1))]
    wait(children, order.get("changes", 0))
    for child in children if "after" in order else children[:1]:
        child.go_on()
    select.select([child.ended for child in children], [], [], order.get("after", RUN_SECONDS_MAX))
    return [child.kill() for child in children]


def wait(children: list[Child], changes: int) -> None:
    """Returns when each has made so many changes, or one has ended."""
    left = {child.acknowledged: changes for child in children if changes}
    while left:
        ready, _, _ = select.select([*left, *(child.ended for child in children)], [], [], RUN_SECONDS_MAX)
        if not left.keys() >= set(ready) or not ready:
            return
        for one in ready:
            left[one] -= len(os.read(one, left[one]))
        left = {one: missing for one, missing in left.items() if missing}


def warm(functions: Functions) -> None:
    """Makes every kind of call once. Whoever is forked has connections and data keys of its own."""
    operator, missing = Operator(functions, 0, 0, lambda: None), set(CALLS)
    while missing:
        missing.discard(operator.step(missing))
    wiring.close()
    gc.freeze()  # what is here is shared with all who are forked


if __name__ == "__main__":
    CONTENT, REPORT = sys.argv[1], os.dup(1)
    sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - the log of the functions is of no interest
    TEMPLATE = load_template(ROOT / "template.yaml")
    FUNCTIONS = Functions(TEMPLATE, load_handlers(ROOT / "functions", TEMPLATE))
    warm(FUNCTIONS)
    out({"ready": True})
    for text in sys.stdin:
        out({"ended": ended(FUNCTIONS, json.loads(text))})
