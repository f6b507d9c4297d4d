"""Alembic's entry point; the connection comes from `ckeys.database`, never from a file."""

from alembic import context

from consumer_keys.store.schema import metadata

with context.config.attributes["connection"].begin():
    context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, compare_type=False)
    with context.begin_transaction():
        context.run_migrations()
