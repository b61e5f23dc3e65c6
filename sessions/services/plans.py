"""What a turn is to do: whom to ask what, with which history, and where to store the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sessions.core.identifiers import new_session_id
from sessions.errors import (
    InvalidInputError,
    MessageConflictError,
    SessionNotFoundError,
    TurnConflictError,
)
from sessions.models import ChatMessage, NewMessage
from sessions.services.results import Clock
from sessions.services.storing import Conversation, Conversations
from sessions.services.windows import Summary, Window
from sessions.validation import no_such_message

if TYPE_CHECKING:
    from sessions.repositories import AsyncSessionRepository

__all__ = ["Plan", "Planner", "Request"]

# More than the messages of the tools of one answer.
LOOK_AHEAD = 500


@dataclass(slots=True)
class Request:
    """What a caller asked for, checked.

    Attributes:
        user_id: The user.
        session_id: The session.
        message: The message; None to answer the last one anew.
        protocol: For the agent.
        metadata: That of the message.
        message_id: The caller's id of the message.
        edited_id: The message that this one replaces.
        is_branch: Whether it replaces it in a new session.
        is_new_session: Whether the id of the session was generated for this call.
    """

    user_id: str
    session_id: str
    message: str | None
    protocol: str
    metadata: dict[str, Any]
    message_id: str | None = None
    edited_id: str | None = None
    is_branch: bool = False
    is_new_session: bool = False
    clock: Clock = field(default_factory=Clock)


@dataclass(slots=True)
class Plan:
    """What a turn is to do.

    Attributes:
        conversation: The conversation, as it was read.
        session_id: The session to store into.
        query: The message.
        before: The messages before it, without those in the summary.
        summary: The summary.
        question: The message to store before the answer; None if it is stored already.
        question_id: Id of the message that is stored already.
        kept: How many of the first messages stay, if the others are replaced; None to append.
        is_first: Whether the session has no message yet.
        title: The title that the turn has given the session.
    """

    conversation: Conversation
    session_id: str
    query: str
    before: Sequence[ChatMessage] = ()
    summary: Summary | None = None
    question: NewMessage | None = None
    question_id: str | None = None
    kept: int | None = None
    is_first: bool = False
    title: str | None = None


class Planner:
    """Reads the conversation for a request.

    Args:
        repository: The repository.
        conversations: Reads it.
        window: What an agent sees of a history.
        summarises: Whether the messages before the window are summarised.
    """

    def __init__(
        self,
        repository: AsyncSessionRepository,
        conversations: Conversations,
        window: Window,
        *,
        summarises: bool,
    ) -> None:
        self._repository = repository
        self._conversations = conversations
        self._window = window
        self._summarises = summarises

    async def plan(self, request: Request) -> Plan | tuple[ChatMessage, list[ChatMessage]]:
        """Return what to do, or the message and its answer if both are stored already.

        Raises:
            SessionConflictError: The session is another user's.
            SessionNotFoundError: There is no session whose message could be answered anew, or edited.
            InvalidInputError: There is no such message in the session, or it is not the user's.
            MessageConflictError: The message id is taken by another message of the session.
        """
        if request.message is None or request.edited_id is not None:
            return await self._plan_change(request)
        conversation, summary = await self._read(request)
        # After the conversation was read: what is committed before is found here, what is committed later
        # makes its version old.
        found = await self.stored(request, conversation)
        if found is not None and found[1]:
            return found
        plan = Plan(
            conversation,
            conversation.session_id,
            request.message,
            _unsummarised(conversation.messages, summary),
            summary,
            is_first=not conversation.messages,
        )
        if found is None:
            plan.question = _question(request)
        else:
            plan.question_id = found[0].message_id
            plan.before = await self._before(conversation, found[0].message_id)
        return plan

    async def stored(
        self, request: Request, conversation: Conversation | None = None
    ) -> tuple[ChatMessage, list[ChatMessage]] | None:
        """Return the message of a repeated request and the messages of its answer, if there are any.

        Args:
            request: The request; without the caller's id of its message it is no repeated one.
            conversation: What was read of it; None to ask the database.

        Raises:
            MessageConflictError: The message id is taken by another message of the session.
        """
        user_id, session_id, message_id = request.user_id, request.session_id, request.message_id
        if message_id is None:
            return None
        messages = [] if conversation is None else conversation.messages
        for index, message in enumerate(messages):
            if message.message_id == message_id:
                return _checked(message, request), _answer(messages[index + 1 :])
        found = await self._repository.get_message(user_id, session_id, message_id)
        if found is None:
            return None
        _checked(found, request)
        try:
            following = await self._repository.get_session_history(
                user_id, session_id, after=message_id, limit=LOOK_AHEAD
            )
        except InvalidInputError:  # It was deleted since.
            return None
        return found, _answer(following)

    async def _read(self, request: Request) -> tuple[Conversation, Summary | None]:
        user_id, session_id, limit = request.user_id, request.session_id, self._window.limit
        if request.is_new_session:
            return Conversation(user_id, session_id), None
        if not self._summarises:
            return await self._conversations.read(user_id, session_id, limit=limit), None
        conversation = await self._conversations.read(user_id, session_id, limit=None, after=_summarised)
        chat_session = conversation.chat_session
        return conversation, None if chat_session is None else Summary.of(chat_session.metadata)

    async def _before(self, conversation: Conversation, message_id: str) -> Sequence[ChatMessage]:
        for index, message in enumerate(conversation.messages):
            if message.message_id == message_id:
                return conversation.messages[:index]
        try:
            return await self._repository.get_session_history(
                conversation.user_id, conversation.session_id, before=message_id, limit=self._window.limit
            )
        except InvalidInputError as error:  # It was deleted since.
            raise TurnConflictError("another turn has changed the conversation meanwhile") from error

    async def _plan_change(self, request: Request) -> Plan:
        """Plan to answer the last message anew, or an edited one."""
        conversation = await self._conversations.read(
            request.user_id, request.session_id, limit=None, whole=True
        )
        messages, chat_session = conversation.messages, conversation.chat_session
        if chat_session is None:
            raise SessionNotFoundError("there is no such session")
        if request.edited_id is None:
            index = _last_question(messages)
            plan = Plan(conversation, conversation.session_id, messages[index].content, kept=index + 1)
            plan.question_id = messages[index].message_id
        else:
            index = _index(messages, request.edited_id)
            assert request.message is not None
            plan = Plan(conversation, conversation.session_id, request.message, kept=index)
            plan.question = _question(request)
            if request.is_branch:
                plan.session_id = new_session_id()
        plan.before = before = messages[:index]
        if self._summarises and (summary := Summary.of(chat_session.metadata)) is not None:
            plan.before = _unsummarised(before, summary)
            # It may cover messages that the turn removes.
            plan.summary = summary if len(plan.before) < len(before) else None
        return plan


def _unsummarised(messages: list[ChatMessage], summary: Summary | None) -> list[ChatMessage]:
    for index, message in enumerate(messages):
        if summary is not None and message.message_id == summary.through:
            return messages[index + 1 :]
    return messages


def _summarised(metadata: dict[str, Any]) -> str | None:
    summary = Summary.of(metadata)
    return None if summary is None else summary.through


def _checked(message: ChatMessage, request: Request) -> ChatMessage:
    """Return the message that is stored under the request's id, if it is the request's."""
    if (message.role, message.content) != ("user", request.message):
        raise MessageConflictError("the message id is taken by another message")
    return message


def _answer(following: Sequence[ChatMessage]) -> list[ChatMessage]:
    """Return, of the messages after one of the user's, those of its answer."""
    answer: list[ChatMessage] = []
    for message in following:
        if message.role == "user":
            break
        answer.append(message)
    while answer and answer[-1].role != "assistant":
        answer.pop()
    return answer


def _question(request: Request) -> NewMessage:
    assert request.message is not None
    return NewMessage(
        "user", request.message, message_id=request.message_id, metadata=request.metadata or None
    )


def _last_question(messages: Sequence[ChatMessage]) -> int:
    for index in range(len(messages) - 1, -1, -1):
        if messages[index].role == "user":
            return index
    raise InvalidInputError("session_id", "the session has no message of the user to answer")


def _index(messages: Sequence[ChatMessage], message_id: str) -> int:
    for index, message in enumerate(messages):
        if message.message_id == message_id:
            if message.role != "user":
                raise InvalidInputError("message_id", "must be the id of a message of the user")
            return index
    raise no_such_message("message_id")
