"""The tables. Dialect differences live here and in `database`; times are Unix milliseconds."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects import mysql

SCHEMA_REVISION = "0002"
metadata = sa.MetaData()


def _text(length: int) -> sa.types.TypeEngine[str]:
    """Text that compares by its exact characters on every database."""
    return sa.String(length).with_variant(
        mysql.VARCHAR(length, charset="utf8mb4", collation="utf8mb4_bin"), "mysql", "mariadb"
    )


def _bytes(length: int) -> sa.types.TypeEngine[bytes]:
    return sa.LargeBinary(length).with_variant(mysql.VARBINARY(length), "mysql", "mariadb")


def _long_text() -> sa.types.TypeEngine[str]:
    return sa.Text().with_variant(mysql.LONGTEXT(charset="utf8mb4", collation="utf8mb4_bin"), "mysql", "mariadb")


deployment = sa.Table(
    "deployment",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    # One counter for everything. The row is locked first in every change, so revisions commit in order.
    sa.Column("revision", sa.BigInteger, nullable=False),
    sa.Column("entry_count", sa.BigInteger, nullable=False),
    sa.Column("published_version", sa.BigInteger, nullable=False),
    sa.Column("published_revision", sa.BigInteger, nullable=False),
    sa.Column("published_at", sa.BigInteger, nullable=False),
    sa.Column("published_count", sa.BigInteger, nullable=False),
    # The base that overlays are relative to, as JSON of a snapshot part, and the revision that it holds.
    sa.Column("base", _long_text(), nullable=True),
    sa.Column("base_revision", sa.BigInteger, nullable=False),
    sa.Column("sync_report", _long_text(), nullable=True),
)

leases = sa.Table(
    "leases",
    metadata,
    sa.Column("name", _text(32), primary_key=True),
    sa.Column("holder", _text(64), nullable=False),
    sa.Column("expires_at", sa.BigInteger, nullable=False),
    sa.Column("token", sa.BigInteger, nullable=False),
)

consumers = sa.Table(
    "consumers",
    metadata,
    sa.Column("consumer_id", _text(32), primary_key=True),
    sa.Column("gateway_id", _text(64), nullable=False),
    sa.Column("name", _text(60), nullable=False),
    sa.Column("description", _text(200), nullable=False),
    sa.Column("status", _text(8), nullable=False),
    sa.Column("revision", sa.BigInteger, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("modified_at", sa.BigInteger, nullable=False),
    sa.UniqueConstraint("gateway_id", "name", name="uq_consumers_name"),
    sa.Index("ix_consumers_order", "gateway_id", "created_at", "consumer_id"),
)

consumer_keys = sa.Table(
    "consumer_keys",
    metadata,
    sa.Column("key_id", _text(32), primary_key=True),
    sa.Column("gateway_id", _text(64), nullable=False),
    sa.Column("name", _text(60), nullable=False),
    sa.Column("description", _text(200), nullable=False),
    sa.Column("type", _text(16), nullable=False),
    sa.Column("generation", _text(8), nullable=False),
    sa.Column("status", _text(8), nullable=False),
    sa.Column("masked_value", _text(16), nullable=False),
    sa.Column("consumer_id", _text(32), sa.ForeignKey("consumers.consumer_id"), nullable=True),
    sa.Column("credential_name", _text(128), nullable=True),
    sa.Column("credential_version", _text(64), nullable=True),
    sa.Column("sync_status", _text(8), nullable=True),
    sa.Column("sync_error", _text(64), nullable=True),
    sa.Column("sync_checked_at", sa.BigInteger, nullable=True),
    sa.Column("sync_failures", sa.Integer, nullable=False),
    sa.Column("sync_next_at", sa.BigInteger, nullable=True),
    sa.Column("gone_at", sa.BigInteger, nullable=True),
    sa.Column("revision", sa.BigInteger, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("modified_at", sa.BigInteger, nullable=False),
    sa.UniqueConstraint("gateway_id", "name", name="uq_consumer_keys_name"),
    sa.Index("ix_consumer_keys_order", "gateway_id", "created_at", "key_id"),
    sa.Index("ix_consumer_keys_consumer", "consumer_id"),
    sa.Index("ix_consumer_keys_sync", "generation", "sync_next_at"),
)

key_values = sa.Table(
    "key_values",
    metadata,
    # What a key accepts. A KMS key has its current content and, for the overlap, its former one.
    sa.Column("digest", _bytes(32), primary_key=True),
    sa.Column("key_id", _text(32), sa.ForeignKey("consumer_keys.key_id"), nullable=False),
    sa.Column("ends_at", sa.BigInteger, nullable=True),
    sa.Column("sealed", _bytes(1024), nullable=True),
    sa.Column("data_key_id", _text(32), sa.ForeignKey("data_keys.data_key_id"), nullable=True),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Index("ix_key_values_key", "key_id"),
    sa.Index("ix_key_values_ends", "ends_at"),
)

data_keys = sa.Table(
    "data_keys",
    metadata,
    sa.Column("data_key_id", _text(32), primary_key=True),
    sa.Column("purpose", _text(16), nullable=False),
    sa.Column("kms_key_id", _text(64), nullable=False),
    sa.Column("blob", _text(1024), nullable=False),
    sa.Column("context", _text(512), nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
)

operators = sa.Table(
    "operators",
    metadata,
    sa.Column("secret_id", _text(64), primary_key=True),
    sa.Column("name", _text(60), nullable=False, unique=True),
    sa.Column("role", _text(16), nullable=False),
    sa.Column("gateways", _text(2000), nullable=True),
    sa.Column("status", _text(8), nullable=False),
    sa.Column("digest", _bytes(32), nullable=False, unique=True),
    sa.Column("sealed", _bytes(1024), nullable=False),
    sa.Column("data_key_id", _text(32), sa.ForeignKey("data_keys.data_key_id"), nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
)

changes = sa.Table(
    "changes",
    metadata,
    # What differs from the base: a value's digest or a consumer's id, and the revision of its last change.
    sa.Column("kind", _text(8), primary_key=True),
    sa.Column("ref", _bytes(32), primary_key=True),
    sa.Column("revision", sa.BigInteger, nullable=False),
    sa.Index("ix_changes_revision", "revision"),
)

publications = sa.Table(
    "publications",
    metadata,
    sa.Column("version", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("revision", sa.BigInteger, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("base", _text(128), nullable=False),
    sa.Column("overlay", _text(128), nullable=False),
)

audit = sa.Table(
    "audit",
    metadata,
    sa.Column("sequence", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("actor", _text(80), nullable=False),
    sa.Column("action", _text(40), nullable=False),
    sa.Column("gateway_id", _text(64), nullable=False),
    sa.Column("target", _text(64), nullable=False),
    sa.Column("before", _long_text(), nullable=True),
    sa.Column("after", _long_text(), nullable=True),
    sa.Column("request_id", _text(64), nullable=False),
    sa.Column("revision", sa.BigInteger, nullable=False),
)

idempotency = sa.Table(
    "idempotency",
    metadata,
    sa.Column("actor", _text(80), primary_key=True),
    sa.Column("idempotency_key", _text(255), primary_key=True),
    sa.Column("fingerprint", _text(64), nullable=False),
    sa.Column("body", _long_text(), nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Index("ix_idempotency_created", "created_at"),
)

signatures = sa.Table(
    "signatures",
    metadata,
    # Signed requests that changed something: a digest of function and signature, and when it was first seen.
    sa.Column("digest", _bytes(32), primary_key=True),
    sa.Column("seen_at", sa.BigInteger, nullable=False),
    sa.Index("ix_signatures_seen", "seen_at"),
)
