"""The options of a service, and their checks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

from sessions import validation
from sessions.errors import InvalidInputError
from sessions.models import ChatMessage
from sessions.services.windows import Window

__all__ = ["Options", "Summarise", "TitleCallable", "lower_uuid"]

TitleCallable = (
    Callable[[str, str], str | Awaitable[str | None] | None]
    | Callable[[str], str | Awaitable[str | None] | None]
)
"""Returns a title for a first message and its answer, or for the message alone; async or not."""

Summarise = Callable[[list[ChatMessage], str | None], str | Awaitable[str]]
"""Returns a summary of messages, and of the summary of those before them; async or not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of `ChatService` that concern its turns, checked; it documents them.

    Raises:
        InvalidInputError: An option is invalid.
    """

    history_limit: int | None
    history_tokens: int | None
    count_tokens: Callable[[ChatMessage], int] | None
    summarize: Summarise | None
    title: TitleCallable | Literal[False] | None
    store_failed: bool
    on_conflict: Literal["raise", "wait"]
    timeout: float | None
    wait_timeout: float
    hook_timeout: float
    claim_seconds: float

    def __post_init__(self) -> None:
        if self.on_conflict not in ("raise", "wait"):
            raise InvalidInputError("on_conflict", "must be 'raise' or 'wait'")
        if (self.history_tokens is None) != (self.count_tokens is None):
            raise InvalidInputError("history_tokens", "goes with count_tokens")
        for count in ("history_limit", "history_tokens"):
            if (value := getattr(self, count)) is not None:
                validation.check_count(count, value)
        for seconds in ("timeout", "wait_timeout", "hook_timeout", "claim_seconds"):
            if (value := getattr(self, seconds)) is not None or seconds != "timeout":
                _check_seconds(seconds, value)

    @property
    def waits(self) -> bool:
        """Whether a turn waits for others of its session."""
        return self.on_conflict == "wait"

    @property
    def window(self) -> Window:
        """What the agent sees of a history."""
        return Window(self.history_limit, self.history_tokens, self.count_tokens)


def lower_uuid(text: str) -> str:
    """Return a UUID in the form that every backend returns; any other id as it is."""
    try:
        return validation.check_uuid("id", text)
    except InvalidInputError:
        return text


def _check_seconds(argument: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise InvalidInputError(argument, "must be a number of seconds, more than 0")
