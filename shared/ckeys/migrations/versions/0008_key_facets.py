"""The counters and indexes that keep every filter of a list of keys fast, whatever their number."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

from ckeys import steps

revision = "0008"
down_revision = "0007"

_MYSQL = {"charset": "utf8mb4", "collation": "utf8mb4_bin"}
_IDENTITY = "gateway_id, type, generation, creation_source, status"


def _text(length):
    return sa.String(length).with_variant(mysql.VARCHAR(length, **_MYSQL), "mysql", "mariadb")


def upgrade():
    """Counts the keys that are there, facet by facet, and notes each one's facet."""
    steps.create_table(
        "key_facets",
        sa.Column("facet_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("gateway_id", _text(64), nullable=False),
        sa.Column("type", _text(16), nullable=False),
        sa.Column("generation", _text(8), nullable=False),
        sa.Column("creation_source", _text(16), nullable=False),
        sa.Column("status", _text(8), nullable=False),
        sa.Column("bound", sa.Boolean(), nullable=False),
        sa.Column("key_count", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("facet_id"),
        sa.UniqueConstraint(
            "gateway_id", "type", "generation", "creation_source", "status", "bound", name="uq_key_facets"
        ),
    )
    steps.add_column("consumer_keys", sa.Column("facet_id", sa.Integer(), nullable=True))
    op.execute("DELETE FROM key_facets")  # of an attempt that died
    op.execute(
        f"INSERT INTO key_facets SELECT ROW_NUMBER() OVER (ORDER BY {_IDENTITY}, bound), {_IDENTITY}, bound, key_count"
        f" FROM (SELECT {_IDENTITY}, consumer_id IS NOT NULL AS bound, COUNT(*) AS key_count FROM consumer_keys"
        f" GROUP BY {_IDENTITY}, consumer_id IS NOT NULL) AS counted"
    )
    same = " AND ".join(f"f.{name} = consumer_keys.{name}" for name in _IDENTITY.split(", "))
    op.execute(
        f"UPDATE consumer_keys SET facet_id = (SELECT f.facet_id FROM key_facets AS f WHERE {same}"
        " AND f.bound = (consumer_keys.consumer_id IS NOT NULL))"
    )
    steps.create_index("ix_consumer_keys_facet", "consumer_keys", ["facet_id", "created_at", "key_id"])
    steps.create_index("ix_consumer_keys_of_consumer", "consumer_keys", ["consumer_id", "created_at", "key_id"])
    steps.drop_index("ix_consumer_keys_consumer", "consumer_keys")
    if op.get_bind().dialect.name == "postgresql":
        _index_names()


def _index_names():
    """A text contains a keyword where one of its ends begins with it: an index over the ends of every name.

    It needs no extension, and `consumer_keys.store.dialect` asks it.
    """
    op.execute(
        "CREATE FUNCTION ckeys_ends(text) RETURNS tsvector LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS"
        " $$SELECT array_to_tsvector(array_agg(substr($1, place, 20))) FROM generate_series(1, length($1)) AS place$$"
    )
    for table in ("consumer_keys", "consumers"):
        op.execute(
            f"CREATE INDEX ix_{table}_ends ON {table} USING gin (ckeys_ends(lower(name))) WITH (fastupdate = off)"
        )
