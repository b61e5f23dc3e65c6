"""Stores one conversation of a file; idempotent, also with concurrent runs.

The message ids make a run repeatable: they are computed from the session and the position in it, so a message
that another run has stored, or is storing concurrently, has the same primary key, and is stored once.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NoReturn, cast

from sessions import validation
from sessions.cli.conversation_lines import Conversation
from sessions.core.identifiers import utc_now
from sessions.errors import (
    InvalidInputError,
    SessionConflictError,
    SessionNotFoundError,
    VersionConflictError,
)
from sessions.models import ChatMessage, ChatSession, NewMessage, Role
from sessions.repositories import AsyncSessionRepository

__all__ = ["Stored", "complete", "message_id", "new_conversation", "store"]

# A batch of this size is atomic on every backend, also on a standalone MongoDB server.
BATCH_MESSAGES = 64
BATCH_CHARACTERS = 32 * 1024

# Attempts for a session with concurrent writers.
MAX_ATTEMPTS = 10

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MILLISECOND, MICROSECOND = timedelta(milliseconds=1), timedelta(microseconds=1)
# A UUIDv7 has 74 bits besides its timestamp: the position in the session first, so that ids sort by it.
INDEX_BITS = 24
HASH_BITS = 74 - INDEX_BITS
# Bits of the position in the last 64 bits of an id, of which two are the variant's.
LOW_BITS = 62 - HASH_BITS


@dataclass(slots=True, frozen=True)
class Stored:
    """What storing a conversation changed.

    Attributes:
        created: Whether the session is new.
        messages: How many messages were appended.
    """

    created: bool
    messages: int


def new_conversation(conversation: Conversation) -> tuple[ChatSession, list[ChatMessage]]:
    """Return a conversation as a session that begins now, with the ids that `store` would give its messages.

    Only for a session id in the form that every backend stores.
    """
    session_id, now = conversation.session_id, utc_now()
    moment = (now - EPOCH) // MILLISECOND
    title, metadata = validation.check_session_data(conversation.session_data)
    ids = message_ids(session_id, moment, len(conversation.messages))
    messages = [
        ChatMessage(
            ids[index],
            session_id,
            cast("Role", role),
            content,
            now + index * MICROSECOND,
        )
        for index, (role, content) in enumerate(conversation.messages)
    ]
    updated_at = messages[-1].timestamp if messages else now
    chat_session = ChatSession(
        session_id,
        title,
        conversation.user_id,
        now,
        updated_at,
        metadata,
    )
    return chat_session, messages


async def store(repository: AsyncSessionRepository, conversation: Conversation) -> Stored:
    """Store a conversation, or its missing messages.

    Stores nothing if it exists already, complete or with further messages.

    Raises:
        InvalidInputError: This backend cannot store it.
        SessionConflictError: The id is taken by another user's session, or by one with other messages.
        SessionNotFoundError: The session was deleted concurrently.
        MessageConflictError: A generated message id is taken by a message of another session.
    """
    session_id, user_id = conversation.session_id, conversation.user_id
    created = await repository.ensure_session_exists(session_id, user_id, conversation.session_data)
    history = [] if created else await repository.get_session_history(user_id, session_id)
    appended = writes = 0
    for _ in range(MAX_ATTEMPTS):
        missing = _missing(history, conversation.messages)
        if not missing:
            return Stored(created, appended)
        try:
            for batch in _batches(await _with_ids(repository, conversation, history, missing)):
                await repository.add_messages(session_id, batch, user_id=user_id)
                writes += 1
        except InvalidInputError:
            if created:
                await _take_back(repository, conversation, writes)
            raise
        appended += len(missing)
        if created:
            return Stored(created, appended)
        # It already existed, so another run may be storing it; check the combined result.
        history = await repository.get_session_history(user_id, session_id)
    raise SessionConflictError("the session has concurrent writers; import it again later")


async def complete(
    repository: AsyncSessionRepository, chat_session: ChatSession, messages: list[ChatMessage]
) -> Stored:
    """Store a conversation whose messages have ids of their own, or its missing messages.

    Raises:
        InvalidInputError: This backend cannot store it.
        SessionConflictError: The id is taken by another user's session.
        MessageConflictError: A message id is taken by another message.
    """
    session_id, user_id = chat_session.session_id, chat_session.user_id
    if await repository.admin.restore_many([(chat_session, messages)], only_new=True):
        return Stored(True, len(messages))
    if await repository.get_session(user_id, session_id) is None:
        raise SessionConflictError("the session id is taken by another user's session")
    history = await repository.get_session_history(user_id, session_id)
    stored = {message.message_id for message in history}
    missing = [
        NewMessage(
            message.role,
            message.content,
            message_id=message.message_id,
            timestamp=message.timestamp,
            metadata=message.metadata,
            payload=message.payload,
        )
        for message in messages
        if message.message_id not in stored
    ]
    for batch in _batches(missing):
        await repository.add_messages(session_id, batch, user_id=user_id)
    return Stored(False, len(missing))


async def _take_back(repository: AsyncSessionRepository, conversation: Conversation, writes: int) -> None:
    """Delete a new session with a message that this backend refuses, unless others wrote to it."""
    with contextlib.suppress(VersionConflictError):
        await repository.delete_session_async(
            conversation.user_id, conversation.session_id, expected_version=writes
        )


def _missing(history: list[ChatMessage], messages: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the messages that are not stored yet."""
    for index, (stored, message) in enumerate(zip(history, messages, strict=False)):
        if (stored.role, stored.content) != message:
            raise SessionConflictError(
                f"the session is there with other messages (the first that differs is messages[{index}])"
            )
    return messages[len(history) :]


