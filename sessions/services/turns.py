"""One turn of a conversation: ask the agent, then store the message with its answer."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any

from sessions.correlation import logger_of
from sessions.errors import MessageConflictError, TurnConflictError
from sessions.models import ChatMessage
from sessions.services.afterwards import Afterwards
from sessions.services.agents import AgentContext
from sessions.services.asking import Asking
from sessions.services.claims import Claims
from sessions.services.finishing import CLOSE_SECONDS, STORE_SECONDS, Finishing
from sessions.services.options import Options
from sessions.services.plans import Plan, Planner, Request
from sessions.services.replies import ERROR, STATUS, TOOLS_USED, Reply, tool_names
from sessions.services.results import ChatResult, now
from sessions.services.sources import AgentSource
from sessions.services.storing import Conversations

if TYPE_CHECKING:
    from sessions.repositories import AsyncSessionRepository

__all__ = ["Turns"]

logger = logger_of(__name__)

# How often a turn that waits for others asks its agent, if a turn that does not wait comes between.
MAX_TIMES = 5


class Turns:
    """Runs the turns of a service.

    Args:
        repository: Where conversations are stored.
        source: Where the agent comes from.
        finishing: Runs what must not be cut short.
        options: The options of the service.
    """

    def __init__(
        self,
        repository: AsyncSessionRepository,
        source: AgentSource,
        finishing: Finishing,
        options: Options,
    ) -> None:
        self._source = source
        self._finishing = finishing
        self._options = options
        self._window = options.window
        self._claims = Claims(
            repository, finishing, lease=options.claim_seconds, patience=options.wait_timeout
        )
        self._conversations = Conversations(repository)
        self._afterwards = Afterwards(repository, self._conversations, options)
        self._planner = Planner(
            repository, self._conversations, self._window, summarises=self._afterwards.summarises
        )

    async def run(self, request: Request, *, streaming: bool) -> AsyncGenerator[str | ChatResult, None]:
        """Yield the pieces of the answer if ``streaming``, then the result.

        Raises:
            TurnConflictError: Another turn has changed the conversation meanwhile; nothing is stored.
        """
        async with contextlib.AsyncExitStack() as held:
            for name in self._names(request):
                await held.enter_async_context(self._claims.hold(*name))
            for times in itertools.count(1):
                plan = await self._planner.plan(request)
                if isinstance(plan, tuple):
                    repeated = self._repeated(request, *plan)
                    if streaming and repeated["message"]:
                        yield repeated["message"]
                    yield repeated
                    return
                asking = self._asking(request, plan, streaming)
                reply = asking.reply
                try:
                    while (piece := await asking.piece()) is not None:
                        if streaming:
                            yield piece
                except (asyncio.CancelledError, GeneratorExit):
                    await self._store_interrupted(plan, asking)
                    raise
                if reply.status == "failed":
                    await asking.aclose()
                    if not self._is_stored(plan, reply):
                        yield self._result(request, plan, asking)
                        return
                try:
                    ids = await self._finishing.run(self._store(plan, reply))
                except (TurnConflictError, MessageConflictError) as error:
                    # Also what a killed process had sent may be committed after the turn has looked for it.
                    found = await self._planner.stored(request)
                    if found is not None and found[1]:
                        yield self._repeated(request, *found)
                        return
                    if found is None and isinstance(error, MessageConflictError):
                        raise
                    if self._options.waits and times < MAX_TIMES and not (streaming and reply.has_text):
                        continue
                    if isinstance(error, TurnConflictError):
                        raise
                    raise TurnConflictError("the message was stored meanwhile, without an answer") from error
                plan.title = await self._afterwards.run(plan, reply, ids) or plan.title
                yield self._result(request, plan, asking, ids)
                return

    def _names(self, request: Request) -> list[tuple[str, ...]]:
        """Return what the turn claims: the session if it waits for others, and its message."""
        names: list[tuple[str, ...]] = []
        session_id = request.session_id.lower()  # A UUID in capitals is the same one.
        if self._options.waits and not request.is_new_session:
            names.append(("session", session_id))
        if request.message_id is not None:
            names.append(("message", request.user_id, session_id, request.message_id))
        return names

    def _asking(self, request: Request, plan: Plan, streaming: bool) -> Asking:
        context = AgentContext(
            request.user_id,
            plan.session_id,
            metadata={**request.metadata, "protocol": request.protocol},
            history=self._window.choose(plan.before),
            summary=None if plan.summary is None else plan.summary.text,
        )
        seconds = self._options.timeout
        return Asking(self._source.get, plan.query, context, seconds=seconds, streaming=streaming)

    def _is_stored(self, plan: Plan, reply: Reply) -> bool:
        """Return whether to store an answer that has failed, or was interrupted."""
        is_regenerated = plan.kept is not None and plan.question is None
        return reply.has_text or (self._options.store_failed and not is_regenerated)

    async def _store(self, plan: Plan, reply: Reply) -> list[str]:
        """Store the turn, and return the ids of the message and of its answer."""
        messages = reply.messages()
        if plan.question is not None:
            messages.insert(0, plan.question)
        conversation, conversations = plan.conversation, self._conversations
        if plan.kept is None:
            title = self._afterwards.first_title(plan)
            ids = await conversations.append(conversation, messages, title=title)
            plan.title = await self._afterwards.keep_title(plan)
        elif plan.session_id == conversation.session_id:
            ids = await conversations.replace(conversation, plan.kept, messages)
        else:
            ids = await conversations.branch(conversation, plan.kept, messages, plan.session_id)
        return ids if plan.question_id is None else [plan.question_id, *ids]

    async def _store_interrupted(self, plan: Plan, asking: Asking) -> None:
        """Store what there is of the answer; the caller is being cancelled, or has closed the stream."""
        reply = asking.reply
        if reply.status == "complete":
            reply.status = "partial" if reply.has_text else "failed"
        if self._is_stored(plan, reply):
            logger.info("a turn was interrupted; its answer is stored as %s", reply.status)
            await self._finishing.at_end(lambda: self._store(plan, reply), STORE_SECONDS)
        await self._finishing.close(asking.aclose, CLOSE_SECONDS)

    def _repeated(self, request: Request, message: ChatMessage, answer: list[ChatMessage]) -> ChatResult:
        """Return the result of an answer that was stored before."""
        metadata = answer[-1].metadata
        status, error, used = metadata.get(STATUS, "complete"), metadata.get(ERROR), metadata.get(TOOLS_USED)
        return ChatResult(
            success=status == "complete",
            message=answer[-1].content,
            user_id=request.user_id,
            session_id=message.session_id,
            timestamp=answer[-1].timestamp.isoformat(),
            processing_time_ms=request.clock.milliseconds,
            tools_used=list(used) if isinstance(used, list) else tool_names(answer),
            errors=[error] if isinstance(error, str) else [],
            metadata={
                **metadata,
                "protocol": request.protocol,
                "message_id": message.message_id,
                "answer_id": answer[-1].message_id,
                STATUS: status,
                "repeated": True,
            },
        )

    def _result(
        self,
        request: Request,
        plan: Plan,
        asking: Asking,
        ids: list[str] | None = None,
    ) -> ChatResult:
        reply = asking.reply
        metadata: dict[str, Any] = {
            **reply.metadata,
            "protocol": request.protocol,
            "request_id": asking.context.request_id,
            "message_id": ids[0] if ids else plan.question_id,
            "answer_id": ids[-1] if ids else None,
            STATUS: reply.status,
        }
        if plan.title is not None:
            metadata["title"] = plan.title
        return ChatResult(
            success=reply.status == "complete",
            message=reply.content,
            user_id=request.user_id,
            session_id=plan.session_id,
            timestamp=now().isoformat(),
            processing_time_ms=request.clock.milliseconds,
            tools_used=reply.tools_used,
            errors=reply.errors,
            metadata=metadata,
        )
