"""The history provider of the Agent Framework."""

from __future__ import annotations

import random
from asyncio import sleep
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, ClassVar
from uuid import uuid4

from agent_framework import HistoryProvider as BaseHistoryProvider
from agent_framework import Message

# The rule by which the framework's own stores recognize messages that they have; it is not exported.
from agent_framework._sessions import filter_new_messages

from sessions import errors, validation
from sessions.integrations.agent_framework.messages import message_facts, message_role, message_text
from sessions.integrations.agent_framework.reading import is_own, of_payload, to_message
from sessions.integrations.common import (
    derived_id,
    new_message,
    session_id_for,
    session_metadata,
    settled,
    title_for,
)
from sessions.integrations.conversations import as_decoded
from sessions.integrations.snapshots import LAST_MESSAGE, snapshot
from sessions.models import ChatSession, NewMessage

if TYPE_CHECKING:
    from agent_framework import AgentResponse, AgentSession, SessionContext, SupportsAgentRun

    from sessions.repositories import AsyncSessionRepository

__all__ = ["HistoryProvider"]

FRAMEWORK = "agent-framework"
DEFAULT_SESSION_ID = "default"
DEFAULT_TITLE = "New Chat"
# Rounds in which somebody else writes to the session between a read and an append.
ATTEMPTS = 50
PAUSE_SECONDS = 0.02

# The response whose messages are being stored.
_response: ContextVar[AgentResponse[Any] | None] = ContextVar("sessions_agent_response", default=None)


