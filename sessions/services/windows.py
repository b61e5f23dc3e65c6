"""Which messages of a history an agent sees, and which ones are summarised instead."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from sessions.models import ChatMessage
from sessions.services.replies import STATUS

__all__ = ["SUMMARY", "Summary", "Window"]

# The key of a session's metadata that holds the summary: its text, and the id of the last message in it.
SUMMARY = "summary"


class Summary(NamedTuple):
    """A summary of the first messages of a session.

    Attributes:
        text: The summary.
        through: Id of the last message that it covers.
    """

    text: str
    through: str

    @classmethod
    def of(cls, metadata: dict[str, Any]) -> Summary | None:
        """Return the summary that a session's metadata holds."""
        found = metadata.get(SUMMARY)
        if not isinstance(found, dict):
            return None
        text, through = found.get("text"), found.get("through")
        return cls(text, through) if isinstance(text, str) and isinstance(through, str) else None

    def metadata(self) -> dict[str, Any]:
        """Return the part of a session's metadata that holds it."""
        return {SUMMARY: {"text": self.text, "through": self.through}}


class Window(NamedTuple):
    """Chooses the newest messages of a history.

    Attributes:
        limit: At most so many messages; None for all.
        tokens: At most so many tokens; None for any number.
        count_tokens: Returns the tokens of a message; None without ``tokens``.
    """

    limit: int | None
    tokens: int | None = None
    count_tokens: Callable[[ChatMessage], int] | None = None

    def start(self, history: Sequence[ChatMessage]) -> int:
        """Return the index of the first message in the window.

        A window does not begin with the result of a tool whose call is before it.
        """
        first = 0 if self.limit is None else max(0, len(history) - self.limit)
        if self.tokens is not None and self.count_tokens is not None:
            left, index = self.tokens, len(history)
            while index > first and (left := left - self.count_tokens(history[index - 1])) >= 0:
                index -= 1
            first = index
        while first < len(history) and history[first].role == "tool":
            first += 1
        return first

    def choose(self, history: Sequence[ChatMessage]) -> list[ChatMessage]:
        """Return the messages in the window, without answers that failed before their first word."""
        return [message for message in history[self.start(history) :] if not _is_failure(message)]


def _is_failure(message: ChatMessage) -> bool:
    is_empty = message.role == "assistant" and not message.content and message.payload is None
    return is_empty and message.metadata.get(STATUS) == "failed"
