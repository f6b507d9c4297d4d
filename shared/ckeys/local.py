"""The local run: one process with the emulated cloud, the functions behind HTTP, and the timers."""

from __future__ import annotations

import errno
import os
import signal
import socket
import sys
import threading
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path

from ckeys.deployment import ROOT, Deployment, DeploymentError
from ckeys.front import Front, LocalRoute, TimerLoop, load_handlers

# Production looks for a newer snapshot every 10 s. Somebody who tries things out by hand expects to see the effect of
# a disable in the next request, and a look costs a millisecond here.
LOCAL_DEFAULTS = {"SNAPSHOT_POLL_SECONDS": "0"}


class LocalRun:
    """Starts everything, prints how to use it, and stops everything at Ctrl-C or SIGTERM."""

    def __init__(self, home: Path, port: int, environ: Mapping[str, str] | None = None) -> None:
        self.home, self.port = home, port
        self._environ = {**LOCAL_DEFAULTS, **(os.environ if environ is None else environ)}
        self._stop = threading.Event()

    def run(self) -> None:
        """Returns after a signal, with nothing left running. Raises DeploymentError."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: self._stop.set())
        if not self.home.exists():  # a start that fails leaves nothing behind
            for port in (self.port, self.port + 1):
                _check_port(port)
        try:
            deployment = Deployment(self.home, cloud_port=self.port + 1, environ=self._environ)
        except OSError as error:
            raise _explained(error, self.port + 1) from None
        with deployment:
            timers = TimerLoop(deployment.template, deployment.handlers, _now, sys.stderr)
            try:
                front = Front(
                    deployment.template,
                    deployment.handlers,
                    port=self.port,
                    local_routes={**timers.local_routes(), **described(deployment)},
                )
            except OSError as error:
                raise _explained(error, self.port) from None
            with front:
                timers.start()
                sys.stdout.write(banner(deployment, front.url))
                sys.stdout.flush()
                self._stop.wait()
                sys.stdout.write("\nStopping.\n")
                timers.stop()


def described(deployment: Deployment) -> dict[tuple[str, str], LocalRoute]:
    """`GET /openapi.json`: the document of the routes that are mounted, made when somebody asks for it."""

    def answer(_event: object) -> object:
        from ckeys.openapi import document

        return document(deployment.template, load_handlers(ROOT / "functions", deployment.template))

    return {("GET", "/openapi.json"): answer}


def _now() -> datetime:
    return datetime.now(timezone.utc)


def _check_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
            probe.listen(1)
        except OSError as error:
            raise _explained(error, port) from None


def _explained(error: OSError, port: int) -> DeploymentError:
    if error.errno == errno.EADDRINUSE:
        return DeploymentError(
            f"Port {port} on 127.0.0.1 is already in use; stop what listens there, or set CKEYS_PORT to another port."
        )
    return DeploymentError(f"{error.filename or 'The local run'}: {error.strerror}.")


def banner(deployment: Deployment, url: str) -> str:
    """Which function is behind each route, the timers, the operator, and a call that works when pasted."""
    template = deployment.template
    rows = [
        (route.method, route.path, function.name) for function in template.functions for route in function.routes
    ] + [("timer", timer.cron.text, function.name) for function in template.functions for timer in function.timers]
    width = max(len(path) for _, path, _ in rows)
    lines = [f"  {method:<7}{path:<{width}}  {name}" for method, path, name in rows]
    secret_id, secret_key = deployment.operator
    gateways = ", ".join(gateway.gateway_id for gateway in deployment.services.settings.gateways)
    first = deployment.services.settings.gateways[0].gateway_id
    here = Path.cwd()
    home = deployment.home.relative_to(here) if deployment.home.is_relative_to(here) else deployment.home
    return "\n".join(
        [
            "",
            f"consumer-keys on {url}, emulated SSM, KMS and COS on http://{deployment.server.endpoint}",
            f"State in {home}; nothing leaves this machine. Gateways: {gateways}.",
            "",
            *lines,
            "",
            f"Operator (admin), also in {home}/operator.json:",
            f"  secret_id   {secret_id}",
            f"  secret_key  {secret_key}",
            "",
            "Create a key:",
            f"  curl -sS {url}/v1/gateways/{first}/keys -H 'Authorization: Bearer {secret_key}' \\",
            """    -d '{"name": "key-'$(date +%s)'", "generation": "System"}'""",
            "",
            "Ctrl-C stops everything; the state stays.",
            "",
            "",
        ]
    )
