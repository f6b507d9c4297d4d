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
