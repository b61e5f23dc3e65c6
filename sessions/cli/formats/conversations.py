"""What the formats share: ids, times, and texts of the sessions and messages that they make."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from sessions.errors import InvalidInputError
from sessions.models import ChatMessage, ChatSession, Role

__all__ = ["Draft", "DraftMessage", "Identities", "finished", "require", "text_of", "time_of", "title_of"]

# The namespace of the ids: of a conversation, and in it of its messages.
NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "urn:agenthub-sessions:imported")
MAX_TITLE = 255
DEFAULT_TITLE = "New Chat"
MICROSECOND = timedelta(microseconds=1)
# Texts that no backend stores.
UNSTORABLE = {0: "\ufffd"} | dict.fromkeys(range(0xD800, 0xE000), "\ufffd")


@dataclass(slots=True)
class DraftMessage:
    """A message as a format has it.

    Attributes:
        role: One of this package's roles.
        content: Its text.
        key: What names it in its conversation; None for its place.
        time: When it was written; None if the file does not say.
        metadata: Known keys, such as ``model``.
        payload: What the file holds beyond role and text; None for nothing.
    """

    role: str
    content: str
    key: str | None = None
    time: datetime | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    payload: Any = None


@dataclass(slots=True)
class Draft:
    """A conversation as a format has it.

    Attributes:
        key: What names it among those of one user.
        title: Its title; empty for none.
        messages: Oldest first.
        created_at: None if the file does not say.
        updated_at: None if the file does not say.
        metadata: Of the session.
    """

    key: str
    title: str
    messages: list[DraftMessage]
    created_at: datetime | None = None
    updated_at: datetime | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


class Identities:
    """Names conversations that have no id: by their values, and by how often those occurred before."""

    def __init__(self) -> None:
        self._seen: dict[bytes, int] = {}

    def key(self, value: Mapping[str, Any]) -> str:
        """Return the id in the file, or one of the values; the same in each run over the same file."""
        given = value.get("id")
        if isinstance(given, str | int) and not isinstance(given, bool) and given != "":
            return f"id {given}"
        text = json.dumps(value, sort_keys=True, default=str)
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
        times = self._seen[digest] = self._seen.get(digest, 0) + 1
        return f"sha256 {digest.hex()} {times}"


def finished(draft: Draft, user_id: str, source: str, now: datetime) -> tuple[ChatSession, list[ChatMessage]]:
    """Return a conversation as a session of a user.

    The messages keep their order: a time that the file does not have, or that is before an earlier message's,
    becomes that message's.

    Args:
        draft: The conversation.
        user_id: Its owner here.
        source: Name of the format.
        now: The time for a file that has none.
    """
    name = uuid.uuid5(NAMESPACE, f"{source}\n{user_id}\n{draft.key}")
    session_id = str(name)
    known = [message.time for message in draft.messages if message.time is not None]
    created_at = draft.created_at or (min(known) if known else now)
    messages: list[ChatMessage] = []
    last = created_at
    for place, message in enumerate(draft.messages):
        last = max(last, message.time) if message.time else last + MICROSECOND * bool(place)
        messages.append(
            ChatMessage(
                str(uuid.uuid5(name, message.key or str(place))),
                session_id,
                cast("Role", message.role),
                message.content.translate(UNSTORABLE),
                last,
                message.metadata,
                message.payload,
            )
        )
    updated_at = max(draft.updated_at or last, last)
    title = draft.title.translate(UNSTORABLE).strip()[:MAX_TITLE] or DEFAULT_TITLE
    metadata = {"source": source} | draft.metadata
    return ChatSession(session_id, title, user_id, created_at, updated_at, metadata), messages


def title_of(messages: list[DraftMessage]) -> str:
    """Return a title for a conversation that has none: the first line of the first question."""
    for message in messages:
        if message.role == "user" and (lines := message.content.split("\n", 1)[0].strip()):
            return lines if len(lines) <= 60 else f"{lines[:59]}…"
    return ""


def text_of(value: object) -> str | None:
    """Return the text of a content: a string, None, or parts; None if it holds something else, too."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        texts = [part if isinstance(part, str) else _text_part(part) for part in value]
        return "\n".join(text for text in texts if text)
    return None


def _text_part(part: object) -> str:
    text = part.get("text") if isinstance(part, dict) else None
    return text if isinstance(text, str) else ""


def time_of(argument: str, value: object) -> datetime | None:
    """Return a time that is given in seconds since 1970; None for none."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidInputError(argument, "must be a number of seconds")
    try:
        return datetime.fromtimestamp(value, UTC)
    except (OverflowError, ValueError, OSError):
        raise InvalidInputError(argument, "is not a time") from None


def require(argument: str, value: object, kind: type, name: str) -> Any:
    """Return a value of a type.

    Raises:
        InvalidInputError: It has another one.
    """
    if not isinstance(value, kind):
        raise InvalidInputError(argument, f"must be {name}")
    return value
