"""Requests per second at 32 connections and 100,000 keys: `ckeys validator`, its own server, nginx and peers.

wrk shares the two cores with what it measures, so the numbers compare with each other and with nothing else. All
servers stay up; they are measured in turns, and a median is taken of each.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from common import GATEWAY, ROOT, RUNS, Row, deployment, options, report, seed, shown

APPS = ROOT / "bench" / "peers_apps"
CONNECTIONS, KEYS, SAMPLED, WORKERS, START_SECONDS = 32, 100_000, 2_000, "2", 60.0
OURS, CONSTANT = "ckeys validator", "the same server answering a constant"
CONSTANT_BOUND = 0.7
NGINX = """
user root;
worker_processes 2;
pid {folder}/pid;
error_log {folder}/error.log crit;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  keepalive_requests 1000000000;
  client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
  uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
  map_hash_max_size 1048576;
  map_hash_bucket_size 128;
  map $http_x_api_key $consumer {{ default ""; include {folder}/map.conf; }}
  upstream validator {{ server 127.0.0.1:{ours}; keepalive 64; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{port};
    root {folder};
    location = / {{
      if ($consumer = "") {{ return 401; }}
      add_header X-Consumer-Id $consumer;
      return 200;
    }}
    location = /behind {{ auth_request /auth; }}
    location = /auth {{
      internal;
      proxy_pass http://validator/v1/gateways/{gateway}/validate;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_pass_request_body off;
      proxy_set_header Content-Length "";
    }}
  }}
}}
"""


class Target(NamedTuple):
    """Something to send requests to: each value of `values` goes as `prefix` + value in `header`."""

    name: str
    url: str
    values: Path
    header: str = "x-api-key"
    prefix: str = ""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running(command: list[str], port: int, **environment: str) -> Iterator[None]:
    """A server, from when it takes connections until it has ended."""
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, **environment}
    )
    try:
        end = time.monotonic() + START_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > end:
                    raise SystemExit(f"{Path(command[0]).name} did not start") from None
                time.sleep(0.1)
        yield
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()


def granian(python: str, port: int, interface: str, app: str) -> list[str]:
    """The server of `ckeys validator` with its settings and another application."""
    command = [python, "-m", "granian", "--interface", interface, "--host", "127.0.0.1", "--port", str(port)]
    command += ["--workers", WORKERS, "--http", "1", "--log-level", "error", "--working-dir", str(APPS)]
    return [*command, *(["--no-ws"] if interface == "asgi" else []), app]


def rate(target: Target, seconds: int) -> float:
    """Requests per second; a single answer other than 2xx is an error."""
    command = ["wrk", "-t2", f"-c{CONNECTIONS}", f"-d{seconds}s", "-s", str(APPS / "keys.lua"), target.url, "--"]
    done = subprocess.run(
        [*command, str(target.values), target.header, target.prefix], capture_output=True, text=True, check=True
    )
    if "Non-2xx" in done.stdout or (found := re.search(r"Requests/sec:\s+([\d.]+)", done.stdout)) is None:
        raise SystemExit(f"{target.name} refused or did not answer:\n{done.stdout}")
    return float(found[1])


def nginx_targets(stack: ExitStack, folder: Path, values: Path, everything: Path, ours: int | None) -> list[Target]:
    """A plain map of the keys and, in front of ours, auth_request."""
    if shutil.which("nginx") is None:
        print("nginx is not installed: left out")
        return []
    port = free_port()
    known = everything.read_text(encoding="ascii").split()
    (folder / "map.conf").write_text("".join(f'"{key}" consumer-1;\n' for key in known), encoding="ascii")
    (folder / "behind").write_text("", encoding="ascii")
    config = NGINX.format(folder=folder, ours=ours or 1, port=port, gateway=GATEWAY)
    (folder / "nginx.conf").write_text(config, encoding="ascii")
    command = ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]
    stack.enter_context(running([*command, "-g", "daemon off;"], port))
    targets = [Target("nginx, plain map (a reload to revoke)", f"http://127.0.0.1:{port}/", values)]
    if ours:
        targets.append(Target("nginx auth_request in front of ours", f"http://127.0.0.1:{port}/behind", values))
    return targets


def peer_targets(stack: ExitStack, folder: Path, values: Path, everything: Path, count: int) -> list[Target]:
    """What installs from the package index, in an environment of its own."""
    venv.EnvBuilder(with_pip=True, symlinks=True).create(folder / "peers")
    python = str(folder / "peers" / "bin" / "python")
    install = [python, "-m", "pip", "install", "-qq", "--disable-pip-version-check", "-r"]
    done = subprocess.run([*install, str(ROOT / "bench" / "peers-requirements.txt")], capture_output=True, check=False)
    if done.returncode:
        print("the peers cannot be installed: left out")
        return []
    theirs, database = folder / "drf-values", {"BENCH_DB": str(folder / "drf.db")}
    made = [python, str(APPS / "drf.py"), str(count), str(theirs)]
    subprocess.run(made, env={**os.environ, **database}, check=True)
    drf, dictionary = free_port(), free_port()
    stack.enter_context(running(granian(python, drf, "wsgi", "drf:app"), drf, **database))
    all_keys = {"BENCH_KEYS": str(everything)}
    stack.enter_context(running(granian(python, dictionary, "asgi", "in_memory:app"), dictionary, **all_keys))
    return [
        Target("djangorestframework-api-key, SQLite", f"http://127.0.0.1:{drf}/", theirs, "authorization", "Api-Key "),
        Target("FastAPI, dict (a restart to revoke)", f"http://127.0.0.1:{dictionary}/", values),
    ]


def our_targets(stack: ExitStack, values: Path) -> tuple[list[Target], int | None]:
    """The validation server, if this build has one, and the same server with a constant answer."""
    ckeys = str(Path(sys.executable).with_name("ckeys"))
    if subprocess.run([ckeys, "validator", "--help"], capture_output=True, check=False).returncode:
        print("there is no `ckeys validator`: left out")
        return [], None
    ours, constant = free_port(), free_port()
    stack.enter_context(running([ckeys, "validator", "--port", str(ours), "--workers", WORKERS], ours))
    stack.enter_context(running(granian(sys.executable, constant, "asgi", "constant:app"), constant))
    return [
        Target(OURS, f"http://127.0.0.1:{ours}/v1/gateways/{GATEWAY}/validate", values),
        Target(CONSTANT, f"http://127.0.0.1:{constant}/", values),
    ], ours


def measured(count: int, runs: int, seconds: int) -> dict[str, list[float]]:
    with deployment() as made, tempfile.TemporaryDirectory(prefix="ckeys-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        values, everything = folder / "values", folder / "everything"
        presented = seed(made, count, SAMPLED)
        others = (f"ck_{random.getrandbits(190):048x}"[:41] for _ in range(count - len(presented)))
        values.write_text("\n".join(presented), encoding="ascii")
        everything.write_text("\n".join([*presented, *others]), encoding="ascii")
        with shown():
            targets, ours = our_targets(stack, values)
            targets += nginx_targets(stack, folder, values, everything, ours)
            targets += peer_targets(stack, folder, values, everything, count)
            for target in targets:
                rate(target, 1)
            rates: dict[str, list[float]] = {target.name: [] for target in targets}
            for _ in range(runs):
                for target in targets:
                    rates[target.name].append(rate(target, seconds))
    return rates


def main() -> None:
    given = options(__doc__)
    if shutil.which("wrk") is None:
        print("peers: skipped, wrk is not installed (Debian: apt-get install wrk)")
        return
    count = 10_000 if given.quick else KEYS
    rates = measured(count, 3 if given.quick else RUNS, 1 if given.quick else 3)
    rows = [Row(name, statistics.median(found), "/s") for name, found in rates.items()]
    if OURS in rates:
        ratio = statistics.median(a / b for a, b in zip(rates[OURS], rates[CONSTANT], strict=True))
        rows.append(Row("ours / constant", ratio, "x", CONSTANT_BOUND, at_least=True))
    report("peers", rows, quick=given.quick, connections=CONNECTIONS, keys=count, workers=int(WORKERS))


if __name__ == "__main__":
    main()
