"""`make run` as a stranger uses it: start, paste, try every feature, Ctrl-C, start again."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.conftest import CKEYS, Local
from tests.machine import free_port
from tests.tccli import tccli_program

BASE = "/v1/gateways/default"


def test_the_printed_curl_works_when_pasted_and_twice(
    start: Callable[..., Local], pasted: Callable[[Local], str]
) -> None:
    local = start()
    for name in ("once", "twice"):
        line = pasted(local).replace("$(date +%s)", name)
        done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=True)
        assert json.loads(done.stdout)["name"] == f"key-{name}"


def test_the_banner_names_the_function_behind_each_route(start: Callable[..., Local]) -> None:
    text = "".join(start().output)
    assert re.search(r"\n  POST   /v1/gateways/{gateway_id}/keys/{key_id}/reveal +reveal_key\n", text)
    assert text.count("validate_key") == 3
    assert "0 * * * * * *" in text


def test_ctrl_c_is_clean_and_a_second_start_finds_the_state(start: Callable[..., Local], tmp_path: Path) -> None:
    first = start()
    key = first("POST", BASE + "/keys", {"name": "kept", "generation": "System"}).body
    consumer = first("POST", BASE + "/consumers", {"name": "app"}).body
    first("PUT", f"{BASE}/keys/{key['key_id']}/consumer", {"consumer_id": consumer["consumer_id"]})
    assert first.stop() == 0
    assert "Traceback" not in "".join(first.output)
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", first.port)) != 0
        assert probe.connect_ex(("127.0.0.1", first.port + 1)) != 0
    second = start(tmp_path / "home")
    assert second.secret_key == first.secret_key
    assert second("GET", BASE + "/validate", token=key["value"]).headers["X-Key-Name"] == "kept"
    assert second.stop(signal.SIGTERM) == 0


def test_a_killed_run_keeps_every_acknowledged_key(start: Callable[..., Local], tmp_path: Path) -> None:
    first = start()
    made = [first("POST", BASE + "/keys", {"name": f"key{n}", "generation": "System"}) for n in range(5)]
    assert {answer.status for answer in made} == {201}
    first.stop(signal.SIGKILL)
    second = start(tmp_path / "home")
    assert second("GET", BASE + "/keys").body["total_count"] == 5
    verdict = second("POST", BASE + "/verify", {"key": made[-1].body["value"]}).body
    assert verdict["code"] == "KeyUnbound"


def test_a_busy_port_is_one_sentence(tmp_path: Path) -> None:
    port = free_port()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        environ = {**os.environ, "CKEYS_PORT": str(port), "CKEYS_HOME": str(tmp_path / "home")}
        done = subprocess.run([CKEYS, "run"], env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == (
        f"Error: Port {port} on 127.0.0.1 is already in use;"
        " stop what listens there, or set CKEYS_PORT to another port.\n"
    )
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize(
    ("broken", "says"),
    [("operator.json", "is damaged"), ("consumer-keys.db", "cannot be used"), ("cloud/state.db", "cannot be used")],
)
def test_a_broken_state_folder_is_one_sentence(
    start: Callable[..., Local], tmp_path: Path, broken: str, says: str
) -> None:
    start().stop()
    (tmp_path / "home" / broken).write_bytes(b"\x00garbage" * 999)
    environ = {**os.environ, "CKEYS_PORT": str(free_port()), "CKEYS_HOME": str(tmp_path / "home")}
    done = subprocess.run([CKEYS, "run"], env=environ, capture_output=True, text=True, check=False)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert says in done.stderr
    assert broken in done.stderr


def test_two_runs_cannot_share_a_state_folder(start: Callable[..., Local], tmp_path: Path) -> None:
    start()
    environ = {**os.environ, "CKEYS_PORT": str(free_port()), "CKEYS_HOME": str(tmp_path / "home")}
    done = subprocess.run([CKEYS, "run"], env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == (
        f"Error: Another `ckeys run` uses {tmp_path / 'home'}; stop it, or set CKEYS_HOME to another folder.\n"
    )


def test_settings_of_the_environment_reach_the_functions(start: Callable[..., Local]) -> None:
    local = start(GATEWAYS="one=First,two=Second", KEY_PREFIX="acme")
    key = local("POST", "/v1/gateways/two/keys", {"name": "key", "generation": "System"}).body
    assert key["value"].startswith("acme_")
    assert local("GET", BASE + "/keys").status == 404


def test_ckeys_env_reaches_the_run(start: Callable[..., Local]) -> None:
    local = start()
    environ = {**os.environ, "CKEYS_HOME": str(local.home)}  # the port is found in the folder
    script = f'eval "$({CKEYS} env)"; curl -sS -H "Authorization: Bearer $CKEYS_TOKEN" $CKEYS_URL/v1/status'
    done = subprocess.run(["sh", "-c", script], env=environ, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["gateways"][0]["gateway_id"] == "default"
    assert done.stderr == ""
    # The same shell is all that a validator needs, which then gets as far as its port.
    script = f'eval "$({CKEYS} env)"; {CKEYS} validator --port {local.port}'
    done = subprocess.run(["sh", "-c", script], env=environ, capture_output=True, text=True, check=False)
    assert (done.returncode, f"Port {local.port} on 127.0.0.1 is already in use" in done.stderr) == (1, True)
    local.stop()
    done = subprocess.run([CKEYS, "env"], env=environ, capture_output=True, text=True, check=True)
    assert done.stderr == f"Nothing listens on {local.url}; start the local run: make run\n"


def test_the_readmes_first_key_is_verified_when_its_lines_are_pasted(
    start: Callable[..., Local], tmp_path: Path
) -> None:
    local = start()
    text = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    section = text.partition("## A first verified key in a minute")[2].partition("\n## ")[0]
    *blocks, of_credential = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    assert len(blocks) == 2

    def paste(*lines: str) -> str:
        script = "".join(lines).replace(".venv/bin/ckeys", str(CKEYS))
        environ = {**os.environ, "CKEYS_HOME": str(local.home), "HOME": str(tmp_path)}
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script], env=environ, capture_output=True, text=True, check=True
        )
        return done.stdout

    shown = paste(*blocks, 'CONSUMER_ID=$CONSUMER_ID\necho; echo "$CONSUMER_ID"')
    assert "HTTP/1.1 200 OK" in shown
    assert re.findall(r'"code": ?"(\w+)"', shown) == ["Valid"]
    consumer_id = shown.splitlines()[-1]
    assert f"X-Consumer-Id: {consumer_id}\n" in shown.replace("\r", "")
    program = tccli_program()
    functions = blocks[0].partition("\nKEY=")[0]
    shown = paste(functions, f'\nCONSUMER_ID={consumer_id}\ntccli() {{ "{program}" "$@"; }}\n', of_credential)
    assert re.findall(r'"code": ?"(\w+)"', shown) == ["Valid", "Valid"]


def test_the_exports_of_ckeys_env_are_all_that_the_other_commands_need(start: Callable[..., Local]) -> None:
    local = start()
    port_alone = {name: value for name, value in os.environ.items() if name != "CKEYS_HOME"}
    script = f'eval "$({CKEYS} env --home {local.home})"; cd /; {CKEYS} operators list; {CKEYS} audit list'
    done = subprocess.run(["sh", "-c", script], env=port_alone, capture_output=True, text=True, check=True)
    assert local.secret_id in done.stdout
    assert done.stderr == ""
    bare = subprocess.run([CKEYS, "operators", "list"], env=port_alone, capture_output=True, text=True, check=False)
    assert (bare.returncode, "--home or CKEYS_HOME" in bare.stderr) == (1, True)
