"""Consumer groups, and how a key came to be."""

import sqlalchemy as sa
from sqlalchemy.dialects import mysql

from ckeys import steps

revision = "0005"
down_revision = "0004"

_MYSQL = {"charset": "utf8mb4", "collation": "utf8mb4_bin"}


def _text(length):
    return sa.String(length).with_variant(mysql.VARCHAR(length, **_MYSQL), "mysql", "mariadb")


def upgrade():
    """Creates the tables of groups; keys that are there were made one by one."""
    steps.create_table(
        "consumer_groups",
        sa.Column("group_id", _text(32), nullable=False),
        sa.Column("gateway_id", _text(64), nullable=False),
        sa.Column("name", _text(60), nullable=False),
        sa.Column("description", _text(200), nullable=False),
        sa.Column("status", _text(8), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("modified_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("group_id"),
        sa.UniqueConstraint("gateway_id", "name", name="uq_consumer_groups_name"),
    )
    steps.create_index("ix_consumer_groups_order", "consumer_groups", ["gateway_id", "created_at", "group_id"])
    steps.create_table(
        "group_members",
        sa.Column("group_id", _text(32), nullable=False),
        sa.Column("consumer_id", _text(32), nullable=False),
        sa.ForeignKeyConstraint(["group_id"], ["consumer_groups.group_id"]),
        sa.ForeignKeyConstraint(["consumer_id"], ["consumers.consumer_id"]),
        sa.PrimaryKeyConstraint("group_id", "consumer_id"),
    )
    steps.create_index("ix_group_members_consumer", "group_members", ["consumer_id"])
    steps.create_table(
        "group_resources",
        sa.Column("group_id", _text(32), nullable=False),
        sa.Column("type", _text(16), nullable=False),
        sa.Column("resource_id", _text(64), nullable=False),
        sa.ForeignKeyConstraint(["group_id"], ["consumer_groups.group_id"]),
        sa.PrimaryKeyConstraint("group_id", "type", "resource_id"),
    )
    steps.create_index("ix_group_resources_resource", "group_resources", ["resource_id"])
    steps.add_column("consumer_keys", sa.Column("creation_source", _text(16), nullable=False, server_default="Manual"))
