"""The tables; times are Unix milliseconds."""

from __future__ import annotations

import sqlalchemy as sa

from consumer_keys.store.dialect import long_text, octets, text

SCHEMA_REVISION = "0008"
# How long rows of `idempotency` and `signatures` count. A signature is good from 5 minutes before to 5 minutes after
# its timestamp, so it cannot come back later than this.
IDEMPOTENCY_MS, SIGNATURE_MS = 86_400_000, 600_000
metadata = sa.MetaData()

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
    sa.Column("base", long_text(), nullable=True),
    sa.Column("base_revision", sa.BigInteger, nullable=False),
    sa.Column("sync_report", long_text(), nullable=True),
    # The last row of the audit log; under the same lock, so that its rows are numbered and chained without a gap.
    sa.Column("audit_sequence", sa.BigInteger, nullable=False),
    sa.Column("audit_hash", octets(32), nullable=False),
    # Versions of the root secret: the present one (NULL: as the settings say, it was never rotated) and the coming one.
    sa.Column("root_version", text(64), nullable=True),
    sa.Column("root_coming", text(64), nullable=True),
    # How often it was rotated, and the revision at which every value had its coming digest (0: not yet).
    sa.Column("root_generation", sa.Integer, nullable=False, server_default="0"),
    sa.Column("root_complete", sa.BigInteger, nullable=False, server_default="0"),
    # A base that holds an older revision than this is not to be built upon.
    sa.Column("base_floor", sa.BigInteger, nullable=False, server_default="0"),
)

leases = sa.Table(
    "leases",
    metadata,
    sa.Column("name", text(32), primary_key=True),
    sa.Column("holder", text(64), nullable=False),
    sa.Column("expires_at", sa.BigInteger, nullable=False),
    sa.Column("token", sa.BigInteger, nullable=False),
)

