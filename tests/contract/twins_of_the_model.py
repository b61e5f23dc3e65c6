"""Calls a repository and the reference backend alike, and compares all that is visible."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import json
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from sessions import ChatMessage, ChatSession, InvalidInputError, NewMessage
from sessions.core.blocking import run_blocking
from sessions.core.values import MessageRow, NewSession
from sessions.testing.new_messages import same_payload
from sessions.testing.twins import SYNC_NAMES
from sessions.testing.values import same_json
from sessions.validation import check_new_messages, check_session_data, check_uuid
from tests.contract.reference_backend import ReferenceBackend, ReferenceRepository, Stored, exactly

Outcome = tuple[str, Any]


def outcome_of(call: Callable[[], Any]) -> Outcome:
    """Return ``("returned", value)``, or the class of the error and the argument it names."""
    try:
        result = call()
    except NotImplementedError:
        raise
    except Exception as error:
        return type(error).__name__, error.argument if isinstance(error, InvalidInputError) else None
    return "returned", result if not hasattr(result, "__next__") else list(result)


def alike(expected: Any, found: Any) -> bool:
    """Return whether two results are equal; a whole float in metadata may come back as an int."""
    if type(expected) is not type(found):
        return False
    if dataclasses.is_dataclass(expected):
        names = [each.name for each in dataclasses.fields(expected)]
        return all(
            same_json(getattr(expected, name), getattr(found, name))
            if name == "metadata"
            else same_payload(getattr(expected, name), getattr(found, name))
            if name == "payload"
            # A cursor says where the next page begins in its own way.
            else (getattr(expected, name) is None) is (getattr(found, name) is None)
            if name == "next_cursor"
            else alike(getattr(expected, name), getattr(found, name))
            for name in names
        )
    if isinstance(expected, list | tuple):
        return len(expected) == len(found) and all(map(alike, expected, found))
    return bool(expected == found)


def written(value: Any) -> str:
    return json.dumps(value)


class Twins:
    """Repositories on one database, called in turn, and the reference.

    Attributes:
        users: The users, whose sessions are compared.
        known: The ids of all sessions that there are or were.
        uncertain: Sessions of which the last write may count as a change or not: of equal metadata that is
            written differently, 1 as 1.0.
    """

    def __init__(self, repositories: list[Any], users: list[str], known: list[str]) -> None:
        self._turns = itertools.cycle(repositories)
        self.users, self.known = users, known
        self.reference = ReferenceRepository()
        self.uncertain: set[str] = set()
        self._seen: dict[str, ChatSession] = {}
        self._seen_messages: dict[str, datetime] = {}

    @property
    def repository(self) -> Any:
        return next(self._turns)

    @property
    def model(self) -> ReferenceBackend:
        return self.reference.backend

    def stored(self) -> list[Stored]:
        """Return all messages of the reference."""
        return [each for messages in self.model.messages.values() for each in messages]

    # -- Calls -------------------------------------------------------------------------------------

    def call(self, operation: str, *arguments: Any, **options: Any) -> Any:
        """Call both; return the result, or None if both raised the same error."""
        name = SYNC_NAMES.get(operation, f"{operation}_sync")
        found = outcome_of(lambda: getattr(self.repository, name)(*arguments, **options))
        return self._compared(found, outcome_of(lambda: getattr(self.reference, name)(*arguments, **options)))

    def call_with_messages(
        self, operation: str, *arguments: Any, messages: list[NewMessage], **options: Any
    ) -> None:
        """Call both with messages as the last argument; the reference gets the returned ids."""
        name = f"{operation}_sync"
        found = outcome_of(lambda: getattr(self.repository, name)(*arguments, messages, **options))
        if found[0] == "returned":
            messages = [
                dataclasses.replace(message, message_id=message_id)
                for message, message_id in zip(messages, found[1], strict=True)
            ]
        self._compared(
            found, outcome_of(lambda: getattr(self.reference, name)(*arguments, messages, **options))
        )

    def create(self, user_id: str, session_data: Any, messages: list[NewMessage]) -> None:
        """Create a session in both; each message has an id."""
        found = outcome_of(lambda: self.repository.create_session(user_id, session_data, messages=messages))
        session_id = found[1] if found[0] == "returned" else str(uuid.uuid4())
        assert session_id not in self.known
        new = NewSession(session_id, user_id, *check_session_data(session_data), datetime.now(UTC))
        rows = [
            MessageRow(str(row.message_id), row.role, row.content, row.timestamp, row.metadata, row.payload)
            for row in check_new_messages(messages, check_uuid)
        ]
        created = outcome_of(lambda: run_blocking(self.model.create, new, rows))
        assert created[0] == found[0]
        if found[0] == "returned":
            self.known.append(session_id)

    def fork(self, user_id: str, session_id: str, options: dict[str, Any]) -> None:
        """Fork a session in both, and give the copies of the reference the ids of the others."""
        found = outcome_of(lambda: self.repository.fork_session_sync(user_id, session_id, **options))
        made = outcome_of(lambda: self.reference.fork_session_sync(user_id, session_id, **options))
        assert found[0] == made[0], (found, made)
        if found[0] != "returned":
            assert found == made
            return
        fork_id, of_reference = found[1], made[1]
        chat_session = self.model.sessions.pop(of_reference)
        self.model.sessions[fork_id] = dataclasses.replace(chat_session, session_id=fork_id)
        self.model.messages[fork_id] = copies = self.model.messages.pop(of_reference)
        history = self.repository.get_session_history_sync(user_id, fork_id)
        assert len(history) == len(copies)
        for stored, message in zip(copies, history, strict=True):
            assert all(each.message.message_id != message.message_id for each in self.stored())
            stored.message.session_id, stored.message.message_id = fork_id, message.message_id
            self._seen_messages[message.message_id] = stored.message.timestamp
        self.known.append(fork_id)

    def _compared(self, found: Outcome, expected: Outcome) -> Any:
        assert found[0] == expected[0], f"{found[0]} in place of {expected[0]}"
        assert alike(expected[1], found[1]), (found, expected)
        return found[1] if found[0] == "returned" else None

    def note_uncertain(self, session_id: str, before: Any, after: Any) -> None:
        """Note a write that leaves equal metadata written differently."""
        if exactly(before) == exactly(after) and written(before) != written(after):
            self.uncertain.add(session_id)

    # -- What is visible ---------------------------------------------------------------------------

    def look(self) -> None:
        """Compare all that is visible, and give the reference the times that were assigned."""
        views = self._views()
        lists, counts, sessions, histories, lengths = run_blocking(self._read, views)
        for (user_id, session_id), chat_session, history, length in zip(
            views, sessions, histories, lengths, strict=True
        ):
            assert length == len(history)
            expected = self.model.sessions.get(session_id)
            if expected is None or expected.user_id != user_id:
                assert (chat_session, history) == (None, [])
            else:
                self._take_times_of_session(expected, chat_session)
                self._take_times_of_messages(session_id, history)
        self.uncertain.clear()
        for user_id, found, count in zip(self.users, lists, counts, strict=True):
            expected_list = run_blocking(self.model.list_page, user_id, 0, 1000)
            assert alike(expected_list, found), (expected_list, found)
            assert count == len(found)

    def _views(self) -> list[tuple[str, str]]:
        """Each session as its owner sees it, and each id, also of what is gone, as somebody else does."""
        own = [(item.user_id, session_id) for session_id, item in self.model.sessions.items()]
        others = zip(itertools.cycle(self.users), self.known, strict=False)
        return own + [view for view in others if view not in own]

    async def _read(self, views: list[tuple[str, str]]) -> tuple[list[Any], ...]:
        repository, together = self.repository, asyncio.gather
        return (
            await together(*[repository.list_paginated_sessions_async(user, 0, 1000) for user in self.users]),
            await together(*[repository.count_sessions(user) for user in self.users]),
            await together(*[repository.get_session(*view) for view in views]),
            await together(*[repository.get_session_history(*view) for view in views]),
            await together(*[repository.count_messages(*view) for view in views]),
        )

    def _take_times_of_session(self, expected: ChatSession, found: ChatSession) -> None:
        seen = self._seen.get(expected.session_id)
        if seen is None or seen.created_at != expected.created_at:
            # A new one, also under an old id.
            assert abs(datetime.now(UTC) - found.created_at) < timedelta(seconds=60)
            assert found.updated_at >= found.created_at
        else:
            assert found.created_at == seen.created_at
            if expected.session_id in self.uncertain and found.version == seen.version + 1:
                expected.version = found.version
            elif expected.updated_at == seen.updated_at:
                assert found.updated_at == seen.updated_at
            else:
                assert found.updated_at >= seen.updated_at
        expected.created_at, expected.updated_at = found.created_at, found.updated_at
        assert alike(expected, found), (expected, found)
        self._seen[expected.session_id] = found

    def _take_times_of_messages(self, session_id: str, history: list[ChatMessage]) -> None:
        expected = self.model.messages[session_id]
        assert [each.message.message_id for each in expected] == [each.message_id for each in history]
        for stored, found in zip(expected, history, strict=True):
            known = self._seen_messages.get(found.message_id)
            if stored.assigned and stored.message.timestamp != known:
                # By this step: not after the session's last change.
                assert found.timestamp <= self.model.sessions[session_id].updated_at
                stored.message.timestamp = found.timestamp
            assert alike(stored.visible(), found), (stored.visible(), found)
            self._seen_messages[found.message_id] = found.timestamp
