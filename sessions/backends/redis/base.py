"""What all operations on Redis share."""

from __future__ import annotations

from typing import Any

from sessions import validation
from sessions.backends.redis.connection import RedisConnectionManager
from sessions.backends.redis.mapping import tag_of
from sessions.core.port import Backend
from sessions.errors import MessageConflictError, SessionConflictError, VersionConflictError

__all__ = ["RedisOperations", "version_of"]


class RedisOperations(Backend):
    """Runs operations of the script, and raises what they report."""

    manager: RedisConnectionManager

    async def _run(self, operation: str, *arguments: str) -> Any:
        """Run an operation on the running event loop's connections; return its reply."""
        return await (await self.manager.connect()).run(operation, *arguments)

    async def _run_on(self, operation: str, user_id: str | None, *arguments: str) -> Any:
        """Run an operation on a user's keys."""
        return await self._run(operation, "" if user_id is None else tag_of(user_id), *arguments)

    async def _change(
        self, operation: str, user_id: str | None, *arguments: str, argument: str = "message_id"
    ) -> Any:
        """Run an operation that changes a session; return its result, or None if the session is absent.

        Args:
            operation: Name in the script.
            user_id: Owner; None for the session of any user.
            *arguments: Arguments of the operation.
            argument: Name of the argument with the id of a message that the session must have.

        Returns:
            True, or what the operation returns besides.
        """
        return self._result(await self._run_on(operation, user_id, *arguments), argument)

    @staticmethod
    def _result(reply: list[Any], argument: str = "message_id") -> Any:
        """Return the result in a reply as `_change` does."""
        outcome, *results = reply
        if outcome == "ok":
            return results[0] if results else True
        if outcome == "absent":
            return None
        if outcome == "version":
            raise VersionConflictError("the session has another version than expected")
        if outcome == "conflict":
            raise MessageConflictError("a message id is taken by another message")
        if outcome == "place":
            raise validation.no_such_message(argument)
        raise SessionConflictError("the session id is taken by another session")


def version_of(expected: int | None) -> str:
    """Return an expected version as an argument: empty for any."""
    return "" if expected is None else str(expected)
