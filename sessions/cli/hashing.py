"""A hash of everything that a database holds of its users, to compare two of them, or one with a backup."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sessions.models import ChatMessage, ChatSession
from sessions.repositories import AsyncSessionRepository

__all__ = ["Hashed", "hash_all"]

BITS = 256


@dataclass(slots=True)
class Hashed:
    """What was hashed.

    Attributes:
        sha256: In hexadecimal: the sum, modulo 2**256, of the SHA-256 of each session with its messages, so
            that it does not depend on the order of the sessions.
        sessions: Number of sessions.
        messages: Number of messages.
    """

    sha256: str = "0" * (BITS // 4)
    sessions: int = 0
    messages: int = 0


async def hash_all(
    repository: AsyncSessionRepository,
    *,
    user_id: str | None,
    milliseconds: bool,
    advance: Callable[[Hashed], None],
) -> Hashed:
    """Return the hash of all sessions with their messages.

    Args:
        repository: The database.
        user_id: Only this user's sessions; None for all.
        milliseconds: Whether to take times to the millisecond, as MongoDB stores them.
        advance: Called with what is hashed so far.
    """
    totals, total = Hashed(), 0
    last: str | None = None
    digest = hashlib.sha256()
    async for chat_session, messages in repository.admin.export(user_id=user_id):
        # The parts of a long session follow one another.
        if chat_session.session_id != last:
            if last is not None:
                total += int.from_bytes(digest.digest(), "big")
            last = chat_session.session_id
            digest = hashlib.sha256(_session_line(chat_session, milliseconds))
            totals.sessions += 1
            advance(totals)
        for message in messages:
            digest.update(_message_line(message, milliseconds))
        totals.messages += len(messages)
    if last is not None:
        total += int.from_bytes(digest.digest(), "big")
    totals.sha256 = f"{total % 2**BITS:0{BITS // 4}x}"
    return totals


def _session_line(chat_session: ChatSession, milliseconds: bool) -> bytes:
    return _line(
        chat_session.session_id,
        chat_session.user_id,
        chat_session.title,
        _time(chat_session.created_at, milliseconds),
        _time(chat_session.updated_at, milliseconds),
        chat_session.version,
        # A database may keep the keys of metadata in another order, but not those of a payload.
        json.dumps(chat_session.metadata, sort_keys=True),
    )


def _message_line(message: ChatMessage, milliseconds: bool) -> bytes:
    return _line(
        message.message_id,
        message.role,
        message.content,
        _time(message.timestamp, milliseconds),
        json.dumps(message.metadata, sort_keys=True) if message.metadata else "{}",
        message.payload,
    )


def _line(*values: Any) -> bytes:
    return json.dumps(values).encode() + b"\n"


def _time(moment: datetime, milliseconds: bool) -> str:
    return moment.isoformat(timespec="milliseconds" if milliseconds else "microseconds")
