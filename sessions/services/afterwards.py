"""What follows an answer that is stored: the session's title, and the summary of its older messages."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from sessions.core.texts import storable
from sessions.core.titles import title_of
from sessions.correlation import logger_of
from sessions.errors import SessionsError
from sessions.models import ChatMessage, NewMessage
from sessions.services.asking import where
from sessions.services.options import Options, Summarise, TitleCallable
from sessions.services.plans import Plan
from sessions.services.replies import Reply
from sessions.services.results import now
from sessions.services.storing import Conversations
from sessions.services.windows import Summary
from sessions.validation import DEFAULT_TITLE

if TYPE_CHECKING:
    from sessions.repositories import AsyncSessionRepository

__all__ = ["Afterwards"]

R = TypeVar("R")

logger = logger_of(__name__)

MAX_TITLE_LENGTH = 255


class Afterwards:
    """Titles and summaries, after the answer.

    Args:
        repository: The repository.
        conversations: Has to read a session again after it was changed here.
        options: The hooks, their time limit, and what the agent sees of a history.
    """

    def __init__(
        self, repository: AsyncSessionRepository, conversations: Conversations, options: Options
    ) -> None:
        self._repository = repository
        self._conversations = conversations
        self._window = options.window
        self._title = options.title
        self._summarize = options.summarize
        self._seconds = options.hook_timeout

    @property
    def summarises(self) -> bool:
        """Whether there are summaries."""
        return self._summarize is not None

    def first_title(self, plan: Plan) -> str | None:
        """Return the title with which a session is created; None for the default."""
        return title_of(plan.query) if plan.is_first and self._title is None else None

    async def keep_title(self, plan: Plan) -> str | None:
        """Give a session that is older than its first message a title; return the title, if it was set.

        Errors are only logged: the turn is stored.
        """
        chat_session, title = plan.conversation.chat_session, self.first_title(plan)
        if title is None or chat_session is None or chat_session.title != DEFAULT_TITLE:
            return title if chat_session is None else None
        return await self._logged(self._store_title(plan, title))

    async def run(self, plan: Plan, reply: Reply, ids: list[str]) -> str | None:
        """Make the title and the summary; return the title, if it was set. Errors are only logged.

        Args:
            plan: What the turn did.
            reply: The answer.
            ids: Ids of the message and of those of the answer.
        """
        title: str | None = None
        if plan.is_first and not isinstance(self._title, bool) and self._title is not None:
            title = await self._logged(self._make_title(plan, reply.content, self._title))
        if self._summarize is not None and plan.session_id == plan.conversation.session_id:
            await self._logged(self._make_summary(plan, reply, ids, self._summarize))
        return title

    @staticmethod
    async def _logged(work: Coroutine[Any, Any, R]) -> R | None:
        try:
            return await work
        except (SessionsError, TimeoutError) as error:
            logger.warning("the title or the summary of a session is not stored: %s", type(error).__name__)
            return None

    async def _make_title(self, plan: Plan, answer: str, function: TitleCallable) -> str | None:
        chat_session = plan.conversation.chat_session
        if chat_session is not None and chat_session.title != DEFAULT_TITLE:
            return None
        made = await self._bounded("title", function, plan.query, answer)
        title = storable(" ".join(made.split()))[:MAX_TITLE_LENGTH].rstrip() if isinstance(made, str) else ""
        title = title or title_of(plan.query) or ""
        return await self._store_title(plan, title) if title else None

    async def _store_title(self, plan: Plan, title: str) -> str | None:
        self._conversations.forget(plan.conversation.user_id, plan.session_id)
        user_id, session_id = plan.conversation.user_id, plan.session_id
        async with asyncio.timeout(self._seconds):
            is_set = await self._repository.update_session_async(
                user_id, session_id, {"title": title}, touch=False, if_title=DEFAULT_TITLE
            )
        return title if is_set else None

    async def _make_summary(self, plan: Plan, reply: Reply, ids: list[str], function: Summarise) -> None:
        session_id = plan.session_id
        new = [NewMessage("user", plan.query), *reply.messages()]
        stored = [
            ChatMessage(message_id, session_id, message.role, message.content, now(), message.metadata or {})
            for message_id, message in zip(ids, new, strict=True)
        ]
        messages = [*plan.before, *stored]
        fallen = messages[: self._window.start(messages)]
        if not fallen:
            return
        before = None if plan.summary is None else plan.summary.text
        text = await self._bounded("summary", function, fallen, before)
        if isinstance(text, str) and text:
            summary = Summary(storable(text), fallen[-1].message_id)
            self._conversations.forget(plan.conversation.user_id, session_id)
            async with asyncio.timeout(self._seconds):
                await self._repository.update_session_async(
                    plan.conversation.user_id, session_id, merge_metadata=summary.metadata(), touch=False
                )

    async def _bounded(self, what: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """Return what a function of the caller's returns in time; None for nothing."""
        try:
            async with asyncio.timeout(self._seconds):
                made = function(*arguments[: _taken(function, len(arguments))])
                return await made if inspect.isawaitable(made) else made
        except Exception as error:
            logger.warning("the function for a %s raised %s at %s", what, type(error).__name__, where(error))
            return None


def _taken(function: Callable[..., Any], count: int) -> int:
    """Return how many of the arguments a function takes: its first one may be enough for it."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return count
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        return count
    by_place = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return min(count, sum(parameter.kind in by_place for parameter in parameters))
