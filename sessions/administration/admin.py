"""The operations across users."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping
from datetime import datetime
from typing import Any

from sessions import validation
from sessions.administration.filters import SessionFilter, check_period
from sessions.administration.restoring import check_conversations, check_messages, check_session
from sessions.core.calls import Calls
from sessions.core.counting import to_statistics
from sessions.core.exporting import sessions_of_user, whole_conversations
from sessions.errors import InvalidInputError
from sessions.models import ChatMessage, ChatSession, Statistics
from sessions.models.statistics import TimeBucket

__all__ = ["AsyncAdmin"]


class AsyncAdmin:
    """What looks across users; ``admin`` of `AsyncChats`.

    For operators: backups, moves to another database, reports. No operation of `AsyncChats` or of a
    repository reads more than one user's conversations.

    Args:
        calls: The calls to the backend.

    Raises:
        InvalidInputError: From every operation: an argument is invalid; nothing is sent.
        BackendUnavailableError: From every operation: the database cannot be used, after the retries.
        SchemaOutdatedError: From every operation: the schema is older and ``auto_migrate`` is off.
    """

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def iter_users(self) -> AsyncGenerator[str, None]:
        """Yield the id of every user with sessions, each once, in the order of the database's index.

        In constant memory. On PostgreSQL and SQLite the cost follows the number of users, not of sessions;
        MongoDB also reads up to 1000 index entries of each user.
        """
        last: str | None = None
        work = self._calls.backend.list_users
        while found := await self._calls.run("iter_users", work, last, self._calls.batch_size):
            for user_id in found:
                yield user_id
            last = found[-1]

    async def iter_sessions(
        self,
        *,
        updated_since: datetime | None = None,
        updated_before: datetime | None = None,
        where: Mapping[str, Any] | None = None,
        after: str | None = None,
    ) -> AsyncGenerator[ChatSession, None]:
        """Yield the sessions of all users, each once, in the order of their ids.

        In constant memory, and in short statements: the filters are applied to pages of 1000 sessions.
        A session that exists the whole time is yielded exactly once, also if it changes meanwhile.

        Args:
            updated_since: Timezone-aware; only sessions with this ``updated_at`` or a later one.
            updated_before: Timezone-aware; only sessions with an ``updated_at`` before it.
            where: Only sessions whose metadata has these values, as in `AsyncChats.list_sessions`.
            after: Only sessions that come after this id in the order, to continue an iteration.
        """
        chosen = SessionFilter.checked(updated_since, updated_before, where)
        last = None if after is None else self._calls.check_id("after", after)
        async for chat_session in self._sessions("iter_sessions", None, chosen, last):
            yield chat_session

    async def export(
        self,
        *,
        updated_since: datetime | None = None,
        updated_before: datetime | None = None,
        where: Mapping[str, Any] | None = None,
        user_id: str | None = None,
        after: str | None = None,
        sessions: Iterable[ChatSession] | None = None,
    ) -> AsyncGenerator[tuple[ChatSession, list[ChatMessage]], None]:
        """Yield the sessions of all users with their messages, oldest first, in constant memory.

        A session with more than 1000 messages is yielded in several consecutive parts of at most 1000
        messages, each of which `AsyncAdmin.restore` takes. It is not a snapshot: a message that is added
        meanwhile may be yielded with the session as it was before.

        Args:
            updated_since: As in `AsyncAdmin.iter_sessions`; the time of the last export, for an
                incremental one.
            updated_before: As in `AsyncAdmin.iter_sessions`.
            where: As in `AsyncAdmin.iter_sessions`.
            user_id: Only this user's sessions, in the order of their last change.
            after: As in `AsyncAdmin.iter_sessions`; not with ``user_id``.
            sessions: Only these sessions, as they were read, in their order; without other arguments.
        """
        chosen = SessionFilter.checked(updated_since, updated_before, where)
        owner = None if user_id is None else validation.check_user_id(user_id)
        if owner is not None and after is not None:
            raise InvalidInputError("after", "goes with no user_id")
        last = None if after is None else self._calls.check_id("after", after)
        found = self._sessions("export", owner, chosen, last)
        if sessions is not None:
            if owner is not None or last is not None or chosen != SessionFilter(None, None, None):
                raise InvalidInputError("sessions", "goes with no other argument")
            found = _each([check_session(self._calls, one) for one in sessions])
        async for chat_session, part in whole_conversations(self._calls, "export", found):
            yield chat_session, part

    async def _sessions(
        self, operation: str, user_id: str | None, chosen: SessionFilter, last: str | None
    ) -> AsyncIterator[ChatSession]:
        found = (
            self._all_sessions(operation, last)
            if user_id is None
            else sessions_of_user(self._calls, operation, user_id)
        )
        async for chat_session in found:
            if chosen.accepts(chat_session):
                yield chat_session

    async def _all_sessions(self, operation: str, last: str | None) -> AsyncIterator[ChatSession]:
        work = self._calls.backend.list_all
        while found := await self._calls.run(operation, work, last, self._calls.batch_size):
            for chat_session in found:
                yield chat_session
            last = found[-1].session_id

    async def restore(self, chat_session: ChatSession, messages: Iterable[ChatMessage]) -> None:
        """Store a session and messages exactly as they are given, all or none: ids, times, ``version`` too.

        May be repeated, and takes the parts of a large session one after the other. What the database
        holds of the session and of these messages is replaced; the session's other messages stay. Messages
        with equal timestamps keep the order in which they are restored.

        Args:
            chat_session: The session, with its owner.
            messages: Messages of this session.

        Raises:
            InvalidInputError: Also if a message belongs to another session.
            SessionConflictError: Another user has a session under this id; nothing is stored.
            MessageConflictError: Another session has a message under one of the ids; nothing is stored.
        """
        checked = check_session(self._calls, chat_session)
        rows = check_messages(self._calls, checked.session_id, messages)
        await self._calls.run("restore", self._calls.backend.restore, checked, rows)

    async def restore_many(
        self,
        conversations: Iterable[tuple[ChatSession, Iterable[ChatMessage]]],
        *,
        only_new: bool = False,
    ) -> list[str]:
        """Store many sessions with their messages, each as ``restore`` does, with few statements.

        Each session is stored whole or not at all. If the call fails, some of them may be stored; it may be
        repeated. A few thousand messages in one call are fast, and block other writers only briefly.

        Args:
            conversations: Sessions with their messages, as from ``export``; each session and message once.
            only_new: Leave a session as it is that exists already, whoever owns it.

        Returns:
            The ids of the stored sessions, in the order given; without ``only_new`` of all.

        Raises:
            InvalidInputError: As from ``restore``, or a session or a message occurs twice; nothing is stored.
            SessionConflictError: As from ``restore``, for one of the sessions; not with ``only_new``.
            MessageConflictError: As from ``restore``, for one of the messages.
        """
        checked = check_conversations(self._calls, conversations)
        if not checked:
            return []
        stored = set(
            await self._calls.run("restore_many", self._calls.backend.restore_many, checked, bool(only_new))
        )
        ids = [chat_session.session_id for chat_session, _ in checked]
        return [session_id for session_id in ids if session_id in stored]

    async def sizes(self) -> dict[str, int]:
        """Return how many bytes the sessions and messages take on disk.

        Its keys are ``chat_sessions``, ``chat_messages`` and ``indexes`` on PostgreSQL and MongoDB, and
        ``database`` on SQLite, which is all of the file. On each ``total`` is the sum of the others.
        """
        return await self._calls.run("sizes", self._calls.backend.sizes)

    async def statistics(
        self,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        bucket: TimeBucket = "day",
        time_zone: str = "UTC",
        top: int = 10,
    ) -> Statistics:
        """Return what the database holds, and how it is used, in all or in a period; see `Statistics`.

        The numbers are the same on every backend. They are counted one after the other, so while others write
        they need not agree with one another. Each reads every session or every message of the period: the
        cost follows their size, and the statement timeout of the settings applies. On MongoDB they count
        messages that an interrupted operation left, too, until they are cleaned up.

        Args:
            since: Timezone-aware; only sessions created, and messages, at this time or later.
            until: Timezone-aware; only those before it.
            bucket: The length of the parts of time.
            time_zone: Name of their time zone, such as ``Europe/Berlin``.
            top: How many users to name, 0 to 1000.

        Raises:
            InvalidInputError: Also if the time zone is not known.
        """
        period = check_period(since, until, bucket, time_zone, top)
        return to_statistics(await self._calls.run("statistics", self._calls.backend.count_all, period))


async def _each(sessions: Iterable[ChatSession]) -> AsyncIterator[ChatSession]:
    for chat_session in sessions:
        yield chat_session
