"""What is stored of a session, as the package reads it."""

from __future__ import annotations

from typing import Any

USER = "alice"


async def contents(repository: Any, session_id: str) -> list[str]:
    return [message.content for message in await repository.get_session_history(USER, session_id)]


async def version(repository: Any, session_id: str) -> int:
    found: int = (await repository.get_session(USER, session_id)).version
    return found
