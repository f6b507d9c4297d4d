"""Sealed values that were moved or damaged in the database: nobody is given another one's, and all of it is told."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest
import sqlalchemy as sa

from ckeys.deployment import Deployment
from consumer_keys import operator_admin, wiring
from consumer_keys.store.schema import data_keys
from tests.conftest import Answer, Api
from tests.functions.helpers import nothing_changes, problem, sql
from tests.functions.test_signatures import KEYS, logged_by, send
from tests.tc3_signer import signed_event

OTHER = "/v1/gateways/other"


class Row(NamedTuple):
    """One sealed value: its table, and the row by its column."""

    table: str
    column: str
    ident: str


class Case(NamedTuple):
    """Keys of two gateways and an operator, each with the secret that is sealed for it."""

    api: Api
    key: dict[str, Any]
    second: dict[str, Any]
    elsewhere: dict[str, Any]
    operator: tuple[str, str]

    @property
    def rows(self) -> dict[str, Row]:
        """Where each is sealed."""
        keys = {"key": self.key, "second": self.second, "elsewhere": self.elsewhere}
        rows = {name: Row("key_values", "key_id", key["key_id"]) for name, key in keys.items()}
        return rows | {"operator": Row("operators", "secret_id", self.operator[0])}

    def reveal(self, name: str) -> Answer:
        """What `reveal_key` answers for a key."""
        base, key = (OTHER, self.elsewhere) if name == "elsewhere" else ("", getattr(self, name))
        return self.api("reveal_key", "POST", f"{base}/keys/{key['key_id']}/reveal", {})


@pytest.fixture
def case(make_deployment: Callable[..., Deployment]) -> Case:
    deployment = make_deployment(GATEWAYS="default=One,other=Two")
    api = Api(deployment, deployment.operator[1])
    elsewhere = api("create_key", "POST", f"{OTHER}/keys", {"name": "elsewhere", "generation": "System"}).body
    custom = {"generation": "Custom", "value": "kT7vQ2xM9wLp4Zr8"}
    second = {**api.create_key("second", **custom), "value": custom["value"]}
    return Case(api, api.create_key(), second, elsewhere, deployment.add_operator("worker", "admin"))


def sealed(case: Case, row: Row) -> dict[str, Any]:
    """What a row holds: sealed bytes and the id of their data key."""
    query = f"SELECT sealed, data_key_id FROM {row.table} WHERE {row.column} = :ident"
    (found,) = sql(case.api.deployment, query, ident=row.ident)
    return found


def put(case: Case, row: Row, content: dict[str, Any]) -> None:
    change = f"UPDATE {row.table} SET sealed = :sealed, data_key_id = :data_key_id WHERE {row.column} = :ident"
    sql(case.api.deployment, change, ident=row.ident, **content)


@contextmanager
def swapped(case: Case, one: str, other: str) -> Iterator[None]:
    """Two rows have exchanged what is sealed in them, data keys included, as an UPDATE can."""
    rows = case.rows[one], case.rows[other]
    held = [sealed(case, row) for row in rows]
    put(case, rows[0], held[1])
    put(case, rows[1], held[0])
    yield
    for row, content in zip(rows, held, strict=True):
        put(case, row, content)


def denied(case: Case) -> list[tuple[str, str, str]]:
    """(gateway, key, code) of every refused reveal in the audit log."""
    rows = sql(case.api.deployment, "SELECT * FROM audit WHERE action = 'key.reveal_denied' ORDER BY sequence")
    return [(row["gateway_id"], row["target"], json.loads(row["after"])["code"]) for row in rows]


def signing(case: Case, pair: tuple[str, str]) -> Answer:
    """A call that an operator signs."""
    return send(case.api.deployment, "list_keys", signed_event(pair, "GET", KEYS))


@pytest.mark.parametrize(("one", "other"), [("key", "second"), ("key", "elsewhere"), ("key", "operator")])
def test_a_swapped_value_is_never_given_in_the_place_of_another(
    case: Case, one: str, other: str, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = [name for name in (one, other) if name != "operator"]
    secrets = [case.key["value"], case.second["value"], case.elsewhere["value"], case.operator[1]]
    capsys.readouterr()
    with swapped(case, one, other):
        for warm in (True, False):
            if not warm:
                wiring.close()  # an instance that did not seal them itself
            for name in keys:
                with nothing_changes(case.api.deployment):
                    answer = case.reveal(name)
                problem(answer, 500, "ValueDamaged")
                assert not any(secret in str(answer) for secret in secrets)
    log = capsys.readouterr().out
    assert not any(secret in log for secret in secrets)
    lines = [json.loads(line) for line in log.splitlines()]
    refused = [line for line in lines if line["event"] == "request" and line["status"] == 500]
    assert {line["code"] for line in refused} == {"ValueDamaged"}
    assert all(line["reason"] for line in refused)
    assert not [line for line in lines if line["event"] == "internal_error"]
    places = [("other" if name == "elsewhere" else "default", case.rows[name].ident) for name in keys]
    assert denied(case) == [(*place, "ValueDamaged") for place in places] * 2
    for name in keys:
        assert case.reveal(name).body["value"] == getattr(case, name)["value"], "back in its place it opens"


def test_damage_of_any_kind_has_the_same_code_and_its_audit_row(case: Case) -> None:
    deployment, row = case.api.deployment, case.rows["key"]
    good, other = sealed(case, row), sealed(case, case.rows["operator"])
    cut, flipped = good["sealed"][:-1], bytes(good["sealed"][:-1]) + bytes([good["sealed"][-1] ^ 1])
    damages: list[dict[str, Any]] = [{"sealed": data} for data in (b"", b"\0", None, cut, flipped)]
    for damage in (*damages, other):
        put(case, row, good | damage)
        problem(case.reveal("key"), 500, "ValueDamaged")
    put(case, row, good)
    assert case.reveal("key").status == 200
    # The rows themselves: a value that became another key's, so that one has two and one has none.
    moved = "UPDATE key_values SET key_id = :new WHERE key_id = :old"
    sql(deployment, moved, new=case.second["key_id"], old=row.ident)
    for name in ("key", "second"):
        problem(case.reveal(name), 500, "ValueDamaged")
    assert len(denied(case)) == len(damages) + 1 + 2


def test_data_keys_that_were_exchanged_in_the_database_are_damage_and_no_outage(case: Case) -> None:
    wiring.close()  # what is sealed from here on is under other data keys
    case.api.create_key("later")
    case.api.deployment.add_operator("later", "viewer")
    rows = sql(case.api.deployment, "SELECT * FROM data_keys ORDER BY purpose")
    assert [row["purpose"] for row in rows] == ["operators", "operators", "values", "values"]
    with case.api.deployment.services.store.engine.begin() as connection:
        for row, other in zip(rows, (rows[1], rows[0], rows[3], rows[2]), strict=True):
            exchanged = {"blob": other["blob"], "context": other["context"]}
            own = data_keys.c.data_key_id == row["data_key_id"]
            connection.execute(sa.update(data_keys).where(own).values(exchanged))
    wiring.close()
    problem(case.reveal("key"), 500, "ValueDamaged")
    problem(signing(case, case.operator), 401, "Unauthenticated")


def test_the_vendors_action_says_it_in_its_own_words_and_is_audited_too(case: Case) -> None:
    shown = {
        "Action": "DescribeCloudNativeAPIGatewaySecretKeyValue", "Version": "2023-04-18", "GatewayId": "default",
        "SecretKeyId": case.key["key_id"],
    }  # fmt: skip
    with swapped(case, "key", "second"):
        answer = case.api.deployment.call("cloud_api", shown)["Response"]
    assert answer["Error"]["Code"] == "InternalError"
    assert "damaged or moved" in answer["Error"]["Message"]
    assert denied(case) == [("default", case.key["key_id"], "ValueDamaged")]


def test_an_operators_damaged_secret_fails_that_operators_signatures_alone(
    case: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    bystander = case.api.deployment.add_operator("bystander", "viewer")
    assert signing(case, case.operator).status == 200
    with swapped(case, "operator", "key"):
        # Not even by the text that is sealed there now.
        for pair in (case.operator, (case.operator[0], case.key["value"])):
            capsys.readouterr()
            problem(signing(case, pair), 401, "Unauthenticated")
            assert logged_by("list_keys", capsys)["reason"] == "Damaged"
        assert signing(case, bystander).status == 200
        assert Api(case.api.deployment, case.operator[1])("list_keys", "GET", "/keys").status == 200
        named: dict[str, Any] = {"x_tc_action": "DescribeCloudNativeAPIGatewaySecretKeyList"}
        event = signed_event(case.operator, "POST", "/", {}, service="cngw", x_tc_version="2023-04-18", **named)
        capsys.readouterr()
        answer = send(case.api.deployment, "cloud_api", event)
        assert answer.body["Response"]["Error"]["Code"] == "AuthFailure.SignatureFailure"
        assert logged_by("cloud_api", capsys)["reason"] == "Damaged"
    assert signing(case, case.operator).status == 200


def test_what_an_operator_is_told_of_a_damaged_secret_is_what_a_wrong_one_gets(case: Case) -> None:
    wrong = signing(case, (case.operator[0], "x" * 40))
    with swapped(case, "operator", "key"):
        damaged = signing(case, case.operator)
    for answer in (wrong, damaged):
        del answer.body["request_id"]
    assert damaged == wrong


def test_an_operators_other_secret_counts_when_one_of_them_is_damaged(case: Case) -> None:
    app = case.api.deployment.services
    former, present = case.operator, operator_admin.rotate(app, "worker", 3_600_000)
    assert [signing(case, pair).status for pair in (former, present)] == [200, 200]
    with swapped(case, "operator", "key"):
        assert [signing(case, pair).status for pair in (former, present)] == [200, 401]
    sql(case.api.deployment, "UPDATE former_secrets SET sealed = :bad", bad=b"\0")
    assert [signing(case, pair).status for pair in (former, present)] == [401, 200]
