"""Agents for the tests of `ChatService`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from sessions.services import AgentContext, AgentResponse


class Echo:
    """Answers with the message and how many messages were before, and keeps what it was told."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, AgentContext]] = []

    async def execute(self, query: str, context: AgentContext) -> AgentResponse:
        self.asked.append((query, context))
        return AgentResponse(f"{query} after {len(context.history)}")


class Pieces:
    """Streams pieces; may then hang, or raise, and counts what happened to it."""

    def __init__(self, *pieces: str | AgentResponse, then: BaseException | str | None = None) -> None:
        self.pieces = pieces
        self.then = then
        self.asked = self.closed = 0
        self.contexts: list[AgentContext] = []

    async def stream(self, query: str, context: AgentContext) -> AsyncIterator[str | AgentResponse]:
        self.asked += 1
        self.contexts.append(context)
        try:
            for piece in self.pieces:
                yield piece
                await asyncio.sleep(0)
            if self.then == "hang":
                await asyncio.sleep(3600)
            elif isinstance(self.then, BaseException):
                raise self.then
        finally:
            self.closed += 1


class Gate:
    """Answers only when it is let; counts how many are waiting."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.open = asyncio.Event()
        self.asked = 0

    async def execute(self, query: str, context: AgentContext) -> str:
        self.asked += 1
        self.started.set()
        await self.open.wait()
        return f"{query} after {len(context.history)}"


async def texts(repository: Any, user_id: str, session_id: str) -> list[tuple[str, str]]:
    """Return the roles and contents of a session."""
    history = await repository.get_session_history(user_id, session_id)
    return [(message.role, message.content) for message in history]


async def everything(repository: Any, user_id: str = "alice") -> list[list[tuple[str, str, Any]]]:
    """Return the messages of all sessions of a user, with their status."""
    return [
        [(message.role, message.content, message.metadata.get("status")) for message in messages]
        async for _, messages in repository.export_user(user_id)
    ]
