"""Appends messages with given ids, for the importer, which may store a conversation more than once.

Internal: its callers are below the public operations.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sessions.core.operations import AsyncOperations
from sessions.core.port import MessageRow

__all__ = ["append_rows", "check_contents", "stored_id"]


def check_contents(repository: AsyncOperations, contents: Iterable[str]) -> None:
    """Reject contents that are too large for the backend.

    Raises:
        InvalidInputError: A content is too large; the first one is named by its index in ``messages``.
    """
    for index, content in enumerate(contents):
        repository._check_size(f"messages[{index}].content", content)


def stored_id(repository: AsyncOperations, session_id: str) -> str:
    """Return a session's id as the backend stores it.

    Raises:
        InvalidInputError: The backend does not accept the id.
    """
    return repository._check_session_id("session_id", session_id)


async def append_rows(
    repository: AsyncOperations, session_id: str, user_id: str, rows: Sequence[MessageRow], *, operation: str
) -> bool:
    """Append messages with their ids, all of them or none; return whether the session exists.

    Idempotent: a message that the session already has is not changed.

    Args:
        repository: Stores the messages.
        session_id: As `stored_id` returns it.
        user_id: Owner of the session.
        rows: The messages; `check_contents` accepts their contents.
        operation: Its name in the log.

    Raises:
        MessageConflictError: An id is taken by a message of another session.
        BackendUnavailableError: The database cannot be used, after the retries.
    """
    return await repository._run(operation, repository._add_batch, session_id, user_id, list(rows))
