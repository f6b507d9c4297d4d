"""`python -m tencent_emulator`: the emulator as a process of its own, for tccli and for programs in any language."""

from __future__ import annotations

import argparse
import errno
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from tencent_emulator.cloud import Cloud, CloudError, StateError


class _Stopped(Exception):  # noqa: N818 - a signal, not an error
    pass


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until Ctrl-C or SIGTERM; 0 after an orderly end, 1 when the state or the port cannot be used."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)
    try:
        with Cloud(state_dir=options.state, enforce_limits=options.enforce_limits) as cloud:
            cloud.add_credential(options.secret_id, options.secret_key, options.token)
            for bucket in options.bucket:
                cloud.cos.create_bucket(bucket)
            with cloud.serve(options.port) as server:
                sys.stdout.write(f"listening on {server.endpoint}\n")
                sys.stdout.flush()
                while True:
                    signal.pause()
    except _Stopped:
        return 0
    except (CloudError, StateError, OSError) as error:
        busy = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
        sys.stderr.write(f"Port {options.port} on 127.0.0.1 is already in use.\n" if busy else f"{error}\n")
        return 1


def _stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the form of a signal handler
    raise _Stopped


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tencent_emulator", description=__doc__)
    environment = os.environ
    parser.add_argument("--port", type=int, default=9001, help="port on 127.0.0.1, 0 to let the system choose")
    parser.add_argument("--state", type=Path, default=None, help="folder that keeps the state; without it, memory")
    for name, variable, help_text in (
        ("--secret-id", "TENCENTCLOUD_SECRET_ID", "accepted SecretId"),
        ("--secret-key", "TENCENTCLOUD_SECRET_KEY", "its SecretKey; the variable keeps it out of the process list"),
    ):
        default = environment.get(variable)
        parser.add_argument(name, default=default, required=default is None, help=f"{help_text} (or ${variable})")
    parser.add_argument("--token", default=None, help="its token, for temporary credentials")
    parser.add_argument("--bucket", action="append", default=[], help="bucket <name>-<appid> to create; repeatable")
    parser.add_argument("--enforce-limits", action="store_true", help="apply the published request rates")
    return parser


if __name__ == "__main__":
    sys.exit(main())
