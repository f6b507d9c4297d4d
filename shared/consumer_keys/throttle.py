"""A limit on failed authentications per source, kept in the memory of each instance: no store is asked or written.

Only failures count and only failures are refused: a valid credential passes whatever its address did before, so nobody
can lock an operator out by failing from the same address (docs/decisions/0009-failed-authentications.md).
"""

from __future__ import annotations

import math
from _thread import allocate_lock
from collections import OrderedDict
from collections.abc import Callable

from consumer_keys.errors import Problem

SOURCES_MAX = 4096
IPV6_PREFIX = 64  # what one customer of a network usually has


class FailureLimit:
    """A token bucket per source: `per_minute` failures at once, refilled evenly over a minute.

    Remembers at most 4,096 sources, those that failed last. `clock` gives seconds that never go back.
    """

    def __init__(self, per_minute: float, clock: Callable[[], float]) -> None:
        self._capacity, self._clock = per_minute, clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = allocate_lock()

    def judged(self, problem: Problem, address: str) -> Problem:
        """The problem itself, or TooManyFailures in the place of Unauthenticated when the source's failures are up."""
        if problem.code != "Unauthenticated":
            return problem
        wait = self._wait_seconds(source_of(address))
        if wait == 0:
            return problem
        return Problem("TooManyFailures", headers={"Retry-After": str(wait)}, reason=problem.reason)

    def _wait_seconds(self, source: str) -> int:
        """Takes one failure out of the bucket: 0, or how long until there is one again."""
        rate = self._capacity / 60
        with self._lock:
            now = self._clock()
            level, at = self._buckets.pop(source, (self._capacity, now))
            level = min(self._capacity, level + (now - at) * rate)
            allowed = level >= 1
            self._buckets[source] = (level - 1 if allowed else level, now)
            while len(self._buckets) > SOURCES_MAX:
                self._buckets.popitem(last=False)
        return 0 if allowed else math.ceil((1 - level) / rate)


def source_of(address: str) -> str:
    """What counts as one source: an IPv4 address, an IPv6 /64, or nothing known; a port makes no difference."""
    import ipaddress  # only failures pay for it

    host = address.strip()
    if host.startswith("["):
        host = host[1:].partition("]")[0]
    elif host.count(":") == 1:
        host = host.partition(":")[0]
    try:
        parsed = ipaddress.ip_address(host)
    except ValueError:
        return ""
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((int(parsed), IPV6_PREFIX), strict=False))
