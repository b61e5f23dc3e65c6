"""What looks across users, in PostgreSQL and SQLite."""

from __future__ import annotations

from sessions.backends.sql.engine import SqlConnectionManager
from sessions.backends.sql.rows import to_session
from sessions.core.port import Backend
from sessions.errors import MessageConflictError, SessionConflictError
from sessions.models import ChatSession, Statistics
from sessions.queries import parameters
from sessions.queries.administration import AdministrationStatements, administration_for

__all__ = ["SqlAdministration", "message_is_taken", "session_is_taken"]


class SqlAdministration(Backend):
    """The operations that are the same statement in both dialects."""

    manager: SqlConnectionManager

    @property
    def _administration(self) -> AdministrationStatements:
        return administration_for(self.manager.dialect)

    async def list_users(self, after: str | None, limit: int) -> list[str]:
        part = parameters(after=after, limit=limit)
        statement = self._administration.list_users[after is not None]
        # No order is guaranteed of the rows of a recursion.
        found = sorted((place, user_id) for place, user_id in await self.manager.fetch(statement, part))
        return [user_id for _, user_id in found]

    async def list_all(self, after: str | None, limit: int) -> list[ChatSession]:
        part = parameters(after=after, limit=limit)
        statement = self._administration.list_all[after is not None]
        return [to_session(row) for row in await self.manager.fetch(statement, part)]

    async def sizes(self) -> dict[str, int]:
        schemas = self.manager.statement_options.get("schema_translate_map") or {}
        prefix = f'"{schemas[None]}".' if None in schemas else ""
        names = parameters(sessions=f"{prefix}chat_sessions", messages=f"{prefix}chat_messages")
        given = names if self.manager.dialect == "postgresql" else {}
        statement = self._administration.sizes
        [row] = await self.manager.fetch(statement, given)
        columns = [column.name for column in statement.selected_columns]
        sizes = {name: int(size) for name, size in zip(columns, row, strict=True)}
        return sizes | {"total": sum(sizes.values())}

    async def statistics(self) -> Statistics:
        [row] = await self.manager.fetch(self._administration.statistics, {})
        return Statistics(*row)


def session_is_taken() -> SessionConflictError:
    """Return the error for a session of another user."""
    return SessionConflictError("the session id is taken by another user's session")


def message_is_taken() -> MessageConflictError:
    """Return the error for a message of another session."""
    return MessageConflictError("a message id is taken by a message of another session")
