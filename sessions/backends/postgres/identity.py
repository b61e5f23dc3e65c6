"""What tells a PostgreSQL database from every other one, by whichever address it is reached."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, Protocol

from sqlalchemy import Executable, bindparam, cast, func, literal_column, select
from sqlalchemy.dialects.postgresql import OID

__all__ = ["identity_of"]


class Source(Protocol):
    """Executes statements: a connection manager, in a transaction or not."""

    def fetch(self, statement: Executable, parameters: Mapping[str, Any]) -> Awaitable[Sequence[Any]]:
        """Execute one statement and return its rows."""
        ...


# Asked first: in a transaction of the caller's, a statement that is refused would abort it.
_MAY_READ: Executable = select(
    literal_column(
        "has_function_privilege(CAST(to_regprocedure('pg_catalog.pg_control_system()') AS oid), 'EXECUTE')"
    )
)
# A copy made with pg_dump, or with another database as template, differs in one of them.
_IDENTITY: Executable = select(
    literal_column("(SELECT system_identifier FROM pg_control_system())"),
    literal_column("(SELECT oid FROM pg_database WHERE datname = current_database())"),
    cast(func.to_regclass(bindparam("table")), OID),
)


async def identity_of(source: Source, table: str) -> str | None:
    """Return what `initdb` and ``CREATE`` have assigned to the server, the database and the table.

    Args:
        source: Executes the statements.
        table: A quoted name.

    Returns:
        The identity; None if the role may not read that of the server.
    """
    [(may_read,)] = await source.fetch(_MAY_READ, {})
    if not may_read:
        return None
    [found] = await source.fetch(_IDENTITY, {"table": table})
    return None if None in tuple(found) else "postgresql/{}/{}/{}".format(*found)
