"""Finds the sessions of Pydantic AI's conversations and entries, and remembers them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from pydantic_ai.conversation_store import ConversationRecord

from sessions.integrations.common import FRAMEWORK as FRAMEWORK_KEY
from sessions.integrations.common import derived_id, session_id_for
from sessions.integrations.pydantic_ai.entries import FRAMEWORK, message_id_of, minted_at, to_record
from sessions.models import ChatMessage, ChatSession

if TYPE_CHECKING:
    from sessions.repositories import AsyncSessionRepository

__all__ = ["RECORD", "SKEW", "Finder", "Known", "record_of"]

# Key of a session's metadata.
RECORD = "pydantic_ai.record"
REMEMBERED = 10_000
PAGE = 1000
# By how much the clocks of two hosts may differ.
SKEW = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Known:
    """A session as it was read.

    Attributes:
        session: The session.
        record: Its record; None of a session that is no conversation of the framework.
    """

    session: ChatSession
    record: ConversationRecord | None

    @property
    def revision(self) -> str | None:
        """Revision of the record."""
        return self.record.revision if self.record else None


class Finder:
    """Finds sessions of one user.

    Args:
        repository: Where they are stored.
        user_id: Owner.
    """

    def __init__(self, repository: AsyncSessionRepository, user_id: str) -> None:
        self._repository = repository
        self._user_id = user_id
        # What was read last of a conversation, and the session in which an entry was found last.
        self._known: OrderedDict[str, Known | None] = OrderedDict()
        self._homes: OrderedDict[str, str] = OrderedDict()

    def id_of(self, conversation_id: str) -> str:
        """Return the id of the session of a conversation."""
        return session_id_for(FRAMEWORK, self._user_id, conversation_id)

    async def read(self, conversation_id: str) -> Known | None:
        """Read the session of a conversation."""
        chat_session = await self._repository.get_session(self._user_id, self.id_of(conversation_id))
        known = None if chat_session is None else Known(chat_session, record_of(chat_session))
        self._known[conversation_id] = known
        _forget_oldest(self._known)
        if known is not None and known.record is not None:
            for entry_id in (known.record.head_id, *known.record.branches):
                self.remember(entry_id, known.session.session_id)
        return known

    async def at(self, conversation_id: str, revision: str | None) -> Known | None:
        """Return what was read last, if it has a revision: a write finds out whether it still does."""
        if conversation_id in self._known:
            known = self._known[conversation_id]
            if (known.revision if known else None) == revision:
                return known
        return await self.read(conversation_id)

    def forget(self, conversation_id: str) -> None:
        """Read the session anew the next time."""
        self._known.pop(conversation_id, None)

    def remember(self, entry_id: str | None, session_id: str) -> None:
        """Take note of the session that has an entry."""
        if entry_id is not None:
            self._homes[entry_id] = session_id
            self._homes.move_to_end(entry_id)
            _forget_oldest(self._homes)

    async def sessions(self, where: dict[str, Any], size: int = PAGE) -> AsyncIterator[ChatSession]:
        """Yield sessions, the last changed first, reading so many at once."""
        cursor: str | None = None
        while True:
            page = await self._repository.list_sessions(
                self._user_id, limit=min(size, PAGE), cursor=cursor, where={FRAMEWORK_KEY: FRAMEWORK, **where}
            )
            for chat_session in page.sessions:
                yield chat_session
            if (cursor := page.next_cursor) is None:
                return

    async def homes(self, entry_id: str, *likely: str) -> AsyncIterator[str]:
        """Yield the ids of the sessions that have an entry.

        Of those where it is likely to be, this is not known for certain. Nothing but a search finds an entry
        of which nothing is known; it ends at the sessions that were not changed since the entry was made.

        Args:
            entry_id: The entry.
            *likely: Ids of sessions to begin with.
        """
        home = self._homes.get(entry_id)
        first = dict.fromkeys([*([home] if home else []), *likely])
        for session_id in first:
            yield session_id
        minted = minted_at(entry_id)
        async for chat_session in self.sessions({}):
            if minted is not None and chat_session.updated_at + SKEW < minted:
                return
            session_id = chat_session.session_id
            if session_id not in first and await self.message(session_id, entry_id) is not None:
                yield session_id

    async def message(self, session_id: str, entry_id: str) -> ChatMessage | None:
        """Return the message of an entry in a session; None if the session does not have it."""
        under_own_id = derived_id(FRAMEWORK, session_id, entry_id)
        for message_id in dict.fromkeys((message_id_of(entry_id), under_own_id)):
            message = await self._repository.get_message(self._user_id, session_id, message_id)
            if message is not None:
                return message
        return None


def record_of(chat_session: ChatSession) -> ConversationRecord | None:
    """Return the record in the metadata of a session; None if there is none."""
    text = chat_session.metadata.get(RECORD)
    return to_record(text) if isinstance(text, str) else None


def _forget_oldest(remembered: OrderedDict[str, Any]) -> None:
    if len(remembered) > REMEMBERED:
        remembered.popitem(last=False)
