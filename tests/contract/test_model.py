"""Random operations by several users, on each backend and on a plain model; all visible data is compared.

Two repositories with separate pools alternate, as two processes would: each invalidates sessions that the
other has cached.
"""

from __future__ import annotations

import asyncio
import itertools
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from sessions import ChatMessage, ChatSession, InvalidInputError, SessionConflictError, SessionNotFoundError
from sessions.core.blocking import run_blocking
from sessions.testing.values import same_json
from tests.support.databases import Backend

# Of one size on each machine, and the same each time.
BUDGET = settings(
    max_examples=12,
    stateful_step_count=30,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
RESOLUTION = timedelta(milliseconds=1)
USERS = 3

numbers = st.integers(0, 10**6)
users = st.integers(0, USERS - 1)
characters = st.characters(exclude_characters="\x00", exclude_categories=["Cs"])
texts = st.text(characters, max_size=12) | st.sampled_from(
    ["", "'; --", '{"$ne": ""}', "\u202eabc", "e\u0301"]
)
titles = st.none() | st.text(characters, min_size=1, max_size=12)
keys = st.sampled_from(["a", "", "$set", "a.b", "$ref", "$id", "$db", "\xe9", "e\u0301", "_id"])
leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts
)
values = st.recursive(
    leaves, lambda part: st.lists(part, max_size=3) | st.dictionaries(keys, part, max_size=3), max_leaves=6
)
metadata = st.none() | st.dictionaries(keys, values, max_size=4)
data = st.fixed_dictionaries({}, optional={"title": titles, "metadata": metadata})
messages = st.tuples(st.sampled_from(["user", "assistant"]), texts)


@dataclass
class Conversation:
    """One session of the model; the times are what was read last."""

    user_id: str
    title: str
    metadata: dict[str, Any]
    created_at: datetime | None = None
    updated_at: datetime | None = None
    changed: bool = True
    messages: list[tuple[str, str, str]] = field(default_factory=list)
    timestamps: list[datetime] = field(default_factory=list)


