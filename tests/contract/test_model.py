"""Random operations by several users, on each backend and on a plain model; all visible data is compared.

Two repositories with separate pools alternate, as two processes would: each invalidates sessions that the
other has cached.
"""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from sessions import InvalidInputError, NewMessage
from tests.contract.twins_of_the_model import Twins
from tests.support.databases import Backend

# The same each time, on each machine.
BUDGET = settings(
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
USERS = 3
# Whole seconds, which every database stores.
MOMENTS = [datetime(2024, 2, 29, 12, tzinfo=UTC) + timedelta(seconds=each) for each in range(3)]
MOMENTS += [datetime(2190, 1, 1, tzinfo=UTC), datetime(1, 1, 2, tzinfo=UTC)]

numbers = st.integers(0, 10**6)
users = st.integers(0, USERS - 1)
maybe_users = st.none() | users
characters = st.characters(exclude_characters="\x00", exclude_categories=["Cs"])
words = ["Rome", "trip to ROME", "Straße", "", "'; --", '{"$ne": ""}', "\u202eabc", "e\u0301", "100%_"]
texts = st.text(characters, max_size=12) | st.sampled_from(words)
titles = st.none() | st.text(characters, min_size=1, max_size=12) | st.just("New Chat")
keys = st.sampled_from(["a", "", "$set", "a.b", "$ref", "$id", "$db", "\xe9", "e\u0301", "_id"])
simple = st.sampled_from([None, True, False, 0, 1, 0.5, "", "1", "a"])
leaves = simple | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False) | texts
values = st.recursive(
    leaves, lambda part: st.lists(part, max_size=3) | st.dictionaries(keys, part, max_size=3), max_leaves=6
)
objects = st.dictionaries(keys, values, max_size=4)
metadata = st.none() | objects
data = st.fixed_dictionaries({}, optional={"title": titles, "metadata": metadata})
payloads = st.none() | st.recursive(
    leaves | st.integers(-(10**200), 10**200) | st.floats() | st.sampled_from(["\0", "\ud800", "a\udfff"]),
    lambda part: st.lists(part, max_size=3) | st.dictionaries(st.text(max_size=3), part, max_size=3),
    max_leaves=6,
)
roles = st.sampled_from(["user", "assistant", "system", "developer", "tool"])
where = st.none() | st.dictionaries(keys, simple | st.lists(simple, max_size=3), min_size=1, max_size=2)
# Which of the ids and timestamps that there are a message has, if it has one.
drafts = st.fixed_dictionaries(
    {"role": roles, "content": texts},
    optional={"metadata": metadata, "payload": payloads, "id": numbers, "timestamp": numbers},
)
batches = st.lists(drafts, max_size=5)
# 0 for the version there is, 1 for the next one.
versions = st.none() | st.sampled_from([0, 0, 0, 1])


