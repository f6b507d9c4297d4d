"""Any sequence of SSM calls, in process, against a model small enough to be read."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tencent_emulator.cloud import Cloud, CloudError

DAY_S = 86_400
NAMES = st.sampled_from(["a", "b"])
VERSIONS = st.sampled_from([f"v{number}" for number in range(12)])
VALUES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)


class Secret:
    """The model: a state, a deletion time and values by version."""

    def __init__(self, version: str, value: str) -> None:
        self.state = "Enabled"
        self.delete_at = 0.0
        self.values = {version: value}


class SsmStates(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 1_800_000_000.0
        self.cloud = Cloud(clock=lambda: self.now)
        self.model: dict[str, Secret] = {}

    def teardown(self) -> None:
        self.cloud.close()

    def ask(self, action: str, **members: Any) -> str:
        """The refusal's code, or "" for success."""
        try:
            self.cloud.call("ssm", action, **members)
        except CloudError as error:
            return error.code
        return ""

    def found(self, name: str, *states: str) -> str:
        """The code the model expects before anything else is looked at."""
        if name not in self.model:
            return "ResourceNotFound"
        return "" if self.model[name].state in states else "FailedOperation"

    @rule(name=NAMES, version=VERSIONS, value=VALUES)
    def create(self, name: str, version: str, value: str) -> None:
        expected = "ResourceInUse.SecretExists" if name in self.model else ""
        assert self.ask("CreateSecret", SecretName=name, VersionId=version, SecretString=value) == expected
        self.model.setdefault(name, Secret(version, value))

    @precondition(lambda self: self.model)
    @rule(name=NAMES, version=VERSIONS, value=VALUES)
    def put(self, name: str, version: str, value: str) -> None:
        expected = self.found(name, "Enabled", "Disabled")
        if not expected and version in self.model[name].values:
            expected = "ResourceInUse.VersionIdExists"
        elif not expected and len(self.model[name].values) == 10:
            expected = "LimitExceeded"
        assert self.ask("PutSecretValue", SecretName=name, VersionId=version, SecretString=value) == expected
        if not expected:
            self.model[name].values[version] = value

    @precondition(lambda self: self.model)
    @rule(name=NAMES, version=VERSIONS, value=VALUES)
    def update(self, name: str, version: str, value: str) -> None:
        expected = self.found(name, "Enabled", "Disabled")
        if not expected and version not in self.model[name].values:
            expected = "ResourceNotFound"
        assert self.ask("UpdateSecret", SecretName=name, VersionId=version, SecretString=value) == expected
        if not expected:
            self.model[name].values[version] = value

    @precondition(lambda self: self.model)
    @rule(name=NAMES, version=VERSIONS)
    def delete_version(self, name: str, version: str) -> None:
        known = name in self.model and version in self.model[name].values
        expected = "" if known else "ResourceNotFound"
        assert self.ask("DeleteSecretVersion", SecretName=name, VersionId=version) == expected
        if known:
            del self.model[name].values[version]

    @precondition(lambda self: self.model)
    @rule(name=NAMES, move=st.sampled_from(["Enable", "Disable", "Restore"]))
    def move(self, name: str, move: str) -> None:
        old, new = {
            "Enable": ("Disabled", "Enabled"),
            "Disable": ("Enabled", "Disabled"),
            "Restore": ("PendingDelete", "Disabled"),
        }[move]
        expected = self.found(name, old)
        assert self.ask(f"{move}Secret", SecretName=name) == expected
        if not expected:
            self.model[name].state = new

    @precondition(lambda self: self.model)
    @rule(name=NAMES, days=st.integers(0, 3))
    def delete(self, name: str, days: int) -> None:
        expected = self.found(name, "Disabled")
        assert self.ask("DeleteSecret", SecretName=name, RecoveryWindowInDays=days) == expected
        if expected:
            return
        if days == 0:
            del self.model[name]
        else:
            self.model[name].state = "PendingDelete"
            self.model[name].delete_at = self.now + days * DAY_S

    @rule(seconds=st.sampled_from([1, DAY_S - 1, DAY_S, 3 * DAY_S]))
    def wait(self, seconds: int) -> None:
        self.now += seconds
        for name, secret in list(self.model.items()):
            if secret.state == "PendingDelete" and secret.delete_at <= self.now:
                del self.model[name]

    @invariant()
    def the_same_secrets_exist_in_the_same_states(self) -> None:
        listed = self.cloud.call("ssm", "ListSecrets")["SecretMetadatas"]
        assert {row["SecretName"]: row["Status"] for row in listed} == {
            name: secret.state for name, secret in self.model.items()
        }

    @invariant()
    def exactly_the_enabled_values_can_be_read(self) -> None:
        refusals = {
            "Disabled": "ResourceUnavailable.ResourceDisabled",
            "PendingDelete": "ResourceUnavailable.ResourcePendingDeleted",
        }
        for name, secret in self.model.items():
            listed = self.cloud.call("ssm", "ListSecretVersionIds", SecretName=name)["Versions"]
            assert {row["VersionId"] for row in listed} == set(secret.values)
            for version, value in secret.values.items():
                if secret.state == "Enabled":
                    got = self.cloud.call("ssm", "GetSecretValue", SecretName=name, VersionId=version)
                    assert got["SecretString"] == value
                else:
                    code = self.ask("GetSecretValue", SecretName=name, VersionId=version)
                    assert code == refusals[secret.state]


TestSsmStates = SsmStates.TestCase
TestSsmStates.settings = settings(max_examples=60, stateful_step_count=30, deadline=None, derandomize=True)
