"""Data keys that nothing refers to any longer."""

import sqlalchemy as sa

from ckeys import steps

revision = "0006"
down_revision = "0005"


def upgrade():
    """Adds when a data key fell out of use, and an index by which values are found under theirs."""
    steps.add_column("data_keys", sa.Column("unused_since", sa.BigInteger(), nullable=True))
    steps.create_index("ix_key_values_data_key", "key_values", ["data_key_id", "digest"])
