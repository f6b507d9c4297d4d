"""`ckeys rotate-root`: a new root secret, with both versions alive for a while and not one wrong denial."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from click.testing import CliRunner, Result

from ckeys.main import cli
from consumer_keys import audit, failpoints, operator_admin, root_rotation, wiring
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
    put_object,
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
    agreed = ["--yes"] if arguments[0] == "begin" else []
    return CliRunner().invoke(cli, ["rotate-root", *arguments, *agreed])


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
    once = {"idempotency-key": "before"}
    made = api("create_consumer", "POST", "/consumers", {"name": "made-once"}, headers=once)
    begun = report("begin")
    assert (begun["present"], begun["coming"], begun["phase"], begun["made"]) == (OLD, NEW, "incomplete", True)
    assert api("create_consumer", "POST", "/consumers", {"name": "made-once"}, headers=once).body == made.body
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
    query = "SELECT action FROM audit WHERE action LIKE 'root.%' ORDER BY sequence"
    actions = [row["action"] for row in sql(api.deployment, query)]
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
    assert macs() == (1, OLD), "nothing holds every digest of the coming version yet"
    backfilled(api)
    assert (macs(), entries()) == ((2, f"{NEW},{OLD}"), 2)
    finished(api)
    assert (macs(), entries()) == ((1, NEW), 1), "what was made under the former version is gone"
    assert objects(api.deployment)["consumer-keys/current.json"] == signed(
        pointer(api.deployment), app.root_keys(NEW).manifest_key
    )


def test_a_validator_that_is_deployed_too_early_denies_nobody(api: Api, reader: MakeReader, clock: TestClock) -> None:
    values = [bound(api, "key")]

    def says(each: Reader) -> list[int]:
        return [each.status(value) for value in values]

    root_rotation.begin(api.deployment.services, None)
    new = reader(NEW)
    values.append(bound(api, "after-begin"))
    assert says(new) == [503, 503], "not every value would be found"
    api.tick()
    with killed_at(1, "pointer."), pytest.raises(Killed):
        backfilled(api)
    assert says(new) == [503, 503], "the pointer is not written yet"
    late = objects(api.deployment)["consumer-keys/current.json"]
    clock.shift(61)
    assert api.tick()["publish_error"] is None
    assert says(new) == [200, 200]
    put_object(api.deployment, "consumer-keys/current.json", late)
    assert (says(new), says(reader(NEW))) == ([200, 200], [503, 503]), "an old pointer that arrives late"
    api.tick()
    assert says(reader(NEW)) == [200, 200]


@pytest.mark.parametrize("batch", [1, 4])
def test_killed_at_any_commit_it_goes_on_and_denies_nobody(api: Api, reader: MakeReader, batch: int) -> None:
    values = [bound(api, f"key-{number}") for number in range(5)]
    old, steps = reader(OLD), [0, 0, 0]

    def killing(step: int, work: Callable[[], Any], *readers: Reader) -> None:
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
    assert api.tick()["publish_error"] is None  # killed between its last commit and its base
    assert root_rotation.status(api.deployment.services)["phase"] == "none"
    left = sql(api.deployment, "SELECT * FROM key_values WHERE coming_digest IS NOT NULL OR root_generation <> 1")
    assert left == []


def test_what_is_written_while_it_is_being_finished_is_kept(api: Api, reader: MakeReader) -> None:
    values = [bound(api, f"key-{number}") for number in range(3)]
    root_rotation.begin(api.deployment.services, None)
    backfilled(api)
    new, others = reader(NEW), elsewhere(api, "others")

    def write(point: str) -> None:
        if point == "root-rotation.after-commit" and len(values) < 8:
            failpoints.install(None)
            values.append(bound(others, f"late-{len(values)}"))
            failpoints.install(write)

    failpoints.install(write)
    try:
        finished(api, batch=1)
    finally:
        failpoints.install(None)
    assert len(values) == 8
    assert [new.status(value) for value in values] == [200] * 8
    assert api("get_status", "GET", "/v1/status").body["snapshot"]["values"] == 8


def test_a_digest_that_was_lost_is_noticed_and_made_again(api: Api, reader: MakeReader) -> None:
    value = bound(api, "key")
    root_rotation.begin(api.deployment.services, None)
    assert backfilled(api)["phase"] == "ready"
    sql(api.deployment, "UPDATE key_values SET coming_digest = NULL")
    sql(api.deployment, "UPDATE deployment SET base = NULL")  # so that a base is built without it
    api.deployment.services.publisher.publish(heartbeat=True)
    assert root_rotation.status(api.deployment.services)["phase"] == "incomplete"
    with pytest.raises(root_rotation.RotationRefused, match="not ready"):
        finished(api)
    assert backfilled(api)["phase"] == "ready"
    assert reader(NEW).status(value) == 200


# Instances that have not heard of it


def test_an_instance_with_any_setting_writes_and_publishes_for_every_version_that_is_alive(
    api: Api, reader: MakeReader
) -> None:
    first, then = elsewhere(api, "first", ROOT_SECRET_VERSION=OLD), elsewhere(api, "then", ROOT_SECRET_VERSION=NEW)
    values = [bound(first, "before")]  # it has read the root secret, and keeps it
    root_rotation.begin(api.deployment.services, None)
    values.append(bound(first, "after-begin"))
    backfilled(api)
    old, new = reader(OLD), reader(NEW)
    for name, instance in (("first", first), ("then", then)):
        values.append(bound(instance, f"by-{name}"))
        assert [each.status(value) for value in values for each in (old, new)] == [200] * 2 * len(values)
    key = then("list_keys", "GET", "/keys", query={"keyword": "after-begin"}).body["items"][0]["key_id"]
    assert first("disable_key", "POST", f"/keys/{key}/disable").status == 200
    assert [each.status(values[1]) for each in (old, new)] == [401, 401]
    finished(api)
    assert then("enable_key", "POST", f"/keys/{key}/enable").status == 200
    values.append(bound(first, "after-finish"))
    assert [new.status(value) for value in values] == [200] * len(values)
    assert first("disable_key", "POST", f"/keys/{key}/disable").status == 200
    assert new.status(values[1]) == 401


def test_an_operator_gets_in_by_either_instance_in_every_phase(api: Api, reader: MakeReader) -> None:
    where = [elsewhere(api, "a", ROOT_SECRET_VERSION=OLD), elsewhere(api, "b", ROOT_SECRET_VERSION=NEW)]
    app, tokens = api.deployment.services, [as_operator(api, "viewer", name="first").token]

    def check(*readers: Reader) -> None:
        for token in tokens:
            assert [each("list_keys", "GET", "/keys", token=token).status for each in where] == [200, 200]
            assert all(each.knows(token) for each in readers)

    assert where[0]("list_keys", "GET", "/keys", token=tokens[0]).status == 200
    root_rotation.begin(app, None)
    check(reader(OLD))
    tokens.append(operator_admin.rotate(app, "first", 3_600_000)[1])
    tokens.append(as_operator(api, "viewer", name="second").token)
    check(reader(OLD))
    backfilled(api)
    tokens.append(operator_admin.rotate(app, "second", 3_600_000)[1])
    check(reader(OLD), reader(NEW))
    finished(api)
    tokens.append(operator_admin.rotate(app, "first", 3_600_000)[1])
    check(reader(NEW))
    operator_admin.rotate(app, "first", 0)
    for token in (tokens[0], tokens[1], tokens[4]):
        assert [each("list_keys", "GET", "/keys", token=token).status for each in where] == [401, 401]
        assert not reader(NEW).knows(token)


# What must not be used twice


@pytest.mark.parametrize("phase", ["begun", "backfilled", "half moved", "finished"])
def test_a_value_that_is_in_use_stays_so(api: Api, phase: str) -> None:
    app, value = api.deployment.services, f"custom-{STRONG}-Zq7x"
    api.create_key("own", generation="Custom", value=value)
    for number in range(3):
        api.create_key(f"key-{number}")
    secret = as_operator(api, "viewer").token
    former = as_operator(api, "editor", name="rotating").token
    operator_admin.rotate(app, "rotating", 3_600_000)
    root_rotation.begin(app, None)
    if phase != "begun":
        backfilled(api)
    if phase == "half moved":
        with killed_at(4, "root-rotation."), pytest.raises(Killed):
            finished(api, batch=2)
        assert root_rotation.status(app)["coming"] == NEW
    if phase == "finished":
        finished(api)
    with nothing_changes(api.deployment):
        for given in (value, secret, former):
            body = {"name": "again", "generation": "Custom", "value": given}
            problem(api("create_key", "POST", "/keys", body), 409, "ValueInUse")
        with pytest.raises(Exception, match="ValueInUse"):
            operator_admin.add(app, "bad", "viewer", pair=("operator-0123456789abcd", value))


# Credentials


def test_former_content_is_waited_for_and_an_ended_one_is_not(api: Api, reader: MakeReader, clock: TestClock) -> None:
    def holds(expected: dict[str, int], *readers: Reader) -> None:
        for each in readers:
            assert {name: each.status(f"content-{name}-Vw4t2Np8") for name in expected} == expected

    def tick() -> dict[str, Any]:
        clock.shift(1)
        return api.tick()

    kms_key(api, "cred", "content-one-Vw4t2Np8")
    kms_key(api, "gone", "content-gone-Vw4t2Np8")
    change_content(api, "cred", "content-two-Vw4t2Np8")
    tick()
    root_rotation.begin(api.deployment.services, None)
    waiting = backfilled(api)
    assert (waiting["phase"], waiting["missing"]["ending_values"], waiting["unreadable"]) == ("incomplete", 1, 1)
    assert waiting["former_contents_end"] is not None
    with pytest.raises(root_rotation.RotationRefused, match="backfill"):
        finished(api)
    old = reader(OLD)
    holds({"one": 200, "two": 200, "gone": 200}, old)
    ssm(api, "DisableSecret", "gone")
    tick()
    clock.shift(361)
    tick()
    done = backfilled(api)
    assert (done["phase"], done["unreadable"]) == ("ready", 0)
    new = reader(NEW)
    change_content(api, "cred", "content-three-Vw4t2Np8")
    tick()
    holds({"one": 401, "two": 200, "three": 200, "gone": 401}, old, new)
    ssm(api, "EnableSecret", "gone")
    assert tick()["changed"] == 1, "it is back, for readers of either version"
    holds({"gone": 200}, old, new)
    assert root_rotation.status(api.deployment.services)["phase"] == "ready"
    finished(api)
    change_content(api, "cred", "content-four-Vw4t2Np8")
    assert tick()["changed"] == 1
    holds({"two": 200, "three": 200, "four": 200, "gone": 200}, new)
    clock.shift(301)
    tick()
    holds({"two": 401, "three": 401, "four": 200, "gone": 200}, new)


def test_credentials_that_came_back_after_the_end_of_a_rotation_are_followed(
    api: Api, reader: MakeReader, clock: TestClock
) -> None:
    kms_key(api, "gone", "content-gone-Vw4t2Np8")
    bound(api, "other")
    ssm(api, "DisableSecret", "gone")
    api.tick()
    clock.shift(400)
    api.tick()
    root_rotation.begin(api.deployment.services, None)
    assert backfilled(api)["phase"] == "ready"
    finished(api)
    new = reader(NEW)
    assert new.status("content-gone-Vw4t2Np8") == 401
    ssm(api, "EnableSecret", "gone")
    clock.shift(1)
    api.tick()
    assert new.status("content-gone-Vw4t2Np8") == 200


def test_a_credential_that_comes_back_while_both_versions_are_alive_counts_for_both(
    api: Api, reader: MakeReader, clock: TestClock
) -> None:
    kms_key(api, "gone", "content-gone-Vw4t2Np8")
    ssm(api, "DisableSecret", "gone")
    api.tick()
    clock.shift(400)
    api.tick()
    root_rotation.begin(api.deployment.services, None)
    assert backfilled(api)["phase"] == "ready", "what has ended needs nothing"
    ssm(api, "EnableSecret", "gone")
    clock.shift(1)
    api.tick()
    assert [reader(version).status("content-gone-Vw4t2Np8") for version in (OLD, NEW)] == [200, 200]


def test_two_credentials_that_swap_contents_while_both_versions_are_alive_follow_for_both(
    api: Api, reader: MakeReader
) -> None:
    keys = [kms_key(api, f"cred-{name}", f"content-{name}-Vw4t2Np8")["key_id"] for name in ("a", "b")]
    root_rotation.begin(api.deployment.services, None)
    change_content(api, "cred-a", "content-b-Vw4t2Np8")
    change_content(api, "cred-b", "content-a-Vw4t2Np8")
    assert api.tick()["changed"] == 2
    assert backfilled(api)["phase"] == "ready"
    for version in (OLD, NEW):
        judge = reader(version).validation.validator.judge
        verdicts = [judge("default", b"content-%s-Vw4t2Np8" % name)[0] for name in (b"a", b"b")]
        assert [verdict.key_id for verdict in verdicts] == keys[::-1]


def test_a_credential_that_cannot_be_read_holds_the_rotation_up_and_is_named(api: Api) -> None:
    key = kms_key(api, "cred", "content-one-Vw4t2Np8", bound=False)
    root_rotation.begin(api.deployment.services, None)
    change_content(api, "cred", "bad content")
    done = backfilled(api)
    assert (done["phase"], done["missing"]["values"], done["unreadable_owners"]) == ("incomplete", 1, [key["key_id"]])
    with pytest.raises(root_rotation.RotationRefused, match="not ready"):
        finished(api)
    change_content(api, "cred", "content-one-Vw4t2Np8")
    assert backfilled(api)["phase"] == "ready"


def test_an_outage_stops_it_with_a_sentence(api: Api) -> None:
    bound(api, "key")
    kms_key(api, "cred", "content-one-Vw4t2Np8")
    root_rotation.begin(api.deployment.services, None)
    for service in ("kms", "ssm"):
        wiring.close()
        with api.deployment.cloud.outage(service):
            assert service in refused("backfill")
    assert report("backfill")["phase"] == "ready"


# Beginning


def test_begin_that_died_after_making_the_version_is_done_again(api: Api) -> None:
    with killed_at(1, "change.before-commit"), pytest.raises(Killed):
        root_rotation.begin(api.deployment.services, None)
    assert report("status")["coming"] is None
    again = report("begin")
    assert (again["coming"], again["made"]) == (NEW, False)


def test_a_version_that_was_in_force_is_not_taken_again(api: Api) -> None:
    for former, coming in ((OLD, NEW), (NEW, OLD)):
        if former == OLD:
            report("begin", "--version", coming)
            report("backfill")
            report("finish", "--readers-moved")
    with nothing_changes(api.deployment):
        assert "was in force already" in refused("begin", "--version", OLD)
        assert "was in force already" in refused("begin", "--version", NEW)
        assert "begins with a letter" in refused("begin", "--version", "-bad")
        assert "No rotation has been begun" in refused("backfill")
        assert "No rotation has been begun" in refused("finish", "--readers-moved")


def test_the_same_bytes_under_another_name_are_no_new_version(api: Api) -> None:
    cloud = api.deployment.cloud
    same = cloud.call("ssm", "GetSecretValue", SecretName=SECRET, VersionId=OLD)["SecretBinary"]
    cloud.call("ssm", "PutSecretValue", SecretName=SECRET, VersionId="copy", SecretBinary=same)
    with nothing_changes(api.deployment):
        assert "hold the same secret" in refused("begin", "--version", "copy")


def test_settings_that_name_another_version_than_the_snapshot_are_found_out(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    bound(api, "key")
    other = b64encode(b"x" * 32).decode()
    api.deployment.cloud.call("ssm", "PutSecretValue", SecretName=SECRET, VersionId="v7", SecretBinary=other)
    monkeypatch.setenv("ROOT_SECRET_VERSION", "v7")
    with nothing_changes(api.deployment):
        assert "not the deployment's" in refused("begin")
    monkeypatch.setenv("ROOT_SECRET_VERSION", "v8")
    assert "no version v8" in refused("begin")


def test_it_is_begun_only_by_who_says_yes(api: Api) -> None:
    with nothing_changes(api.deployment):
        asked = CliRunner().invoke(cli, ["rotate-root", "begin"], input="n\n")
        assert (asked.exit_code, "cannot be taken back" in asked.stderr) == (1, True)
        assert CliRunner().invoke(cli, ["rotate-root", "begin"]).exit_code == 1
    agreed = CliRunner().invoke(cli, ["rotate-root", "begin"], input="y\n")
    assert json.loads(agreed.stdout)["coming"] == NEW


def test_nobody_sees_the_new_secret(api: Api) -> None:
    begun = run("begin")
    secret = api.deployment.cloud.call("ssm", "GetSecretValue", SecretName=SECRET, VersionId=NEW)["SecretBinary"]
    assert secret not in begun.output
    assert len(secret) == 44


# Counting, lists and the audit log


def test_the_guard_against_shrinking_holds_while_two_versions_are_alive_and_lets_finish_pass(
    api: Api, reader: MakeReader
) -> None:
    values = [bound(api, f"key-{number}") for number in range(30)]
    before = counts(api)
    root_rotation.begin(api.deployment.services, None)
    backfilled(api)
    assert counts(api) == before
    sql(api.deployment, "CREATE TABLE aside AS SELECT * FROM key_values")
    lost = sql(api.deployment, "SELECT digest FROM key_values ORDER BY digest LIMIT 12")
    for row in lost:
        sql(api.deployment, "DELETE FROM key_values WHERE digest = :digest", digest=row["digest"])
    assert "would lose 12 of 30" in api.tick()["publish_error"]
    columns = "digest, coming_digest, root_generation, key_id, ends_at, sealed, data_key_id, created_at"
    for row in lost:
        back = f"INSERT INTO key_values ({columns}) SELECT {columns} FROM aside WHERE digest = :digest"
        sql(api.deployment, back, digest=row["digest"])
    sql(api.deployment, "DROP TABLE aside")
    assert api.tick()["publish_error"] is None
    finished(api)
    assert counts(api) == before
    assert api.tick()["publish_error"] is None
    new = reader(NEW)
    assert [new.status(value) for value in values] == [200] * 30


def test_a_page_goes_on_under_the_coming_version(api: Api) -> None:
    for number in range(5):
        api.create_key(f"key-{number}")
    where = [elsewhere(api, "a", ROOT_SECRET_VERSION=OLD), elsewhere(api, "b", ROOT_SECRET_VERSION=NEW)]

    def page(number: int, cursor: str | None) -> str:
        query = {"limit": "1"} if cursor is None else {"limit": "1", "cursor": cursor}
        answer = where[number % 2]("list_keys", "GET", "/keys", query=query)
        assert answer.status == 200, answer.body
        return str(answer.body["next_cursor"])

    cursor = page(0, None)
    root_rotation.begin(api.deployment.services, None)
    cursor = page(1, cursor)
    backfilled(api)
    cursor = page(0, cursor)
    finished(api)
    cursor = page(1, cursor)
    answer = api("list_audit", "GET", "/audit", query={"limit": "1"})
    assert api("list_audit", "GET", "/audit", query={"limit": "1", "cursor": answer.body["next_cursor"]}).status == 200


def test_heads_of_the_audit_log_hold_under_either_version_as_long_as_it_is_in_ssm(api: Api) -> None:
    app, cloud = api.deployment.services, api.deployment.cloud
    api.create_key("one")
    api.tick()
    assert audit.verify(app)[1:] == (2, 0, None)
    root_rotation.begin(app, None)
    assert api.tick()["audit_error"] is None
    assert audit.verify(app)[2:] == (0, None)
    backfilled(api)
    finished(api)
    assert api.tick()["audit_error"] is None
    assert audit.verify(app)[2:] == (0, None)
    cloud.call("ssm", "DeleteSecretVersion", SecretName=SECRET, VersionId=OLD)
    wiring.close()
    api.create_key("two")
    assert api.tick()["audit_error"] is None
    assert audit.verify(api.deployment.services).fault is None
