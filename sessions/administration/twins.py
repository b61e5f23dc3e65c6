"""The operations across users for callers without an event loop, and under a repository's names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from sessions.administration.admin import AsyncAdmin
from sessions.core.twins import blocking, iterate
from sessions.models import ChatMessage, ChatSession

__all__ = ["Admin", "RepositoryAdmin"]


class RepositoryAdmin(AsyncAdmin):
    """What looks across users; ``admin`` of a repository.

    Each operation is async, with a blocking ``_sync`` twin.
    """

    restore_sync = blocking(AsyncAdmin.restore, "restore_sync")
    restore_many_sync = blocking(AsyncAdmin.restore_many, "restore_many_sync")
    sizes_sync = blocking(AsyncAdmin.sizes, "sizes_sync")
    statistics_sync = blocking(AsyncAdmin.statistics, "statistics_sync")

    def iter_users_sync(self) -> Iterator[str]:
        """Iterate over the users with sessions; the blocking twin of `AsyncAdmin.iter_users`."""
        return iterate(self.iter_users())

    def iter_sessions_sync(
        self,
        *,
        updated_since: datetime | None = None,
        updated_before: datetime | None = None,
        where: Mapping[str, Any] | None = None,
        after: str | None = None,
    ) -> Iterator[ChatSession]:
        """Iterate over the sessions of all users; the blocking twin of `AsyncAdmin.iter_sessions`."""
        return iterate(
            self.iter_sessions(
                updated_since=updated_since, updated_before=updated_before, where=where, after=after
            )
        )

    def export_sync(
        self,
        *,
        updated_since: datetime | None = None,
        updated_before: datetime | None = None,
        where: Mapping[str, Any] | None = None,
        user_id: str | None = None,
        after: str | None = None,
        sessions: Iterable[ChatSession] | None = None,
    ) -> Iterator[tuple[ChatSession, list[ChatMessage]]]:
        """Iterate over all sessions with their messages; the blocking twin of `AsyncAdmin.export`."""
        return iterate(
            self.export(
                updated_since=updated_since,
                updated_before=updated_before,
                where=where,
                user_id=user_id,
                after=after,
                sessions=sessions,
            )
        )


def _admin(blocking_admin: Admin) -> RepositoryAdmin:
    return blocking_admin._admin


class Admin:
    """What looks across users; ``admin`` of `Chats`.

    The blocking twin of `AsyncAdmin`.

    Args:
        admin: The same of the repository.
    """

    def __init__(self, admin: RepositoryAdmin) -> None:
        self._admin = admin

    restore = blocking(AsyncAdmin.restore, of=_admin)
    restore_many = blocking(AsyncAdmin.restore_many, of=_admin)
    sizes = blocking(AsyncAdmin.sizes, of=_admin)
    statistics = blocking(AsyncAdmin.statistics, of=_admin)

    def iter_users(self) -> Iterator[str]:
        """Yield the id of every user with sessions, each once, in the order of the database's index.

        In constant memory. On PostgreSQL and SQLite the cost follows the number of users, not of sessions;
        MongoDB also reads up to 1000 index entries of each user.
        """
        return self._admin.iter_users_sync()

    def iter_sessions(
        self,
        *,
        updated_since: datetime | None = None,
        updated_before: datetime | None = None,
        where: Mapping[str, Any] | None = None,
        after: str | None = None,
    ) -> Iterator[ChatSession]:
        """Yield the sessions of all users, each once, in the order of their ids.

        In constant memory, and in short statements: the filters are applied to pages of 1000 sessions.
        A session that exists the whole time is yielded exactly once, also if it changes meanwhile.

        Args:
            updated_since: Timezone-aware; only sessions with this ``updated_at`` or a later one.
            updated_before: Timezone-aware; only sessions with an ``updated_at`` before it.
            where: Only sessions whose metadata has these values, as in `AsyncChats.list_sessions`.
            after: Only sessions that come after this id in the order, to continue an iteration.
        """
        return self._admin.iter_sessions_sync(
            updated_since=updated_since, updated_before=updated_before, where=where, after=after
        )

    def export(
        self,
        *,
        updated_since: datetime | None = None,
        updated_before: datetime | None = None,
        where: Mapping[str, Any] | None = None,
        user_id: str | None = None,
        after: str | None = None,
        sessions: Iterable[ChatSession] | None = None,
    ) -> Iterator[tuple[ChatSession, list[ChatMessage]]]:
        """Yield the sessions of all users with their messages, oldest first, in constant memory.

        A session with more than 1000 messages is yielded in several consecutive parts of at most 1000
        messages, each of which `restore` takes. It is not a snapshot: a message that is added meanwhile may
        be yielded with the session as it was before.

        Args:
            updated_since: As in `iter_sessions`; the time of the last export, for an incremental one.
            updated_before: As in `iter_sessions`.
            where: As in `iter_sessions`.
            user_id: Only this user's sessions, in the order of their last change.
            after: As in `iter_sessions`; not with ``user_id``.
            sessions: Only these sessions, as they were read, in their order; without other arguments.
        """
        return self._admin.export_sync(
            updated_since=updated_since,
            updated_before=updated_before,
            where=where,
            user_id=user_id,
            after=after,
            sessions=sessions,
        )
