"""Copies the conversations of one database to another one, while services go on writing.

Both are read in the order of the session ids, a page at a time. What differs is copied: a session whose
fields differ has changed, because each write raises its version. Each session arrives whole, or with a
version that is not its own: then the next run copies it again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from sessions.cli.collecting import collecting_rarely
from sessions.errors import InvalidInputError, MessageConflictError, SessionConflictError
from sessions.models import ChatMessage, ChatSession
from sessions.repositories import AsyncSessionRepository

__all__ = ["Copied", "Copy"]

PAGE = 1000
BATCH_MESSAGES = 5000
# No message is older.
BEGINNING = datetime(1, 1, 2, tzinfo=UTC)
FAULTS = (InvalidInputError, MessageConflictError, SessionConflictError)


@dataclass(slots=True)
class Copied:
    """What a run did.

    Attributes:
        sessions: Sessions copied.
        messages: Their messages.
        unchanged: Sessions that the target had already.
        extra: Sessions of the target that the source does not have.
        deleted: Those of them that were deleted.
        failed: Sessions that the target cannot store.
        different: Sessions that differ after the copy, of a comparison; None without one.
    """

    sessions: int = 0
    messages: int = 0
    unchanged: int = 0
    extra: int = 0
    deleted: int = 0
    failed: int = 0
    different: int | None = None


class Copy:
    """A run from one database to another one.

    Args:
        source: Where to read.
        target: Where to write.
        prunes: Whether to delete sessions of the target that the source does not have.
        milliseconds: Whether one of them stores times to the millisecond.
        report: Called with each session that cannot be copied, or differs, and the reason.
        advance: Called after each page with the number of sessions read so far, and the totals.
    """

    def __init__(
        self,
        source: AsyncSessionRepository,
        target: AsyncSessionRepository,
        *,
        prunes: bool,
        milliseconds: bool,
        report: Callable[[str], None],
        advance: Callable[[int, Copied], None],
    ) -> None:
        self._source, self._target = source, target
        self._prunes, self._milliseconds = prunes, milliseconds
        self._report, self._advance = report, advance
        self.totals = Copied()
        # New sessions of the target, of which one batch is stored while the next one is read.
        self._batch: list[tuple[ChatSession, list[ChatMessage]]] = []
        self._count = 0
        self._storing: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Copy what differs."""
        with collecting_rarely():
            try:
                await self._run()
            finally:
                if self._storing is not None:
                    self._storing.cancel()
                    await asyncio.wait([self._storing])

    async def _run(self) -> None:
        done = 0
        async for given, stored in self._pages():
            new: list[ChatSession] = []
            for chat_session in given:
                old = stored.pop(chat_session.session_id, None)
                if old is not None and self._same_session(chat_session, old):
                    self.totals.unchanged += 1
                elif old is not None:
                    await self._copy_one(chat_session)
                else:
                    new.append(chat_session)
            await self._copy_new(new)
            await self._count_extra(stored)
            done += len(given)
            self._advance(done, self.totals)
        await self._flush()
        await self._wait()
        self._advance(done, self.totals)

    async def compare(self) -> None:
        """Compare everything that both hold, and count the sessions that differ."""
        with collecting_rarely():
            await self._compare()

    async def _compare(self) -> None:
        different = done = 0
        async for given, stored in self._pages():
            for chat_session in given:
                old = stored.pop(chat_session.session_id, None)
                if old is None or not await self._same(chat_session, old):
                    different += 1
                    reason = "is not in the target" if old is None else "differs"
                    self._report(f"session {chat_session.session_id}: {reason}")
            different += len(stored)
            for session_id in stored:
                self._report(f"session {session_id}: is only in the target")
            done += len(given)
            self._advance(done, self.totals)
        self.totals.different = different

    async def _pages(self) -> AsyncGenerator[tuple[list[ChatSession], dict[str, ChatSession]], None]:
        """Yield pages of the source's sessions, each with the target's sessions in the same range of ids."""
        after: str | None = None
        async with contextlib.aclosing(self._source.admin.iter_sessions()) as sessions:
            while True:
                page: list[ChatSession] = []
                async for chat_session in sessions:
                    page.append(chat_session)
                    if len(page) == PAGE:
                        break
                is_last = len(page) < PAGE
                until = None if is_last else page[-1].session_id
                yield page, await self._stored(after, until)
                if is_last:
                    return
                after = until

    async def _stored(self, after: str | None, until: str | None) -> dict[str, ChatSession]:
        found: dict[str, ChatSession] = {}
        async with contextlib.aclosing(self._target.admin.iter_sessions(after=after)) as sessions:
            async for chat_session in sessions:
                if until is not None and chat_session.session_id > until:
                    break
                found[chat_session.session_id] = chat_session
        return found

    async def _copy_new(self, sessions: list[ChatSession]) -> None:
        """Copy sessions that the target does not have; the last of them may be stored later."""
        long: str | None = None
        async for chat_session, messages in self._source.admin.export(sessions=sessions):
            if chat_session.session_id == long:
                continue
            if len(messages) >= PAGE:
                long = chat_session.session_id
                await self._copy_one(chat_session)
                continue
            if self._batch and self._count + len(messages) > BATCH_MESSAGES:
                await self._flush()
            self._batch.append((chat_session, messages))
            self._count += len(messages)

    async def _flush(self) -> None:
        """Begin to store the batch, once the one before is stored."""
        await self._wait()
        batch, self._batch, self._count = self._batch, [], 0
        self._storing = asyncio.create_task(self._store(batch))

    async def _wait(self) -> None:
        if self._storing is not None:
            storing, self._storing = self._storing, None
            await storing

    async def _store(self, batch: list[tuple[ChatSession, list[ChatMessage]]]) -> None:
        try:
            await self._target.admin.restore_many(batch)
        except FAULTS:
            for chat_session, messages in batch:
                await self._store_one(chat_session, messages)
            return
        self.totals.sessions += len(batch)
        self.totals.messages += sum(len(messages) for _, messages in batch)

    async def _store_one(self, chat_session: ChatSession, messages: list[ChatMessage]) -> None:
        try:
            await self._target.admin.restore(chat_session, messages)
        except FAULTS as error:
            self._fail(chat_session, error)
        else:
            self.totals.sessions += 1
            self.totals.messages += len(messages)

    async def _copy_one(self, chat_session: ChatSession) -> None:
        """Copy a session that is long, or that the target has in another state."""
        # Until all of it is there, its version is not its own.
        unfinished = replace(chat_session, version=chat_session.version + 1)
        ids: set[str] = set()
        try:
            async for messages in self._history(self._source, chat_session):
                await self._target.admin.restore(unfinished, messages)
                ids |= {message.message_id for message in messages}
            await self._target.admin.restore(unfinished, [])
            stale = [
                message.message_id
                async for messages in self._history(self._target, chat_session)
                for message in messages
                if message.message_id not in ids
            ]
            for start in range(0, len(stale), PAGE):
                part = stale[start : start + PAGE]
                await self._target.delete_messages(chat_session.user_id, chat_session.session_id, part)
            await self._target.admin.restore(chat_session, [])
        except FAULTS as error:
            self._fail(chat_session, error)
            return
        self.totals.sessions += 1
        self.totals.messages += len(ids)

    def _fail(self, chat_session: ChatSession, error: Exception) -> None:
        self.totals.failed += 1
        self._report(f"session {chat_session.session_id}: {error}")

    async def _count_extra(self, stored: dict[str, ChatSession]) -> None:
        for chat_session in stored.values():
            key = chat_session.user_id, chat_session.session_id
            if await self._source.get_session(*key) is not None:
                continue  # It was created meanwhile, or is not stored under the id that the source has.
            self.totals.extra += 1
            if self._prunes:
                self.totals.deleted += await self._target.delete_session_async(*key)

    # -- Comparing ---------------------------------------------------------------------------------

    async def _same(self, one: ChatSession, other: ChatSession) -> bool:
        if not self._same_session(one, other):
            return False
        theirs = self._history(self._target, other)
        async with contextlib.aclosing(theirs):
            async for messages in self._history(self._source, one):
                found: list[ChatMessage] = await anext(theirs, [])
                if [self._rounded(message) for message in messages] != [*map(self._rounded, found)]:
                    return False
            return not await anext(theirs, [])

    def _same_session(self, one: ChatSession, other: ChatSession) -> bool:
        times = [(self._cut(item.created_at), self._cut(item.updated_at)) for item in (one, other)]
        return (
            times[0] == times[1]
            and replace(one, created_at=other.created_at, updated_at=other.updated_at) == other
        )

    def _rounded(self, message: ChatMessage) -> ChatMessage:
        return replace(message, timestamp=self._cut(message.timestamp))

    def _cut(self, moment: datetime) -> datetime:
        """Return a time as the less exact of the two stores it."""
        if not self._milliseconds:
            return moment
        return moment.replace(microsecond=moment.microsecond // 1000 * 1000)

    # -- Reading -----------------------------------------------------------------------------------

    async def _history(
        self, repository: Any, chat_session: ChatSession
    ) -> AsyncGenerator[list[ChatMessage], None]:
        after: str | None = None
        while messages := await self._page(repository, chat_session, after):
            yield messages
            if len(messages) < PAGE:
                return
            after = messages[-1].message_id

    async def _page(
        self, repository: AsyncSessionRepository, chat_session: ChatSession, after: str | None
    ) -> list[ChatMessage]:
        """Return the oldest messages, or those that follow one of them."""
        key = chat_session.user_id, chat_session.session_id
        if after is None:
            return await repository.get_session_history(*key, since=BEGINNING, limit=PAGE)
        return await repository.get_session_history(*key, after=after, limit=PAGE)