class SessionMachine(RuleBasedStateMachine):
    repositories: list[Any]

    def __init__(self) -> None:
        super().__init__()
        example = uuid.uuid4().hex
        self.users = [f"user {number} \u202e {example}" for number in range(USERS)]
        self.known: list[str] = [str(uuid.uuid4()) for _ in range(2)]
        self.model: dict[str, Conversation] = {}
        self.turns = itertools.cycle(self.repositories)

    # -- What the rules choose from ----------------------------------------------------------------

    @property
    def repository(self) -> Any:
        return next(self.turns)

    def _pick(self, number: int) -> str:
        """Return the id of any user's session, or of one that was deleted or never existed."""
        return self.known[number % len(self.known)]

    def _owned(self, user_id: str, session_id: str) -> Conversation | None:
        found = self.model.get(session_id)
        return found if found is not None and found.user_id == user_id else None

    def _newest_first(self, user_id: str) -> list[str]:
        mine = sorted(session_id for session_id, item in self.model.items() if item.user_id == user_id)
        return sorted(mine, key=lambda session_id: self.model[session_id].updated_at, reverse=True)

    def _new(self, user_id: str, session_data: dict[str, Any] | None) -> Conversation:
        given = session_data or {}
        title, metadata = given.get("title"), given.get("metadata")
        return Conversation(
            user_id, "New Chat" if title is None else title, {} if metadata is None else metadata
        )

    def _page(self, user_id: str, found: list[ChatSession], expected: list[str]) -> None:
        assert [(item.session_id, item.user_id) for item in found] == [(key, user_id) for key in expected]

    # -- Operations --------------------------------------------------------------------------------

    @rule(user=users, session_data=st.none() | data)
    def create(self, user: int, session_data: dict[str, Any] | None) -> None:
        session_id = self.repository.create_session(self.users[user], session_data)
        assert str(uuid.UUID(session_id)) == session_id
        assert session_id not in self.known
        self.known.append(session_id)
        self.model[session_id] = self._new(self.users[user], session_data)

    @rule(user=users, number=numbers, session_data=st.none() | data)
    def ensure(self, user: int, number: int, session_data: dict[str, Any] | None) -> None:
        session_id, user_id = self._pick(number), self.users[user]
        there = self.model.get(session_id)
        if there is not None and there.user_id != user_id:
            with pytest.raises(SessionConflictError):
                self.repository.ensure_session_exists_sync(session_id, user_id, session_data)
            return
        created = self.repository.ensure_session_exists_sync(session_id, user_id, session_data)
        assert created is (there is None)
        if there is None:
            self.model[session_id] = self._new(user_id, session_data)

    @rule(user=users, number=numbers, change=data)
    def update(self, user: int, number: int, change: dict[str, Any]) -> None:
        session_id = self._pick(number)
        there = self._owned(self.users[user], session_id)
        assert self.repository.update_session(self.users[user], session_id, change) is (there is not None)
        if there is not None:
            there.changed = True
            there.title = there.title if change.get("title") is None else change["title"]
            there.metadata = there.metadata if change.get("metadata") is None else change["metadata"]

    @rule(user=st.none() | users, number=numbers, message=messages)
    def add_message(self, user: int | None, number: int, message: tuple[str, str]) -> None:
        session_id, user_id = self._pick(number), None if user is None else self.users[user]
        there = self.model.get(session_id) if user_id is None else self._owned(user_id, session_id)
        if there is None:
            with pytest.raises(SessionNotFoundError):
                self.repository.add_message_sync(session_id, *message, user_id=user_id)
            return
        message_id = self.repository.add_message_sync(session_id, *message, user_id=user_id)
        there.messages.append((message_id, *message))
        there.changed = True

    @rule(user=st.none() | users, number=numbers, batch=st.lists(messages, max_size=5))
    def add_messages(self, user: int | None, number: int, batch: list[tuple[str, str]]) -> None:
        session_id, user_id = self._pick(number), None if user is None else self.users[user]
        there = self.model.get(session_id) if user_id is None else self._owned(user_id, session_id)
        if there is None:
            with pytest.raises(SessionNotFoundError):
                self.repository.add_messages_sync(session_id, batch, user_id=user_id)
            return
        ids = self.repository.add_messages_sync(session_id, batch, user_id=user_id)
        there.messages += [(message_id, *message) for message_id, message in zip(ids, batch, strict=True)]
        there.changed = True

    @rule(user=users, number=numbers, limit=st.none() | st.integers(1, 6), before=st.none() | numbers)
    def read_part_of_a_history(self, user: int, number: int, limit: int | None, before: int | None) -> None:
        session_id = self._pick(number)
        there = self._owned(self.users[user], session_id)
        expected = [] if there is None else there.messages
        anchor = None
        if before is not None:
            every = [message[0] for item in self.model.values() for message in item.messages]
            anchor = [*every, str(uuid.uuid4())][before % (len(every) + 1)]
            place = [message[0] for message in expected]
            if there is not None and anchor not in place:
                with pytest.raises(InvalidInputError, match=r"^before: "):
                    self.repository.get_session_history_sync(
                        self.users[user], session_id, limit=limit, before=anchor
                    )
                return
            expected = expected[: place.index(anchor)] if anchor in place else []
        found = self.repository.get_session_history_sync(
            self.users[user], session_id, limit=limit, before=anchor
        )
        assert [(item.message_id, item.role, item.content) for item in found] == expected[-(limit or 1000) :]

    @rule(user=users, page=st.integers(0, 3), limit=st.integers(1, 4))
    def read_a_page(self, user: int, page: int, limit: int) -> None:
        found = self.repository.list_paginated_sessions(self.users[user], page, limit)
        self._page(self.users[user], found, self._newest_first(self.users[user])[page * limit :][:limit])

    @rule(user=users, limit=st.integers(1, 4))
    def read_all_pages_by_cursor(self, user: int, limit: int) -> None:
        found, cursor = [], None
        while True:
            page = self.repository.list_sessions_sync(self.users[user], limit=limit, cursor=cursor)
            found += page.sessions
            if (cursor := page.next_cursor) is None:
                break
            assert len(page.sessions) == limit
        self._page(self.users[user], found, self._newest_first(self.users[user]))

    @rule(user=users, number=numbers)
    def delete(self, user: int, number: int) -> None:
        session_id = self._pick(number)
        there = self._owned(self.users[user], session_id)
        assert self.repository.delete_session(self.users[user], session_id) is (there is not None)
        if there is not None:
            del self.model[session_id]

    @rule(user=users, keep=st.integers(0, 4))
    def keep_latest(self, user: int, keep: int) -> None:
        gone = self._newest_first(self.users[user])[keep:]
        assert self.repository.keep_latest_sessions_sync(self.users[user], keep) == len(gone)
        for session_id in gone:
            del self.model[session_id]

    @rule(user=st.none() | users, number=numbers)
    def delete_older(self, user: int | None, number: int) -> None:
        moments = sorted(item.updated_at for item in self.model.values() if item.updated_at is not None)
        if not moments:
            return
        cutoff, user_id = moments[number % len(moments)], None if user is None else self.users[user]
        gone = [
            session_id
            for session_id, item in self.model.items()
            if item.updated_at is not None and item.updated_at < cutoff and user_id in (None, item.user_id)
        ]
        deleted = self.repository.delete_sessions_older_than_sync(cutoff, user_id=user_id)
        assert deleted == len(gone)
        for session_id in gone:
            del self.model[session_id]

    @rule(user=users)
    def delete_user(self, user: int) -> None:
        gone = self._newest_first(self.users[user])
        assert self.repository.delete_user_sync(self.users[user]) == len(gone)
        for session_id in gone:
            del self.model[session_id]

    @rule(user=users)
    def export(self, user: int) -> None:
        exported = list(self.repository.export_user_sync(self.users[user]))
        self._page(
            self.users[user],
            [chat_session for chat_session, _ in exported],
            self._newest_first(self.users[user])[::-1],
        )
        for chat_session, part in exported:
            self._same_messages(chat_session.session_id, part)

    @rule(
        user=users,
        number=numbers,
        bad=st.sampled_from([{"title": ""}, {"metadata": {"in": {1: 1}}}, {"owner": "x"}, "text"]),
    )
    def fail_to_store_bad_input(self, user: int, number: int, bad: Any) -> None:
        session_id, repository = self._pick(number), self.repository
        for call in (
            lambda: repository.create_session(self.users[user], bad),
            lambda: repository.ensure_session_exists_sync(session_id, self.users[user], bad),
            lambda: repository.update_session(self.users[user], session_id, bad),
            lambda: repository.add_message_sync(session_id, "user", bad if isinstance(bad, dict) else "\0"),
            lambda: repository.add_messages_sync(session_id, [("user", "good"), ("user", bad), ("x", "y")]),
        ):
            with pytest.raises(InvalidInputError):
                call()

    # -- What is visible ---------------------------------------------------------------------------

    @invariant()
    def everything_visible_is_as_in_the_model(self) -> None:
        lists, counts, sessions, histories = run_blocking(self._look)
        for user_id, found, count in zip(self.users, lists, counts, strict=True):
            self._same_sessions(user_id, found)
            assert count == len(found)
        for (user_id, session_id), chat_session, history in zip(
            self._views(), sessions, histories, strict=True
        ):
            if self._owned(user_id, session_id) is None:
                assert chat_session is None
                assert history == []
            else:
                assert chat_session in lists[self.users.index(user_id)]
                self._same_messages(session_id, history)

    def _views(self) -> list[tuple[str, str]]:
        """Each session as its owner sees it, and each id, also of what is gone, as somebody else does."""
        own = [(item.user_id, session_id) for session_id, item in self.model.items()]
        return own + [
            (self.users[number % USERS], session_id)
            for number, session_id in enumerate(self.known)
            if self._owned(self.users[number % USERS], session_id) is None
        ]

    async def _look(self) -> tuple[list[Any], ...]:
        repository, views = self.repository, self._views()
        together = asyncio.gather
        return (
            await together(*[repository.list_paginated_sessions_async(user, 0, 1000) for user in self.users]),
            await together(*[repository.count_sessions(user) for user in self.users]),
            await together(*[repository.get_session(*view) for view in views]),
            await together(*[repository.get_session_history(*view) for view in views]),
        )

    def _same_sessions(self, user_id: str, found: list[ChatSession]) -> None:
        assert {item.session_id for item in found} == set(self._newest_first_ids(user_id))
        for item in found:
            expected = self.model[item.session_id]
            assert (item.user_id, item.title) == (user_id, expected.title)
            assert same_json(expected.metadata, item.metadata)
            if expected.created_at is None:
                assert abs(datetime.now(UTC) - item.created_at) < timedelta(minutes=5)
            else:
                assert item.created_at == expected.created_at
                assert expected.updated_at is not None
                if expected.changed:
                    assert item.updated_at >= expected.updated_at
                else:
                    assert item.updated_at == expected.updated_at
            assert item.updated_at >= item.created_at
            expected.created_at, expected.updated_at, expected.changed = (
                item.created_at,
                item.updated_at,
                False,
            )
        by_id = sorted(found, key=lambda item: item.session_id)
        assert found == sorted(by_id, key=lambda item: item.updated_at, reverse=True)

    def _newest_first_ids(self, user_id: str) -> list[str]:
        return [session_id for session_id, item in self.model.items() if item.user_id == user_id]

    def _same_messages(self, session_id: str, found: list[ChatMessage]) -> None:
        expected = self.model[session_id]
        assert [(item.message_id, item.role, item.content) for item in found] == expected.messages
        assert {item.session_id for item in found} <= {session_id}
        timestamps = [item.timestamp for item in found]
        assert timestamps == sorted(timestamps)
        # Those that were seen before have not moved.
        assert timestamps[: len(expected.timestamps)] == expected.timestamps
        assert expected.updated_at is not None
        assert not timestamps or timestamps[-1] <= expected.updated_at
        expected.timestamps = timestamps

    def teardown(self) -> None:
        for user_id in self.users:
            self.repository.delete_user_sync(user_id)


def test_every_operation_does_what_the_model_does(backend: Backend) -> None:
    with backend.repository() as first, backend.repository(pool_size=3) as second:

        class Machine(SessionMachine):
            repositories = [first, second]  # noqa: RUF012

        run_state_machine_as_test(Machine, settings=BUDGET)
