"""Rotation of the root secret: which versions are alive, and each value's digest under the coming one."""

import sqlalchemy as sa
from sqlalchemy.dialects import mysql

from ckeys import steps

revision = "0007"
down_revision = "0006"


def _text(length):
    kind = mysql.VARCHAR(length, charset="utf8mb4", collation="utf8mb4_bin")
    return sa.String(length).with_variant(kind, "mysql", "mariadb")


def _bytes(length):
    return sa.LargeBinary(length).with_variant(mysql.VARBINARY(length), "mysql", "mariadb")


def upgrade():
    """Adds the columns; what is there belongs to the first generation, whose version the settings name."""
    steps.add_column("deployment", sa.Column("root_version", _text(64), nullable=True))
    steps.add_column("deployment", sa.Column("root_coming", _text(64), nullable=True))
    steps.add_column("deployment", sa.Column("root_generation", sa.Integer(), nullable=False, server_default="0"))
    steps.add_column("deployment", sa.Column("root_complete", sa.BigInteger(), nullable=False, server_default="0"))
    steps.add_column("deployment", sa.Column("base_floor", sa.BigInteger(), nullable=False, server_default="0"))
    steps.add_column("key_values", sa.Column("root_generation", sa.Integer(), nullable=False, server_default="0"))
    for table in ("key_values", "operators", "former_secrets"):
        steps.add_column(table, sa.Column("coming_digest", _bytes(32), nullable=True))
        steps.create_index(f"ux_{table}_coming", table, ["coming_digest"], unique=True)
