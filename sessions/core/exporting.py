"""The messages of a session that is exported, in parts of bounded size."""

from __future__ import annotations

from collections.abc import AsyncIterator

from sessions.core.calls import Calls
from sessions.core.values import Position
from sessions.models import ChatMessage, ChatSession

__all__ = ["message_parts", "sessions_of_user", "whole_conversations"]


async def sessions_of_user(calls: Calls, operation: str, user_id: str) -> AsyncIterator[ChatSession]:
    """Yield every session of a user once, in the order of their last change.

    A session that changes meanwhile comes later in this order, instead of never.

    Args:
        calls: The calls to the backend.
        operation: Public name of the operation, for the log.
        user_id: Owner.
    """
    seen: set[str] = set()
    last: ChatSession | None = None
    work = calls.backend.export_sessions
    while found := await calls.run(operation, work, user_id, last, calls.batch_size):
        for last in found:
            if last.session_id not in seen:
                seen.add(last.session_id)
                yield last


# Sessions whose messages are read at once.
SESSIONS_AT_ONCE = 100


async def whole_conversations(
    calls: Calls, operation: str, sessions: AsyncIterator[ChatSession]
) -> AsyncIterator[tuple[ChatSession, list[ChatMessage]]]:
    """Yield sessions with their messages, oldest first, in parts as `message_parts` does.

    Args:
        calls: The calls to the backend.
        operation: Public name of the operation, for the log.
        sessions: The sessions.
    """
    group: list[ChatSession] = []
    async for chat_session in sessions:
        group.append(chat_session)
        if len(group) == SESSIONS_AT_ONCE:
            async for part in _parts_of(calls, operation, group):
                yield part
            group = []
    async for part in _parts_of(calls, operation, group):
        yield part


async def _parts_of(
    calls: Calls, operation: str, sessions: list[ChatSession]
) -> AsyncIterator[tuple[ChatSession, list[ChatMessage]]]:
    if not sessions:
        return
    found = await calls.run(operation, calls.backend.export_many, sessions, calls.batch_size)
    for place, chat_session in enumerate(sessions):
        messages, found[place] = found[place], None
        if messages is not None:
            yield chat_session, messages
            continue
        async for part in message_parts(calls, operation, chat_session):
            yield chat_session, part


async def message_parts(
    calls: Calls, operation: str, chat_session: ChatSession
) -> AsyncIterator[list[ChatMessage]]:
    """Yield the messages of a session, oldest first: at least one part, of at most 1000 messages each.

    Args:
        calls: The calls to the backend.
        operation: Public name of the operation, for the log.
        chat_session: The session.
    """
    work = calls.backend.export_messages
    key = chat_session.session_id, chat_session.user_id
    after: Position | None = None
    while True:
        part = await calls.run(operation, work, *key, after, calls.batch_size)
        if part or after is None:
            yield [message for message, _ in part]
        if len(part) < calls.batch_size:
            return
        _, after = part[-1]
