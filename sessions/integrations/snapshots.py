"""Reads a session and the end of its history at the same time, so that they belong together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sessions.models import ChatMessage, ChatSession
    from sessions.repositories import AsyncSessionRepository

__all__ = ["LAST_MESSAGE", "last_message", "snapshot", "together"]

# Key of a session's metadata, which a store sets with each append: the id of the last message.
LAST_MESSAGE = "last_message_id"


def last_message(chat_session: ChatSession) -> str:
    """Return the id of the message that was appended last; empty for none."""
    return str(chat_session.metadata.get(LAST_MESSAGE, ""))


async def snapshot(
    repository: AsyncSessionRepository,
    user_id: str,
    session_id: str,
    *others: Callable[[], Awaitable[Any]],
    limit: int | None = None,
    since: datetime | None = None,
) -> list[Any]:
    """Return a session, or None, its history, or a part of it, and the results of other reads.

    An append that has the session's ``version`` as ``expected_version`` succeeds only if the history has
    every message.

    Args:
        repository: Where they are stored.
        user_id: Owner.
        session_id: The session.
        *others: Called, and awaited, at the same time.
        limit: As for ``get_session_history``.
        since: As for ``get_session_history``.
    """

    def read_session() -> Awaitable[ChatSession | None]:
        return repository.get_session(user_id, session_id)

    def read_history() -> Awaitable[list[ChatMessage]]:
        return repository.get_session_history(user_id, session_id, limit=limit, since=since)

    found = await together(repository, read_session, read_history, *others)
    chat_session, history, *rest = found
    if chat_session is None or limit == 0:
        return found
    if last_message(chat_session) == (history[-1].message_id if history else ""):
        return found
    # Something came between the reads, or the last message is not the newest: read one after the other.
    return [await read_session(), await read_history(), *rest]


async def together(repository: AsyncSessionRepository, *calls: Callable[[], Awaitable[Any]]) -> list[Any]:
    """Await all at the same time, each to its end, and return their results; raise the first error.

    In a transaction, which has one connection, one after another.

    Args:
        repository: What is called.
        *calls: Its operations.
    """
    if repository.in_transaction:
        return [await call() for call in calls]
    results = await asyncio.gather(*(call() for call in calls), return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results