class SessionMachine(RuleBasedStateMachine):
    repositories: list[Any]

    def __init__(self) -> None:
        super().__init__()
        example = uuid.uuid4().hex
        self.users = [f"user {number} \u202e {example}" for number in range(USERS)]
        self.twins = Twins(self.repositories, self.users, [str(uuid.uuid4()) for _ in range(2)])
        self.call = self.twins.call

    # -- What the rules choose from ----------------------------------------------------------------

    def _pick(self, number: int) -> str:
        """Return the id of any user's session, or of one that was deleted or never existed."""
        return self.twins.known[number % len(self.twins.known)]

    def _pick_message(self, number: int) -> str:
        """Return the id of a message of any session, or of none."""
        every = [stored.message.message_id for stored in self.twins.stored()]
        return [*every, str(uuid.uuid4())][number % (len(every) + 1)]

    def _pick_message_of(self, session_id: str, number: int) -> str:
        """Return the id of a message of this session, rarely of another one, or of none."""
        own = [stored.message.message_id for stored in self.twins.model.messages.get(session_id, [])]
        return own[number % len(own)] if own and number % 5 else self._pick_message(number)

    def _moment(self, number: int) -> datetime:
        every = [*MOMENTS, *(stored.message.timestamp for stored in self.twins.stored())]
        return every[number % len(every)]

    def _messages(self, batch: list[dict[str, Any]], *, with_ids: bool = False) -> list[NewMessage]:
        """Return messages; an id that is chosen is of a message that is stored, or a random one."""
        messages: list[NewMessage] = []
        for draft in batch:
            message_id = None
            if "id" in draft:
                number = draft["id"]
                message_id = self._pick_message(number) if number % 4 == 0 else str(uuid.uuid4())
            if message_id in {message.message_id for message in messages}:
                message_id = None
            moment = self._moment(draft["timestamp"]) if "timestamp" in draft else None
            messages.append(
                NewMessage(
                    draft["role"],
                    draft["content"],
                    message_id=message_id or (str(uuid.uuid4()) if with_ids else None),
                    timestamp=moment,
                    metadata=draft.get("metadata"),
                    payload=draft.get("payload"),
                )
            )
        return messages

    def _version(self, session_id: str, version: int | None) -> dict[str, Any]:
        there = self.twins.model.sessions.get(session_id)
        return {} if version is None else {"expected_version": (there.version if there else 0) + version}

    # -- Sessions ----------------------------------------------------------------------------------

    @rule(user=users, session_data=st.none() | data, batch=batches)
    def create(self, user: int, session_data: dict[str, Any] | None, batch: list[dict[str, Any]]) -> None:
        self.twins.create(self.users[user], session_data, self._messages(batch, with_ids=True))

    @rule(user=users, number=numbers, session_data=st.none() | data)
    def ensure(self, user: int, number: int, session_data: dict[str, Any] | None) -> None:
        self.call("ensure_session_exists", self._pick(number), self.users[user], session_data)

    @rule(
        user=users,
        number=numbers,
        change=st.none() | data,
        options=st.fixed_dictionaries({}, optional={"merge_metadata": metadata, "touch": st.booleans()}),
        removed=st.lists(keys, max_size=2),
        if_title=st.none() | st.booleans(),
        version=versions,
    )
    def update(
        self,
        user: int,
        number: int,
        change: dict[str, Any] | None,
        options: dict[str, Any],
        removed: list[str],
        if_title: bool | None,
        version: int | None,
    ) -> None:
        session_id = self._pick(number)
        there = self.twins.model.sessions.get(session_id)
        options = options | self._version(session_id, version) | {"remove_metadata": removed}
        if if_title is not None:
            # Not together: which of the two is found first is up to the backend.
            options.pop("expected_version", None)
            options["if_title"] = there.title if there and if_title else "another title"
        before = dict(there.metadata) if there else {}
        self.call("update_session", self.users[user], session_id, change, **options)
        if there is not None:
            self.twins.note_uncertain(session_id, before, there.metadata)
            replaced = (change or {}).get("metadata")
            self.twins.note_uncertain(
                session_id,
                before,
                (before if replaced is None else replaced) | (options.get("merge_metadata") or {}),
            )

    @rule(user=users, number=numbers, version=versions)
    def delete(self, user: int, number: int, version: int | None) -> None:
        session_id = self._pick(number)
        self.call("delete_session", self.users[user], session_id, **self._version(session_id, version))

    @rule(user=users, number=numbers, through=st.none() | numbers, session_data=st.none() | data)
    def fork(self, user: int, number: int, through: int | None, session_data: dict[str, Any] | None) -> None:
        session_id = self._pick(number)
        options: dict[str, Any] = {} if session_data is None else {"session_data": session_data}
        if through is not None:
            options["through"] = self._pick_message_of(session_id, through)
        self.twins.fork(self.users[user], session_id, options)

    # -- Messages ----------------------------------------------------------------------------------

    @rule(user=maybe_users, number=numbers, draft=drafts, version=versions)
    def add_message(self, user: int | None, number: int, draft: dict[str, Any], version: int | None) -> None:
        session_id, user_id = self._pick(number), None if user is None else self.users[user]
        [message] = self._messages([draft], with_ids=True)
        options = {
            name: getattr(message, name) for name in ("message_id", "timestamp", "metadata", "payload")
        }
        options |= self._version(session_id, version) | {"user_id": user_id}
        self.call("add_message", session_id, message.role, message.content, **options)

    @rule(user=maybe_users, number=numbers, batch=batches, merge=metadata, version=versions)
    def add_messages(
        self,
        user: int | None,
        number: int,
        batch: list[dict[str, Any]],
        merge: dict[str, Any] | None,
        version: int | None,
    ) -> None:
        session_id, user_id = self._pick(number), None if user is None else self.users[user]
        there = self.twins.model.sessions.get(session_id)
        before = dict(there.metadata) if there else {}
        # With no message, and nothing to merge, there is no write that could expect a version.
        options = self._version(session_id, version) if batch else {}
        options |= {"user_id": user_id, "merge_metadata": merge}
        self.twins.call_with_messages("add_messages", session_id, messages=self._messages(batch), **options)
        if there is not None and not batch:
            self.twins.note_uncertain(session_id, before, before | (merge or {}))

    @rule(number=numbers, first=numbers, count=st.integers(1, 3), version=versions)
    def repeat_messages(self, number: int, first: int, count: int, version: int | None) -> None:
        session_id = self._pick(number)
        stored = self.twins.model.messages.get(session_id, [])
        repeated = [each.message for each in stored[first % (len(stored) or 1) :][:count]]
        messages: list[Any] = [
            NewMessage(message.role, message.content, message_id=message.message_id)  # type: ignore[arg-type]
            for message in repeated
        ]
        options = self._version(session_id, version) if messages else {}
        self.twins.call_with_messages("add_messages", session_id, messages=messages, **options)

    @rule(user=users, number=numbers, batch=batches, version=versions, kept=numbers)
    def replace_messages(
        self, user: int, number: int, batch: list[dict[str, Any]], version: int | None, kept: int
    ) -> None:
        session_id, messages = self._pick(number), self._messages(batch)
        own = self.twins.model.messages.get(session_id, [])
        if not own and not messages:
            return  # Whether this is a change is up to the backend.
        if own and kept % 2 and messages and messages[0].message_id is None:
            # A message of the session itself, whatever it held.
            again = own[kept % len(own)].message.message_id
            if again not in {message.message_id for message in messages}:
                messages[0].message_id = again
        options = self._version(session_id, version)
        self.twins.call_with_messages(
            "replace_messages", self.users[user], session_id, messages=messages, **options
        )

    @rule(
        user=users,
        number=numbers,
        message=numbers,
        change=st.fixed_dictionaries(
            {},
            optional={
                "content": texts,
                "metadata": metadata,
                "merge_metadata": metadata,
                "payload": payloads,
            },
        ),
        version=versions,
    )
    def update_message(
        self, user: int, number: int, message: int, change: dict[str, Any], version: int | None
    ) -> None:
        session_id = self._pick(number)
        message_id = self._pick_message_of(session_id, message)
        stored = self.twins.model._find(message_id)
        before = dict(stored.message.metadata) if stored else {}
        options = change | self._version(session_id, version)
        self.call("update_message", self.users[user], session_id, message_id, **options)
        replaced = before if change.get("metadata") is None else change["metadata"]
        self.twins.note_uncertain(session_id, before, replaced | (change.get("merge_metadata") or {}))

    @rule(user=users, number=numbers)
    def pop_message(self, user: int, number: int) -> None:
        self.call("pop_message", self.users[user], self._pick(number))

    @rule(user=users, number=numbers, chosen=st.lists(numbers, max_size=3))
    def delete_messages(self, user: int, number: int, chosen: list[int]) -> None:
        session_id = self._pick(number)
        ids = [self._pick_message_of(session_id, each) for each in chosen]
        self.call("delete_messages", self.users[user], session_id, ids)

    @rule(user=users, number=numbers, message=numbers, inclusive=st.booleans())
    def delete_messages_from(self, user: int, number: int, message: int, inclusive: bool) -> None:
        session_id = self._pick(number)
        message_id = self._pick_message_of(session_id, message)
        self.call("delete_messages_from", self.users[user], session_id, message_id, inclusive=inclusive)

    @rule(user=users, number=numbers, version=versions)
    def clear_messages(self, user: int, number: int, version: int | None) -> None:
        session_id = self._pick(number)
        self.call("clear_messages", self.users[user], session_id, **self._version(session_id, version))

    # -- Reading -----------------------------------------------------------------------------------

    @rule(
        user=users,
        number=numbers,
        limit=st.none() | st.integers(0, 6) | st.just(2**40),
        end=st.sampled_from(["", "before", "after", "since"]),
        anchor=numbers,
    )
    def read_part_of_a_history(
        self, user: int, number: int, limit: int | None, end: str, anchor: int
    ) -> None:
        session_id = self._pick(number)
        part: dict[str, Any] = {"limit": limit}
        if end == "since":
            part["since"] = self._moment(anchor)
        elif end:
            part[end] = self._pick_message_of(session_id, anchor)
        self.call("get_session_history", self.users[user], session_id, **part)

    @rule(user=users, number=numbers, message=numbers)
    def get_message(self, user: int, number: int, message: int) -> None:
        session_id = self._pick(number)
        self.call("get_message", self.users[user], session_id, self._pick_message_of(session_id, message))

    @rule(user=users, page=st.integers(0, 3), limit=st.integers(1, 4))
    def read_a_page(self, user: int, page: int, limit: int) -> None:
        self.call("list_paginated_sessions", self.users[user], page, limit)

    @rule(user=users, limit=st.integers(1, 4), accepted=where, previews=st.booleans())
    def read_all_pages_by_cursor(
        self, user: int, limit: int, accepted: dict[str, Any] | None, previews: bool
    ) -> None:
        operation = "list_session_previews" if previews else "list_sessions"
        cursor = None
        while True:
            page = self.call(operation, self.users[user], limit=limit, cursor=cursor, where=accepted)
            if (cursor := page.next_cursor) is None:
                break
        self.call("count_sessions", self.users[user], where=accepted)

    @rule(
        user=users,
        number=st.none() | numbers,
        query=st.sampled_from(["rome", "TRIP e", "STRAẞE", "%_", '"to r"', "'", "e", "abc"]),
        limit=st.integers(1, 3),
    )
    def search(self, user: int, number: int | None, query: str, limit: int) -> None:
        session_id, cursor = None if number is None else self._pick(number), None
        while True:
            options = {"session_id": session_id, "limit": limit, "cursor": cursor}
            page = self.call("search_messages", self.users[user], query, **options)
            if (cursor := page.next_cursor) is None:
                break

    @rule(user=users)
    def export(self, user: int) -> None:
        self.call("export_user", self.users[user])

    # -- Retention ---------------------------------------------------------------------------------

    @rule(user=users, keep=st.integers(0, 4))
    def keep_latest(self, user: int, keep: int) -> None:
        self.call("keep_latest_sessions", self.users[user], keep)

    @rule(user=maybe_users, number=numbers, accepted=where)
    def delete_older(self, user: int | None, number: int, accepted: dict[str, Any] | None) -> None:
        moments = sorted(item.updated_at for item in self.twins.model.sessions.values())
        if moments:
            user_id = None if user is None else self.users[user]
            cutoff = moments[number % len(moments)]
            self.call("delete_sessions_older_than", cutoff, user_id=user_id, where=accepted)

    @rule(user=users)
    def delete_user(self, user: int) -> None:
        self.call("delete_user", self.users[user])

    # -- Bad input ---------------------------------------------------------------------------------

    @rule(
        user=users,
        number=numbers,
        bad=st.sampled_from([{"title": ""}, {"metadata": {"in": {1: 1}}}, {"owner": "x"}, "text"]),
    )
    def fail_to_store_bad_input(self, user: int, number: int, bad: Any) -> None:
        session_id, repository = self._pick(number), self.twins.repository
        for call in (
            lambda: repository.create_session(self.users[user], bad),
            lambda: repository.ensure_session_exists_sync(session_id, self.users[user], bad),
            lambda: repository.update_session(self.users[user], session_id, bad),
            lambda: repository.add_message_sync(session_id, "user", bad if isinstance(bad, dict) else "\0"),
            lambda: repository.add_messages_sync(session_id, [("user", "good"), ("user", bad), ("x", "y")]),
        ):
            with pytest.raises(InvalidInputError):
                call()

    @invariant()
    def everything_visible_is_as_in_the_model(self) -> None:
        self.twins.look()

    def teardown(self) -> None:
        for user_id in self.users:
            self.twins.repository.delete_user_sync(user_id)


@pytest.mark.parametrize("examples", [3, pytest.param(15, marks=pytest.mark.full_size)])
def test_every_operation_does_what_the_model_does(backend: Backend, examples: int) -> None:
    _run_on(backend, examples)


def _run_on(backend: Backend, examples: int) -> None:
    with backend.repository() as first, backend.repository(pool_size=3) as second:

        class Machine(SessionMachine):
            repositories = [first, second]  # noqa: RUF012

        run_state_machine_as_test(Machine, settings=settings(BUDGET, max_examples=examples))


@pytest.mark.parametrize("examples", [1, pytest.param(15, marks=pytest.mark.full_size)])
def test_every_operation_does_what_the_model_does_on_a_cluster(redis_cluster: Backend, examples: int) -> None:
    _run_on(redis_cluster, examples)
