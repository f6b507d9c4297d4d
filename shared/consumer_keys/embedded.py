"""Validation inside a long-running Python process: the function's own code, kept fresh by a thread of its own."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from consumer_keys import config, web
from consumer_keys.presented import presented_key
from consumer_keys.snapshot_cache import Snapshot
from consumer_keys.snapshot_source import TIMEOUT_SECONDS, Credential
from consumer_keys.validate_wiring import Validation
from consumer_keys.verdict import Verdict

# SNAPSHOT_POLL_SECONDS may be 0, "before every answer"; a thread of its own looks ten times a second at most.
INTERVAL_SECONDS_MIN = 0.1
# Should the thread ever be late by this much, requests look for themselves, as they do in the function.
LATE_SECONDS = 2 * TIMEOUT_SECONDS + 1.0


class Embedded:
    """Judges keys from the newest good snapshot; safe to use from any number of threads.

    A thread looks at the pointer every SNAPSHOT_POLL_SECONDS, so no valid request waits for COS while a good snapshot
    is held. Before a refusal the pointer is looked at once more, ten times at once and once a second in the long run.
    With COS gone it goes on answering until the snapshot is over SNAPSHOT_MAX_AGE_SECONDS old.

    Build it after `fork`: a child has neither the thread nor a connection of its own, so it is refused there. `close`
    ends the thread and the connection; used as a context manager it closes itself.
    """

    def __init__(self, settings: config.Settings, credential: Credential = config.role_credential) -> None:
        """Reads the root secret and takes a first look. Raises CloudFailure when the root secret cannot be had.

        `settings` come from `config.load`; `credential` returns (secret id, secret key, session token or None) and is
        asked at each read. A snapshot that cannot be had yet is no error: it is looked for until it is there.
        """
        self._interval = max(settings.snapshot_poll_seconds, INTERVAL_SECONDS_MIN)
        self._validation: Validation | None = Validation(settings, credential, self._interval + LATE_SECONDS)
        self._pid, self._stop = os.getpid(), threading.Event()
        self._validation.cache.look()
        look = self._validation.cache.look
        self._thread = threading.Thread(target=self._keep_fresh, args=(look,), name="snapshot", daemon=True)
        self._thread.start()

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Embedded:
        """With the function's settings; the credential is the process's own. Raises ConfigError, CloudFailure."""
        return cls(config.load(os.environ if environ is None else environ, ("COS_BUCKET",)))

    def __enter__(self) -> Embedded:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def validation(self) -> Validation:
        """What it is made of. Raises RuntimeError after `close` and in a forked child."""
        validation = self._validation
        if validation is None or os.getpid() != self._pid:
            raise RuntimeError("Embedded is closed" if validation is None else "Embedded must be built after fork")
        return validation

    def judge(self, gateway_id: str, presented: str | bytes | Mapping[str, Any]) -> Verdict:
        """The verdict on a key, or on request headers in which it is looked for as the function does.

        Several lines of one header are a list. Raises Problem SnapshotUnavailable: let nobody in then.
        """
        validation = self.validation
        if isinstance(presented, Mapping):
            event = {"httpMethod": "GET", "path": "/", "headers": presented}
            value = presented_key(web.parse_event(event, None).headers, {}, key_in_query=False)
        elif isinstance(presented, str):
            value = presented_key({"x-api-key": presented}, {}, key_in_query=False)
        else:
            value = presented
        return validation.validator.judge(web.plain_id(gateway_id), value)[0]

    def snapshot(self) -> Snapshot:
        """The snapshot that answers now. Raises Problem SnapshotUnavailable."""
        return self.validation.cache.current()

    def close(self) -> None:
        """Joins the thread and closes the connection; repeating it is harmless.

        A judgement that is under way ends normally: the base file is released with its last reader.
        """
        self._stop.set()
        if os.getpid() == self._pid:
            self._thread.join()
            if self._validation is not None:
                self._validation.source.close()
        self._validation = None

    def _keep_fresh(self, look: Callable[[], None]) -> None:
        while not self._stop.wait(self._interval):
            with suppress(Exception):  # it reports by itself; what is left is a report that could not be written
                look()
