"""Statements over the records, for a service's own ``AsyncSession`` and for our SQL backends.

The statements are built once for each dialect and take their values as parameters::

    statements = statements_for("postgresql")
    values = parameters(user_id="alice", limit=20)
    rows = await db_session.execute(statements.list_first, values)
"""

from sessions.queries.columns import parameters
from sessions.queries.statements import Statements, statements_for

__all__ = ["Statements", "parameters", "statements_for"]
