"""How the operations of both dialects execute statements."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from typing import Any

from sqlalchemy import Executable

from sessions import validation
from sessions.backends.sql.engine import SqlConnectionManager
from sessions.core.port import Backend
from sessions.errors import VersionConflictError
from sessions.queries import Statements, parameters, statements_for

__all__ = ["SqlOperations", "check_version"]


class SqlOperations(Backend):
    """Executes statements."""

    manager: SqlConnectionManager

    @property
    def _statements(self) -> Statements:
        return statements_for(self.manager.dialect)

    @property
    def _is_borrowed(self) -> bool:
        """Whether the transaction is a caller's, or has several operations."""
        return self.manager.is_borrowed

    def _fetch(self, statement: Executable, row: Mapping[str, Any]) -> Awaitable[Sequence[Any]]:
        return self.manager.fetch(statement, row)

    def _execute(self, statement: Executable, row: Mapping[str, Any]) -> Awaitable[int]:
        return self.manager.execute(statement, row)

    def check_id(self, argument: str, value: object) -> str:
        return validation.check_uuid(argument, value)

    async def _has_session(self, session_id: str, user_id: str | None, expected_version: int | None) -> bool:
        """Return whether a session exists, of a user or of any.

        Raises:
            VersionConflictError: It has another version than expected.
        """
        key = parameters(session_id=session_id, user_id=user_id)
        found = await self._fetch(self._statements.session_state[user_id is not None], key)
        if not found:
            return False
        check_version(found[0][-1], expected_version)
        return True


def check_version(version: int, expected_version: int | None) -> None:
    """Raise ``VersionConflictError`` if a version is expected and the session has another one."""
    if expected_version is not None and version != expected_version:
        raise VersionConflictError("the session has another version than expected")
