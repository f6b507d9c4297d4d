"""How commands reach a deployment, and what they say when they cannot: one sentence that names what to change."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ckeys.deployment import Deployment
from ckeys.main import cli
from tests.conftest import Api


def ckeys(*words: str, **environ: str | None) -> Result:
    return CliRunner().invoke(cli, words, env=environ)


def sentence(done: Result) -> str:
    assert done.exit_code == 1
    assert done.stderr.count("\n") == 1, done.output
    return done.stderr


@pytest.fixture
def stopped(make_deployment: Callable[..., Deployment], tmp_path: Path) -> Path:
    """The state folder of a local run that is down."""
    make_deployment(tmp_path / "state", durable=True).close()
    return tmp_path / "state"


def test_a_damaged_file_of_the_state_folder_is_named(stopped: Path) -> None:
    for name, text in (
        ("operator.json", "{"),
        ("operator.json", "[]"),
        ("operator.json", "{}"),
        ("environment.json", "{}"),
    ):
        whole = (stopped / name).read_text()
        (stopped / name).write_text(text)
        for command in (["env"], ["operators", "list"]):
            assert f"The file {stopped / name} is damaged; " in sentence(ckeys(*command, "--home", str(stopped)))
        (stopped / name).write_text(whole)


def test_a_file_in_the_place_of_the_state_folder_is_said_to_be_one(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for command in (["env"], ["operators", "list"], ["run"]):
        assert "file is a file" in sentence(ckeys(*command, "--home", str(tmp_path / "file")))


def test_a_local_run_and_another_database_at_once_are_refused(stopped: Path) -> None:
    url = "mysql+pymysql://keys:a-password@db.example.com/keys"
    said = sentence(ckeys("operators", "list", CKEYS_HOME=str(stopped), DATABASE_URL=url))
    assert ("CKEYS_HOME" in said, "DATABASE_URL" in said, "a-password" in said) == (True, True, False)
    same = json.loads((stopped / "environment.json").read_text())["DATABASE_URL"]
    assert "Is `make run` up" in sentence(ckeys("publish", CKEYS_HOME=str(stopped), DATABASE_URL=same))


@pytest.mark.parametrize(
    ("command", "name", "value"),
    [
        (["operators", "add", "x", "--role", "viewer"], "KMS_OPERATOR_KEY_ID", "no-such-key"),
        (["publish"], "COS_BUCKET", "none-1250000000"),
        (["rotate-root", "begin", "--yes"], "COS_BUCKET", "none-1250000000"),
    ],
)
def test_a_refusal_of_the_cloud_names_the_setting_and_its_value(
    api: Api, command: list[str], name: str, value: str
) -> None:
    assert f"{name} is {value}" in sentence(ckeys(*command, **{name: value}))


def test_a_package_that_is_missing_beside_a_gateway_is_named() -> None:
    code = "import sys; sys.modules['alembic'] = None; from ckeys.main import cli; cli()"
    done = subprocess.run(
        [sys.executable, "-c", code, "operators", "list"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "needs alembic" in done.stderr
    assert "requirements/local.txt" in done.stderr


def test_a_change_that_is_not_published_yet_is_done_and_says_so(api: Api) -> None:
    made = ckeys("operators", "add", "ci", "--role", "viewer")
    with api.deployment.cloud.outage("cos"):
        done = ckeys("operators", "disable", "ci")
    assert done.exit_code == 0
    assert done.stdout == f"{json.loads(made.stdout)['secret_id']} is disabled\n"
    assert done.stderr.startswith("Done, but not published yet (cos ")
    assert "the timer's next tick" in done.stderr
