"""Stores conversations from a JSON Lines file; idempotent, also with concurrent runs.

The message ids make a run repeatable: they are computed from the session and the position in it, so a message
that another run has stored, or is storing concurrently, has the same primary key, and is stored once.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NoReturn, cast

from sessions.cli.conversation_lines import LINE, Conversation, parse_line
from sessions.cli.exported_lines import parse_exported_line
from sessions.errors import (
    BackendUnavailableError,
    InvalidInputError,
    MessageConflictError,
    SessionConflictError,
    SessionNotFoundError,
    SessionsError,
    VersionConflictError,
)
from sessions.models import ChatMessage, ChatSession, NewMessage, Role
from sessions.repositories import AsyncSessionRepository

__all__ = ["Stored", "Totals", "import_lines", "store"]

# A batch of this size is atomic on every backend, also on a standalone MongoDB server.
BATCH_MESSAGES = 64
BATCH_CHARACTERS = 32 * 1024

# Errors of one line, after which the import continues.
LINE_ERRORS = (InvalidInputError, SessionConflictError, SessionNotFoundError, MessageConflictError)

# Attempts for a session with concurrent writers.
MAX_ATTEMPTS = 10

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MILLISECOND = timedelta(milliseconds=1)
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# A UUIDv7 has 74 bits besides its timestamp: the position in the session first, so that ids sort by it.
INDEX_BITS = 24
HASH_BITS = 74 - INDEX_BITS


@dataclass(slots=True, frozen=True)
class Stored:
    """What storing a conversation changed.

    Attributes:
        created: Whether the session is new.
        messages: How many messages were appended.
    """

    created: bool
    messages: int


@dataclass(slots=True)
class Totals:
    """What an import did.

    Attributes:
        created: New sessions.
        completed: Existing sessions whose missing messages were stored.
        skipped: Existing sessions with all their messages.
        messages: Messages stored.
        failed: Lines that were not stored.
        restored: Sessions of an exported file.
        restored_messages: Messages of an exported file.
        last_restored: Id of the last session of an exported file.
    """

    created: int = 0
    completed: int = 0
    skipped: int = 0
    messages: int = 0
    failed: int = 0
    restored: int = 0
    restored_messages: int = 0
    last_restored: str | None = None

    def add(self, stored: Stored) -> None:
        """Count one conversation."""
        self.messages += stored.messages
        if stored.created:
            self.created += 1
        elif stored.messages:
            self.completed += 1
        else:
            self.skipped += 1

    @property
    def sessions(self) -> int:
        """Conversations of the file that are stored now."""
        return self.created + self.completed + self.skipped + self.restored


async def import_lines(
    repository: AsyncSessionRepository,
    lines: Iterable[bytes],
    *,
    report: Callable[[str], None],
    advance: Callable[[int, Totals], None],
) -> Totals:
    """Store one conversation per line, with one line in memory at a time; blank lines are skipped.

    Args:
        repository: Where to store them.
        lines: The file.
        report: Called with the number of a line that was not stored, and the reason.
        advance: Called after each line with its length in bytes and the totals so far.

    Raises:
        BackendUnavailableError: The database cannot be used; the text names the current line.
    """
    totals, unread = Totals(), iter(lines)
    for number in itertools.count(1):
        # In a list, from which the parser removes it: a line may need most of the memory.
        line = list(itertools.islice(unread, 1))
        if not line:
            break
        size = len(line[0])
        if number == 1:
            line[0] = line[0].removeprefix(BYTE_ORDER_MARK)
        if line[0] and not line[0].isspace():
            try:
                await _store_line(repository, line, totals)
            except LINE_ERRORS as error:
                totals.failed += 1
                report(f"line {number}: {_fault(error)}")
            except BackendUnavailableError as error:
                raise BackendUnavailableError(
                    f"stopped at line {number}: {error}; run it again to continue"
                ) from error
        advance(size, totals)
    return totals


async def _store_line(repository: AsyncSessionRepository, line: list[bytes], totals: Totals) -> None:
    exported = parse_exported_line(line[0])
    if exported is None:
        totals.add(await store(repository, parse_line(line.pop())))
        return
    line.clear()
    chat_session, messages = exported
    await repository.admin.restore(chat_session, messages)
    # The lines of a long session follow one another.
    totals.restored += chat_session.session_id != totals.last_restored
    totals.last_restored = chat_session.session_id
    totals.restored_messages += len(messages)


def _fault(error: SessionsError) -> str:
    if isinstance(error, InvalidInputError) and error.argument == LINE:
        return error.reason  # Without the argument's name: "line 3: is not JSON".
    return str(error)


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
        NewMessage(cast("Role", role), content, message_id=_message_id(session_id, moment, index))
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
    if last.message_id == _message_id(chat_session.session_id, of_import, place):
        return of_import
    return (last.timestamp - EPOCH) // MILLISECOND + 1


def _message_id(session_id: str, moment: int, index: int) -> str:
    """Return a UUIDv7 whose random bits are the position of the message and a hash of its session.

    Ids are unique within a session: if the bits for the position overflow, the timestamp increases. Two
    sessions of the same millisecond may collide, with a probability of 2**-50; the database then rejects the
    second message.
    """
    further, index = divmod(index, 1 << INDEX_BITS)
    moment += further
    digest = hashlib.blake2b(f"{session_id} {moment}".encode(), digest_size=8).digest()
    bits = index << HASH_BITS | int.from_bytes(digest, "big") >> (64 - HASH_BITS)
    high, low = bits >> 62 & 0xFFF, bits & (1 << 62) - 1
    value = (moment & (1 << 48) - 1) << 80 | 0x7 << 76 | high << 64 | 0b10 << 62 | low
    return str(uuid.UUID(int=value))


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
