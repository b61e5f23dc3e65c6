"""Compares a turn of `ChatService` with the two storage calls that it needs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from benchmarks.tables import milliseconds, table
from benchmarks.timing import Effort, one_caller
from sessions import SessionRepositoryFactory
from sessions.models import NewMessage
from sessions.services import AgentContext, ChatService

__all__ = ["overhead"]

HEAD = ("turn", "turn", "get_session_history, add_messages", "difference", "target")
USER = "alice"
QUESTION, ANSWER = "What should I see first? " * 4, "Begin at the river, then walk up the hill. " * 10
LIMIT = 50
TARGET_SECONDS = 0.0003


async def answer(message: str, context: AgentContext) -> str:
    return ANSWER


async def pieces(message: str, context: AgentContext) -> AsyncIterator[str]:
    yield ANSWER


async def overhead(backend: str, url: str, effort: Effort) -> str:
    """Return the table of one backend. The agent answers at once."""
    async with SessionRepositoryFactory.create_repository(backend, url=url) as repository:
        rows = []
        for name, agent, before in (("chat", answer, 0), ("chat", answer, LIMIT), ("stream", pieces, LIMIT)):
            turn, calls = await _contenders(repository, agent, before, streams=name == "stream")
            # Each round on conversations of their own, which grow as fast as one another.
            measured = await one_caller({"turn": turn, "calls": calls}, effort)
            difference = measured["turn"] - measured["calls"]
            shown = milliseconds(difference)
            rows.append(
                (
                    f"{name}, {before} messages before" if before else f"{name}, growing from none",
                    milliseconds(measured["turn"]),
                    milliseconds(measured["calls"]),
                    shown if difference <= TARGET_SECONDS else f"**{shown}**",
                    f"≤ {milliseconds(TARGET_SECONDS)}",
                )
            )
        return table(HEAD, rows)


async def _contenders(
    repository: Any, agent: Any, before: int, *, streams: bool
) -> tuple[Callable[[], Awaitable[object]], Callable[[], Awaitable[object]]]:
    first = [("user", QUESTION), ("assistant", ANSWER)] * (before // 2)
    ours, raw = [await repository.create_session_async(USER, messages=first) for _ in range(2)]
    service = ChatService(agent, repository=repository, history_limit=LIMIT)
    version = 0

    async def turn() -> None:
        if not streams:
            assert (await service.chat(QUESTION, USER, ours))["success"]
            return
        async for _ in service.stream(QUESTION, USER, ours):
            pass

    async def calls() -> None:
        nonlocal version
        await repository.get_session_history(USER, raw, limit=LIMIT)
        await repository.add_messages(
            raw,
            [NewMessage("user", QUESTION), NewMessage("assistant", ANSWER, metadata={"status": "complete"})],
            user_id=USER,
            expected_version=version,
        )
        version += 1

    return turn, calls
