"""What all operations on Redis share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

from sessions import validation
from sessions.backends.redis.commands import Connections
from sessions.backends.redis.connection import RedisConnectionManager
from sessions.backends.redis.mapping import tag_of
from sessions.core.port import Backend
from sessions.errors import MessageConflictError, SessionConflictError, VersionConflictError

__all__ = ["RedisOperations", "key_in", "key_of", "version_of"]


class RedisOperations(Backend):
    """Runs operations of the script, and raises what they report."""

    manager: RedisConnectionManager

    async def _run_on(self, operation: str, user_id: str, *arguments: str) -> Any:
        """Run an operation on a user's keys; return its reply."""
        connection, tag = await self.manager.connect(), tag_of(user_id)
        return await connection.run(connection.scope(tag), operation, tag, *arguments)

    async def _store(
        self,
        operation: str,
        user_id: str,
        session_id: str,
        message_ids: Sequence[str],
        arguments: Callable[[Mapping[str, str]], Iterable[str]],
    ) -> list[Any]:
        """Run an operation that stores a session; return its reply.

        Args:
            operation: Name in the script.
            user_id: Owner.
            session_id: The session.
            message_ids: Ids of messages that callers gave.
            arguments: Returns the arguments of the operation after the claim of the session, with the
                tokens of the claims of messages.
        """
        connection, tag = await self.manager.connect(), tag_of(user_id)
        scope = connection.scope(tag)

        def store(token: str, tokens: Mapping[str, str]) -> Awaitable[Any]:
            return connection.run(scope, operation, tag, session_id, token, *arguments(tokens))

        if connection.claims is None:
            reply: list[Any] = await store("", {})
            return reply
        return await connection.claims.store(tag, session_id, message_ids, store)

    async def _change(
        self, operation: str, user_id: str, *arguments: str, argument: str = "message_id"
    ) -> Any:
        """Run an operation that changes a session; return its result, or None if the session is absent.

        Args:
            operation: Name in the script.
            user_id: Owner.
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


def key_of(connection: Connections, user_id: str, kind: str, session_id: str) -> tuple[str, str]:
    """Return the scope of a user, and the key of a session there."""
    tag = tag_of(user_id)
    scope = connection.scope(tag)
    return scope, key_in(scope, tag, session_id, kind)


def key_in(scope: str, tag: str, session_id: str, kind: str = "s") -> str:
    """Return the key of a session."""
    return f"{scope}:{{{tag}}}:{kind}:{session_id}"


def version_of(expected: int | None) -> str:
    """Return an expected version as an argument: empty for any."""
    return "" if expected is None else str(expected)
