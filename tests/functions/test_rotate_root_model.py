"""A model of rotation: validators on either version, instances of any setting, operations, kills, in any order.

A value is good while its key is enabled and bound and the value has no end behind it; nothing about a rotation may
change that for any reader, at any moment.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from ckeys.deployment import Deployment
from consumer_keys import audit, operator_admin, root_rotation, wiring
from consumer_keys.root_rotation import RotationRefused
from tencent_emulator.pytest_plugin import TestClock
from tests.conftest import Api
from tests.functions.helpers import change_content, kms_key, sql
from tests.functions.rotation import Killed, Reader, elsewhere, killed_at

EXAMPLES, STEPS = 14, 28
OVERLAP, LEASE = 300, 61
INSTANCES = st.integers(0, 2)
ANY_POINT = ("",)


@pytest.fixture
def database() -> str:
    """One kind is enough here; the phases run on each of them elsewhere."""
    return "sqlite"


class Key:
    """What the model knows of a key: accepted values with their ends (seconds) or None."""

    def __init__(self, key_id: str, value: str, credential: str | None) -> None:
        self.key_id, self.values, self.credential = key_id, dict[str, float | None]({value: None}), credential
        self.content, self.enabled, self.bound, self.deleted = value, True, False, False


class Rotations(RuleBasedStateMachine):
    """One deployment through one rotation after the other."""

    make: Callable[..., Deployment]
    clock: TestClock
    finished = 0

    @initialize()
    def start(self) -> None:
        self.deployment = type(self).make()
        api = Api(self.deployment, self.deployment.operator[1])
        self.apis = [api, elsewhere(api, "first", ROOT_SECRET_VERSION="v1"), elsewhere(api, "none")]
        self.keys: list[Key] = []
        self.refused = ["not-a-value-of-anybody"]
        self.consumer = api.create_consumer()
        self.tokens: dict[str, float | None] = {self.deployment.operator[1]: None}
        self.operator, token = operator_admin.add(self.app, "rotating", "viewer")
        self.tokens[token] = None
        self.present, self.coming, self.number = 1, False, 0
        self.readers = {1: Reader(self.deployment, "v1")}
        self.create(0, "KMS")
        self.create(1, "Custom")
        self.set_bound(0, 0, bound=True)

    def teardown(self) -> None:
        if not hasattr(self, "deployment"):
            return
        try:
            self.clock.shift(LEASE)
            self.tick(0)
            self.every_reader_says_what_the_model_says()
            assert audit.verify(self.app).fault is None
            lasting = sum(end is None for key in self.live for end in key.values.values())
            row = sql(self.deployment, "SELECT entry_count, published_count FROM deployment")[0]
            assert (row["entry_count"], row["published_count"]) == (lasting, lasting)
        finally:
            for reader in self.readers.values():
                reader.close()
            self.deployment.close()

    @property
    def app(self) -> Any:
        return self.deployment.services

    @property
    def live(self) -> list[Key]:
        return [key for key in self.keys if not key.deleted]

    def pick(self, which: int) -> Key | None:
        return self.live[which % len(self.live)] if self.live else None

    # Operations

    @rule(where=INSTANCES, kind=st.sampled_from(["System", "Custom", "KMS"]))
    def create(self, where: int, kind: str) -> None:
        self.number += 1
        api, name, value = self.apis[where], f"key-{self.number}", f"value-{self.number}-Vw4t2Np8Zq"
        if kind == "KMS":
            made = kms_key(api, name, value, bound=False)
        else:
            made = api.create_key(name, generation=kind, **({"value": value} if kind == "Custom" else {}))
        self.keys.append(Key(made["key_id"], made.get("value", value), name if kind == "KMS" else None))

    @rule(where=INSTANCES, which=st.integers(0, 50), enabled=st.booleans())
    def set_status(self, where: int, which: int, enabled: bool) -> None:
        if (key := self.pick(which)) is not None:
            call = "enable" if enabled else "disable"
            assert self.apis[where](f"{call}_key", "POST", f"/keys/{key.key_id}/{call}").status == 200
            key.enabled = enabled

    @rule(where=INSTANCES, which=st.integers(0, 50), bound=st.booleans())
    def set_bound(self, where: int, which: int, bound: bool) -> None:
        if (key := self.pick(which)) is not None:
            call, method = ("bind_consumer", "PUT") if bound else ("unbind_consumer", "DELETE")
            body = {"consumer_id": self.consumer["consumer_id"]} if bound else None
            assert self.apis[where](call, method, f"/keys/{key.key_id}/consumer", body).status == 200
            key.bound = bound

    @rule(where=INSTANCES, which=st.integers(0, 50))
    def delete(self, where: int, which: int) -> None:
        if (key := self.pick(which)) is not None:
            self.set_status(where, which, enabled=False)
            self.set_bound(where, which, bound=False)
            assert self.apis[where]("delete_key", "DELETE", f"/keys/{key.key_id}").status == 204
            key.deleted = True
            self.refused = [*self.refused, *key.values][-4:]

    @rule(which=st.integers(0, 50))
    def change_content(self, which: int) -> None:
        followed = [key for key in self.live if key.credential is not None]
        if followed:
            self.number += 1
            key = followed[which % len(followed)]
            key.content = f"content-{self.number}-Vw4t2Np8Zq"
            change_content(self.apis[0], str(key.credential), key.content)

    @rule(where=INSTANCES)
    def tick(self, where: int) -> None:
        self.clock.shift(1)
        report = self.apis[where].tick()
        assert (report["publish_error"], report["audit_error"], report["errors"]) == (None, None, {})
        for key in self.live:
            if key.content not in key.values:
                ends = {value: self.clock.now() + OVERLAP if end is None else end for value, end in key.values.items()}
                key.values = {**ends, key.content: None}

    @rule(seconds=st.sampled_from([1, 20, 299, 420]))
    def pass_time(self, seconds: int) -> None:
        self.clock.shift(seconds)
        self.tick(0)

    @rule(keep=st.sampled_from([0, 100, 500]))
    def rotate_operator(self, keep: int) -> None:
        until = self.clock.now() + keep
        mine = {token: end for token, end in self.tokens.items() if token != self.deployment.operator[1]}
        _, token = operator_admin.rotate(self.app, self.operator, keep * 1000)
        for former, end in mine.items():
            self.tokens[former] = until if end is None else min(end, until)
        self.tokens[token] = None

    @rule()
    def forget(self) -> None:
        """Every instance starts anew."""
        wiring.close()

    # The rotation

    def killing(self, kill_at: int | None, work: Callable[[], Any]) -> bool:
        """Whether the work came to its end; after a kill the dead publisher's lease runs out, and the timer ticks."""
        if kill_at is None:
            work()
            return True
        with suppress(Killed), killed_at(kill_at, *ANY_POINT):
            work()
            return True
        self.clock.shift(LEASE)
        self.tick(0)
        return False

    @rule(kill_at=st.none() | st.integers(1, 14), batch=st.integers(1, 3))
    def go_on(self, kill_at: int | None, batch: int) -> None:
        """The next step of the rotation, whichever it is."""
        if not self.coming:
            self.begin(kill_at)
        elif self.present + 1 in self.readers:
            self.finish(kill_at, batch)
        elif root_rotation.status(self.app)["phase"] == "ready":
            self.readers[self.present + 1] = Reader(self.deployment, f"v{self.present + 1}")
        else:
            self.backfill(kill_at, batch)

    @rule(kill_at=st.none() | st.integers(1, 14), batch=st.integers(1, 3))
    def and_on(self, kill_at: int | None, batch: int) -> None:
        """As often again: a rotation has at least four steps."""
        self.go_on(kill_at, batch)

    @rule(where=INSTANCES, batch=st.integers(1, 3))
    def and_on_while_others_work(self, where: int, batch: int) -> None:
        self.create(where, "System")
        self.go_on(None, batch)
        self.set_bound(where, len(self.live) - 1, bound=True)

    def begin(self, kill_at: int | None) -> None:
        self.killing(kill_at, lambda: root_rotation.begin(self.app, None))
        self.coming = root_rotation.status(self.app)["coming"] is not None
        if self.coming and self.present == 1:
            self.apis[2] = elsewhere(self.apis[0], "then", ROOT_SECRET_VERSION="v2")

    @precondition(lambda self: self.coming)
    @rule()
    def begin_too_early(self) -> None:
        with pytest.raises(RotationRefused, match="alive already"):
            root_rotation.begin(self.app, None)

    def backfill(self, kill_at: int | None, batch: int) -> None:
        def work() -> None:
            root_rotation.backfill(self.app, batch, pause=lambda _: None, progress=lambda _: None)

        self.killing(kill_at, work)

    def finish(self, kill_at: int | None, batch: int) -> None:
        if self.present in self.readers:
            self.readers.pop(self.present).close()

        def work() -> None:
            root_rotation.finish(self.app, batch, readers_moved=True, progress=lambda _: None)

        self.killing(kill_at, work)
        if root_rotation.status(self.app)["coming"] is None:
            former, self.present, self.coming = f"v{self.present}", self.present + 1, False
            type(self).finished += 1
            self.tick(0)  # the audit log's head is signed under the new version
            version = {"SecretName": "consumer-keys-root", "VersionId": former}
            self.deployment.cloud.call("ssm", "DeleteSecretVersion", **version)

    @precondition(lambda self: self.coming and self.present + 1 not in self.readers)
    @rule()
    def finish_too_early(self) -> None:
        if root_rotation.status(self.app)["phase"] != "ready":
            with pytest.raises(RotationRefused, match="not ready"):
                root_rotation.finish(self.app, 1, readers_moved=True, progress=lambda _: None)

    # What must hold

    @invariant()
    def every_reader_says_what_the_model_says(self) -> None:
        now = self.clock.now()
        for version, reader in self.readers.items():
            for key in self.live:
                for value, end in key.values.items():
                    good = key.enabled and key.bound and (end is None or now < end)
                    assert reader.status(value) == (200 if good else 401), (version, key.key_id, value, end, now)
            for value in self.refused:
                assert reader.status(value) == 401, (version, value)
            for token, end in self.tokens.items():
                assert reader.knows(token) == (end is None or now < end), version

    @invariant()
    def every_instance_knows_the_operators(self) -> None:
        now = self.clock.now()
        for number, api in enumerate(self.apis):
            for token, end in list(self.tokens.items())[-2:]:
                expected = 200 if end is None or now < end else 401
                assert api("list_keys", "GET", "/keys", token=token).status == expected, number

    @invariant()
    def at_most_two_versions_are_alive(self) -> None:
        values = sql(self.deployment, "SELECT root_generation, coming_digest FROM key_values")
        generations = {row["root_generation"] for row in values}
        assert generations <= {self.present - 1, self.present} if self.coming else generations <= {self.present - 1}
        assert self.coming or all(row["coming_digest"] is None for row in values)


@pytest.mark.long
def test_no_order_of_operations_phases_and_kills_changes_a_verdict(
    make_deployment: Callable[..., Deployment], clock: TestClock
) -> None:
    class Machine(Rotations):
        pass

    Machine.make, Machine.clock = staticmethod(make_deployment), clock
    quiet = list(HealthCheck)
    limits = settings(max_examples=EXAMPLES, stateful_step_count=STEPS, deadline=None, suppress_health_check=quiet)
    run_state_machine_as_test(Machine, settings=limits)
    assert Machine.finished, "the model must go through whole rotations"
