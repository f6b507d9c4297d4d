"""Migrations carry over what is there."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import command

from ckeys.database import _config, migrate
from consumer_keys.audit_chain import GENESIS, first_fault
from consumer_keys.store.database import Database


def test_an_audit_log_from_before_the_chain_is_numbered_and_chained(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'old.db'}"
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        command.upgrade(_config(connection), "0001")
    with engine.begin() as connection:
        for sequence in (3, 4, 9):
            connection.execute(
                sa.text(
                    "INSERT INTO audit VALUES (:n, 5, 'operator-1', 'key.create', 'default', 's', NULL, :j, 'r', 7)"
                ),
                {"n": sequence, "j": '{"name":"名字"}'},
            )
    engine.dispose()
    assert migrate(url)[0] == "0001"
    database = Database(url)
    rows, counted = database.audit_log(lambda log: (list(log.rows()), log.counted()))
    assert [entry.sequence for entry, _ in rows] == [1, 2, 3]
    assert counted == (3, rows[-1][1])
    assert first_fault(rows, (0, GENESIS), [], counted) is None
    database.engine.dispose()


def test_a_deployment_from_before_rotations_has_the_version_that_the_settings_name(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'old.db'}"
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        command.upgrade(_config(connection), "0006")
    with engine.begin() as connection:
        for statement in (
            "INSERT INTO consumer_keys (key_id, gateway_id, name, description, type, generation, status, masked_value,"
            " sync_failures, revision, created_at, modified_at) VALUES ('secret-00000000000001', 'default', 'old', '',"
            " 'ApiKey', 'Custom', 'Enable', '****', 0, 1, 5, 5)",
            "INSERT INTO key_values (digest, key_id, created_at) VALUES (x'07', 'secret-00000000000001', 5)",
            "UPDATE deployment SET entry_count = 1, revision = 1",
        ):
            connection.execute(sa.text(statement))
    engine.dispose()
    assert migrate(url)[0] == "0006"
    database = Database(url)
    assert database.read(lambda db: db.alive("v5")) == ("v5", None)
    assert database.snapshot(lambda db: (db.root_state()[2:], db.bare_counts(5)[0])) == ((0, 0, True), 1)
    assert [digest for digest, _ in database.snapshot(lambda db: list(db.all_keys()))] == [b"\x07"]
    database.engine.dispose()
