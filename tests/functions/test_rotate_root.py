"""`ckeys rotate-root`: a new root secret, with both versions alive for a while and not one wrong denial."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from click.testing import CliRunner, Result

from ckeys.main import cli
from consumer_keys import audit, operator_admin, root_rotation, wiring
from tencent_emulator.pytest_plugin import TestClock
from tests.conftest import Api
from tests.functions.helpers import (
    STRONG,
    as_operator,
    change_content,
    kms_key,
    nothing_changes,
    objects,
    pointer,
    problem,
    signed,
    sql,
    ssm,
)
from tests.functions.rotation import Killed, Reader, elsewhere, killed_at
from tests.functions.test_signatures import signed as signed_call

SECRET, OLD, NEW = "consumer-keys-root", "v1", "v2"
MakeReader = Callable[[str], Reader]


@pytest.fixture
def reader(api: Api) -> Iterator[MakeReader]:
    """Makes validators with a version of the root secret."""
    made: list[Reader] = []

    def make(version: str) -> Reader:
        made.append(Reader(api.deployment, version))
        return made[-1]

    yield make
    for each in made:
        each.close()


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["rotate-root", *arguments])


def report(*arguments: str) -> Any:
    done = run(*arguments)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def refused(*arguments: str) -> str:
    done = run(*arguments)
    assert done.exit_code == 1, done.output
    assert "Traceback" not in done.output
    return done.output


def backfilled(api: Api, batch: int = 200) -> dict[str, Any]:
    """Backfill in this process, whose instances keep what they have in memory."""
    return root_rotation.backfill(api.deployment.services, batch, pause=lambda _: None, progress=lambda _: None)


def finished(api: Api, batch: int = 200) -> dict[str, Any]:
    return root_rotation.finish(api.deployment.services, batch, readers_moved=True, progress=lambda _: None)


def bound(api: Api, name: str, **fields: Any) -> str:
    """The value of a new bound key."""
    return str(api.bound_key(name, **fields).get("value") or fields.get("value"))


def counts(api: Api) -> dict[str, Any]:
    row = sql(api.deployment, "SELECT entry_count, published_count FROM deployment")[0]
    return {**row, "shown": api("get_status", "GET", "/v1/status").body["snapshot"]["values"]}


def test_a_whole_rotation_denies_nobody_and_ends_with_one_version(api: Api, reader: MakeReader) -> None:
    custom = f"custom-{STRONG}-Zq7x"
    kms_key(api, "followed", "content-Vw4t2Np8")
    values = [bound(api, f"key-{number}") for number in range(12)] + ["content-Vw4t2Np8"]
    values.append(bound(api, "own", generation="Custom", value=custom))
    viewer, former = as_operator(api, "viewer").token, as_operator(api, "verifier", name="rotating").token
    operator_admin.rotate(api.deployment.services, "rotating", 3_600_000)
    tokens, before, old = (api.token, viewer, former), counts(api), reader(OLD)

    def holds(*readers: Reader) -> None:
        for each in readers:
            assert [each.status(value) for value in values] == [200] * len(values)
            assert each.status(f"{custom}x") == 401
            assert all(map(each.knows, tokens))
        listed = [api("list_keys", "GET", "/keys", token=token).status for token in (api.token, viewer, former)]
        assert listed == [200, 200, 403]
        assert signed_call(api, "list_keys", "GET", "/v1/gateways/default/keys").status == 200
        assert counts(api) == before

    holds(old)
    begun = report("begin")
    assert (begun["present"], begun["coming"], begun["phase"], begun["made"]) == (OLD, NEW, "incomplete", True)
    holds(old)
    assert "not ready" in refused("finish", "--readers-moved")
    done = report("backfill", "--batch", "3")
    assert (done["completed"], done["phase"]) == (len(values) + 4, "ready")
    assert "ROOT_SECRET_VERSION=v2" in done["next"]
    new = reader(NEW)
    holds(old, new)
    assert api.tick()["audit_error"] is None
    assert "--readers-moved" in refused("finish")
    assert "alive already" in refused("begin")
    holds(old, new)
    done = report("finish", "--readers-moved", "--batch", "5")
    assert (done["present"], done["coming"], done["former"]) == (NEW, None, OLD)
    api.deployment.cloud.call("ssm", "DeleteSecretVersion", SecretName=SECRET, VersionId=OLD)
    wiring.close()
    holds(new, reader(NEW))
    assert api.tick()["audit_error"] is None
    assert audit.verify(api.deployment.services).fault is None
    actions = [row["action"] for row in sql(api.deployment, "SELECT action FROM audit WHERE action LIKE 'root.%'")]
    assert actions == ["root.begin", "root.complete", "root.finish"]
    key_id = api("list_keys", "GET", "/keys", query={"keyword": "own"}).body["items"][0]["key_id"]
    assert api("reveal_key", "POST", f"/keys/{key_id}/reveal", {}).body["value"] == custom
    assert report("begin")["coming"] == "v3"


def test_what_is_in_the_bucket_before_and_after_names_one_version_and_between_two(api: Api) -> None:
    bound(api, "key")
    keys: dict[str, bytes] = {}

    def macs() -> tuple[int, str]:
        document = json.loads(objects(api.deployment)["consumer-keys/current.json"])
        return len(document["mac"].split(",")), document["manifest"]["root_version"]

    def entries() -> int:
        manifest = pointer(api.deployment)
        return int(manifest["base"]["entries"]) - len(sql(api.deployment, "SELECT * FROM consumers"))

    app = api.deployment.services
    keys[OLD] = app.root.manifest_key
    app.publisher.publish(heartbeat=True)
    one = objects(api.deployment)["consumer-keys/current.json"]
    assert one == signed(pointer(api.deployment), keys[OLD]), "with one version its bytes are as ever"
    root_rotation.begin(app, None)
    assert macs() == (2, f"{NEW},{OLD}")
    backfilled(api)
    assert (macs()[0], entries()) == (2, 2)
    finished(api)
    assert (macs(), entries()) == ((1, NEW), 1), "what was made under the former version is gone"
    assert objects(api.deployment)["consumer-keys/current.json"] == signed(
        pointer(api.deployment), app.root_keys(NEW).manifest_key
    )


@pytest.mark.parametrize("batch", [1, 4])
def test_killed_at_any_commit_it_goes_on_and_denies_nobody(api: Api, reader: MakeReader, batch: int) -> None:
    values = [bound(api, f"key-{number}") for number in range(5)]
    old, steps = reader(OLD), [0, 0, 0]

    def killing(step: int, work: Callable[[], Any], *readers: MakeReader) -> None:
        while True:
            steps[step] += 1
            with killed_at(steps[step], "root-rotation.", "change."):
                try:
                    work()
                except Killed:
                    pass
                else:
                    return
            # Written at any moment, it counts for every reader that is about.
            values.append(bound(api, f"late-{step}-{steps[step]}"))
            for each in (old, *readers) if step < 2 else readers:
                assert [each.status(value) for value in values] == [200] * len(values), (step, steps)

    def begin() -> None:
        if root_rotation.status(api.deployment.services)["coming"] is None:
            root_rotation.begin(api.deployment.services, None)

    def finish() -> None:
        if root_rotation.status(api.deployment.services)["coming"] is not None:
            finished(api, batch)

    killing(0, begin)
    killing(1, lambda: backfilled(api, batch))
    new = reader(NEW)
    killing(2, finish, new)
    assert min(steps) >= 2
    assert [new.status(value) for value in values] == [200] * len(values)
    assert root_rotation.status(api.deployment.services)["phase"] == "none"
    left = sql(api.deployment, "SELECT * FROM key_values WHERE coming_digest IS NOT NULL OR root_generation <> 1")
    assert left == []
