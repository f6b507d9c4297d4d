"""Operators by the command line: added, listed, rotated, disabled, enabled; what each of it does to their calls."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner, Result

from ckeys.deployment import BUCKET, ROOT, Deployment
from ckeys.front import load_handlers
from ckeys.main import cli
from consumer_keys import wiring
from tencent_emulator.pytest_plugin import TestClock
from tests.conftest import GATEWAY, Api
from tests.functions.helpers import sql
from tests.functions.test_signatures import signed

HOUR = 3600


def ckeys(*words: str, **environ: str | None) -> Result:
    """A command in the environment of the deployment, as an administrator's shell would have it."""
    return CliRunner().invoke(cli, words, env=environ)


def made(done: Result) -> tuple[str, str]:
    assert done.exit_code == 0, done.output
    pair = json.loads(done.stdout)
    return pair["secret_id"], pair["secret_key"]


def bearer(api: Api, secret: str) -> int:
    return api("list_keys", "GET", "/keys", token=secret).status


def verify(api: Api, secret: str) -> int:
    return api("validate_key", "POST", "/verify", {"key": "kT7vQ2xM"}, token=secret).status


def by_signature(api: Api, pair: tuple[str, str]) -> int:
    return signed(api, "list_keys", "GET", f"{GATEWAY}/keys", pair=pair).status


def every_way(api: Api, pair: tuple[str, str]) -> list[int]:
    return [bearer(api, pair[1]), by_signature(api, pair), verify(api, pair[1])]


def audited(api: Api) -> list[tuple[str, str, Any]]:
    rows = sql(api.deployment, "SELECT * FROM audit WHERE action LIKE 'operator.%' ORDER BY sequence")
    return [(row["action"], row["target"], json.loads(row["after"])) for row in rows]


def test_an_added_operator_may_call_in_every_way_and_is_listed_without_a_secret(api: Api) -> None:
    pair = made(ckeys("operators", "add", "张三", "--role", "viewer", "--gateway", "default"))
    assert every_way(api, pair) == [200, 200, 200]
    listed = json.loads(ckeys("operators", "list", "--json").stdout)
    (row,) = [row for row in listed if row["secret_id"] == pair[0]]
    assert (row["name"], row["role"], row["gateways"], row["status"]) == ("张三", "viewer", ["default"], "Enable")
    table = ckeys("operators", "list").stdout
    assert pair[0] in table
    for text in (table, json.dumps(listed), json.dumps(audited(api))):
        assert pair[1] not in text
        assert "digest" not in text
    assert audited(api)[-1] == ("operator.create", pair[0], {
        "secret_id": pair[0], "name": "张三", "role": "viewer", "status": "Enable", "gateways": ["default"],
    })  # fmt: skip


def test_what_makes_no_operator_is_refused_in_one_sentence(api: Api) -> None:
    before = sql(api.deployment, "SELECT * FROM operators")
    assert made(ckeys("operators", "add", "first", "--role", "admin"))
    for words, said in (
        (["first", "--role", "viewer"], "has this name"), (["x", "--role", "root"], "root"),
        (["", "--role", "viewer"], "name"), (["x" * 61, "--role", "viewer"], "name"),
        (["a\nb", "--role", "viewer"], "name"), (["x", "--role", "viewer", "--gateway", "undeclared"], "undeclared"),
    ):  # fmt: skip
        done = ckeys("operators", "add", *words)
        assert done.exit_code != 0
        assert said in done.output
        assert "Traceback" not in done.output
    assert len(sql(api.deployment, "SELECT * FROM operators")) == len(before) + 1


