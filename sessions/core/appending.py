"""Appends messages that have ids already, for what stores a conversation more than once.

For this package's own use, not for users: what calls it is below the public operations.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sessions.core.operations import AsyncOperations
from sessions.core.port import MessageRow

__all__ = ["append_rows", "check_contents", "stored_id"]


def check_contents(repository: AsyncOperations, contents: Iterable[str]) -> None:
    """Refuse contents that the backend has no room for.

    Raises:
        InvalidInputError: It names the first one by its place in ``messages``.
    """
    for index, content in enumerate(contents):
        repository._check_size(f"messages[{index}].content", content)


def stored_id(repository: AsyncOperations, session_id: str) -> str:
    """Return a session's id as the backend stores it.

    Raises:
        InvalidInputError: The backend takes no such id.
    """
    return repository._check_session_id("session_id", session_id)


async def append_rows(
    repository: AsyncOperations, session_id: str, user_id: str, rows: Sequence[MessageRow], *, operation: str
) -> bool:
    """Append messages under the ids they have, all of them or none; return whether there is the session.

    A message whose id the session has already is left as it is, so a batch may be stored again.

    Args:
        repository: Where to store them.
        session_id: As `stored_id` returns it.
        user_id: Owner of the session.
        rows: Of checked content; `check_contents`.
        operation: What the log calls it.

    Raises:
        MessageConflictError: An id is taken by a message of another session.
        BackendUnavailableError: The database cannot be used, after the retries.
    """
    return await repository._run(operation, repository._add_batch, session_id, user_id, list(rows))