async def _with_ids(
    repository: AsyncSessionRepository,
    conversation: Conversation,
    history: list[ChatMessage],
    missing: list[tuple[str, str]],
) -> list[NewMessage]:
    """Return the missing messages with the ids that every run gives them."""
    chat_session = await repository.get_session(conversation.user_id, conversation.session_id)
    if chat_session is None:
        _raise_deleted()
    # In the form that the backend stores.
    session_id = chat_session.session_id
    moment = _moment(chat_session, history)
    return [
        NewMessage(cast("Role", role), content, message_id=message_id(session_id, moment, index))
        for index, (role, content) in enumerate(missing, start=len(history))
    ]


def _moment(chat_session: ChatSession, history: list[ChatMessage]) -> int:
    """Return the timestamp of the new ids, in milliseconds: the same in every run that appends the same."""
    if not history:
        return (chat_session.created_at - EPOCH) // MILLISECOND
    last = history[-1]
    digits = last.message_id.replace("-", "")[:12]
    try:
        of_import = int(digits, 16)
    except ValueError:  # Existing MongoDB data may have ids of any form.
        of_import = -1
    place = len(history) - 1
    of_import -= place >> INDEX_BITS
    if last.message_id == message_id(chat_session.session_id, of_import, place):
        return of_import
    return (last.timestamp - EPOCH) // MILLISECOND + 1


def message_id(session_id: str, moment: int, index: int) -> str:
    """Return a UUIDv7 whose random bits are the position of the message and a hash of its session.

    Ids are unique within a session: if the bits for the position overflow, the timestamp increases. Two
    sessions of the same millisecond may collide, with a probability of 2**-50; the database then rejects the
    second message.
    """
    further, index = divmod(index, 1 << INDEX_BITS)
    return _message_id(_parts(session_id, moment + further), index)


def message_ids(session_id: str, moment: int, count: int) -> list[str]:
    """Return the ids of the first messages of a session, as `message_id` makes them."""
    if count > 1 << INDEX_BITS:
        return [message_id(session_id, moment, index) for index in range(count)]
    parts = _parts(session_id, moment)
    return [_message_id(parts, index) for index in range(count)]


def _message_id(parts: tuple[str, int], index: int) -> str:
    beginning, last = parts
    high, low = index >> LOW_BITS, index & (1 << LOW_BITS) - 1
    digits = f"{last | low << HASH_BITS:016x}"
    return f"{beginning}{high:03x}-{digits[:4]}-{digits[4:]}"


@functools.lru_cache(maxsize=1)
def _parts(session_id: str, moment: int) -> tuple[str, int]:
    """Return what the ids of a session have in common: their beginning, and their last 64 bits."""
    digest = hashlib.blake2b(f"{session_id} {moment}".encode(), digest_size=8).digest()
    digits = f"{moment & (1 << 48) - 1:012x}"
    return f"{digits[:8]}-{digits[8:]}-7", 0b10 << 62 | int.from_bytes(digest, "big") >> (64 - HASH_BITS)


def _batches(messages: Iterable[NewMessage]) -> Iterator[list[NewMessage]]:
    batch: list[NewMessage] = []
    characters = 0
    for message in messages:
        characters += len(message.content)
        if batch and (len(batch) == BATCH_MESSAGES or characters > BATCH_CHARACTERS):
            yield batch
            batch, characters = [], len(message.content)
        batch.append(message)
    if batch:
        yield batch


def _raise_deleted() -> NoReturn:
    raise SessionNotFoundError("the session was deleted meanwhile")
