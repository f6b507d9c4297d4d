"""`ckeys rotate-data-keys`: every value is sealed anew, wherever it is killed, and no data key goes too early."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from ckeys.deployment import Deployment
from ckeys.main import cli
from consumer_keys import failpoints, operator_admin
from tencent_emulator.pytest_plugin import TestClock
from tests.conftest import GATEWAY, Api
from tests.functions.helpers import as_operator, kms_key, nothing_changes, sql
from tests.functions.rotation import Killed, killed_at
from tests.functions.test_signatures import signed

DAYS = 31
COMMAND = [str(Path(sys.executable).parent / "ckeys"), "rotate-data-keys"]


@pytest.fixture
def values(api: Api) -> dict[str, str]:
    """Key id -> value of seven sealed keys, under two data keys, beside a KMS key and further operators."""
    made = [api.create_key(f"key-{number}") for number in range(4)]
    from consumer_keys import wiring

    wiring.close()  # another instance: it seals under a data key of its own
    custom = [f"custom-value-Zq7x9Lk3-{number}" for number in range(3)]
    made += [
        {**api.create_key(f"own-{number}", generation="Custom", value=value), "value": value}
        for number, value in enumerate(custom)
    ]
    kms_key(api, "followed", "content-Vw4t2Np8")
    for role in ("viewer", "editor"):
        as_operator(api, role)
    return {key["key_id"]: key["value"] for key in made}


def run(*options: str) -> Result:
    return CliRunner().invoke(cli, ["rotate-data-keys", *options])


def report(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def opened(deployment: Deployment) -> dict[str, str]:
    """Every sealed value, opened by an instance that holds nothing in memory."""
    from consumer_keys import wiring

    wiring.close()
    app, found = deployment.services, {}
    query = "SELECT v.key_id, gateway_id, sealed FROM key_values v JOIN consumer_keys k ON k.key_id = v.key_id"
    for row in sql(deployment, query + " WHERE sealed IS NOT NULL"):
        place = app.place_of_key(row["gateway_id"], row["key_id"])
        found[row["key_id"]] = app.key_vault.open(place, bytes(row["sealed"])).text()
    for row in sql(deployment, "SELECT secret_id, sealed FROM operators"):
        app.operator_vault.open(app.place_of_operator(row["secret_id"]), bytes(row["sealed"]))
    return found


def used(deployment: Deployment) -> set[str]:
    """The data keys that values and secrets are under."""
    query = "SELECT data_key_id FROM key_values WHERE sealed IS NOT NULL UNION SELECT data_key_id FROM operators"
    return {row["data_key_id"] for row in sql(deployment, query)}


def kept(deployment: Deployment) -> set[str]:
    return {row["data_key_id"] for row in sql(deployment, "SELECT data_key_id FROM data_keys")}


def audited(api: Api) -> dict[str, tuple[str, ...]]:
    """Data key -> what the audit log says of it, in order."""
    found: dict[str, tuple[str, ...]] = {}
    rows = sql(api.deployment, "SELECT * FROM audit WHERE action LIKE 'data_key.%' ORDER BY sequence")
    for row in rows:
        assert (row["actor"], row["gateway_id"], row["before"]) == ("ckeys", "", None)
        assert json.loads(row["after"])["purpose"] in ("values", "operators")
        found[row["target"]] = (*found.get(row["target"], ()), row["action"])
    return found


def check_audit(api: Api) -> None:
    """`ckeys audit verify` finds the chain and the signed heads in order."""
    api.tick()
    done = CliRunner().invoke(cli, ["audit", "verify"])
    assert done.exit_code == 0, done.output


def test_young_data_keys_are_left_alone(api: Api, values: dict[str, str]) -> None:
    with nothing_changes(api.deployment):
        done = report(run())
    assert done["values"] == {"resealed": 0, "broken": [], "data_keys": {"unused": 0, "destroyed": 0}}


def test_every_value_moves_to_new_data_keys_and_old_ones_go_after_a_while(
    api: Api, values: dict[str, str], clock: TestClock
) -> None:
    before, revision = used(api.deployment), sql(api.deployment, "SELECT revision FROM deployment")
    clock.shift(DAYS * 86_400)
    done = report(run("--batch", "2"))
    assert (done["values"]["resealed"], done["operators"]["resealed"]) == (7, 3)
    after = used(api.deployment)
    assert not after & before
    assert before <= kept(api.deployment), "a request may have read a value a moment ago"
    assert sql(api.deployment, "SELECT revision FROM deployment") == revision, "nothing that callers see has changed"
    assert report(run())["values"]["data_keys"]["destroyed"] == 0
    clock.shift(900)
    done = report(run())
    assert done["values"]["data_keys"]["destroyed"] + done["operators"]["data_keys"]["destroyed"] == len(before)
    assert kept(api.deployment) >= after
    assert not kept(api.deployment) & before
    assert opened(api.deployment) == values
    key_id = next(iter(values))
    assert api("reveal_key", "POST", f"/keys/{key_id}/reveal", {}).body["value"] == values[key_id]


@pytest.mark.parametrize("batch", [1, 3])
def test_killed_at_any_commit_it_goes_on_and_seals_each_value_once(
    api: Api, values: dict[str, str], clock: TestClock, batch: int
) -> None:
    before = used(api.deployment)
    clock.shift(DAYS * 86_400)
    kills = 0
    while True:
        # A little later each time: before and after every commit.
        with killed_at(kills + 1, "reseal.", "change."):
            try:
                done = report(run("--batch", str(batch)))
                break
            except Killed:
                kills += 1
        assert opened(api.deployment) == values, "whatever was killed, every value opens"
        assert before & kept(api.deployment) == before, "no data key is destroyed while it may be in use"
    assert kills >= 8
    assert not used(api.deployment) & before
    assert opened(api.deployment) == values
    begun = {target for target, rows in audited(api).items() if rows == ("data_key.begin",)}
    assert begun == kept(api.deployment) - before, "begun, even if it was killed before it sealed anything"
    assert {target for target, rows in audited(api).items() if "data_key.retire" in rows} == before
    check_audit(api)
    assert report(run())["values"]["resealed"] == 0, done


def test_a_process_killed_by_sigkill_loses_nothing(api: Api, values: dict[str, str]) -> None:
    before = used(api.deployment)
    environ = {**os.environ, "PYTHONUNBUFFERED": "1"}
    for lines in (1, 3):
        process = subprocess.Popen(
            [*COMMAND, "--older-than", "0", "--batch", "1"], stderr=subprocess.PIPE, stdout=subprocess.PIPE, env=environ
        )
        assert process.stderr is not None
        for _ in range(lines):
            assert process.stderr.readline().endswith(b"...\n")
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert opened(api.deployment) == values
    done = subprocess.run([*COMMAND, "--older-than", "0"], capture_output=True, text=True, env=environ, check=True)
    assert json.loads(done.stdout)["values"]["resealed"] == 7
    assert not used(api.deployment) & before
    assert opened(api.deployment) == values


def test_a_data_key_that_is_used_again_is_not_destroyed(api: Api, values: dict[str, str], clock: TestClock) -> None:
    before = used(api.deployment)
    clock.shift(DAYS * 86_400)
    row = sql(api.deployment, "SELECT digest, sealed, data_key_id FROM key_values WHERE sealed IS NOT NULL LIMIT 1")[0]
    report(run())
    # A slow instance wrote with the data key that it still had in memory.
    old = "UPDATE key_values SET sealed = :sealed, data_key_id = :data_key_id WHERE digest = :digest"
    sql(api.deployment, old, **row)
    clock.shift(901)
    assert report(run("--older-than", "3650"))["values"]["data_keys"]["destroyed"] == 1
    assert kept(api.deployment) & before == {row["data_key_id"]}
    assert opened(api.deployment) == values


def test_a_value_that_does_not_open_is_named_and_holds_nothing_back(
    api: Api, values: dict[str, str], clock: TestClock
) -> None:
    broken = next(iter(values))
    sql(api.deployment, "UPDATE key_values SET sealed = :sealed WHERE key_id = :id", sealed=b"\x00", id=broken)
    clock.shift(DAYS * 86_400)
    for _ in range(2):
        result = run("--batch", "1")
        assert result.exit_code == 1
        assert broken in result.stdout
    row = sql(api.deployment, "SELECT sealed, data_key_id FROM key_values WHERE key_id = :id", id=broken)[0]
    assert bytes(row["sealed"]) == b"\x00"
    clock.shift(901)
    run()
    assert row["data_key_id"] in kept(api.deployment)
    assert not any(value in result.output for value in values.values())


def test_an_outage_of_kms_stops_it_with_a_sentence_and_changes_nothing(
    api: Api, values: dict[str, str], clock: TestClock
) -> None:
    clock.shift(DAYS * 86_400)
    with api.deployment.cloud.outage("kms"), nothing_changes(api.deployment):
        result = run()
    assert result.exit_code == 1
    assert "kms" in result.output
    assert report(run())["values"]["resealed"] == 7


def test_data_keys_are_wrapped_anew_after_the_rotation_of_a_kms_key(api: Api, values: dict[str, str]) -> None:
    cloud, environment = api.deployment.cloud, api.deployment.environment
    before = {row["data_key_id"]: row["blob"] for row in sql(api.deployment, "SELECT * FROM data_keys")}
    for name in ("KMS_KEY_ID", "KMS_OPERATOR_KEY_ID"):
        cloud.rotate_key(environment[name])
    assert report(run("--rewrap", "--batch", "1"))["rewrapped"] == len(before)
    after = {row["data_key_id"]: row["blob"] for row in sql(api.deployment, "SELECT * FROM data_keys")}
    assert after.keys() == before.keys()
    assert not set(after.values()) & set(before.values())
    assert report(run("--rewrap"))["rewrapped"] == 0
    assert audited(api) == dict.fromkeys(before, ("data_key.rewrap",))
    check_audit(api)
    assert opened(api.deployment) == values


def test_a_secret_that_its_operator_gets_during_the_rotation_is_not_overwritten_with_the_former_one(api: Api) -> None:
    app = api.deployment.services
    pairs = [operator_admin.add(app, "worker", "viewer")]

    def sealed_under() -> Any:
        (row,) = sql(api.deployment, "SELECT data_key_id FROM operators WHERE secret_id = :id", id=pairs[0][0])
        return row["data_key_id"]

    before, reached = sealed_under(), list[str]()

    def hook(point: str) -> None:
        # The data key for operators' secrets begins behind the reading of the first batch and before it is written.
        if point != "change.after-commit" or reached:
            return
        if "operators" in str(sql(api.deployment, "SELECT * FROM audit WHERE action = 'data_key.begin'")):
            reached.append(point)
            pairs.append(operator_admin.rotate(app, "worker", 0))
            assert sealed_under() == before, "the new secret is under the data key of the former one"

    failpoints.install(hook)
    try:
        report(run("--older-than", "0"))
    finally:
        failpoints.install(None)
    assert reached
    statuses = [signed(api, "list_keys", "GET", f"{GATEWAY}/keys", pair=pair).status for pair in pairs]
    assert statuses == [401, 200]
    assert sealed_under() == before, "it is left to the next run"
    assert report(run("--older-than", "0"))["operators"]["broken"] == []
    assert sealed_under() != before
    assert signed(api, "list_keys", "GET", f"{GATEWAY}/keys", pair=pairs[1]).status == 200


def test_no_row_of_the_database_says_what_kms_binds_a_data_key_to(api: Api, values: dict[str, str]) -> None:
    sql(api.deployment, "UPDATE data_keys SET context = '{}'")
    assert opened(api.deployment) == values
    for name in ("KMS_KEY_ID", "KMS_OPERATOR_KEY_ID"):
        api.deployment.cloud.rotate_key(api.deployment.environment[name])
    assert report(run("--rewrap"))["rewrapped"] == len(kept(api.deployment))
    assert opened(api.deployment) == values
    assert report(run("--older-than", "0"))["values"]["resealed"] == 7
    assert opened(api.deployment) == values


def test_what_becomes_of_a_data_key_is_in_the_audit_log_and_the_chain_holds(
    api: Api, values: dict[str, str], clock: TestClock
) -> None:
    before = used(api.deployment)
    assert audited(api) == {}, "those of every day are no event"
    clock.shift(DAYS * 86_400)
    report(run("--batch", "1"))
    after = used(api.deployment)
    assert audited(api) == {**dict.fromkeys(before, ("data_key.retire",)), **dict.fromkeys(after, ("data_key.begin",))}
    check_audit(api)
    report(run())
    clock.shift(900)
    gone = dict.fromkeys(before, ("data_key.retire", "data_key.destroy"))
    for _ in range(2):
        report(run("--batch", "1"))
        assert audited(api) == {**gone, **dict.fromkeys(after, ("data_key.begin",))}
    check_audit(api)
    shown = CliRunner().invoke(cli, ["audit", "list", "--action", "data_key.destroy"])
    assert all(data_key_id in shown.output for data_key_id in before), shown.output
    sql(api.deployment, "DELETE FROM audit WHERE action = 'data_key.begin' AND target = :id", id=min(after))
    assert CliRunner().invoke(cli, ["audit", "verify"]).exit_code == 1


def test_a_row_that_cannot_be_written_stops_the_rotation_before_anything_changed(
    api: Api, values: dict[str, str], clock: TestClock
) -> None:
    before = kept(api.deployment)
    clock.shift(DAYS * 86_400)
    sql(api.deployment, "ALTER TABLE audit RENAME TO aside")
    done = run()
    sql(api.deployment, "ALTER TABLE aside RENAME TO audit")
    assert done.exit_code == 1
    assert kept(api.deployment) == before, "no data key without its row"
    assert opened(api.deployment) == values
    assert report(run())["values"]["resealed"] == 7
