"""`ckeys keys` against a local run that returns no value in clear, as a deployment on SCF does."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from click.testing import CliRunner

from ckeys.main import cli
from tests.e2e.conftest import CKEYS, Local


def run(local: Local, *words: str, text: str | None = None, **environ: str) -> subprocess.CompletedProcess[str]:
    given = {"CKEYS_URL": local.url, "CKEYS_TOKEN": local.secret_key, **environ}
    return subprocess.run(
        [CKEYS, "keys", *words], capture_output=True, text=True, check=False, input=text, env={**os.environ, **given}
    )


def test_create_and_reveal_agree_on_a_key_so_that_the_value_never_travels_in_clear(
    start: Callable[..., Local], tmp_path: Path
) -> None:
    local = start(CLEAR_VALUES="false")
    refused = local("POST", "/v1/gateways/default/keys", {"name": "clear", "generation": "System"})
    assert (refused.status, refused.body["errors"][0]["field"]) == (400, "reveal_to")

    created = json.loads(run(local, "create", "first-key", "--description", "说明").stdout)
    assert created["value"].startswith("ck_")
    assert "value_jwe" not in created
    shown = run(local, "reveal", created["key_id"], "--reason", "lost", "-q")
    assert (shown.returncode, shown.stdout) == (0, created["value"] + "\n")
    verified = local("POST", "/v1/gateways/default/verify", {"key": created["value"]})
    assert verified.body["key_id"] == created["key_id"]

    custom = run(local, "create", "own", "--generation", "Custom", "--value-file", "-", text="kT7vQ2xM9wLp4Zr8\n")
    assert json.loads(custom.stdout)["masked_value"] == "kT7****Zr8"
    shown = run(local, "reveal", json.loads(custom.stdout)["key_id"], "-q")
    assert shown.stdout == "kT7vQ2xM9wLp4Zr8\n"
    none = run(local, "create", "another", "--generation", "Custom", "--value-file", "-", "-q", text="kT7vQ2xM9wLp4Zr9")
    assert (none.returncode, "for System keys only" in none.stderr) == (2, True)
    assert local("GET", "/v1/gateways/default/keys").body["total_count"] == 2
    local.stop()
    assert created["value"] not in "".join(local.output)


def test_what_goes_wrong_is_one_sentence(start: Callable[..., Local]) -> None:
    local = start()
    cloud = f"http://127.0.0.1:{local.port + 1}"
    for words, environ, said in (
        (["create", "9"], {}, "InvalidParameter: name"),
        (["reveal", "secret-00000000000000"], {}, "KeyNotFound"),
        (["reveal", "x"], {"CKEYS_TOKEN": "wrong"}, "Unauthenticated"),
        (["reveal", "x"], {"CKEYS_TOKEN": ""}, "CKEYS_TOKEN"),
        (["reveal", "x"], {"CKEYS_URL": "http://keys.example.com"}, "https://"),
        (["reveal", "x"], {"CKEYS_URL": "http://127.0.0.1:1"}, "does not answer"),
        (["reveal", "x"], {"CKEYS_URL": ""}, "Set CKEYS_URL"),
        (["create", "key", "-q"], {"CKEYS_URL": cloud}, "status 200 without key_id. Is CKEYS_URL this API's?"),
        (["reveal", "x", "-q"], {"CKEYS_URL": cloud}, "status 200 without key_id. Is CKEYS_URL this API's?"),
    ):  # fmt: skip
        done = run(local, *words, **environ)
        assert done.returncode != 0
        assert said in done.stderr, done.stderr
        assert "Traceback" not in done.stderr
        assert local.secret_key not in done.stderr


def test_every_call_for_keys_has_its_command(start: Callable[..., Local], monkeypatch: pytest.MonkeyPatch) -> None:
    local = start()
    monkeypatch.setenv("CKEYS_URL", local.url)
    monkeypatch.setenv("CKEYS_TOKEN", local.secret_key)

    def said(*words: str, text: str | None = None) -> Any:
        done = CliRunner().invoke(cli, ["keys", *words], input=text)
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout or "null")

    created = said("create", "first-key", "--disabled")
    key_id, value = created["key_id"], created.pop("value")
    said("create", "second-key")
    app = local("POST", "/v1/gateways/default/consumers", {"name": "app"}).body["consumer_id"]
    assert said("bind", key_id, app)["consumer"]["consumer_id"] == app
    assert said("enable", key_id)["status"] == "Enable"
    assert said("verify", text=value + "\n")["code"] == "Valid"
    assert said("get", key_id) == local("GET", f"/v1/gateways/default/keys/{key_id}").body
    assert [item["key_id"] for item in said("list", "--bound", "--consumer", app)["items"]] == [key_id]
    assert [item["name"] for item in said("list", "--unbound", "--keyword", "key")["items"]] == ["second-key"]
    page = said("list", "--limit", "1")
    assert said("list", "--limit", "1", "--cursor", page["next_cursor"])["items"][0]["key_id"] == key_id
    assert not said("delete", key_id, "--dry-run")["deletable"]
    refused = CliRunner().invoke(cli, ["keys", "delete", key_id])
    assert (refused.exit_code, f"{app}" in refused.stderr) == (1, True)
    assert said("disable", key_id)["status"] == "Disable"
    assert said("verify", text=value)["valid"] is False
    assert said("unbind", key_id)["consumer"] is None
    assert said("delete", key_id) is None
    assert said("list")["total_count"] == 1


class _Elsewhere(BaseHTTPRequestHandler):
    seen: list[str] = []  # noqa: RUF012 - one server in one test

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.seen.append(self.path)
        self.send_response(307)
        self.send_header("Location", "/again")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_POST  # noqa: N815 - name of the base class

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def elsewhere() -> Any:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Elsewhere)
    thread = Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_operators_secret_follows_no_redirect(elsewhere: Any) -> None:
    environ = {"CKEYS_URL": f"http://127.0.0.1:{elsewhere.server_address[1]}", "CKEYS_TOKEN": "an-operators-secret"}
    done = subprocess.run(
        [CKEYS, "keys", "reveal", "x"], capture_output=True, text=True, check=False, env={**os.environ, **environ}
    )
    assert done.returncode != 0
    assert "307" in done.stderr
    assert len(_Elsewhere.seen) == 1
