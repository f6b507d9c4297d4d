"""One emulated account: its state, its credentials, its faults and its journal.

`Cloud.call` is the in-process way in; `Cloud.serve` puts the same code behind HTTP and signatures.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from tencent_emulator import cam
from tencent_emulator.actions import Params, checked
from tencent_emulator.cos import Cos
from tencent_emulator.errors import CloudError, StateError, StateInUse
from tencent_emulator.faults import Call, Faults, Limits, Plan
from tencent_emulator.kms import Kms
from tencent_emulator.scf import Function, Scf
from tencent_emulator.ssm import Ssm
from tencent_emulator.storage import Doc, Store
from tencent_emulator.tc3 import Credential

if TYPE_CHECKING:
    from tencent_emulator.server import Server

__all__ = ["Call", "Cloud", "CloudError", "StateError", "StateInUse"]

JOURNAL_MAX = 100_000


class Cloud:
    """Thread-safe.  With `state_dir` every answered write survives a killed process; without it nothing is kept."""

    def __init__(
        self,
        clock: Callable[[], float] = time.time,
        state_dir: Path | None = None,
        *,
        enforce_limits: bool = False,
    ) -> None:
        """`enforce_limits` applies the vendor's published rates; otherwise only `throttle` limits anything."""
        self.clock = clock
        self.credentials: dict[str, Credential] = {}
        self.faults = Faults()
        self.limits = Limits(clock, documented=enforce_limits)
        self._store = Store(state_dir)
        self.cos = Cos(self._store, clock)
        self._kms = Kms(self._store, clock)
        self._scf = Scf()
        self._services: dict[str, Ssm | Kms | Scf] = {
            "ssm": Ssm(self._store, clock, self._kms.is_usable),
            "kms": self._kms,
            "scf": self._scf,
        }
        self._journal: deque[Call] = deque(maxlen=JOURNAL_MAX)
        self._servers: list[Server] = []
        self._closing = threading.Event()

    def __enter__(self) -> Cloud:
        """Close at the end of the block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def close(self) -> None:
        """Stop every server and release the state; closing twice is harmless."""
        self._closing.set()
        for server in list(self._servers):
            server.close()
        self._store.close()

    def serve(self, port: int = 0) -> Server:
        """Listen on 127.0.0.1; port 0 lets the system choose."""
        from tencent_emulator.server import Server

        server = Server(self, port, on_close=self._forget)
        self._servers.append(server)
        return server

    def add_credential(
        self, secret_id: str, secret_key: str, token: str | None = None, policy: Mapping[str, Any] | None = None
    ) -> None:
        """Accept signatures of this key; with a token, only together with that token.

        With a CAM policy document the key may do what that allows and nothing else; without one it is the root
        account's. ValueError for a document that CAM would refuse or that has parts which are not emulated.
        """
        self.credentials[secret_id] = Credential(secret_key, token, None if policy is None else cam.Policy(policy))

    def remove_credential(self, secret_id: str) -> None:
        """Answer SecretIdNotFound from now on."""
        self.credentials.pop(secret_id, None)

    def call(self, service: str, action: str, **params: Any) -> dict[str, Any]:
        """Carry out an API action in process and return the Response body; CloudError where HTTP would carry one.

        A planned connection loss appears as CloudError("InternalError"), before or after the effect as planned.
        """
        lost = CloudError("InternalError", "The connection was dropped.")
        plan = self.faults.take(service, action, [value for value in params.values() if isinstance(value, str)])
        self._closing.wait(plan.delay_s)
        if plan.drop == "before":
            self.record(service, action, "", "ConnectionDropped")
            raise lost
        with self.recorded(service, action, ""):
            response = self.execute(service, action, params, "", plan)
        if plan.drop == "after":
            raise lost
        return response

    def execute(
        self, service: str, action: str, params: Params, caller: str, plan: Plan, region: str = ""
    ) -> dict[str, Any]:
        """What follows a valid signature: parameter check, permission, planned refusal, rate limit, effect."""
        request = checked(service, action, params)
        if (policy := self.policy_of(caller)) is not None:
            key_ids = self._kms.keys_of(request) if service == "kms" else []
            cam.check(policy, cam.wanted_of_api(service, action, request, region, key_ids))
        self.gate(service, action, caller, plan)
        handler = getattr(self._services[service], action)
        # A function may call the cloud itself, so no lock is held while it runs.
        response = handler(request) if service == "scf" else self._at_once(handler, request)
        return {**response, "RequestId": str(uuid.uuid4())}

    def policy_of(self, caller: str) -> cam.Policy | None:
        """What limits a caller; None for the root account and for calls in process."""
        known = self.credentials.get(caller)
        return None if known is None else known.policy

    def _at_once(self, handler: Callable[[Params], Doc], request: Params) -> Doc:
        """Run a handler in one transaction, which a refusal commits and any other exception rolls back.

        All that a handler changes before it refuses is what was due anyway: an expired deletion, a rotation.
        """
        with self._store.transaction():
            try:
                return handler(request)
            except CloudError as error:
                refusal = error
        raise refusal

    def gate(self, service: str, action: str, caller: str, plan: Plan) -> None:
        """Raise the planned refusal, or the one for an empty token bucket."""
        if plan.code is not None:
            raise CloudError(plan.code)
        if plan.status is not None and service != "cos":
            raise CloudError("InternalError", "Planned HTTP failure.")
        if not self.limits.allows(service, action, caller):
            code = "SlowDown" if service == "cos" else "RequestLimitExceeded"
            raise CloudError(code, "The request rate exceeds the limit.")

    def rotate_key(self, key_id: str) -> None:
        """Renew the material of a KMS key now, as its rotation schedule would."""
        self._kms.rotate(key_id)

    @property
    def functions(self) -> dict[str, Function]:
        """Function name -> callable that answers Invoke and InvokeFunction."""
        return self._scf.functions

    @property
    def calls(self) -> list[Call]:
        """The journal so far, oldest first; it holds names and codes, never values."""
        return list(self._journal)

    def clear_calls(self) -> None:
        """Start the journal afresh."""
        self._journal.clear()

    @contextmanager
    def recorded(self, service: str, action: str, caller: str) -> Iterator[None]:
        """Write one journal line when the block ends, with the code of the CloudError it raised."""
        code: str | None = "InternalError"
        try:
            yield
            code = None
        except CloudError as error:
            code = error.code
            raise
        finally:
            self.record(service, action, caller, code)

    def record(self, service: str, action: str, caller: str, code: str | None) -> None:
        """Write one journal line."""
        self._journal.append(Call(service, action[:64], caller, code))

    def fail_next(self, service: str, action: str | None, code: str, times: int = 1, only: str | None = None) -> None:
        """Refuse the next matching requests with this code, without effect."""
        self.faults.plan(service, action, "code", code, times, only)

    def delay(self, service: str, action: str | None, seconds: float, times: int = 1, only: str | None = None) -> None:
        """Hold the next matching requests back, in real time, before anything else happens to them."""
        self.faults.plan(service, action, "delay_s", seconds, times, only)

    def throttle(self, service: str, action: str | None, per_second: float) -> None:
        """Limit the rate per caller, in the time of `clock`."""
        self.limits.set(service, action, per_second)

    def outage(self, service: str) -> AbstractContextManager[None]:
        """Drop every connection to the service while the block runs."""
        return self.faults.outage(service)

    def drop_next(
        self, service: str, action: str | None, when: str = "before", times: int = 1, only: str | None = None
    ) -> None:
        """Reset the connection instead of answering, `before` or `after` the effect."""
        if when not in ("before", "after"):
            raise ValueError("when must be 'before' or 'after'")
        self.faults.plan(service, action, "drop", when, times, only)

    def truncate_next(self, service: str, action: str | None, times: int = 1, only: str | None = None) -> None:
        """Send half of the body and hang up."""
        self.faults.plan(service, action, "truncate", True, times, only)

    def status_next(
        self, service: str, action: str | None, status: int = 500, times: int = 1, only: str | None = None
    ) -> None:
        """Answer with a bare HTTP status, as a front end in trouble does; no effect."""
        self.faults.plan(service, action, "status", status, times, only)

    def charset_next(self, service: str, action: str | None, times: int = 1, only: str | None = None) -> None:
        """Answer as `application/json; charset=utf-8`, which makes the official SDK overlook errors."""
        self.faults.plan(service, action, "charset", True, times, only)

    def clear_faults(self) -> None:
        """Forget planned faults and rates set by `throttle`."""
        self.faults.clear()
        self.limits.clear()

    def reset(self) -> None:
        """Forget all state, faults and calls; credentials, functions and servers stay."""
        self._store.clear()
        self.clear_faults()
        self.clear_calls()
        self.cos.not_modified_length = False

    def _forget(self, server: Server) -> None:
        if server in self._servers:
            self._servers.remove(server)
