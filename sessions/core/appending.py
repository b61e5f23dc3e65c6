"""Appends messages, with or without a check of the owner: what both interfaces share."""

from __future__ import annotations

from collections.abc import Iterable

from sessions import validation
from sessions.core.calls import Calls, not_found
from sessions.core.identifiers import Identifier, new_message_id
from sessions.core.port import MessageRow

__all__ = ["append_message", "append_messages", "append_rows"]


async def append_message(
    calls: Calls, session_id: Identifier, user_id: str | None, role: str, content: str
) -> str:
    """Append one message and return its id; `Operations.add_message` documents the arguments.

    Args:
        calls: The calls to the backend.
        session_id: The session.
        user_id: Owner; None for the session of any user.
        role: Role of the message.
        content: Content of the message.
    """
    session_id = calls.check_id("session_id", session_id)
    role, content = validation.check_role(role), validation.check_content(content)
    calls.backend.check_size("content", content)
    user_id = None if user_id is None else validation.check_user_id(user_id)
    message_id = new_message_id()
    await append_rows(calls, "add_message", session_id, user_id, [MessageRow(message_id, role, content)])
    return message_id


async def append_messages(
    calls: Calls, session_id: Identifier, user_id: str | None, messages: Iterable[tuple[str, str]]
) -> list[str]:
    """Append messages, all or none, and return their ids; `Operations.add_messages` documents them."""
    session_id = calls.check_id("session_id", session_id)
    pairs = validation.check_messages(messages)
    user_id = None if user_id is None else validation.check_user_id(user_id)
    rows = [MessageRow(new_message_id(), role, content) for role, content in pairs]
    calls.backend.check_batch_size(rows)
    await append_rows(calls, "add_messages", session_id, user_id, rows)
    return [row.message_id for row in rows]


async def append_rows(
    calls: Calls, operation: str, session_id: str, user_id: str | None, rows: list[MessageRow]
) -> None:
    """Append checked messages, all or none.

    Raises:
        SessionNotFoundError: There is no such session, or it is another user's; nothing is stored.
        MessageConflictError: An id is taken by another message; nothing is stored.
    """
    if not await calls.run(operation, calls.backend.append, session_id, user_id, rows):
        raise not_found()