@pytest.mark.parametrize("by", ["name", "secret_id"])
def test_a_rotated_secret_is_accepted_for_the_chosen_time_and_no_longer(api: Api, clock: TestClock, by: str) -> None:
    secret_id, first = made(ckeys("operators", "add", "worker", "--role", "editor"))
    again, second = made(ckeys("operators", "rotate", "worker" if by == "name" else secret_id, "--keep", "2h"))
    assert again == secret_id
    assert every_way(api, (secret_id, first)) == every_way(api, (secret_id, second)) == [200, 200, 200]
    (row,) = [row for row in json.loads(ckeys("operators", "list", "--json").stdout) if row["name"] == "worker"]
    assert row["former_secret_until"] == "2027-01-15T10:00:00.000Z"
    clock.shift(2 * HOUR - 1)
    api.tick()  # keeps the snapshot young
    assert every_way(api, (secret_id, first)) == [200, 200, 200]
    clock.shift(1)
    assert every_way(api, (secret_id, first)) == [401, 401, 401], "nothing has been published since"
    assert every_way(api, (secret_id, second)) == [200, 200, 200]
    actions = [
        (action, after.get("former_secret_until")) for action, target, after in audited(api) if target == secret_id
    ]
    assert actions[-1] == ("operator.rotate", "2027-01-15T10:00:00.000Z")


def test_rotating_with_nothing_kept_ends_every_former_secret_at_once(api: Api) -> None:
    secret_id, first = made(ckeys("operators", "add", "worker", "--role", "editor"))
    second = made(ckeys("operators", "rotate", "worker"))[1]
    assert every_way(api, (secret_id, first)) == [200, 200, 200], "24 hours unless told otherwise"
    third = made(ckeys("operators", "rotate", "worker", "--keep", "0s"))[1]
    for secret in (first, second):
        assert every_way(api, (secret_id, secret)) == [401, 401, 401]
    assert every_way(api, (secret_id, third)) == [200, 200, 200]
    assert sql(api.deployment, "SELECT * FROM former_secrets") == []


def test_former_secrets_survive_the_loss_of_the_database_for_verify_and_end_in_time(api: Api, clock: TestClock) -> None:
    from tests.functions.helpers import database_down

    _, first = made(ckeys("operators", "add", "worker", "--role", "verifier"))
    made(ckeys("operators", "rotate", "worker", "--keep", "10m"))
    with database_down(api.deployment):
        assert verify(api, first) == 200
        clock.shift(600)
        assert verify(api, first) == 401


def test_a_former_secret_that_has_ended_stays_ended_for_verify_when_the_clock_goes_back(
    api: Api, clock: TestClock
) -> None:
    _, first = made(ckeys("operators", "add", "worker", "--role", "verifier"))
    _, second = made(ckeys("operators", "rotate", "worker", "--keep", "60s"))
    assert verify(api, first) == 200
    clock.shift(61)
    assert verify(api, first) == 401
    clock.shift(-30)
    assert (verify(api, first), verify(api, second)) == (401, 200)


def test_a_former_secret_is_no_value_of_a_key(api: Api) -> None:
    _, first = made(ckeys("operators", "add", "worker", "--role", "viewer"))
    made(ckeys("operators", "rotate", "worker"))
    body = {"name": "taken", "generation": "Custom", "value": first}
    assert api("create_key", "POST", "/keys", body).body["code"] == "ValueInUse"


def test_a_disabled_operator_may_nothing_with_any_secret_until_enabled_again(api: Api) -> None:
    secret_id, first = made(ckeys("operators", "add", "worker", "--role", "editor"))
    second = made(ckeys("operators", "rotate", "worker"))[1]
    for _ in range(2):
        assert ckeys("operators", "disable", "worker").exit_code == 0
    for secret in (first, second):
        assert every_way(api, (secret_id, secret)) == [401, 401, 401]
    assert ckeys("operators", "enable", secret_id).exit_code == 0
    for secret in (first, second):
        assert every_way(api, (secret_id, secret)) == [200, 200, 200]
    done = [action for action, target, _ in audited(api) if target == secret_id]
    assert done == ["operator.create", "operator.rotate", "operator.disable", "operator.enable"]


def test_the_last_admin_of_all_gateways_is_disabled_by_force_only(api: Api) -> None:
    admin = api.deployment.operator[0]
    made(ckeys("operators", "add", "restricted", "--role", "admin", "--gateway", "default"))
    made(ckeys("operators", "add", "editor", "--role", "editor"))
    second = made(ckeys("operators", "add", "second", "--role", "admin"))
    assert ckeys("operators", "disable", "second").exit_code == 0
    refused = ckeys("operators", "disable", admin)
    assert refused.exit_code == 1
    assert "last enabled admin" in refused.output
    assert bearer(api, api.token) == 200
    assert ckeys("operators", "enable", "second").exit_code == 0
    assert ckeys("operators", "disable", admin).exit_code == 0
    assert bearer(api, api.token) == 401
    assert ckeys("operators", "disable", second[0]).exit_code == 1
    assert ckeys("operators", "disable", second[0], "--force").exit_code == 0
    assert bearer(api, second[1]) == 401


