"""Faults on demand, rate limits and the call journal: what a test needs to provoke and to see.

A fault is planned for a service and an action (None = any) and is used up by the next `times` matching requests, in the
order in which faults were planned; `only` narrows it to requests that name one
resource.  Faults hit on arrival, so even a request with a bad signature uses one up.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from tencent_emulator.actions import ACTIONS

# Requests per second.  SSM: CN 1140/40506.  KMS: CN 573/131380 (one bucket for the symmetric group), CNapi 573/34419,
# INTL 1030/33534 and the lower of the two values published for ListKeys.  SCF: CNapi 583/58400.
DOCUMENTED_LIMITS: dict[tuple[str, str], float] = {
    **dict.fromkeys((("ssm", "GetSecretValue"), ("ssm", "ListSecretVersionIds")), 300),
    **dict.fromkeys((("ssm", "PutSecretValue"), ("ssm", "CreateSecret"), ("ssm", "DescribeSecret")), 100),
    ("ssm", "UpdateSecret"): 50,
    ("ssm", "ListSecrets"): 30,
    ("ssm", "UpdateDescription"): 20,
    **dict.fromkeys(
        (("ssm", f"{verb}Secret") for verb in ("Enable", "Disable", "Delete", "Restore")),
        50,
    ),
    **dict.fromkeys((("ssm", "DeleteSecretVersion"), ("ssm", "GetServiceStatus")), 50),
    ("kms", "Encrypt"): 300,
    ("kms", "Decrypt"): 300,
    ("kms", "GenerateDataKey"): 100,
    ("kms", "ListKeys"): 50,
    ("kms", "ScheduleKeyDeletion"): 100,
    ("scf", "InvokeFunction"): 10_000,
}
_SHARED_BUCKETS = {("kms", "Decrypt"): ("kms", "Encrypt")}


class Call(NamedTuple):
    """One journal line.

    `code` is None for success, also when the reply was then lost, and "ConnectionDropped" for a drop before the effect;
    `secret_id` is "" in process or when the id is unknown.
    """

    service: str
    action: str
    secret_id: str
    code: str | None


@dataclass
class Plan:
    """Everything that shall happen to one request."""

    delay_s: float = 0.0
    drop: str | None = None  # "before" or "after" the effect
    code: str | None = None
    status: int | None = None
    charset: bool = False
    truncate: bool = False


@dataclass
class _Rule:
    service: str
    action: str | None
    field: str
    value: float | str | bool
    times: int
    only: str | None


class Faults:
    """Planned faults and current outages; every method may be called from any thread."""

    def __init__(self) -> None:
        """Start without faults."""
        self._lock = threading.Lock()
        self._rules: list[_Rule] = []
        self._outages: dict[str, int] = {}

    def plan(
        self,
        service: str,
        action: str | None,
        field: str,
        value: float | str | bool,
        times: int,
        only: str | None = None,
    ) -> None:
        """Set one field of the Plan of the next `times` matching requests, or of those that name `only`."""
        if service not in ACTIONS or (action is not None and action not in ACTIONS[service]):
            raise ValueError(f"no such action: {service} {action}")  # a typing error must not make a test pass
        with self._lock:
            self._rules.append(_Rule(service, action, field, value, times, only))

    def take(self, service: str, action: str, names: Container[str] = ()) -> Plan:
        """The plan for a request that just arrived; of several faults of one kind only the first is used.

        `names` holds what the request names: parameter values of an API, the object's key of COS.
        """
        plan, seen = Plan(), set()
        with self._lock:
            for rule in self._rules:
                fits = rule.service == service and rule.action in (None, action)
                if fits and rule.field not in seen and (rule.only is None or rule.only in names):
                    seen.add(rule.field)
                    rule.times -= 1
                    setattr(plan, rule.field, rule.value)
            self._rules = [rule for rule in self._rules if rule.times > 0]
            if self._outages.get(service):
                plan.drop = "before"
        return plan

    @contextmanager
    def outage(self, service: str) -> Iterator[None]:
        """Drop every connection to the service while the block runs; blocks may overlap."""
        if service not in ACTIONS:
            raise ValueError(f"no such service: {service}")
        self._count_outage(service, 1)
        try:
            yield
        finally:
            self._count_outage(service, -1)

    def clear(self) -> None:
        """Forget every planned fault; an outage lasts as long as its block."""
        with self._lock:
            self._rules.clear()

    def _count_outage(self, service: str, step: int) -> None:
        with self._lock:
            self._outages[service] = self._outages.get(service, 0) + step


class Limits:
    """Token buckets per action and caller, as the vendor counts them (CN 1278/109059: on arrival)."""

    def __init__(self, clock: Callable[[], float], *, documented: bool) -> None:
        """Without `documented`, nothing is limited until `set` is called."""
        self._clock = clock
        self._documented = documented
        self._lock = threading.Lock()
        self._rates: dict[tuple[str, str], float] = {}
        self._buckets: dict[tuple[str, str, str], tuple[float, float]] = {}
        self.clear()

    def clear(self) -> None:
        """Back to the limits of the start, with full buckets."""
        with self._lock:
            self._rates = dict(DOCUMENTED_LIMITS) if self._documented else {}
            self._buckets.clear()

    def set(self, service: str, action: str | None, per_second: float) -> None:
        """Limit one action, or each action of the service; starts with a full bucket."""
        if service not in ACTIONS or (action is not None and action not in ACTIONS[service]):
            raise ValueError(f"no such action: {service} {action}")
        with self._lock:
            for name in (action,) if action else ACTIONS[service]:
                self._rates[service, name] = per_second
            self._buckets.clear()

    def allows(self, service: str, action: str, caller: str) -> bool:
        """Take a token if there is one."""
        with self._lock:
            rate = self._rates.get((service, action))
            if rate is None or rate <= 0:
                return rate is None
            bucket = (*_SHARED_BUCKETS.get((service, action), (service, action)), caller)
            now = self._clock()
            size = max(1.0, rate)
            tokens, at = self._buckets.get(bucket, (size, now))
            tokens = min(size, tokens + max(0.0, now - at) * rate)
            granted = tokens >= 1
            self._buckets[bucket] = (tokens - granted, now)
            return granted
