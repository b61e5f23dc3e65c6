"""A backend in memory, as simple as DESIGN's rules allow: the contract and the model test are checked on it.

Nothing here is concurrent: no operation awaits anything, so each is atomic.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

from sessions import (
    UNSET,
    AsyncBaseConnectionManager,
    AsyncSessionRepository,
    ChatMessage,
    ChatSession,
    ConnectionType,
    MessageConflictError,
    RetryConfig,
    SearchHit,
    SessionConflictError,
    SessionPreview,
    VersionConflictError,
)
from sessions import validation as check
from sessions.core.calls import Calls
from sessions.core.casefolding import simple_fold
from sessions.core.identifiers import new_message_id
from sessions.core.operations import Operations
from sessions.core.port import Backend
from sessions.core.values import (
    EarlierAttempts,
    HistoryRange,
    MessageChange,
    MessageRow,
    NewSession,
    Position,
    SessionChange,
    Where,
)

MICROSECOND = timedelta(microseconds=1)


class ReferenceManager(AsyncBaseConnectionManager):
    """Has no connections."""

    def __init__(self) -> None:
        self._identity = uuid.uuid4().hex

    async def connect(self) -> ReferenceManager:
        return self

    async def disconnect(self) -> None:
        pass

    async def is_healthy(self) -> bool:
        return True

    async def identity(self) -> str | None:
        return self._identity


@dataclasses.dataclass(slots=True)
class Stored:
    """A message without its payload, which is kept as JSON text.

    Attributes:
        message: The message.
        write_order: Counts the messages written.
        payload: JSON text; None for no payload.
        assigned: Whether its timestamp is the time of writing, and not the caller's.
    """

    message: ChatMessage
    write_order: int
    payload: str | None
    assigned: bool = True

    @property
    def position(self) -> Position:
        return self.message.timestamp, self.write_order, self.message.message_id

    def visible(self) -> ChatMessage:
        shown = copy.deepcopy(self.message)
        shown.payload = check.decode_payload(self.payload)
        return shown


def accepts(where: Where | None, metadata: dict[str, Any]) -> bool:
    """Return whether metadata meets all conditions: True is not 1, and a list is not its element."""
    return all(
        any(
            isinstance(metadata.get(key), bool) is isinstance(value, bool) and metadata.get(key) == value
            for value in accepted
        )
        for key, accepted in (where or {}).items()
    )


def exactly(value: Any) -> Any:
    """Return a form of a JSON value in which True is not 1, but 1 is 1.0."""
    if isinstance(value, dict):
        return {key: exactly(item) for key, item in value.items()}
    if isinstance(value, list):
        return [exactly(item) for item in value]
    return isinstance(value, bool), value


class ReferenceBackend(Backend):
    """Sessions and messages in dictionaries."""

    DEFAULT_RETRY: ClassVar = RetryConfig(max_attempts=1)

    def __init__(self, manager: Any) -> None:
        super().__init__(manager)
        self.sessions: dict[str, ChatSession] = {}
        self.messages: dict[str, list[Stored]] = {}
        self._writes = itertools.count(1)

    def check_id(self, argument: str, value: object) -> str:
        return check.check_uuid(argument, value)

    # -- Helpers -----------------------------------------------------------------------------------

    def _owned(self, session_id: str, user_id: str | None) -> ChatSession | None:
        found = self.sessions.get(session_id)
        return found if found is not None and user_id in (None, found.user_id) else None

    def _find(self, message_id: str) -> Stored | None:
        every = (stored for messages in self.messages.values() for stored in messages)
        return next((stored for stored in every if stored.message.message_id == message_id), None)

    def _check_version(self, found: ChatSession, expected: int | None) -> None:
        if expected is not None and found.version != expected:
            raise VersionConflictError("the session has another version")

    def _changed(self, found: ChatSession, moment: datetime | None = None) -> None:
        found.version += 1
        found.updated_at = self._next_moment(found) if moment is None else moment

    def _next_moment(self, found: ChatSession) -> datetime:
        return max(datetime.now(UTC), found.updated_at + MICROSECOND)

    def _new_rows(self, session_id: str, rows: list[MessageRow], replaced: list[Stored]) -> list[MessageRow]:
        """Return the rows that are not stored yet."""
        new = []
        for row in rows:
            stored = self._find(row.message_id)
            if stored is None or stored in replaced:
                new.append(row)
            elif (stored.message.session_id, stored.message.role, stored.message.content) != (
                session_id,
                row.role,
                row.content,
            ):
                raise MessageConflictError("a message id is taken by another message")
        if len({row.message_id for row in rows}) < len(rows):
            raise MessageConflictError("a message id occurs twice")
        return new

    def _insert(self, found: ChatSession, rows: list[MessageRow], moment: datetime) -> datetime:
        for row in rows:
            timestamp = moment if row.timestamp is None else row.timestamp
            metadata = copy.deepcopy(row.metadata or {})
            message = ChatMessage(
                row.message_id, found.session_id, row.role, row.content, timestamp, metadata
            )
            self.messages[found.session_id].append(
                Stored(message, next(self._writes), row.payload, row.timestamp is None)
            )
            moment += MICROSECOND
        self.messages[found.session_id].sort(key=lambda stored: stored.position)
        return max(moment - MICROSECOND, found.updated_at)

    def _place(self, session_id: str, argument: str, message_id: str) -> int:
        ids = [stored.message.message_id for stored in self.messages[session_id]]
        if message_id not in ids:
            raise check.no_such_message(argument)
        return ids.index(message_id)

    def _remove(self, found: ChatSession, gone: Callable[[Stored], bool]) -> int:
        kept = [stored for stored in self.messages[found.session_id] if not gone(stored)]
        removed = len(self.messages[found.session_id]) - len(kept)
        if removed:
            self.messages[found.session_id] = kept
            self._changed(found)
        return removed

    def _listed(self, user_id: str, where: Where | None = None) -> list[ChatSession]:
        mine = [
            item
            for item in self.sessions.values()
            if item.user_id == user_id and accepts(where, item.metadata)
        ]
        mine.sort(key=lambda item: item.session_id)
        mine.sort(key=lambda item: item.updated_at, reverse=True)
        return copy.deepcopy(mine)

    def _drop(self, sessions: list[ChatSession]) -> int:
        for item in sessions:
            del self.sessions[item.session_id], self.messages[item.session_id]
        return len(sessions)

    # -- Sessions ----------------------------------------------------------------------------------

    async def create(self, new: NewSession, rows: list[MessageRow]) -> None:
        if new.session_id in self.sessions:
            raise SessionConflictError("the session id is taken")
        if len(self._new_rows(new.session_id, rows, [])) < len(rows):
            raise MessageConflictError("a message id is taken by another message")
        self._store(new, rows)

    def _store(self, new: NewSession, rows: list[MessageRow]) -> None:
        found = ChatSession(
            new.session_id,
            new.title,
            new.user_id,
            new.created_at,
            new.created_at,
            copy.deepcopy(new.metadata),
        )
        self.sessions[new.session_id], self.messages[new.session_id] = found, []
        found.updated_at = self._insert(found, rows, new.created_at)

    async def ensure(self, new: NewSession, earlier: EarlierAttempts) -> bool | None:
        there = self.sessions.get(new.session_id)
        if there is None:
            self._store(new, [])
            return True
        return False if there.user_id == new.user_id else None

    async def get(self, session_id: str, user_id: str) -> ChatSession | None:
        return copy.deepcopy(self._owned(session_id, user_id))

    async def update(self, session_id: str, user_id: str, change: SessionChange) -> bool:
        found = self._owned(session_id, user_id)
        if found is None:
            return False
        self._check_version(found, change.expected_version)
        if change.if_title is not None and found.title != change.if_title:
            return False
        title = found.title if change.title is None else change.title
        metadata = found.metadata if change.metadata is None else change.metadata
        metadata = {key: metadata[key] for key in metadata if key not in change.remove}
        metadata = copy.deepcopy(metadata | (change.merge or {}))
        if title != found.title or exactly(metadata) != exactly(found.metadata):
            found.title, found.metadata = title, metadata
            self._changed(found, None if change.touch else found.updated_at)
        return True

    async def delete(
        self, session_id: str, user_id: str, expected_version: int | None, earlier: EarlierAttempts
    ) -> bool:
        found = self._owned(session_id, user_id)
        if found is None:
            return False
        self._check_version(found, expected_version)
        return bool(self._drop([found]))

    async def list_page(self, user_id: str, offset: int, limit: int) -> list[ChatSession]:
        return self._listed(user_id)[offset : offset + limit]

    async def list_after(
        self, user_id: str, after: tuple[datetime, str] | None, limit: int, where: Where | None
    ) -> list[ChatSession]:
        def follows(item: ChatSession) -> bool:
            assert after is not None
            moment, session_id = after
            return item.updated_at < moment or (item.updated_at == moment and item.session_id > session_id)

        return [item for item in self._listed(user_id, where) if after is None or follows(item)][:limit]

    async def list_previews(
        self, user_id: str, after: tuple[datetime, str] | None, limit: int, where: Where | None
    ) -> list[SessionPreview]:
        return [
            SessionPreview(
                item, newest[0].visible() if (newest := self.messages[item.session_id][-1:]) else None
            )
            for item in await self.list_after(user_id, after, limit, where)
        ]

    async def count(self, user_id: str, where: Where | None) -> int:
        return len(self._listed(user_id, where))

    # -- Messages ----------------------------------------------------------------------------------

    async def append(
        self,
        session_id: str,
        user_id: str | None,
        rows: list[MessageRow],
        merge: dict[str, Any] | None,
        expected_version: int | None,
    ) -> bool:
        found = self._owned(session_id, user_id)
        if found is None:
            return False
        new = self._new_rows(session_id, rows, [])
        if rows and not new:
            return True
        self._check_version(found, expected_version)
        metadata = copy.deepcopy(found.metadata | (merge or {}))
        if new or exactly(metadata) != exactly(found.metadata):
            moment = self._next_moment(found)
            found.metadata = metadata
            self._changed(found, max(moment, self._insert(found, new, moment)))
        return True

    async def history(self, session_id: str, user_id: str, part: HistoryRange) -> list[ChatMessage]:
        if self._owned(session_id, user_id) is None:
            return []
        found = self.messages[session_id]
        if part.before is not None:
            found = found[: self._place(session_id, "before", part.before)]
        if part.after is not None:
            found = found[self._place(session_id, "after", part.after) + 1 :]
        if part.since is not None:
            found = [stored for stored in found if stored.message.timestamp >= part.since]
        if part.limit is not None:
            forwards = part.after is not None or part.since is not None
            found = found[: part.limit] if forwards else found[max(len(found) - part.limit, 0) :]
        return [stored.visible() for stored in found]

    async def get_message(self, session_id: str, user_id: str, message_id: str) -> ChatMessage | None:
        history = await self.history(session_id, user_id, HistoryRange())
        return next((message for message in history if message.message_id == message_id), None)

    async def count_messages(self, session_id: str, user_id: str) -> int:
        return len(await self.history(session_id, user_id, HistoryRange()))

    async def update_message(
        self, session_id: str, user_id: str, message_id: str, change: MessageChange
    ) -> bool:
        found, stored = self._owned(session_id, user_id), self._find(message_id)
        if found is None or stored is None or stored.message.session_id != session_id:
            return False
        self._check_version(found, change.expected_version)
        content = stored.message.content if change.content is None else change.content
        metadata = stored.message.metadata if change.metadata is None else change.metadata
        metadata = copy.deepcopy(metadata | (change.merge or {}))
        payload = stored.payload if change.payload is UNSET else change.payload
        before = stored.message.content, exactly(stored.message.metadata), stored.payload
        if (content, exactly(metadata), payload) != before:
            stored.message.content, stored.message.metadata, stored.payload = content, metadata, payload
            self._changed(found)
        return True

    async def pop_message(self, session_id: str, user_id: str) -> ChatMessage | None:
        found = self._owned(session_id, user_id)
        if found is None or not self.messages[session_id]:
            return None
        newest = self.messages[session_id].pop()
        self._changed(found)
        return newest.visible()

    async def delete_messages(self, session_id: str, user_id: str, message_ids: list[str]) -> int:
        found = self._owned(session_id, user_id)
        if found is None:
            return 0
        return self._remove(found, lambda stored: stored.message.message_id in message_ids)

    async def delete_messages_from(
        self, session_id: str, user_id: str, message_id: str, inclusive: bool
    ) -> int:
        found = self._owned(session_id, user_id)
        if found is None:
            return 0
        anchor = self.messages[session_id][self._place(session_id, "message_id", message_id)]
        return self._remove(
            found,
            lambda stored: stored.position > anchor.position or (inclusive and stored is anchor),
        )

    async def clear_messages(self, session_id: str, user_id: str, expected_version: int | None) -> int:
        found = self._owned(session_id, user_id)
        if found is None:
            return 0
        self._check_version(found, expected_version)
        return self._remove(found, lambda _: True)

    async def replace_messages(
        self, session_id: str, user_id: str, rows: list[MessageRow], expected_version: int | None
    ) -> bool:
        found = self._owned(session_id, user_id)
        if found is None:
            return False
        self._check_version(found, expected_version)
        self._new_rows(session_id, rows, self.messages[session_id])
        if rows or self.messages[session_id]:
            self.messages[session_id] = []
            moment = self._next_moment(found)
            self._changed(found, max(moment, self._insert(found, rows, moment)))
        return True

    async def fork(self, session_id: str, user_id: str, through: str | None, new: NewSession) -> bool:
        if self._owned(session_id, user_id) is None:
            return False
        copied = self.messages[session_id]
        if through is not None:
            copied = copied[: self._place(session_id, "through", through) + 1]
        self._store(new, [])
        self.messages[new.session_id] = copies = copy.deepcopy(copied)
        # New ids in the same order, for messages with the same timestamp and write order.
        for stored in copies:
            stored.message.session_id, stored.message.message_id = new.session_id, new_message_id()
        return True

    async def search(
        self, user_id: str, terms: Sequence[str], session_id: str | None, after: Position | None, limit: int
    ) -> list[tuple[SearchHit, Position]]:
        found = [
            (SearchHit(copy.deepcopy(self.sessions[key]), stored.visible()), stored.position)
            for key, messages in self.messages.items()
            for stored in messages
            if self._owned(key, user_id) is not None
            and session_id in (None, key)
            and all(term in simple_fold(stored.message.content) for term in terms)
        ]
        found.sort(key=lambda hit: hit[1], reverse=True)
        return [hit for hit in found if after is None or hit[1] < after][:limit]

    # -- Retention ---------------------------------------------------------------------------------

    async def delete_beyond(self, user_id: str, keep_last_n: int, limit: int) -> int:
        return self._drop(self._listed(user_id)[keep_last_n:][:limit])

    async def delete_older(
        self, cutoff: datetime, user_id: str | None, where: Where | None, limit: int
    ) -> int:
        users = {item.user_id for item in self.sessions.values()} if user_id is None else {user_id}
        old = [item for user in users for item in self._listed(user, where) if item.updated_at < cutoff]
        return self._drop(old[:limit])

    async def delete_user(self, user_id: str, limit: int) -> int:
        return self._drop(self._listed(user_id)[:limit])

    async def export_sessions(self, user_id: str, after: ChatSession | None, limit: int) -> list[ChatSession]:
        def remaining() -> Iterator[ChatSession]:
            for item in reversed(self._listed(user_id)):
                key = item.updated_at, item.session_id
                if (
                    after is None
                    or key[0] > after.updated_at
                    or (key[0] == after.updated_at and key[1] < after.session_id)
                ):
                    yield item

        return list(remaining())[:limit]

    async def export_messages(
        self, session_id: str, user_id: str, after: Position | None, limit: int
    ) -> list[tuple[ChatMessage, Position]]:
        if self._owned(session_id, user_id) is None:
            return []
        found = [item for item in self.messages[session_id] if after is None or item.position > after]
        return [(stored.visible(), stored.position) for stored in found[:limit]]


# Administration is no part of the contract, and not needed for it.
ReferenceBackend.__abstractmethods__ = frozenset()


class ReferenceRepository(AsyncSessionRepository):
    """A repository on a `ReferenceBackend` of its own."""

    CONNECTION_TYPE = ConnectionType.SQLITE  # There is none for it; nothing of SQLite is used.

    def _use(self, manager: AsyncBaseConnectionManager, retry: RetryConfig | None) -> None:
        super()._use(manager, retry)
        self.backend = ReferenceBackend(manager)
        self._calls = Calls(self.backend, lambda: RetryConfig(max_attempts=1))
        self._operations = Operations(self._calls)

    def __init__(self) -> None:
        super().__init__(connection_manager=ReferenceManager())
