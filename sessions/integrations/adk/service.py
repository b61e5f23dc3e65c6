"""ADK's session service."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakValueDictionary

from google.adk.errors.already_exists_error import AlreadyExistsError
from google.adk.errors.session_not_found_error import SessionNotFoundError
from google.adk.events import Event
from google.adk.platform import time as platform_time
from google.adk.platform import uuid as platform_uuid
from google.adk.sessions import BaseSessionService, Session
from google.adk.sessions.base_session_service import GetSessionConfig, ListSessionsResponse

from sessions import errors
from sessions.integrations.adk.conversions import (
    ADK,
    UPDATE_TIME,
    as_json,
    time_of,
    to_event,
    to_message,
    to_session,
    update_time,
)
from sessions.integrations.adk.creation import create, id_of, new_session
from sessions.integrations.adk.marker import DEFAULT_TITLE, Marker, stale
from sessions.integrations.adk.state import APP_NAME, Delta, Holder, from_metadata, to_metadata
from sessions.integrations.common import FRAMEWORK, settled, title_for
from sessions.integrations.snapshots import LAST_MESSAGE, snapshot, together
from sessions.models import ChatSession, NewMessage

if TYPE_CHECKING:
    from sessions.repositories import AsyncSessionRepository

__all__ = ["SessionService"]

R = TypeVar("R")

PAGE = 1000
# Rounds in which somebody else changes the session, but adds no event.
ATTEMPTS = 5
# The precision of the times of messages on MongoDB, in seconds.
MILLISECOND = 0.001


class SessionService(BaseSessionService):
    """ADK's sessions, events and state: ``Runner(…, session_service=SessionService(repository))``.

    An event and what it changes of the app's, the user's and the session's state are stored in one
    transaction, and only if nobody else has appended an event since the caller read the session. The session
    in the repository has an id derived from the app, the user and ADK's id, the title from the user's first
    message, and ``{"framework": "adk", "framework_session_id": …, "app_name": …}`` in its metadata.

    Args:
        repository: Where the sessions are stored. Redis and a standalone MongoDB server have no transactions:
            there the event and the session's state are stored first, together, then the user's state, then
            the app's.
    """

    def __init__(self, repository: AsyncSessionRepository) -> None:
        self._repository = repository
        # By the event loop and the session; an entry exists while it is used.
        self._locks: WeakValueDictionary[tuple[int, str], asyncio.Lock] = WeakValueDictionary()

    async def __aenter__(self) -> SessionService:
        """Return the service."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Leave the repository open; see `close`."""
        await self.close()

    async def close(self) -> None:
        """Leave the repository open: it is the caller's.

        ADK's own services have this method, and programs that are written for them call it.
        """

    async def create_session(
        self,
        *,
        app_name: str,
        user_id: str,
        state: dict[str, Any] | None = None,
        session_id: str | None = None,
    ) -> Session:
        """Create a session; see ``BaseSessionService``.

        Raises:
            AlreadyExistsError: The user has a session with this id in the app.
        """
        session_id = (session_id or "").strip() or platform_uuid.new_uuid()
        delta, now = Delta.of(as_json(state or {})), platform_time.get_time()
        created = new_session(app_name, user_id, session_id, delta.session, now)
        of_app, of_user = Holder.of_app(app_name), Holder.of_user(app_name, user_id)

        async def create_and_merge(repository: AsyncSessionRepository) -> list[dict[str, Any]]:
            await create(repository, created)
            await of_user.merge(repository, delta.user)
            await of_app.merge(repository, delta.app)
            return [await of_app.read(repository), await of_user.read(repository)]

        try:
            if delta.app or delta.user:
                app_state, user_state = await settled(self._in_transaction(create_and_merge))
            else:
                app_state, user_state, _ = await together(
                    self._repository,
                    lambda: of_app.read(self._repository),
                    lambda: of_user.read(self._repository),
                    lambda: create(self._repository, created),
                )
        except errors.SessionConflictError as error:
            raise AlreadyExistsError(f"Session with id {session_id} already exists.") from error
        session = Session(
            app_name=app_name,
            user_id=user_id,
            id=session_id,
            state=Delta(app_state, user_state, delta.session).merged(),
            last_update_time=now,
        )
        Marker.of(created).put_on(session)
        return session

    async def get_session(
        self,
        *,
        app_name: str,
        user_id: str,
        session_id: str,
        config: GetSessionConfig | None = None,
    ) -> Session | None:
        """Return a session with its events and the merged state; None if there is none.

        ``config.num_recent_events`` and ``config.after_timestamp`` apply to the events in the order of their
        timestamps, which are compared exactly.
        """
        limit, after = (None, None) if config is None else (config.num_recent_events, config.after_timestamp)
        chat_session, history, app_state, user_state = await snapshot(
            self._repository,
            user_id,
            id_of(app_name, user_id, session_id),
            lambda: Holder.of_app(app_name).read(self._repository),
            lambda: Holder.of_user(app_name, user_id).read(self._repository),
            limit=limit,
            since=time_of(after - MILLISECOND) if after is not None and limit is None else None,
        )
        if chat_session is None:
            return None
        # Stable: events of the same time stay in the order in which they were appended.
        events = sorted(map(to_event, history), key=lambda event: event.timestamp)
        if after is not None:
            events = [event for event in events if event.timestamp >= after]
        return to_session(chat_session, events, app_state, user_state)

    async def list_sessions(self, *, app_name: str, user_id: str | None = None) -> ListSessionsResponse:
        """Return the sessions of a user, or of all users, without events, the least recent first.

        Across users all sessions of the database are read.
        """
        where = {APP_NAME: app_name}
        of_app, app_state = Holder.of_app(app_name), dict[str, Any]()
        if user_id is None:
            found = [each async for each in self._repository.admin.iter_sessions(where=where)]
        else:
            found, app_state = await together(
                self._repository,
                lambda: self._sessions_of(user_id, where),
                lambda: of_app.read(self._repository),
            )
        conversations, user_states = list[ChatSession](), dict[str, dict[str, Any]]()
        for each in found:
            if each.metadata.get(FRAMEWORK) == ADK:
                conversations.append(each)
            elif each.session_id == of_app.session_id:
                app_state = from_metadata(each.metadata)
            elif each.session_id == Holder.of_user(app_name, each.user_id).session_id:
                user_states[each.user_id] = from_metadata(each.metadata)
        sessions = [
            to_session(each, [], app_state, user_states.get(each.user_id, {})) for each in conversations
        ]
        sessions.sort(key=lambda session: (session.last_update_time, session.user_id, session.id))
        return ListSessionsResponse(sessions=sessions)

    async def delete_session(self, *, app_name: str, user_id: str, session_id: str) -> None:
        """Delete a session with its events; the state of the user and of the app stays."""
        await self._repository.delete_session_async(user_id, id_of(app_name, user_id, session_id))

    async def get_user_state(self, *, app_name: str, user_id: str) -> dict[str, Any]:
        """Return the state of a user in an app, with keys without ``user:``."""
        return await Holder.of_user(app_name, user_id).read(self._repository)

    async def append_event(self, session: Session, event: Event) -> Event:
        """Store an event with what it changes of the state, and append it to the session.

        Partial events are not stored, nor is state with the prefix ``temp:``. An equal event with the same id
        is stored once.

        Raises:
            SessionNotFoundError: There is no such session.
            StaleSessionError: Somebody else has appended an event since the session was read; nothing is
                stored.
        """
        if event.partial:
            return event
        # Also if the run is cancelled meanwhile: the session has the event if and only if it is stored.
        return await settled(self._append(session, event))

    async def _append(self, session: Session, event: Event) -> Event:
        stored_id = id_of(session.app_name, session.user_id, session.id)
        key = id(asyncio.get_running_loop()), stored_id
        lock = self._locks.get(key)
        if lock is None:
            lock = self._locks[key] = asyncio.Lock()
        message = to_message(stored_id, event)
        async with lock:
            is_known = any(known.id == event.id and known == event for known in reversed(session.events))
            if is_known and await _has(self._repository, session.user_id, stored_id, message):
                return event  # Others may have changed since what it has changed.
            try:
                marker = await self._store(session, stored_id, event, message)
            except errors.SessionNotFoundError as error:
                raise SessionNotFoundError(f"Session {session.id} not found.") from error
            marker.put_on(session)
            session.last_update_time = event.timestamp
            return event if is_known else await super().append_event(session=session, event=event)

    async def _store(self, session: Session, stored_id: str, event: Event, message: NewMessage) -> Marker:
        """Store an event, and return the marker of the session after it."""
        user_id, last = session.user_id, str(message.message_id)
        delta, title = Delta.of(as_json(event.actions.state_delta)), title_for([message])
        merge = {UPDATE_TIME: event.timestamp, LAST_MESSAGE: last, **to_metadata(delta.session)}
        marker = Marker.on(session) or await self._marker(session, stored_id)

        async def store(repository: AsyncSessionRepository) -> Marker:
            shares = bool(delta.app or delta.user)
            # Without transactions it may be stored without all that it changes.
            is_again = (
                shares and repository.in_transaction and await _has(repository, user_id, stored_id, message)
            )
            await repository.add_messages(
                stored_id, [message], user_id=user_id, merge_metadata=merge, expected_version=marker.version
            )
            version, is_titled = marker.version + 1, marker.is_titled
            if not is_titled and title not in (None, DEFAULT_TITLE):
                version += await repository.update_session_async(
                    user_id, stored_id, {"title": title}, touch=False, if_title=DEFAULT_TITLE
                )
                is_titled = True
            if not is_again:
                await Holder.of_user(session.app_name, user_id).merge(repository, delta.user)
                await Holder.of_app(session.app_name).merge(repository, delta.app)
            return Marker(marker.first, version, is_titled, last)

        for _ in range(ATTEMPTS):
            try:
                if delta.app or delta.user:
                    return await self._in_transaction(store)
                return await store(self._repository)
            except errors.VersionConflictError as error:
                conflict = error
            chat_session = await self._repository.get_session(user_id, stored_id)
            if chat_session is None:
                raise errors.SessionNotFoundError("there is no such session")
            if not marker.has_events_of(chat_session):
                break
            marker = Marker.of(chat_session)  # No event, but a new title or other metadata.
        raise stale() from conflict

    async def _marker(self, session: Session, stored_id: str) -> Marker:
        """Return the marker for a session that was not read from a repository.

        It is stale if the repository has a later event than the last one that the caller knows.
        """
        chat_session, newest = await snapshot(self._repository, session.user_id, stored_id, limit=1)
        if chat_session is None:
            raise errors.SessionNotFoundError("there is no such session")
        if update_time(chat_session) > session.last_update_time:
            known = [event.id for event in session.events[-1:]]
            if [to_event(message).id for message in newest] != known:
                raise stale()
        return Marker.of(chat_session)

    async def _in_transaction(self, work: Callable[[AsyncSessionRepository], Awaitable[R]]) -> R:
        try:
            return await self._repository.run_in_transaction(work)
        except NotImplementedError:
            return await work(self._repository)

    async def _sessions_of(self, user_id: str, where: Mapping[str, Any]) -> list[ChatSession]:
        found: list[ChatSession] = []
        cursor = None
        while True:
            page = await self._repository.list_sessions(user_id, limit=PAGE, cursor=cursor, where=where)
            found.extend(page.sessions)
            if (cursor := page.next_cursor) is None:
                return found


async def _has(repository: AsyncSessionRepository, user_id: str, stored_id: str, message: NewMessage) -> bool:
    return await repository.get_message(user_id, stored_id, str(message.message_id)) is not None