consumers = sa.Table(
    "consumers",
    metadata,
    sa.Column("consumer_id", text(32), primary_key=True),
    sa.Column("gateway_id", text(64), nullable=False),
    sa.Column("name", text(60), nullable=False),
    sa.Column("description", text(200), nullable=False),
    sa.Column("status", text(8), nullable=False),
    sa.Column("revision", sa.BigInteger, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("modified_at", sa.BigInteger, nullable=False),
    sa.UniqueConstraint("gateway_id", "name", name="uq_consumers_name"),
    sa.Index("ix_consumers_order", "gateway_id", "created_at", "consumer_id"),
)

consumer_groups = sa.Table(
    "consumer_groups",
    metadata,
    sa.Column("group_id", text(32), primary_key=True),
    sa.Column("gateway_id", text(64), nullable=False),
    sa.Column("name", text(60), nullable=False),
    sa.Column("description", text(200), nullable=False),
    sa.Column("status", text(8), nullable=False),
    sa.Column("revision", sa.BigInteger, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("modified_at", sa.BigInteger, nullable=False),
    sa.UniqueConstraint("gateway_id", "name", name="uq_consumer_groups_name"),
    sa.Index("ix_consumer_groups_order", "gateway_id", "created_at", "group_id"),
)

group_members = sa.Table(
    "group_members",
    metadata,
    sa.Column("group_id", text(32), sa.ForeignKey("consumer_groups.group_id"), primary_key=True),
    sa.Column("consumer_id", text(32), sa.ForeignKey("consumers.consumer_id"), primary_key=True),
    sa.Index("ix_group_members_consumer", "consumer_id"),
)

group_resources = sa.Table(
    "group_resources",
    metadata,
    # What a group is authorised on, in the gateway's own terms; kept and listed here, enforced by the gateway.
    sa.Column("group_id", text(32), sa.ForeignKey("consumer_groups.group_id"), primary_key=True),
    sa.Column("type", text(16), primary_key=True),
    sa.Column("resource_id", text(64), primary_key=True),
    sa.Index("ix_group_resources_resource", "resource_id"),
)

key_facets = sa.Table(
    "key_facets",
    metadata,
    # What the filters of a list tell apart, and how many keys are so: counted in the transaction of each change.
    sa.Column("facet_id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("gateway_id", text(64), nullable=False),
    sa.Column("type", text(16), nullable=False),
    sa.Column("generation", text(8), nullable=False),
    sa.Column("creation_source", text(16), nullable=False),
    sa.Column("status", text(8), nullable=False),
    sa.Column("bound", sa.Boolean, nullable=False),
    sa.Column("key_count", sa.BigInteger, nullable=False),
    sa.UniqueConstraint("gateway_id", "type", "generation", "creation_source", "status", "bound", name="uq_key_facets"),
)

consumer_keys = sa.Table(
    "consumer_keys",
    metadata,
    sa.Column("key_id", text(32), primary_key=True),
    sa.Column("gateway_id", text(64), nullable=False),
    sa.Column("name", text(60), nullable=False),
    sa.Column("description", text(200), nullable=False),
    sa.Column("type", text(16), nullable=False),
    sa.Column("generation", text(8), nullable=False),
    sa.Column("creation_source", text(16), nullable=False, server_default="Manual"),
    sa.Column("status", text(8), nullable=False),
    sa.Column("masked_value", text(16), nullable=False),
    sa.Column("consumer_id", text(32), sa.ForeignKey("consumers.consumer_id"), nullable=True),
    sa.Column("credential_name", text(128), nullable=True),
    sa.Column("credential_version", text(64), nullable=True),
    sa.Column("sync_status", text(8), nullable=True),
    sa.Column("sync_error", text(64), nullable=True),
    sa.Column("sync_checked_at", sa.BigInteger, nullable=True),
    sa.Column("sync_failures", sa.Integer, nullable=False),
    sa.Column("sync_next_at", sa.BigInteger, nullable=True),
    sa.Column("gone_at", sa.BigInteger, nullable=True),
    sa.Column("revision", sa.BigInteger, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("modified_at", sa.BigInteger, nullable=False),
    # Its row in key_facets; only a row that was written by hand has none, and no filter finds that.
    sa.Column("facet_id", sa.Integer, nullable=True),
    sa.UniqueConstraint("gateway_id", "name", name="uq_consumer_keys_name"),
    sa.Index("ix_consumer_keys_order", "gateway_id", "created_at", "key_id"),
    sa.Index("ix_consumer_keys_of_consumer", "consumer_id", "created_at", "key_id"),
    sa.Index("ix_consumer_keys_facet", "facet_id", "created_at", "key_id"),
    sa.Index("ix_consumer_keys_sync", "generation", "sync_next_at"),
)

key_values = sa.Table(
    "key_values",
    metadata,
    # What a key accepts. A KMS key has its current content and, for the overlap, its former one.
    sa.Column("digest", octets(32), primary_key=True),
    # The digest of the same value under the coming version of the root secret, and how often the secret had been
    # rotated for `digest`: as often as the deployment says, or once more while a rotation is being finished.
    sa.Column("coming_digest", octets(32), nullable=True),
    sa.Column("root_generation", sa.Integer, nullable=False, server_default="0"),
    sa.Column("key_id", text(32), sa.ForeignKey("consumer_keys.key_id"), nullable=False),
    sa.Column("ends_at", sa.BigInteger, nullable=True),
    sa.Column("sealed", octets(1024), nullable=True),
    sa.Column("data_key_id", text(32), sa.ForeignKey("data_keys.data_key_id"), nullable=True),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Index("ix_key_values_key", "key_id"),
    sa.Index("ix_key_values_ends", "ends_at"),
    sa.Index("ix_key_values_data_key", "data_key_id", "digest"),
    sa.Index("ux_key_values_coming", "coming_digest", unique=True),
)

data_keys = sa.Table(
    "data_keys",
    metadata,
    sa.Column("data_key_id", text(32), primary_key=True),
    sa.Column("purpose", text(16), nullable=False),
    sa.Column("kms_key_id", text(64), nullable=False),
    sa.Column("blob", text(1024), nullable=False),
    # What KMS bound the blob to, for people: the code works it out from environment, purpose and id instead.
    sa.Column("context", text(512), nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    # Since when (ms) nothing refers to it; it is destroyed after a while.
    sa.Column("unused_since", sa.BigInteger, nullable=True),
)

operators = sa.Table(
    "operators",
    metadata,
    sa.Column("secret_id", text(64), primary_key=True),
    sa.Column("name", text(60), nullable=False, unique=True),
    sa.Column("role", text(16), nullable=False),
    sa.Column("gateways", text(2000), nullable=True),
    sa.Column("status", text(8), nullable=False),
    sa.Column("digest", octets(32), nullable=False, unique=True),
    sa.Column("coming_digest", octets(32), nullable=True),
    sa.Column("sealed", octets(1024), nullable=False),
    sa.Column("data_key_id", text(32), sa.ForeignKey("data_keys.data_key_id"), nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Index("ux_operators_coming", "coming_digest", unique=True),
)

changes = sa.Table(
    "changes",
    metadata,
    # What differs from the base: a value's digest or a consumer's id, and the revision of its last change.
    sa.Column("kind", text(8), primary_key=True),
    sa.Column("ref", octets(32), primary_key=True),
    sa.Column("revision", sa.BigInteger, nullable=False),
    sa.Index("ix_changes_revision", "revision"),
)

publications = sa.Table(
    "publications",
    metadata,
    sa.Column("version", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("revision", sa.BigInteger, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("base", text(128), nullable=False),
    sa.Column("overlay", text(128), nullable=False),
)

audit = sa.Table(
    "audit",
    metadata,
    sa.Column("sequence", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("actor", text(80), nullable=False),
    sa.Column("action", text(40), nullable=False),
    sa.Column("gateway_id", text(64), nullable=False),
    sa.Column("target", text(64), nullable=False),
    sa.Column("before", long_text(), nullable=True),
    sa.Column("after", long_text(), nullable=True),
    sa.Column("request_id", text(64), nullable=False),
    sa.Column("revision", sa.BigInteger, nullable=False),
    sa.Column("hash", octets(32), nullable=False),
    sa.Index("ix_audit_gateway", "gateway_id", "sequence"),
    sa.Index("ix_audit_actor", "gateway_id", "actor", "sequence"),
    sa.Index("ix_audit_target", "gateway_id", "target", "sequence"),
    sa.Index("ix_audit_at", "gateway_id", "at"),
)

idempotency = sa.Table(
    "idempotency",
    metadata,
    sa.Column("actor", text(80), primary_key=True),
    sa.Column("idempotency_key", text(255), primary_key=True),
    sa.Column("fingerprint", text(64), nullable=False),
    sa.Column("body", long_text(), nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Index("ix_idempotency_created", "created_at"),
)

signatures = sa.Table(
    "signatures",
    metadata,
    # Signed requests that count once: a digest of function and signature, and when it was first seen.
    sa.Column("digest", octets(32), primary_key=True),
    sa.Column("seen_at", sa.BigInteger, nullable=False),
    sa.Index("ix_signatures_seen", "seen_at"),
)

former_secrets = sa.Table(
    "former_secrets",
    metadata,
    # What an operator's secret was before it was rotated, for as long as it is still accepted.
    sa.Column("digest", octets(32), primary_key=True),
    sa.Column("coming_digest", octets(32), nullable=True),
    sa.Column("secret_id", text(64), sa.ForeignKey("operators.secret_id"), nullable=False),
    sa.Column("sealed", octets(1024), nullable=False),
    sa.Column("data_key_id", text(32), sa.ForeignKey("data_keys.data_key_id"), nullable=False),
    sa.Column("ends_at", sa.BigInteger, nullable=False),
    sa.Index("ix_former_secrets_operator", "secret_id"),
    sa.Index("ux_former_secrets_coming", "coming_digest", unique=True),
)

reveals = sa.Table(
    "reveals",
    metadata,
    # Who was given a value in the last day, by the number of the audit row; the limits are counted from this.
    sa.Column("sequence", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("actor", text(80), nullable=False),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Index("ix_reveals_actor", "actor", "at"),
)
