"""Steps of migrations that may be repeated.

MySQL and MariaDB commit each of them by itself, so a migration that dies half way has left something behind; the next
attempt begins with the same migration and skips what is there. Statements over rows must bear repetition by themselves.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op


def create_table(name: str, *columns: Any) -> None:
    """Creates a table with its constraints, unless there is one of this name."""
    if not _inspector().has_table(name):
        op.create_table(name, *columns)


def add_column(table: str, column: sa.Column[Any]) -> None:
    """Adds a column, unless the table has it."""
    if column.name not in {found["name"] for found in _inspector().get_columns(table)}:
        op.add_column(table, column)


def require(table: str, column: str, existing_type: sa.types.TypeEngine[Any]) -> None:
    """Lets a column that has a value everywhere have no NULL from now on, unless that is so."""
    if {found["name"]: found["nullable"] for found in _inspector().get_columns(table)}[column]:
        with op.batch_alter_table(table) as batch:
            batch.alter_column(column, existing_type=existing_type, nullable=False)


def create_index(name: str, table: str, columns: list[str], *, unique: bool = False) -> None:
    """Creates an index, unless the table has one of this name."""
    if not _has_index(table, name):
        op.create_index(name, table, columns, unique=unique)


def drop_index(name: str, table: str) -> None:
    """Drops an index, unless it is gone."""
    if _has_index(table, name):
        op.drop_index(name, table_name=table)


def _has_index(table: str, name: str) -> bool:
    return name in {found["name"] for found in _inspector().get_indexes(table)}


def _inspector() -> sa.Inspector:
    return sa.inspect(op.get_bind())
