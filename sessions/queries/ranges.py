"""Statements that read one range of an index in index order, whatever statistics the planner has.

Without statistics, PostgreSQL's planner assumes few rows for a user or a session: it reads and sorts all of
them, even for the first ten rows. For a LIMIT whose value it cannot estimate, such as a subselect, it assumes
a tenth of the rows, and then an index scan in order has the lowest cost. So the plan is the same before and
after the first ANALYZE, and for custom and generic plans of a prepared statement.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Select,
    SQLColumnExpression,
    cast,
    func,
    null,
    select,
)

__all__ = ["Ranges"]

Order = SQLColumnExpression[Any]


class Ranges:
    """Orders and limits statements for one dialect; SQLite's planner needs no help.

    Args:
        postgres: Whether the dialect is PostgreSQL's.
    """

    def __init__(self, *, postgres: bool) -> None:
        self._postgres = postgres

    def ordered(self, statement: Any, *order: Order, limit: Any = None, offset: Any = None) -> Any:
        """Return a statement whose rows are in the order of an index.

        Args:
            statement: A select, or a union of them.
            *order: The index columns that follow those that the statement compares.
            limit: Parameter; None for all rows.
            offset: Parameter, or None.
        """
        statement = statement.order_by(*order)
        if limit is not None or self._postgres:
            statement = statement.limit(self._opaque(null() if limit is None else limit))
        return statement if offset is None else statement.offset(self._opaque(offset))

    def _opaque(self, number: Any) -> Any:
        return select(cast(number, BigInteger)).scalar_subquery() if self._postgres else number

    def among(self, column: SQLColumnExpression[Any], chosen: Select[Any]) -> ColumnElement[bool]:
        """Return the condition that a column has one of the chosen values, each looked up in its index."""
        if not self._postgres:
            return column.in_(chosen)
        # As an array, because a join might be by hash, over the whole table.
        return column == func.any(func.array(chosen.scalar_subquery()))
