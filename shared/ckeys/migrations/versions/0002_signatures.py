"""Signed requests that were used."""

import sqlalchemy as sa
from sqlalchemy.dialects import mysql

from ckeys import steps

revision = "0002"
down_revision = "0001"


def upgrade():
    """Creates the table of used signatures."""
    steps.create_table(
        "signatures",
        sa.Column("digest", sa.LargeBinary(32).with_variant(mysql.VARBINARY(32), "mysql", "mariadb"), nullable=False),
        sa.Column("seen_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("digest"),
    )
    steps.create_index("ix_signatures_seen", "signatures", ["seen_at"])
