"""Asks an agent, piece by piece, within a time limit."""

from __future__ import annotations

import asyncio
import inspect
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from sessions.correlation import logger_of
from sessions.services.agents import AgentContext
from sessions.services.replies import Reply, UnusableReplyError

__all__ = ["Asking", "where"]

logger = logger_of(__name__)


class Asking:
    """One question to an agent.

    Args:
        find_agent: Returns an agent: it has ``execute`` or ``stream``, or is callable.
        query: The message.
        context: What else the agent is told.
        seconds: Time limit of the answer, without the time that the caller takes for its pieces; None for no
            limit.
        streaming: Whether to prefer ``stream`` to ``execute``.
    """

    __slots__ = (
        "_ended",
        "_find_agent",
        "_iterator",
        "_left",
        "_query",
        "_seconds",
        "_streaming",
        "context",
        "reply",
    )

    def __init__(
        self,
        find_agent: Callable[[], Awaitable[Any]],
        query: str,
        context: AgentContext,
        *,
        seconds: float | None,
        streaming: bool,
    ) -> None:
        self._find_agent = find_agent
        self._query = query
        self.context = context
        self._seconds = self._left = seconds
        self._streaming = streaming
        self._iterator: AsyncIterator[Any] | None = None
        self._ended = False
        self.reply = Reply()

    async def piece(self) -> str | None:
        """Return the next piece of the answer, or None after its last one.

        What the agent raises ends the answer, which is then marked as failed.
        """
        while not self._ended:
            if text := self._take(await self._bounded()):
                return text
        return None

    async def _bounded(self) -> object:
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        cancelled, began = task.cancelling() if task else 0, loop.time()
        limit = asyncio.timeout(self._left)
        try:
            async with limit:
                return await self._next()
        except Exception as error:
            self._ended = True
            if task and task.cancelling() > cancelled:
                # The agent raised another error instead.
                raise asyncio.CancelledError from None
            if limit.expired():
                self.reply.fail(f"the agent did not answer within {self._seconds:g} s")
                logger.warning("an agent did not answer within %g s", self._seconds)
            else:
                self.reply.fail(f"the agent raised {type(error).__name__}")
                # Not its text, which may quote the conversation.
                logger.warning("an agent raised %s at %s", type(error).__name__, where(error))
            return None
        finally:
            if self._left is not None:
                self._left = max(0.0, self._left - (loop.time() - began))

    async def _next(self) -> object:
        if self._iterator is None:
            found = self._ask(await self._find_agent())
            if inspect.isawaitable(found):
                found = await found
            if not hasattr(found, "__aiter__"):
                self._ended = True
                return found
            self._iterator = aiter(found)
        try:
            return await anext(self._iterator)
        except StopAsyncIteration:
            self._ended = True
            return None

    def _ask(self, agent: Any) -> Any:
        execute, stream = getattr(agent, "execute", None), getattr(agent, "stream", None)
        chosen = (stream or execute) if self._streaming else (execute or stream)
        return (chosen or agent)(self._query, self.context)

    def _take(self, item: object) -> str:
        try:
            text = self.reply.take(item)
        except UnusableReplyError as error:
            self._ended = True
            self.reply.fail(f"the agent returned {error}")
            text = ""
        if self._ended and self.reply.status == "complete" and self.reply.is_empty:
            self.reply.fail("the agent returned nothing")
        return text

    async def aclose(self) -> None:
        """End the agent's iterator, if it has not ended; its errors are only logged."""
        close = getattr(self._iterator, "aclose", None)
        if close is None:
            return
        try:
            await close()
        except Exception as error:
            logger.warning("the end of an agent's stream raised %s at %s", type(error).__name__, where(error))


def where(error: BaseException) -> str:
    """Return the file and the line that raised an error."""
    place = "an unknown line"
    for frame, line in traceback.walk_tb(error.__traceback__):
        place = f"{frame.f_code.co_filename}:{line}"
    return place
