"""What a turn returns to its caller."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

from typing_extensions import TypedDict

__all__ = ["ChatResult", "Clock"]


class ChatResult(TypedDict):
    """What a turn returns.

    Attributes:
        success: Whether the answer is complete.
        message: The answer; what there is of it if the agent failed.
        user_id: The user.
        session_id: The session, which is new for a first message and for a branch.
        timestamp: Time of the answer, ISO 8601, in UTC.
        processing_time_ms: Milliseconds that the turn took.
        tools_used: Names of the tools that the agent used, each once.
        errors: What went wrong, without content.
        metadata: The answer's, with ``status``; ``protocol``; ``request_id``; ``message_id`` and
            ``answer_id``, None if nothing is stored; ``repeated`` if the answer was stored before; ``title``
            if the session was given one.
    """

    success: bool
    message: str
    user_id: str
    session_id: str
    timestamp: str
    processing_time_ms: float
    tools_used: list[str]
    errors: list[str]
    metadata: dict[str, Any]


class Clock:
    """Measures the time that a turn takes."""

    __slots__ = ("_began",)

    def __init__(self) -> None:
        self._began = time.perf_counter()

    @property
    def milliseconds(self) -> float:
        """Milliseconds since the turn began."""
        return round((time.perf_counter() - self._began) * 1000, 3)


def now() -> datetime:
    """Return the time in UTC."""
    return datetime.now(UTC)
