"""Compares a turn of `ChatService` with the two storage calls that it needs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from benchmarks.tables import milliseconds, table
from benchmarks.timing import Effort, one_caller
from sessions import NewMessage, SessionRepositoryFactory
from sessions.services import AgentContext, ChatService

__all__ = ["overhead"]

HEAD = ("turn", "all of it", "`get_session_history` and `add_messages`", "difference", "target")
USER = "alice"
QUESTION, ANSWER = "What should I see first? " * 4, "Begin at the river, then walk up the hill. " * 10
LIMIT = 50
TARGET_SECONDS = 0.0003


async def _answer(message: str, context: AgentContext) -> str:
    return ANSWER


async def _stream(message: str, context: AgentContext) -> AsyncIterator[str]:
    yield ANSWER


async def overhead(backend: str, url: str, effort: Effort) -> str:
    """Return the table of one backend. The agent answers at once; two conversations grow side by side."""
    # One turn and the two calls alternate: whatever else the machine does concerns both.
    alternating = Effort(effort.rounds * effort.calls, calls=1)
    async with SessionRepositoryFactory.create_repository(backend, url=url) as repository:
        rows = []
        for name, agent in (("chat", _answer), ("stream", _stream)):
            turn, calls = await _contenders(repository, agent, name)
            measured = await one_caller({"turn": turn, "calls": calls}, alternating)
            difference = measured["turn"] - measured["calls"]
            shown = milliseconds(difference)
            rows.append(
                (
                    f"`{name}`",
                    *(milliseconds(measured[which]) for which in ("turn", "calls")),
                    shown if difference <= TARGET_SECONDS else f"**{shown}**",
                    f"≤ {milliseconds(TARGET_SECONDS)}",
                )
            )
        return table(HEAD, rows)


async def _contenders(
    repository: Any, agent: Any, name: str
) -> tuple[Callable[[], Awaitable[object]], Callable[[], Awaitable[object]]]:
    before = [("user", QUESTION), ("assistant", ANSWER)] * (LIMIT // 2)
    ours, raw = [await repository.create_session_async(USER, messages=before) for _ in range(2)]
    service = ChatService(agent, repository=repository, history_limit=LIMIT)
    version = 0

    async def turn() -> None:
        if name == "chat":
            assert (await service.chat(QUESTION, USER, ours))["success"]
            return
        async for _ in service.stream(QUESTION, USER, ours):
            pass

    async def calls() -> None:
        nonlocal version
        await repository.get_session_history(USER, raw, limit=LIMIT)
        answer = NewMessage("assistant", ANSWER, metadata={"status": "complete"})
        turn = [NewMessage("user", QUESTION), answer]
        await repository.add_messages(raw, turn, user_id=USER, expected_version=version)
        version += 1

    return turn, calls
