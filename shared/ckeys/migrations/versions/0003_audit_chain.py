"""The audit log becomes a hash chain; rows that are there already are numbered without gaps and chained."""

import hashlib

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

from ckeys import steps

revision = "0003"
down_revision = "0002"

_COLUMNS = (
    "sequence", "at", "actor", "action", "gateway_id", "target", "before", "after", "request_id", "revision",
)  # fmt: skip
_INDEXES = {
    "ix_audit_gateway": ["gateway_id", "sequence"],
    "ix_audit_actor": ["gateway_id", "actor", "sequence"],
    "ix_audit_target": ["gateway_id", "target", "sequence"],
    "ix_audit_at": ["gateway_id", "at"],
}


def _bytes(length):
    return sa.LargeBinary(length).with_variant(mysql.VARBINARY(length), "mysql", "mariadb")


def upgrade():
    """Adds the hashes, fills them in, and then requires them."""
    steps.add_column("audit", sa.Column("hash", _bytes(32), nullable=True))
    steps.add_column("deployment", sa.Column("audit_sequence", sa.BigInteger(), nullable=True))
    steps.add_column("deployment", sa.Column("audit_hash", _bytes(32), nullable=True))
    sequence, last = _chain()
    deployment = sa.table("deployment", sa.column("audit_sequence"), sa.column("audit_hash", _bytes(32)))
    op.execute(sa.update(deployment).values(audit_sequence=sequence, audit_hash=last))
    steps.require("audit", "hash", _bytes(32))
    steps.require("deployment", "audit_sequence", sa.BigInteger())
    steps.require("deployment", "audit_hash", _bytes(32))
    for name, columns in _INDEXES.items():
        steps.create_index(name, "audit", columns)


def _chain():
    """Rows keep their order; the new number is never above the old one, so no two meet. Done again, nothing changes."""
    audit = sa.table("audit", *map(sa.column, _COLUMNS), sa.column("hash", _bytes(32)))
    sequence, last = 0, bytes(32)
    rows = op.get_bind().execute(sa.select(audit).order_by(audit.c.sequence)).mappings().all()
    for row in rows:
        sequence += 1
        last = _hash({**row, "sequence": sequence}, last)
        op.execute(sa.update(audit).where(audit.c.sequence == row["sequence"]).values(sequence=sequence, hash=last))
    return sequence, last


def _hash(row, previous):
    parts = b"".join(_encoded(row[name]) for name in _COLUMNS)
    return hashlib.sha256(b"consumer-keys/audit/1" + parts + previous).digest()


def _encoded(value):
    if value is None:
        return b"n"
    kind, content = (b"i", b"%d" % value) if isinstance(value, int) else (b"s", value.encode())
    return kind + len(content).to_bytes(8, "big") + content
