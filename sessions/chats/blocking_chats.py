"""`Chats`: the operations of `AsyncChats` for callers without an event loop; each call blocks."""

from __future__ import annotations

from types import TracebackType
from typing import Self, Unpack

from sessions.administration import Admin
from sessions.chats.async_chats import AsyncChats
from sessions.chats.opening import BackendName
from sessions.core.twins import blocking, iterating
from sessions.repositories import AsyncSessionRepository, SessionRepositoryType
from sessions.repositories.options import ChatsOptions

__all__ = ["Chats"]


def _chats(blocking_chats: Chats) -> AsyncChats:
    return blocking_chats._chats


class Chats:
    """The conversations of one database, for callers without an event loop.

    The blocking twin of `AsyncChats`.

    ::

        with Chats("postgresql://…") as chats:
            session_id = chats.create_session("alice", title="Trip to Rome")
            chats.add_message("alice", session_id, "user", "What should I see first?")
            history = chats.get_session_history("alice", session_id)

    May be called from any thread, also from one whose event loop is running, which it blocks.

    Args:
        url: ``postgresql://…``, ``mongodb://…``, ``sqlite:///…`` or ``redis://…``; None for the settings.
        backend: ``"postgres"``, ``"mongodb"``, ``"sqlite"`` or ``"redis"``, if there is no URL.
        repository: Use the database of this repository; excludes all other options.
        **options: As for `SessionRepositoryFactory.create_repository`.

    Raises:
        ConfigurationError: A setting is missing or wrong.
        InvalidInputError: From every operation: an argument is invalid; nothing is sent.
        BackendUnavailableError: From every operation: the database cannot be used, after the retries.
        SchemaOutdatedError: From every operation: the schema is older and ``auto_migrate`` is off, or it
            lacks what this package needs.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        backend: BackendName | SessionRepositoryType | None = None,
        repository: AsyncSessionRepository | None = None,
        **options: Unpack[ChatsOptions],
    ) -> None:
        self._chats = AsyncChats(url, backend=backend, repository=repository, **options)

    @property
    def repository(self) -> AsyncSessionRepository:
        """The repository of the same database, with the operations under the names of its interface."""
        return self._chats.repository

    @property
    def admin(self) -> Admin:
        """What looks across users."""
        return Admin(self.repository.admin)

    create_session = blocking(AsyncChats.create_session, of=_chats)
    ensure_session_exists = blocking(AsyncChats.ensure_session_exists, of=_chats)
    get_session = blocking(AsyncChats.get_session, of=_chats)
    update_session = blocking(AsyncChats.update_session, of=_chats)
    delete_session = blocking(AsyncChats.delete_session, of=_chats)
    list_sessions = blocking(AsyncChats.list_sessions, of=_chats)
    list_session_previews = blocking(AsyncChats.list_session_previews, of=_chats)
    count_sessions = blocking(AsyncChats.count_sessions, of=_chats)
    fork_session = blocking(AsyncChats.fork_session, of=_chats)

    add_message = blocking(AsyncChats.add_message, of=_chats)
    add_messages = blocking(AsyncChats.add_messages, of=_chats)
    get_session_history = blocking(AsyncChats.get_session_history, of=_chats)
    get_session_payloads = blocking(AsyncChats.get_session_payloads, of=_chats)
    get_message = blocking(AsyncChats.get_message, of=_chats)
    count_messages = blocking(AsyncChats.count_messages, of=_chats)
    update_message = blocking(AsyncChats.update_message, of=_chats)
    pop_message = blocking(AsyncChats.pop_message, of=_chats)
    delete_messages = blocking(AsyncChats.delete_messages, of=_chats)
    delete_messages_from = blocking(AsyncChats.delete_messages_from, of=_chats)
    clear_messages = blocking(AsyncChats.clear_messages, of=_chats)
    replace_messages = blocking(AsyncChats.replace_messages, of=_chats)
    search_messages = blocking(AsyncChats.search_messages, of=_chats)

    keep_latest_sessions = blocking(AsyncChats.keep_latest_sessions, of=_chats)
    delete_sessions_older_than = blocking(AsyncChats.delete_sessions_older_than, of=_chats)
    delete_user = blocking(AsyncChats.delete_user, of=_chats)
    export_user = iterating(AsyncChats.export_user, of=_chats)

    ensure_ready = blocking(AsyncChats.ensure_ready, of=_chats)
    is_healthy = blocking(AsyncChats.is_healthy, of=_chats)
    close = blocking(AsyncChats.aclose, "close", of=_chats)

    def __enter__(self) -> Self:
        self.repository.__enter__()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.repository.__exit__(exc_type, exc, traceback)
