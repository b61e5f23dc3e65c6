"""Turns whose caller goes away: cancelled at any point, or leaving a stream."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
import uvloop

from sessions import SessionRepositoryFactory
from sessions.services import AgentContext, ChatService
from sessions.services.claims import CLAIM_OWNER
from sessions.testing.open_connections import count_checked_out
from tests.services.agents import Echo, Gate, Pieces, everything
from tests.support.timing import BUSY_SECONDS, within

PIECES = ("One ", "two ", "three ", "four.")


async def slowly(query: str, context: AgentContext) -> AsyncIterator[str]:
    for piece in PIECES:
        await asyncio.sleep(0.001)
        yield piece


def is_whole(message: str, stored: list[tuple[str, str, Any]]) -> bool:
    """Return whether a turn is stored as one whole: its message with all or a part of its answer."""
    if len(stored) != 2:
        return False
    (role, content, _), (_, answer, status) = stored
    text = "".join(PIECES)
    assert (role, content) == ("user", message)
    assert status == ("complete" if answer == text else "partial")
    return text.startswith(answer) and bool(answer)


async def settled(repository: Any, user_id: str) -> list[list[tuple[str, str, Any]]]:
    """Return what a user has, once nothing is being stored any more."""
    async with asyncio.timeout(60):
        while await repository.count_sessions(CLAIM_OWNER):
            await asyncio.sleep(0.01)
    return await everything(repository, user_id)


async def test_a_turn_that_is_cancelled_anywhere_is_stored_as_a_whole_or_not_at_all(repository: Any) -> None:
    random.seed(16)
    service = ChatService(slowly, repository=repository, on_conflict="wait")
    await service.chat("Warm up", "warm")
    lengths = []
    for _ in range(5):
        began = time.perf_counter()
        await service.chat("How long?", "warm", message_id=uuid.uuid4())
        lengths.append(time.perf_counter() - began)
    # The shortest: other load on the machine must not make the cancellations come too late.
    length = 1.5 * min(lengths)

    async def use(number: int) -> None:
        message, user_id = f"Message {number}", f"user-{number}"
        arguments: Any = (message, user_id, str(uuid.uuid4()) if number % 2 else None)
        message_id = uuid.uuid4() if number % 3 else None
        if number % 5:
            async for _ in service.stream(*arguments, message_id=message_id):
                pass
        else:
            await service.chat(*arguments, message_id=message_id)

    slowest = 0.0
    for start in range(0, 200, 10):
        tasks = [asyncio.create_task(use(number)) for number in range(start, start + 10)]

        async def cancel(task: asyncio.Task[None]) -> float:
            await asyncio.sleep(random.uniform(0, length))
            task.cancel()
            since = time.perf_counter()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            return time.perf_counter() - since

        slowest = max(slowest, *await asyncio.gather(*map(cancel, tasks)))
    # Less than a second on a machine with nothing else to do.
    assert slowest < BUSY_SECONDS
    await service.aclose()
    statuses: dict[str, int] = {}
    for number in range(200):
        for stored in await settled(repository, f"user-{number}"):
            assert is_whole(f"Message {number}", stored), stored
            statuses[stored[1][2]] = statuses.get(stored[1][2], 0) + 1
    assert statuses.get("partial", 0) + statuses.get("complete", 0) < 200
    assert count_checked_out(repository) == 0


@pytest.mark.parametrize("leave", ["close", "cancel", "scope", "collect"])
async def test_an_abandoned_stream_stores_what_there_is(repository: Any, leave: str) -> None:
    agent = Pieces("Half an ", "answer", then="hang")
    service = ChatService(agent, repository=repository)
    session_ids = [str(uuid.uuid4()) for _ in range(15)]

    async def begin(session_id: str) -> Any:
        stream = service.stream("Hi", "alice", session_id)
        assert [await anext(stream), await anext(stream)] == ["Half an ", "answer"]
        return stream

    async def use(session_id: str) -> None:
        if leave == "close":
            await (await begin(session_id)).aclose()
        elif leave == "cancel":
            task = asyncio.create_task(_hang(await begin(session_id)))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        elif leave == "scope":
            # As Starlette does when a client disconnects: the scope cancels each wait anew.
            async with anyio.create_task_group() as group:
                group.start_soon(_hang, await begin(session_id))
                await asyncio.sleep(0)
                group.cancel_scope.cancel()
        else:
            await begin(session_id)

    await asyncio.gather(*map(use, session_ids))
    gc.collect()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await service.aclose()
    assert agent.asked == 15
    for session_id in session_ids:
        [question, answer] = await repository.get_session_history("alice", session_id)
        assert (question.content, answer.content) == ("Hi", "Half an answer")
        assert answer.metadata == {"status": "partial"}
    assert agent.closed == 15
    # It can be continued, and answered anew.
    agent.then, agent.pieces = None, ("All.",)
    assert (await service.regenerate("alice", session_ids[0]))["message"] == "All."


async def _hang(stream: Any) -> None:
    async for _ in stream:
        pass


async def test_a_turn_that_is_cancelled_before_its_first_word_leaves_nothing(repository: Any) -> None:
    for store_failed in (False, True):
        gate = Gate()
        service = ChatService(gate, repository=repository, store_failed=store_failed)
        task = asyncio.create_task(service.chat("Hi", "alice", message_id=uuid.uuid4()))
        await gate.started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        stored = [[("user", "Hi", None), ("assistant", "", "failed")]] if store_failed else []
        assert await settled(repository, "alice") == stored


async def test_a_conflict_of_an_abandoned_stream_is_only_logged(
    repository: Any, caplog: pytest.LogCaptureFixture
) -> None:
    service = ChatService(Pieces("Half", then="hang"), repository=repository)
    session_id = (await ChatService(Echo(), repository=repository).chat("First", "alice"))["session_id"]
    stream = service.stream("Second", "alice", session_id)
    assert await anext(stream) == "Half"
    await ChatService(Echo(), repository=repository).chat("Between", "alice", session_id)
    before = await everything(repository)
    await stream.aclose()
    await service.aclose()
    assert await everything(repository) == before
    assert "TurnConflictError" in caplog.text


async def test_a_cancellation_ends_in_time_although_the_agent_and_the_database_hang(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def stubborn(query: str, context: AgentContext) -> AsyncIterator[str]:
        try:
            yield "Half"
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(3600)

    async with SessionRepositoryFactory.create_repository("sqlite", url=sqlite_url) as repository:
        service = ChatService(stubborn, repository=repository)
        stream = service.stream("Hi", "alice")
        assert await anext(stream) == "Half"
        create, released = repository.create_session_async, asyncio.Event()

        async def late(*arguments: Any, **options: Any) -> str:
            await released.wait()
            return await create(*arguments, **options)

        monkeypatch.setattr(repository, "create_session_async", late)
        with within(0.55):
            await stream.aclose()
        assert await everything(repository) == []
        released.set()
        await service.aclose()
        assert await everything(repository) == [[("user", "Hi", None), ("assistant", "Half", "partial")]]


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_loop_that_ends_stores_the_stream_that_it_leaves(sqlite_url: str, loop_factory: Any) -> None:
    repository = SessionRepositoryFactory.create_repository("sqlite", url=sqlite_url)
    service = ChatService(Pieces("Half", then="hang"), repository=repository)
    streams = []

    async def main() -> None:
        streams.append(service.stream("Hi", "alice"))
        assert await anext(streams[0]) == "Half"

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main())
    [(_, messages)] = list(repository.export_user_sync("alice"))
    assert [message.content for message in messages] == ["Hi", "Half"]
    repository.close()
