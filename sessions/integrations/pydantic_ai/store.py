"""The store of Pydantic AI's conversations."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from pydantic_ai.conversation_store import (
    ConversationConflict,
    ConversationEntry,
    ConversationRecord,
)
from pydantic_ai.conversation_store import (
    ConversationStore as BaseConversationStore,
)

from sessions import validation
from sessions.errors import VersionConflictError
from sessions.integrations.common import settled
from sessions.integrations.pydantic_ai.entries import (
    ENTRY,
    copied,
    is_line,
    line_to,
    to_entries,
    to_messages,
    to_record,
    to_text,
)
from sessions.integrations.pydantic_ai.finding import SKEW, Finder, record_of
from sessions.integrations.pydantic_ai.writing import AHEAD, SCOPE, Writer, comparable
from sessions.models import ChatMessage, NewMessage

if TYPE_CHECKING:
    from sessions.repositories import AsyncSessionRepository

__all__ = ["ConversationStore"]

# Rounds in which somebody else changes the session, but not the record, between a read and a write.
ATTEMPTS = 5


class ConversationStore(BaseConversationStore):
    """A store of Pydantic AI's conversations: ``await store.save(result)``.

    A conversation is a session, its record is in the session's metadata, and its entries are the session's
    messages. A save writes the new entries and the record in one transaction.

    A fork has the entries of the conversation that it continues, under their ids. They are stored with it, so
    that deleting a conversation deletes all of its messages at once, those of branches too, and touches no
    fork.

    Args:
        repository: Where conversations are stored.
        user_id: Owner of the conversations; a store sees those of this user only.
    """

    def __init__(self, repository: AsyncSessionRepository, *, user_id: str) -> None:
        self._repository = repository
        self._user_id = validation.check_user_id(user_id)
        self._finder = Finder(repository, self._user_id)
        self._writer = Writer(repository, self._user_id, self._finder)

    # -- Reading ---------------------------------------------------------------------------------------------

    async def read_record(self, conversation_id: str) -> ConversationRecord | None:
        """Return the record of a conversation; None if the user has no such conversation."""
        known = await self._finder.read(conversation_id)
        # A copy: what was read is remembered.
        return None if known is None or known.record is None else to_record(to_text(known.record))

    async def read_records(
        self, *, scope: str | None = None, limit: int | None = None
    ) -> Sequence[ConversationRecord]:
        """Return the records, the last saved first.

        Args:
            scope: Only those with this scope.
            limit: At most so many; None for all.
        """
        found: list[ConversationRecord] = []
        if limit == 0:
            return found
        where = {} if scope is None else {SCOPE: comparable(scope)}
        options = {}
        if limit is not None:
            options["size"] = limit + 1
            ahead = self._finder.sessions({**where, AHEAD: True})
            found = [record async for each in ahead if (record := record_of(each)) is not None]
        async for chat_session in self._finder.sessions(where, **options):
            if limit is not None and chat_session.metadata.get(AHEAD):
                continue  # It has been found.
            if limit is not None and len(found) >= limit:
                found = sorted(found, key=_saved_at, reverse=True)[:limit]
                # The sessions that follow were changed earlier, and their records are not of a later time.
                if chat_session.updated_at + SKEW < found[-1].updated_at:
                    break
            if (record := record_of(chat_session)) is not None:
                found.append(record)
        return sorted(found, key=_saved_at, reverse=True)[:limit]

    async def read_entry(self, entry_id: str) -> ConversationEntry:
        """Return an entry, of any conversation of the user.

        Raises:
            LookupError: There is none with this id.
        """
        async for session_id in self._finder.homes(entry_id):
            if (message := await self._finder.message(session_id, entry_id)) is not None:
                self._finder.remember(entry_id, session_id)
                return to_entries([message])[0]
        raise LookupError(entry_id)

    async def read_history(self, head_id: str | None, *, limit: int | None = None) -> list[ConversationEntry]:
        """Return the entries up to one, the oldest first.

        Args:
            head_id: The last entry; None for no history.
            limit: Only the last so many.

        Raises:
            LookupError: An entry is not stored.
        """
        if head_id is None or limit == 0:
            return []
        async for session_id in self._finder.homes(head_id):
            # The newest messages are the end of a history that was not rewritten.
            for size in (None,) if limit is None else (limit, None):
                stored = await self._repository.get_session_history(self._user_id, session_id, limit=size)
                if (line := line_to(head_id, stored, limit)) is not None:
                    self._finder.remember(head_id, session_id)
                    return to_entries(line)
        raise LookupError(head_id)

    # -- Writing ---------------------------------------------------------------------------------------------

    async def write_record(
        self,
        record: ConversationRecord,
        *,
        new_entries: Sequence[ConversationEntry] = (),
        expected_revision: str | None,
    ) -> None:
        """Store a record and the new entries of its history, all or nothing.

        Args:
            record: The record.
            new_entries: Entries, each after the one that it points at.
            expected_revision: Revision of the record that is replaced; None for a new conversation.

        Raises:
            ConversationConflict: The stored record has another revision, or an entry is not stored.
        """
        await settled(self._write(record, list(new_entries), expected_revision))

    async def delete_record(self, conversation_id: str, *, expected_revision: str) -> None:
        """Delete a conversation with all its messages; forks keep theirs.

        Raises:
            ConversationConflict: The stored record has another revision, or there is none.
        """
        await settled(self._delete(conversation_id, expected_revision))

    async def _write(
        self, record: ConversationRecord, new: list[ConversationEntry], expected_revision: str | None
    ) -> None:
        conversation_id = record.conversation_id
        for _ in range(ATTEMPTS):
            known = await self._finder.at(conversation_id, expected_revision)
            if (known.revision if known else None) != expected_revision:
                break
            messages = await self._messages_for(record, new, known.record if known else None)
            self._finder.forget(conversation_id)
            if await self._writer.store(record, messages, known.session if known else None):
                self._finder.remember(record.head_id, self._finder.id_of(conversation_id))
                return
        raise ConversationConflict(conversation_id)

    async def _messages_for(
        self, record: ConversationRecord, new: list[ConversationEntry], stored: ConversationRecord | None
    ) -> list[NewMessage]:
        """Return the messages that the session lacks: the new entries, and what they or the head continue.

        Raises:
            ConversationConflict: An entry is not stored.
        """
        last = stored.head_id if stored else None
        continued = new[0].parent_id if new else record.head_id
        if continued == last and (not new or is_line(new, record.head_id)):
            return to_messages(new)
        session_id = self._finder.id_of(record.conversation_id)
        kept = await self._repository.get_session_history(self._user_id, session_id)
        present = {message.metadata.get(ENTRY) for message in kept}
        lacking = [entry for entry in new if entry.id not in present]
        present |= {None, *(entry.id for entry in new)}
        carried: list[NewMessage] = []
        for entry_id in [*(entry.parent_id for entry in new), record.head_id]:
            if entry_id is None or entry_id in present:
                continue
            for message in await self._line_elsewhere(entry_id, record):
                if message.metadata[ENTRY] not in present:
                    present.add(message.metadata[ENTRY])
                    carried.append(copied(message, session_id))
        return [*carried, *to_messages(lacking)]

    async def _line_elsewhere(self, entry_id: str, record: ConversationRecord) -> list[ChatMessage]:
        likely = () if record.forked_from is None else (self._finder.id_of(record.forked_from),)
        async for session_id in self._finder.homes(entry_id, *likely):
            stored = await self._repository.get_session_history(self._user_id, session_id)
            if (line := line_to(entry_id, stored)) is not None:
                return line
        raise ConversationConflict(record.conversation_id)

    async def _delete(self, conversation_id: str, expected_revision: str) -> None:
        for _ in range(ATTEMPTS):
            known = await self._finder.at(conversation_id, expected_revision)
            if known is None or known.revision != expected_revision:
                break
            self._finder.forget(conversation_id)
            try:
                if await self._repository.delete_session_async(
                    self._user_id, known.session.session_id, expected_version=known.session.version
                ):
                    return
            except VersionConflictError:
                continue
        raise ConversationConflict(conversation_id)


def _saved_at(record: ConversationRecord) -> datetime:
    return record.updated_at
