"""Turns while the server of the database is killed, and restarted on the same data."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest

from sessions import BackendUnavailableError, RetryConfig
from sessions.services import AgentContext, ChatService
from sessions.services.claims import CLAIM_OWNER
from sessions.testing.open_connections import count_checked_out
from tests.faults.breakable import Mongod, Postgres, ReplicaSet, Valkey, running
from tests.support.databases import Backend

# On a busy machine, with all attempts.
SECONDS = 120.0
LEASE = 0.5
# Callers whose retries end before the server is available again, so that they see the outage.
IMPATIENT = RetryConfig(max_attempts=2, base_delay=0.1)
SERVERS = {
    "postgres": Postgres,
    "redis": Valkey,
    "mongodb-replica-set": lambda: ReplicaSet(1),
    "mongodb-standalone": Mongod,
}
WAYS = ("chat", "stream", "regenerate", "stream_regenerate", "edit", "stream_edit", "branch")


class Numbered:
    """Streams the message, how many were before, and the number of the answer.

    Attributes:
        given: The answers to each message.
    """

    def __init__(self) -> None:
        self.given: dict[str, set[str]] = {}
        self._numbers = itertools.count()

    async def stream(self, query: str, context: AgentContext) -> AsyncIterator[str]:
        pieces = f"{query} after {len(context.history)}", f" as {next(self._numbers)}"
        self.given.setdefault(query, set()).add("".join(pieces))
        for piece in pieces:
            await asyncio.sleep(random.uniform(0, 0.01))
            yield piece


class Worker:
    """Has turns in a session of its own, one after another, and compares what is stored.

    Attributes:
        turns: How many have ended without an error.
        errors: How many calls have ended with one.
        answered: The messages with an id of their own, by it.
    """

    def __init__(self, backend: Backend, name: str, on_conflict: Any, **options: Any) -> None:
        self.turns = self.errors = 0
        self.answered: dict[str, str] = {}
        self.user_id = name
        self.repository = backend.repository(retry=IMPATIENT, **options)
        self._agent = Numbered()
        self._service = ChatService(
            self._agent,
            repository=self.repository,
            on_conflict=on_conflict,
            history_limit=None,
            claim_seconds=LEASE,
        )
        self.session_id = str(uuid.uuid4())
        self._messages = (f"{name} {number}" for number in itertools.count())

    async def work(self, end: asyncio.Event) -> None:
        async with self.repository:
            while not end.is_set():
                async with asyncio.timeout(SECONDS):
                    await self._turn()
            await self._service.aclose()

    async def _turn(self) -> None:
        before = await self._history(self.session_id)
        way = random.choice(WAYS) if before else "chat"
        message, message_id = next(self._messages), str(uuid.uuid4())
        if way in ("chat", "stream"):
            while not await self._answer(way, message, self.session_id, message_id=message_id):
                pass
            place = len(before)
        elif "regenerate" in way:
            place = len(before) - 2
            message = before[place].content
            await self._answer(way, self.user_id, self.session_id)
        else:
            place = random.randrange(0, len(before), 2)
            edited = (self.user_id, self.session_id, before[place].message_id, message)
            await self._answer("edit" if way == "branch" else way, *edited, branch=way == "branch")
        after = await self._history(self.session_id)
        kept, new = after[:place], [found.content for found in after[place:]]
        assert kept == before[:place]
        old = [found.content for found in before[place:]]
        if new != old:
            assert way != "branch"
            assert new in [[message, answer] for answer in self._agent.given[message]], (way, new, old)
        else:
            assert way not in ("chat", "stream")

    async def _answer(self, way: str, *arguments: Any, **options: Any) -> bool:
        """Have a turn, and return whether it has ended without an error."""
        if way in ("chat", "stream"):
            arguments = arguments[0], self.user_id, arguments[1]
        call = getattr(self._service, way)(*arguments, **options)
        try:
            result: Any = None
            if way.startswith("stream"):
                async for item in call:
                    result = item
            else:
                result = await call
        except BackendUnavailableError:
            self.errors += 1
            await asyncio.sleep(0.05)
            return False
        assert result["success"], result
        self.turns += 1
        if (message_id := options.get("message_id")) is not None:
            self.answered[message_id] = arguments[0]
            [last] = await self._history(self.session_id, limit=1)
            assert last.message_id == result["metadata"]["answer_id"]
        return True

    async def _history(self, session_id: str, **options: Any) -> list[Any]:
        while True:
            try:
                return list(await self.repository.get_session_history(self.user_id, session_id, **options))
            except BackendUnavailableError:
                self.errors += 1
                await asyncio.sleep(0.05)


@pytest.mark.parametrize("kills", [1, pytest.param(4, marks=pytest.mark.full_size)])
@pytest.mark.parametrize("name", SERVERS)
def test_turns_are_stored_as_wholes_although_the_server_is_killed(name: str, kills: int) -> None:
    server = SERVERS[name]()
    with running(server):
        asyncio.run(_kill_during_turns(name, server, kills))


async def _kill_during_turns(name: str, server: Any, kills: int) -> None:
    options = {"connect_timeout": 0.5} if name.startswith("mongodb") else {}
    backend = Backend(name, name.partition("-")[0], server.url)
    async with backend.repository() as repository:
        await repository.ensure_ready()
        end = asyncio.Event()
        workers = [
            Worker(backend, f"worker {number}", ("raise", "wait")[number % 2], **options)
            for number in range(6)
        ]
        async with asyncio.TaskGroup() as group:
            for worker in workers:
                group.create_task(worker.work(end))
            await _kill(getattr(server, "members", [server])[0], workers, kills)
            end.set()
        assert count_checked_out(repository) == 0
        await _check(repository, workers)


async def _kill(server: Any, workers: list[Worker], kills: int) -> None:
    for _ in range(kills):
        await _until_each_has_had_turns(workers, 3)
        await asyncio.sleep(random.uniform(0, 0.05))
        await asyncio.to_thread(server.kill)
        errors = sum(worker.errors for worker in workers)
        while sum(worker.errors for worker in workers) == errors:  # Each is told, sooner or later.
            await asyncio.sleep(0.02)
        await asyncio.to_thread(server.start)
    await _until_each_has_had_turns(workers, 3)


async def _until_each_has_had_turns(workers: list[Worker], count: int) -> None:
    ended = [worker.turns for worker in workers]
    deadline = time.monotonic() + SECONDS
    while any(worker.turns < before + count for worker, before in zip(workers, ended, strict=True)):
        assert time.monotonic() < deadline, [(worker.turns, worker.errors) for worker in workers]
        await asyncio.sleep(0.02)


async def _check(repository: Any, workers: list[Worker]) -> None:
    for worker in workers:
        async for _, messages in repository.export_user(worker.user_id):
            assert messages
            for place in range(0, len(messages), 2):
                question, answer = messages[place : place + 2]
                assert (question.role, answer.role) == ("user", "assistant")
                assert answer.content.startswith(f"{question.content} after {place} as ")
                assert answer.metadata == {"status": "complete"}
    # What is stored is returned: the agent is not asked again.
    service = ChatService(Numbered(), repository=repository, claim_seconds=LEASE)

    async def repeat(worker: Worker, message_id: str) -> None:
        if await repository.get_message(worker.user_id, worker.session_id, message_id) is None:
            return  # It was edited.
        message = worker.answered[message_id]
        result = await service.chat(message, worker.user_id, worker.session_id, message_id=message_id)
        assert result["metadata"]["repeated"] is True
        history = await repository.get_session_history(worker.user_id, worker.session_id)
        assert result["metadata"]["answer_id"] in [found.message_id for found in history]

    async with asyncio.timeout(SECONDS):
        await asyncio.gather(*(repeat(worker, one) for worker in workers for one in worker.answered))
    # A claim is left where the server was killed after the turn was stored, and its message was edited since.
    assert await repository.count_sessions(CLAIM_OWNER) <= sum(worker.errors for worker in workers)