class HistoryProvider(BaseHistoryProvider):
    """Conversation history: ``Agent(…, context_providers=[HistoryProvider(repository=…, user_id=…)])``.

    Messages that the session has already, as in a transcript that is sent again, are stored once, by the
    framework's own rule, also if several processes store them. The session of the repository comes into being
    with the first messages, and gets its title from the user's first one.

    Args:
        source_id: Name of the provider. Another one than the default has sessions of its own, so that two
            providers of one agent, such as a second one for audits, do not store the same twice.
        repository: Where the sessions are stored.
        user_id: Owner.
        load_messages: Whether an agent gets the history.
        store_inputs: Whether to store what an agent is asked.
        store_context_messages: Whether to store messages of other context providers.
        store_context_from: Only of these; None for all others.
        store_outputs: Whether to store what an agent answers.
        skip_excluded: Leave out messages that a compaction has marked as excluded.
    """

    DEFAULT_SOURCE_ID: ClassVar[str] = "sessions"

    def __init__(
        self,
        source_id: str | None = None,
        *,
        repository: AsyncSessionRepository,
        user_id: str,
        load_messages: bool = True,
        store_inputs: bool = True,
        store_context_messages: bool = False,
        store_context_from: set[str] | None = None,
        store_outputs: bool = True,
        skip_excluded: bool = False,
    ) -> None:
        super().__init__(
            source_id or self.DEFAULT_SOURCE_ID,
            load_messages=load_messages,
            store_inputs=store_inputs,
            store_context_messages=store_context_messages,
            store_context_from=store_context_from,
            store_outputs=store_outputs,
        )
        self.skip_excluded = skip_excluded
        self._repository = repository
        self._user_id = validation.check_user_id(user_id)

    def stored_session_id(self, session_id: str | None) -> str:
        """Return the id in the repository of a session of the framework; without an id it is ``default``."""
        session_id = session_id or DEFAULT_SESSION_ID
        if self.source_id == self.DEFAULT_SOURCE_ID:
            return session_id_for(FRAMEWORK, self._user_id, session_id)
        return derived_id(FRAMEWORK, self._user_id, self.source_id, session_id)

    async def get_messages(
        self, session_id: str | None, *, state: dict[str, Any] | None = None, **kwargs: Any
    ) -> list[Message]:
        """Return the messages of a session, oldest first."""
        key, messages = (self._user_id, self.stored_session_id(session_id)), list[Message]()
        payloads = (await self._repository.get_session_payloads(*key))[::-1]
        if not all(map(is_own, payloads)):
            # The framework did not store all of them: their text is needed.
            payloads, messages = [], [*map(to_message, await self._repository.get_session_history(*key))]
        # In reverse, and each is freed at once: the garbage collector runs less often.
        while payloads:
            messages.append(of_payload(payloads.pop()))
        if self.skip_excluded:
            messages = [each for each in messages if not each.additional_properties.get("_excluded", False)]
        return messages

    async def save_messages(
        self,
        session_id: str | None,
        messages: Sequence[Message],
        *,
        state: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Append the messages that the session does not have yet, all or none.

        Raises:
            SessionConflictError: The session belongs to another user.
        """
        if messages:
            await settled(self._save(session_id or DEFAULT_SESSION_ID, list(messages)))

    async def clear(self, session_id: str | None) -> None:
        """Delete all messages of a session, which stays."""
        await settled(self._repository.clear_messages(self._user_id, self.stored_session_id(session_id)))

    async def after_run(
        self,
        *,
        agent: SupportsAgentRun,
        session: AgentSession,
        context: SessionContext,
        state: dict[str, Any],
    ) -> None:
        """Store messages as the options say; the model and its tokens with the last one of the response."""
        with _storing(context.response):
            await super().after_run(agent=agent, session=session, context=context, state=state)

    async def _save(self, session_id: str, messages: list[Message]) -> None:
        stored_id, response = self.stored_session_id(session_id), _response.get()
        failure: errors.SessionsError | None = None
        for attempt in range(ATTEMPTS):
            if attempt:
                await sleep(random.uniform(0, PAUSE_SECONDS))
            # With one more than are new: the rule looks for overlaps, and for the whole history in them.
            chat_session, newest = await snapshot(
                self._repository, self._user_id, stored_id, limit=len(messages) + 1
            )
            missed = filter_new_messages([to_message(each) for each in newest], messages)
            if not missed:
                return
            new = [_new_message(each, response) for each in missed]
            try:
                await self._append(session_id, stored_id, chat_session, new)
                return
            except (
                errors.SessionConflictError,
                errors.SessionNotFoundError,
                errors.VersionConflictError,
            ) as error:
                failure = error
        assert failure is not None
        raise failure

    async def _append(
        self, session_id: str, stored_id: str, chat_session: ChatSession | None, new: list[NewMessage]
    ) -> None:
        try:
            await self._write(session_id, stored_id, chat_session, new)
        except errors.InvalidInputError as error:  # Raised before any I/O.
            await self._write(session_id, stored_id, chat_session, as_decoded(new, error))

    async def _write(
        self, session_id: str, stored_id: str, chat_session: ChatSession | None, new: list[NewMessage]
    ) -> None:
        title, last = title_for(new), {LAST_MESSAGE: new[-1].message_id}
        if chat_session is None:
            metadata = {**session_metadata(FRAMEWORK, session_id), **last}
            await self._repository.create_session_async(
                self._user_id, {"title": title, "metadata": metadata}, messages=new, session_id=stored_id
            )
            return
        await self._repository.add_messages(
            stored_id,
            new,
            user_id=self._user_id,
            merge_metadata=last,
            expected_version=chat_session.version,
        )
        if title is not None and chat_session.title == DEFAULT_TITLE:
            await self._repository.update_session_async(
                self._user_id, stored_id, {"title": title}, touch=False, if_title=DEFAULT_TITLE
            )


@contextmanager
def _storing(response: AgentResponse[Any] | None) -> Iterator[None]:
    token = _response.set(response)
    try:
        yield
    finally:
        _response.reset(token)


def _new_message(message: Message, response: AgentResponse[Any] | None) -> NewMessage:
    return new_message(
        message_role(message),
        message_text(message),
        message.to_dict(),
        metadata=message_facts(message, response),
        message_id=str(uuid4()),
    )
