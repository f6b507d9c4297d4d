"""The first schema."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

from ckeys import steps

revision = "0001"
down_revision = None

_MYSQL = {"charset": "utf8mb4", "collation": "utf8mb4_bin"}


def _text(length):
    return sa.String(length).with_variant(mysql.VARCHAR(length, **_MYSQL), "mysql", "mariadb")


def _bytes(length):
    return sa.LargeBinary(length).with_variant(mysql.VARBINARY(length), "mysql", "mariadb")


def _long_text():
    return sa.Text().with_variant(mysql.LONGTEXT(**_MYSQL), "mysql", "mariadb")


def upgrade():
    """Creates every table, the one deployment row and the leases."""
    steps.create_table(
        "audit",
        sa.Column("sequence", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("actor", _text(80), nullable=False),
        sa.Column("action", _text(40), nullable=False),
        sa.Column("gateway_id", _text(64), nullable=False),
        sa.Column("target", _text(64), nullable=False),
        sa.Column("before", _long_text(), nullable=True),
        sa.Column("after", _long_text(), nullable=True),
        sa.Column("request_id", _text(64), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("sequence"),
    )
    steps.create_table(
        "changes",
        sa.Column("kind", _text(8), nullable=False),
        sa.Column("ref", _bytes(32), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("kind", "ref"),
    )
    steps.create_index("ix_changes_revision", "changes", ["revision"])
    steps.create_table(
        "consumers",
        sa.Column("consumer_id", _text(32), nullable=False),
        sa.Column("gateway_id", _text(64), nullable=False),
        sa.Column("name", _text(60), nullable=False),
        sa.Column("description", _text(200), nullable=False),
        sa.Column("status", _text(8), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("modified_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("consumer_id"),
        sa.UniqueConstraint("gateway_id", "name", name="uq_consumers_name"),
    )
    steps.create_index("ix_consumers_order", "consumers", ["gateway_id", "created_at", "consumer_id"])
    steps.create_table(
        "data_keys",
        sa.Column("data_key_id", _text(32), nullable=False),
        sa.Column("purpose", _text(16), nullable=False),
        sa.Column("kms_key_id", _text(64), nullable=False),
        sa.Column("blob", _text(1024), nullable=False),
        sa.Column("context", _text(512), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("data_key_id"),
    )
    steps.create_table(
        "deployment",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("entry_count", sa.BigInteger(), nullable=False),
        sa.Column("published_version", sa.BigInteger(), nullable=False),
        sa.Column("published_revision", sa.BigInteger(), nullable=False),
        sa.Column("published_at", sa.BigInteger(), nullable=False),
        sa.Column("published_count", sa.BigInteger(), nullable=False),
        sa.Column("base", _long_text(), nullable=True),
        sa.Column("base_revision", sa.BigInteger(), nullable=False),
        sa.Column("sync_report", _long_text(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    steps.create_table(
        "idempotency",
        sa.Column("actor", _text(80), nullable=False),
        sa.Column("idempotency_key", _text(255), nullable=False),
        sa.Column("fingerprint", _text(64), nullable=False),
        sa.Column("body", _long_text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("actor", "idempotency_key"),
    )
    steps.create_index("ix_idempotency_created", "idempotency", ["created_at"])
    steps.create_table(
        "leases",
        sa.Column("name", _text(32), nullable=False),
        sa.Column("holder", _text(64), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.Column("token", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    steps.create_table(
        "publications",
        sa.Column("version", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("base", _text(128), nullable=False),
        sa.Column("overlay", _text(128), nullable=False),
        sa.PrimaryKeyConstraint("version"),
    )
    steps.create_table(
        "consumer_keys",
        sa.Column("key_id", _text(32), nullable=False),
        sa.Column("gateway_id", _text(64), nullable=False),
        sa.Column("name", _text(60), nullable=False),
        sa.Column("description", _text(200), nullable=False),
        sa.Column("type", _text(16), nullable=False),
        sa.Column("generation", _text(8), nullable=False),
        sa.Column("status", _text(8), nullable=False),
        sa.Column("masked_value", _text(16), nullable=False),
        sa.Column("consumer_id", _text(32), nullable=True),
        sa.Column("credential_name", _text(128), nullable=True),
        sa.Column("credential_version", _text(64), nullable=True),
        sa.Column("sync_status", _text(8), nullable=True),
        sa.Column("sync_error", _text(64), nullable=True),
        sa.Column("sync_checked_at", sa.BigInteger(), nullable=True),
        sa.Column("sync_failures", sa.Integer(), nullable=False),
        sa.Column("sync_next_at", sa.BigInteger(), nullable=True),
        sa.Column("gone_at", sa.BigInteger(), nullable=True),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("modified_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["consumer_id"],
            ["consumers.consumer_id"],
        ),
        sa.PrimaryKeyConstraint("key_id"),
        sa.UniqueConstraint("gateway_id", "name", name="uq_consumer_keys_name"),
    )
    steps.create_index("ix_consumer_keys_consumer", "consumer_keys", ["consumer_id"])
    steps.create_index("ix_consumer_keys_order", "consumer_keys", ["gateway_id", "created_at", "key_id"])
    steps.create_index("ix_consumer_keys_sync", "consumer_keys", ["generation", "sync_next_at"])
    steps.create_table(
        "operators",
        sa.Column("secret_id", _text(64), nullable=False),
        sa.Column("name", _text(60), nullable=False),
        sa.Column("role", _text(16), nullable=False),
        sa.Column("gateways", _text(2000), nullable=True),
        sa.Column("status", _text(8), nullable=False),
        sa.Column("digest", _bytes(32), nullable=False),
        sa.Column("sealed", _bytes(1024), nullable=False),
        sa.Column("data_key_id", _text(32), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["data_key_id"],
            ["data_keys.data_key_id"],
        ),
        sa.PrimaryKeyConstraint("secret_id"),
        sa.UniqueConstraint("digest"),
        sa.UniqueConstraint("name"),
    )
    steps.create_table(
        "key_values",
        sa.Column("digest", _bytes(32), nullable=False),
        sa.Column("key_id", _text(32), nullable=False),
        sa.Column("ends_at", sa.BigInteger(), nullable=True),
        sa.Column("sealed", _bytes(1024), nullable=True),
        sa.Column("data_key_id", _text(32), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["data_key_id"],
            ["data_keys.data_key_id"],
        ),
        sa.ForeignKeyConstraint(
            ["key_id"],
            ["consumer_keys.key_id"],
        ),
        sa.PrimaryKeyConstraint("digest"),
    )
    steps.create_index("ix_key_values_ends", "key_values", ["ends_at"])
    steps.create_index("ix_key_values_key", "key_values", ["key_id"])
    # Committed together with this migration's number on every database, so never repeated.
    op.execute(
        "INSERT INTO deployment (id, revision, entry_count, published_version, published_revision, published_at,"
        " published_count, base_revision) VALUES (1, 0, 0, 0, 0, 0, 0, 0)"
    )
    for name in ("publish", "sync"):
        op.execute(f"INSERT INTO leases (name, holder, expires_at, token) VALUES ('{name}', '', 0, 0)")
