"""The conversations of a file, one on each line, and what becomes of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from sessions.cli.conversation_lines import Conversation, parse_line
from sessions.cli.exported_lines import parse_exported_line
from sessions.cli.storing import Stored
from sessions.errors import InvalidInputError, SessionsError
from sessions.models import ChatMessage, ChatSession

__all__ = ["Entry", "Totals", "read_lines"]

BYTE_ORDER_MARK = b"\xef\xbb\xbf"


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

    def add_restored(self, chat_session: ChatSession, messages: list[ChatMessage]) -> None:
        """Count one line of an exported file; the lines of a long session follow one another."""
        self.restored += chat_session.session_id != self.last_restored
        self.last_restored = chat_session.session_id
        self.restored_messages += len(messages)

    @property
    def sessions(self) -> int:
        """Conversations of the file that are stored now."""
        return self.created + self.completed + self.skipped + self.restored


@dataclass(slots=True)
class Entry:
    """One conversation of a file.

    Attributes:
        place: Where it is: ``"line 3"``.
        size: Its length in bytes; 0 if that is not known.
        fault: Why it cannot be stored; None for a conversation.
        conversation: Of the importer's own format, whose messages have no ids.
        given: With ids of its own.
        replaces: Whether ``given`` replaces what is stored, as the line of an export does.
    """

    place: str
    size: int = 0
    fault: SessionsError | None = None
    conversation: Conversation | None = None
    given: tuple[ChatSession, list[ChatMessage]] | None = None
    replaces: bool = False

    @property
    def session_id(self) -> str | None:
        """Id of the session; None for a fault."""
        if self.given is not None:
            return self.given[0].session_id
        return None if self.conversation is None else self.conversation.session_id

    @property
    def messages(self) -> int:
        """Number of messages."""
        if self.given is not None:
            return len(self.given[1])
        return 0 if self.conversation is None else len(self.conversation.messages)


def read_lines(lines: Iterable[bytes]) -> Iterator[Entry]:
    """Yield the conversation of each line that is not blank, or why it has none."""
    first = True
    unread = iter(lines)
    number = 0
    # In a list, from which the parser removes it: a line may need most of the memory.
    line: list[bytes] = []
    while True:
        line[:] = [next(unread, b"")]
        if not line[0]:
            return
        number += 1
        size = len(line[0])
        if first:
            line[0] = line[0].removeprefix(BYTE_ORDER_MARK)
            first = False
        if line[0] and not line[0].isspace():
            yield _entry(f"line {number}", size, line)
        else:
            yield Entry("", size)


def _entry(place: str, size: int, line: list[bytes]) -> Entry:
    try:
        exported = parse_exported_line(line[0])
        if exported is None:
            return Entry(place, size, conversation=parse_line(line.pop()))
        return Entry(place, size, given=exported, replaces=True)
    except InvalidInputError as error:
        return Entry(place, size, fault=error)
