"""One message of a conversation: as every backend returns it, and as callers append it."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any, Final, Literal
from uuid import UUID

__all__ = ["UNSET", "ChatMessage", "NewMessage", "Role", "Unset"]

Role = Literal["user", "assistant", "system", "developer", "tool"]


class Unset(Enum):
    """The type of `UNSET`."""

    # An enum, because type checkers narrow its members by `is`, and a copy or a pickle is the same object.
    UNSET = "UNSET"

    def __repr__(self) -> str:
        return "UNSET"

    __str__ = __repr__


UNSET: Final = Unset.UNSET
"""The default of an argument where None is a value."""


@dataclass(slots=True)
class ChatMessage:
    """One message of a session.

    Attributes:
        message_id: Unique id; a UUIDv7 string unless the caller gave another.
        session_id: Session it belongs to.
        role: ``"user"``, ``"assistant"``, ``"system"``, ``"developer"`` or ``"tool"``.
        content: Text, may be empty.
        timestamp: Timezone-aware, UTC. History is ordered by it, then by the order of writing.
        metadata: A JSON object, never None.
        payload: Any JSON value, equal to what was stored; None for no payload.
    """

    message_id: str
    session_id: str
    role: Role
    content: str
    timestamp: datetime
    metadata: dict[str, Any] = field(default_factory=dict)
    payload: Any = None


@dataclass(slots=True)
class NewMessage:
    """A message to append.

    Attributes:
        role: ``"user"``, ``"assistant"``, ``"system"``, ``"developer"`` or ``"tool"``.
        content: Text without NUL and lone surrogates; may be empty.
        message_id: Unique id, to make sending it again safe; None for a new UUID.
        timestamp: Timezone-aware; None for the time of writing.
        metadata: A JSON object; None for an empty one.
        payload: Any value that ``json.dumps`` can express; None for no payload.
    """

    role: Role
    content: str = ""
    _: KW_ONLY
    message_id: str | UUID | None = None
    timestamp: datetime | None = None
    metadata: dict[str, Any] | None = None
    payload: Any = None
