"""What others do between any two calls of a turn: also a killed process, whose write is committed late."""

from __future__ import annotations

import contextlib
import itertools
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from sessions import (
    MessageConflictError,
    NewMessage,
    SessionConflictError,
    SessionNotFoundError,
    TurnConflictError,
    VersionConflictError,
)
from sessions.services import ChatService
from sessions.services.claims import CLAIM_OWNER, derived_id
from tests.services.agents import Echo

# The small size has the backend that takes least time.
AT_FULL_SIZE = ("postgres", "mongodb-replica-set", "mongodb-standalone", "redis")
pytestmark = pytest.mark.parametrize(
    "backend",
    ["sqlite", *(pytest.param(name, marks=pytest.mark.full_size) for name in AT_FULL_SIZE)],
    indirect=True,
)
CALLS = (
    *("add_messages", "create_session_async", "delete_session_async", "ensure_session_exists"),
    *("get_message", "get_session", "get_session_history", "replace_messages", "update_session_async"),
)
LEASE = 0.2
USER = "alice"
# What a write that comes too late may raise in the process that sent it, which is gone.
LATE = (MessageConflictError, SessionConflictError, SessionNotFoundError, VersionConflictError)
Act = Callable[[], Awaitable[object]]


class Between:
    """Lets somebody else act once, before one of the calls of a repository.

    Attributes:
        calls: How many there were.
        has_acted: Whether there were enough of them.
    """

    def __init__(self, repository: Any, patch: pytest.MonkeyPatch, number: int, act: Act) -> None:
        self.calls = 0
        self.has_acted = False
        self._number, self._act = number, act
        for name in CALLS:
            patch.setattr(repository, name, self._wrapped(getattr(repository, name)))

    def _wrapped(self, call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def wrapped(*arguments: Any, **options: Any) -> Any:
            number, self.calls = self.calls, self.calls + 1
            if number == self._number:
                self.has_acted = True
                await self._act()
            return await call(*arguments, **options)

        return wrapped


@pytest.fixture
async def other(backend: Any) -> AsyncIterator[Any]:
    """The repository of another process: it shares nothing with the first one but the database."""
    async with backend.repository() as other:
        yield other


async def contents(repository: Any, session_id: str) -> list[str]:
    return [message.content for message in await repository.get_session_history(USER, session_id)]


@pytest.mark.parametrize("on_conflict", ["raise", "wait"])
@pytest.mark.parametrize("kind", ["new", "chosen", "existing", "known"])
async def test_a_turn_that_is_committed_late_is_stored_once(
    repository: Any, other: Any, kind: str, on_conflict: Any
) -> None:
    late = 0
    for number in itertools.count():
        agent, message_id = Echo(), str(uuid.uuid4())
        service = ChatService(agent, repository=repository, claim_seconds=LEASE, on_conflict=on_conflict)
        chosen: str | None = None if kind == "new" else str(uuid.uuid4())
        session_id = chosen or derived_id("session", USER, message_id)
        version = 0
        if kind in ("existing", "known"):
            first = service if kind == "known" else ChatService(Echo(), repository=other)
            await first.chat("First", USER, session_id)
        turn = [NewMessage("user", "Hi", message_id=message_id), NewMessage("assistant", "Late")]

        async def commit(session_id: str = session_id, turn: Any = turn, version: int = version) -> None:
            with contextlib.suppress(*LATE):
                if kind in ("existing", "known"):
                    await other.add_messages(session_id, turn, user_id=USER, expected_version=version)
                else:
                    await other.create_session_async(USER, messages=turn, session_id=session_id)

        with pytest.MonkeyPatch.context() as patch:
            between = Between(repository, patch, number, commit)
            result = await service.chat("Hi", USER, chosen, message_id=message_id)
        if not between.has_acted:
            break
        history = await repository.get_session_history(USER, session_id)
        before = [] if kind in ("new", "chosen") else ["First", "First after 0"]
        assert [found.content for found in history] == [*before, "Hi", result["message"]], number
        assert history[-2].message_id == message_id
        assert history[-1].message_id == result["metadata"]["answer_id"]
        assert result["metadata"].get("repeated", False) is (result["message"] == "Late")
        late += result["message"] == "Late"
        # The agent never sees its own message, or an answer to it, before it.
        assert all(len(context.history) == len(before) for _, context in agent.asked if _ == "Hi")
        assert await repository.count_sessions(CLAIM_OWNER) == 0
    assert 1 < late < number


@pytest.mark.parametrize("what", ["claim", "release"])
async def test_a_claim_that_is_written_late_blocks_no_longer_than_its_lease(
    repository: Any, other: Any, what: str
) -> None:
    for number in itertools.count():
        message_id, session_id = str(uuid.uuid4()), str(uuid.uuid4())
        claim_id = derived_id("claim", "message", USER, session_id, message_id)

        async def act(claim_id: str = claim_id) -> None:
            if what == "claim":
                data = {"title": "claim", "metadata": {"holder": "killed"}}
                await other.ensure_session_exists(claim_id, CLAIM_OWNER, data)
            else:
                with contextlib.suppress(*LATE):
                    await other.delete_session_async(CLAIM_OWNER, claim_id, expected_version=0)

        service = ChatService(Echo(), repository=repository, claim_seconds=LEASE, wait_timeout=100 * LEASE)
        with pytest.MonkeyPatch.context() as patch:
            between = Between(repository, patch, number, act)
            result = await service.chat("Hi", USER, session_id, message_id=message_id)
        if not between.has_acted:
            break
        assert result["message"] == "Hi after 0"
        again = await service.chat("Hi", USER, session_id, message_id=message_id)
        assert again["metadata"]["answer_id"] == result["metadata"]["answer_id"]
        assert await contents(repository, session_id) == ["Hi", "Hi after 0"]
        assert await repository.count_sessions(CLAIM_OWNER) == 0
    assert number > 3


@pytest.mark.parametrize("what", ["session", "messages"])
@pytest.mark.parametrize("kind", ["new", "unanswered", "answered", "regenerate", "edit"])
async def test_what_is_deleted_during_a_turn_leaves_no_part_of_it(
    repository: Any, other: Any, kind: str, what: str
) -> None:
    outcomes = set()
    for number in itertools.count():
        message_id, session_id = str(uuid.uuid4()), str(uuid.uuid4())
        stored = [("system", "Be kind."), NewMessage("user", "Hi", message_id=message_id)]
        if kind != "new":
            answer = [] if kind == "unanswered" else [("assistant", "Hello")]
            await other.create_session_async(USER, messages=[*stored, *answer], session_id=session_id)

        async def act(session_id: str = session_id) -> None:
            if what == "session":
                await other.delete_session_async(USER, session_id)
            else:
                await other.clear_messages(USER, session_id)

        service = ChatService(Echo(), repository=repository, claim_seconds=LEASE)
        outcome: Any
        with pytest.MonkeyPatch.context() as patch:
            between = Between(repository, patch, number, act)
            try:
                if kind == "regenerate":
                    outcome = await service.regenerate(USER, session_id)
                elif kind == "edit":
                    outcome = await service.edit(USER, session_id, message_id, "Hi")
                else:
                    outcome = await service.chat("Hi", USER, session_id, message_id=message_id)
            except (SessionNotFoundError, TurnConflictError) as error:
                outcome = error
            except ValueError:  # `regenerate` and `edit`: the message is gone.
                assert kind in ("regenerate", "edit")
                outcome = None
        if not between.has_acted:
            break
        outcomes.add(type(outcome))
        left = await contents(repository, session_id)
        whole = ["Be kind.", "Hi", "Hi after 1"], ["Hi", "Hi after 0"], ["Be kind.", "Hi", "Hello"]
        assert left in ([], *whole), (number, left)
        if not isinstance(outcome, dict):
            assert left == []
        assert await repository.count_sessions(CLAIM_OWNER) == 0
    # Before the last call of each, which stores what replaces something, it is always too early.
    assert (dict in outcomes) is (kind not in ("regenerate", "edit"))
