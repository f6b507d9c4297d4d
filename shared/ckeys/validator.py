"""`ckeys validator`: granian around `consumer_keys.validate_server`. No database, no SDK."""

from __future__ import annotations

import errno
import os
import socket
import sys
import tempfile

from ckeys.reach import counted, setting_of
from consumer_keys import config
from consumer_keys.errors import CloudFailure
from consumer_keys.snapshot import POINTER
from consumer_keys.validate_wiring import Validation

# What waiting does not mend.
_OUR_MISTAKE = ("NoSuchBucket", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch")
STOP_SECONDS_MAX = 10
RESPAWN_SECONDS = 1.0


class ValidatorError(Exception):
    """The server cannot start; the text is one sentence for the person who started it."""


def serve(host: str, port: int, workers: int, *, log_all: bool) -> None:
    """Serves until Ctrl-C or SIGTERM and leaves no process behind; one that dies is replaced.

    Raises ValidatorError before it begins.
    """
    try:
        from granian.constants import HTTPModes, Interfaces
        from granian.log import LogLevels
        from granian.server import Server
    except ImportError:
        raise ValidatorError("The server needs granian: pip install 'consumer-keys[validator]'.") from None
    _check_settings()
    _check_port(host, port)
    factory = "application_logging_all" if log_all else "application"
    server = Server(
        f"consumer_keys.validate_server:{factory}", address=host, port=port, interface=Interfaces.ASGI,
        workers=workers, factory=True, websockets=False, http=HTTPModes.http1, log_level=LogLevels.error,
        workers_kill_timeout=STOP_SECONDS_MAX, respawn_failed_workers=True, respawn_interval=RESPAWN_SECONDS,
    )  # fmt: skip
    shown = f"[{host}]" if ":" in host else host
    # Standard output is the log's.
    sys.stderr.write(f"Validation on http://{shown}:{port}, {counted(workers, 'worker')}; Ctrl-C stops it.\n")
    sys.stderr.flush()
    server.serve()


def _check_settings() -> None:
    """What every process would fail on is said once, before there are any."""
    try:
        settings = config.load(os.environ, ("COS_BUCKET",))
        validation = Validation(settings)
    except config.ConfigError as error:
        raise ValidatorError(f"The settings do not fit: {error}.") from None
    except CloudFailure as failure:
        setting = setting_of(failure, os.environ)
        raise ValidatorError(f"The root secret cannot be read: {failure} ({setting}).") from None
    try:
        _check_folder(validation.cache.folder)
        validation.source.pointer(POINTER)
    except CloudFailure as failure:
        setting = setting_of(failure, os.environ)
        if failure.cloud_code in _OUR_MISTAKE:
            raise ValidatorError(f"The snapshot cannot be read: {failure} ({setting}).") from None
        sys.stderr.write(f"Every request gets 503 until there is a snapshot: {failure} ({setting}).\n")
    finally:
        validation.close()


def _check_folder(folder: str) -> None:
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValidatorError(f"SNAPSHOT_DIR, {folder}, cannot be used: {error.strerror}.") from None


def _check_port(host: str, port: int) -> None:
    """The server shares its port between processes, so it would not notice that somebody else has it."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            probe.listen(1)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ValidatorError(f"Port {port} on {host} is already in use; choose another with --port.") from None
        raise ValidatorError(f"The server cannot listen on {host} port {port}: {error.strerror or error}.") from None