@pytest.mark.parametrize("command", ["rotate", "disable", "enable"])
def test_an_unknown_operator_is_named_so(api: Api, command: str) -> None:
    done = ckeys("operators", command, "nobody")
    assert (done.exit_code, done.output) == (1, "Error: The operator does not exist.\n")


@pytest.mark.parametrize("keep", ["", "5", "h", "-1h", "1w", "31d", "１h"])
def test_a_time_that_is_none_is_refused(api: Api, keep: str) -> None:
    made(ckeys("operators", "add", "worker", "--role", "viewer"))
    done = ckeys("operators", "rotate", "worker", "--keep", keep)
    assert done.exit_code != 0
    assert "Traceback" not in done.output


# ckeys init


@pytest.fixture
def bare(make_deployment: Callable[..., Deployment], tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Deployment:
    """A cloud with two KMS keys and a bucket, and nothing of ours in it: no schema, no root secret, no operator."""
    deployment = make_deployment()
    wiring.close()
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path / 'new' / 'first.db'}")
    monkeypatch.setenv("ROOT_SECRET_NAME", "a-new-root")
    monkeypatch.setenv("SNAPSHOT_PREFIX", "new/")
    # The account's own credential: CAM cannot allow the making of one secret alone.
    for name, value in zip(("SECRETID", "SECRETKEY", "SESSIONTOKEN"), (*deployment.operator, ""), strict=True):
        monkeypatch.setenv(f"TENCENTCLOUD_{name}", value)
    deployment.handlers = load_handlers(ROOT / "functions", deployment.template)  # in this very environment
    return deployment


def test_init_makes_what_a_first_deployment_needs_and_its_first_admin(bare: Deployment) -> None:
    done = ckeys("init", "root-admin")
    pair = made(done)
    assert "schema: none ->" in done.stderr
    assert "a-new-root v1 made" in done.stderr
    assert pair[1] not in done.stderr
    assert any(name.startswith("new/") for name in bare.cloud.cos.list_objects(BUCKET))
    api = Api(bare, pair[1])
    assert api.create_key()["status"] == "Enable"
    (row,) = json.loads(ckeys("operators", "list", "--json").stdout)
    assert (row["name"], row["role"], row["gateways"]) == ("root-admin", "admin", None)


def test_init_again_changes_nothing_and_says_so(bare: Deployment) -> None:
    pair = made(ckeys("init", "root-admin"))
    again = ckeys("init", "root-admin")
    assert (again.exit_code, again.stdout) == (0, "")
    assert "1 operator there already, so nothing was left to do" in again.stderr
    assert "a-new-root v1 found" in again.stderr
    assert Api(bare, pair[1]).create_key()["status"] == "Enable"
    assert len(json.loads(ckeys("operators", "list", "--json").stdout)) == 1


@pytest.mark.parametrize(("name", "value"), [("KMS_OPERATOR_KEY_ID", "unknown-key"), ("COS_BUCKET", "none-1250000000")])
def test_init_says_which_service_does_not_do_its_part(bare: Deployment, name: str, value: str) -> None:
    done = ckeys("init", "root-admin", **{name: value})
    assert done.exit_code == 1
    assert sql_at(os.environ["DATABASE_URL"], "SELECT count(*) FROM operators") == 0
    assert done.output.splitlines()[-1].startswith("Error: ")
    assert f"{name} is {value}" in done.output
    assert "Traceback" not in done.output


def test_a_deployment_without_init_has_no_operator(bare: Deployment) -> None:
    assert ckeys("migrate").exit_code == 0
    assert sql_at(os.environ["DATABASE_URL"], "SELECT count(*) FROM operators") == 0
    assert "secret_key" not in bare.environment


def sql_at(url: str, text: str) -> Any:
    import sqlalchemy as sa

    engine = sa.create_engine(url)
    with engine.connect() as connection:
        found = connection.execute(sa.text(text)).scalar()
    engine.dispose()
    return found
