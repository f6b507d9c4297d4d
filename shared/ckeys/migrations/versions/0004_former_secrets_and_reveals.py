"""Former secrets of operators, and what the limits of revealing are counted from."""

import sqlalchemy as sa
from sqlalchemy.dialects import mysql

from ckeys import steps

revision = "0004"
down_revision = "0003"

_MYSQL = {"charset": "utf8mb4", "collation": "utf8mb4_bin"}


def _text(length):
    return sa.String(length).with_variant(mysql.VARCHAR(length, **_MYSQL), "mysql", "mariadb")


def _bytes(length):
    return sa.LargeBinary(length).with_variant(mysql.VARBINARY(length), "mysql", "mariadb")


def upgrade():
    """Creates both tables."""
    steps.create_table(
        "former_secrets",
        sa.Column("digest", _bytes(32), nullable=False),
        sa.Column("secret_id", _text(64), nullable=False),
        sa.Column("sealed", _bytes(1024), nullable=False),
        sa.Column("data_key_id", _text(32), nullable=False),
        sa.Column("ends_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["secret_id"], ["operators.secret_id"]),
        sa.ForeignKeyConstraint(["data_key_id"], ["data_keys.data_key_id"]),
        sa.PrimaryKeyConstraint("digest"),
    )
    steps.create_index("ix_former_secrets_operator", "former_secrets", ["secret_id"])
    steps.create_table(
        "reveals",
        sa.Column("sequence", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("actor", _text(80), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("sequence"),
    )
    steps.create_index("ix_reveals_actor", "reveals", ["actor", "at"])
