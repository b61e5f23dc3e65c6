"""Whether a database has the tables of the records, as its own catalogue describes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import Connection, exc, inspect

from sessions.models.records import Base

if TYPE_CHECKING:
    from sqlalchemy.engine.interfaces import ReflectedColumn

__all__ = ["has_columns", "has_tables"]


def has_tables(connection: Connection, schema: str | None) -> bool:
    """Return whether each table exists.

    Args:
        connection: To the database.
        schema: Schema of the tables; None for the default schema.
    """
    inspector = inspect(connection)
    return all(inspector.has_table(table.name, schema=schema) for table in Base.metadata.sorted_tables)


def has_columns(connection: Connection, schema: str | None) -> bool:
    """Return whether each table has the record's columns, and no other one that an INSERT has to name.

    Args:
        connection: To the database.
        schema: Schema of the tables; None for the default schema.
    """
    inspector = inspect(connection)
    for table in Base.metadata.sorted_tables:
        try:
            found = {column["name"]: column for column in inspector.get_columns(table.name, schema=schema)}
        except exc.NoSuchTableError:
            return False
        ours = {column.name for column in table.columns}
        if not ours <= found.keys() or any(_is_required(found[name]) for name in found.keys() - ours):
            return False
    return True


def _is_required(column: ReflectedColumn) -> bool:
    filled = column["default"] is not None or "identity" in column or "computed" in column
    return not (filled or column["nullable"])
