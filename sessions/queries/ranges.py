"""Statements that read one range of an index in its order, whatever the planner knows of the rows.

PostgreSQL's planner takes a user or a session that it has no statistics of for a small one: it reads all of
it and sorts, even for the first ten rows. A LIMIT that it cannot see through, such as a subselect, it takes
for a tenth of the rows, and for those nothing is cheaper than the index in its order. So the plan is the same
before the first ANALYZE and after it, for a prepared statement's parameters and for any others.
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
    union_all,
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
        """Return a statement whose rows come in an order that an index has.

        Args:
            statement: A select, or a union of them.
            *order: The columns that follow, in an index, those that the statement compares.
            limit: Parameter; None for all rows.
            offset: Parameter, or None.
        """
        statement = statement.order_by(*order)
        if limit is not None or self._postgres:
            statement = statement.limit(self._opaque(null() if limit is None else limit))
        return statement if offset is None else statement.offset(self._opaque(offset))

    def _opaque(self, number: Any) -> Any:
        return select(cast(number, BigInteger)).scalar_subquery() if self._postgres else number

    def both(self, tied: Any, beyond: Any, *order: Order, limit: Any) -> Any:
        """Return a statement for the rows after one, in an order whose columns go different ways.

        No comparison of rows says that, and with an OR all rows of the same time would be read. So these are
        two ranges, each in order and up to the limit; PostgreSQL promises none for the two together.

        Args:
            tied: The rows with the same time as that one.
            beyond: The rows with a time beyond it.
            *order: As in `ordered`.
            limit: Parameter.
        """
        if self._postgres:
            return union_all(*(self.ordered(part, *order, limit=limit) for part in (tied, beyond)))
        # SQLite has an order for a union only, and reads each part in it.
        return self.ordered(union_all(tied, beyond), *order, limit=limit)

    def among(self, column: SQLColumnExpression[Any], chosen: Select[Any]) -> ColumnElement[bool]:
        """Return the condition that a column has one of the chosen values, each looked up in its index."""
        if not self._postgres:
            return column.in_(chosen)
        # As an array, because a join might be by hash, over the whole table.
        return column == func.any(func.array(chosen.scalar_subquery()))
