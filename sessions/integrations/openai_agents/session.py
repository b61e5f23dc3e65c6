"""The session of the OpenAI Agents SDK."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from agents.memory import SessionSettings

from sessions import validation
from sessions.errors import SessionNotFoundError, VersionConflictError
from sessions.integrations.common import new_message, settled
from sessions.integrations.conversations import Conversation
from sessions.integrations.openai_agents.items import facts_of, role_of, text_of
from sessions.models import ChatMessage, NewMessage

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from agents import RunContextWrapper
    from agents.items import TResponseInputItem

    from sessions.repositories import AsyncSessionRepository

__all__ = ["AgentSession"]

FRAMEWORK = "openai-agents"
# Rounds in which somebody else changes the session between a read and a write.
ATTEMPTS = 5


class AgentSession:
    """A session of the OpenAI Agents SDK: ``Runner.run(agent, "Hi", session=AgentSession(…))``.

    It implements ``agents.memory.Session``. Appending, popping, clearing, and the replacement of compaction,
    are atomic, also among processes. The session of the repository comes into being with the first items.

    Args:
        session_id: Any text; a UUID is the id of the stored session, and from another text one is derived.
        repository: Where the session is stored.
        user_id: Owner.
        session_settings: The SDK's settings of a session, or their values as a mapping.

    Raises:
        TypeError: The id is no text, or the settings are none.

    Attributes:
        session_id: As given.
        session_settings: As given; the default has no limit.
    """

    session_id: str
    session_settings: SessionSettings | None = None

    def __init__(
        self,
        session_id: str,
        *,
        repository: AsyncSessionRepository,
        user_id: str,
        session_settings: SessionSettings | dict[str, Any] | None = None,
    ) -> None:
        if not isinstance(session_id, str):
            raise TypeError("session_id must be a string")
        self.session_id = session_id
        self.session_settings = _settings(session_settings)
        self._repository = repository
        self._user_id = validation.check_user_id(user_id)
        self._conversation = Conversation(repository, self._user_id, FRAMEWORK, session_id)
        # Names of the tools that were called and have not answered yet, by the id of the call.
        self._called: dict[str, str] = {}
        self._usage = _UsageOfRun()

    @property
    def stored_session_id(self) -> str:
        """Id of the session in the repository."""
        return self._conversation.session_id

    async def get_items(
        self, limit: int | None = None, *, wrapper: RunContextWrapper[Any] | None = None
    ) -> list[TResponseInputItem]:
        """Return the items, oldest first.

        Args:
            limit: Only the newest so many; none of them for 0 or less. None for the limit of
                ``session_settings``, and for all if that has none.
            wrapper: The SDK's context of the run.
        """
        self._usage.since_stored(wrapper)
        if limit is None and self.session_settings is not None:
            limit = _settings(self.session_settings).limit
        wanted = size = None if limit is None else max(limit, 0)
        while True:
            found = await self._repository.get_session_payloads(
                self._user_id, self.stored_session_id, limit=size
            )
            items = [
                item
                for each in found
                if (item := _item(each) if isinstance(each, ChatMessage) else each) is not None
            ]
            self._conversation.saw(NewMessage(role_of(item), text_of(item)) for item in items)
            if not wanted or not size or len(items) >= wanted or len(found) < size:
                return items[-wanted:] if wanted else items
            size *= 2  # Some of the newest messages are no items.

    async def add_items(
        self, items: list[TResponseInputItem], *, wrapper: RunContextWrapper[Any] | None = None
    ) -> None:
        """Append items, all or none.

        Args:
            items: Items of the SDK.
            wrapper: The SDK's context of the run, for the tokens that it has used.

        Raises:
            SessionConflictError: The session belongs to another user.
        """
        if not items:
            return
        messages = self._messages(items)
        answer = next((each for each in reversed(messages) if each.role == "assistant"), None)
        if answer is not None:
            answer.metadata = {**(answer.metadata or {}), **self._usage.since_stored(wrapper)}
        await settled(self._conversation.append(messages))

    async def pop_item(self, *, wrapper: RunContextWrapper[Any] | None = None) -> TResponseInputItem | None:
        """Remove and return the newest item; None if there is none. No two callers get the same one.

        Args:
            wrapper: The SDK's context of the run.
        """
        while True:
            message = await settled(self._repository.pop_message(self._user_id, self.stored_session_id))
            if message is None:
                return None
            if (item := _item(message)) is not None:
                return item

    async def clear_session(self, *, wrapper: RunContextWrapper[Any] | None = None) -> None:
        """Delete all items; the session stays, with its title and its metadata.

        Args:
            wrapper: The SDK's context of the run.
        """
        await settled(self._repository.clear_messages(self._user_id, self.stored_session_id))

    def _messages(self, items: Sequence[TResponseInputItem]) -> list[NewMessage]:
        messages = []
        for item in items:
            metadata = facts_of(item, self._called)
            messages.append(new_message(role_of(item), text_of(item), item, metadata=metadata))
        return messages

    # -- What `agents.memory.OpenAIResponsesCompactionSession` looks for on the session that it wraps --------
    # They are not part of the SDK's documented protocol. Without them it clears the session before it adds
    # what replaces the items, and another process sees, or a killed one leaves, an empty history.

    async def _atomic_replace_items(self, items: list[TResponseInputItem]) -> bool:
        """Replace the whole history; return False to a subclass, whose items may have another form."""
        if type(self) is not AgentSession:
            return False
        await settled(self._conversation.replace(self._messages(items)))
        return True

    async def _get_compaction_snapshot(
        self, limit: int, *, prune_prefix: Callable[[TResponseInputItem], bool] | None = None
    ) -> _Snapshot | None:
        """Return the newest items with a function that replaces them unless they have changed."""
        if type(self) is not AgentSession:
            return None
        history = await self._repository.get_session_history(
            self._user_id, self.stored_session_id, limit=limit + 1
        )
        seen = history[-limit:]
        items = [item for message in seen if (item := _item(message)) is not None]
        if len(items) < len(seen):
            return None

        async def replace_suffix(start: int, output: list[TResponseInputItem]) -> bool:
            return await settled(self._replace_suffix(seen[start:], output, prune_prefix))

        return _Snapshot(items, len(history) <= limit, replace_suffix)

    async def _replace_suffix(
        self,
        expected: list[ChatMessage],
        output: list[TResponseInputItem],
        is_expired: Callable[[TResponseInputItem], bool] | None,
    ) -> bool:
        if not expected:
            return False
        seen = list(map(_identity, expected))
        for _ in range(ATTEMPTS):
            key = self._user_id, self.stored_session_id
            chat_session = await self._repository.get_session(*key)
            history = await self._repository.get_session_history(*key)
            if chat_session is None or list(map(_identity, history[-len(expected) :])) != seen:
                return False
            kept = history[: -len(expected)]
            while kept and is_expired is not None and is_expired(cast("TResponseInputItem", _item(kept[0]))):
                del kept[0]
            new = self._messages(output)
            for message in new:
                # An item that is appended now sorts after them.
                message.timestamp = expected[-1].timestamp
            try:
                await self._repository.replace_messages(
                    *key, [*map(_kept, kept), *new], expected_version=chat_session.version
                )
            except VersionConflictError:
                continue
            except SessionNotFoundError:
                return False
            return True
        return False


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """What the SDK reads of a snapshot."""

    items: list[TResponseInputItem]
    complete: bool
    replace_suffix: Callable[[int, list[TResponseInputItem]], Awaitable[bool]]


class _UsageOfRun:
    """Counts the tokens that a run has used since its items were stored last."""

    def __init__(self) -> None:
        self._run: Callable[[], object] = lambda: None
        self._counted = (0, 0)

    def since_stored(self, wrapper: RunContextWrapper[Any] | None) -> dict[str, int]:
        """Return the metadata of the tokens since the last call; of a run that is new, only take note."""
        if wrapper is None:
            return {}
        used = wrapper.usage.input_tokens, wrapper.usage.output_tokens
        before, is_known = self._counted, self._run() is wrapper
        self._run, self._counted = weakref.ref(wrapper), used
        keys = "usage.input_tokens", "usage.output_tokens"
        counts = zip(keys, used, before, strict=True)
        return {key: now - then for key, now, then in counts if is_known and now > then}


def _settings(given: SessionSettings | Mapping[str, Any] | None) -> SessionSettings:
    if given is None:
        return SessionSettings()
    if isinstance(given, SessionSettings):
        return given
    if not isinstance(given, Mapping):
        raise TypeError(
            f"session_settings must be a SessionSettings or a mapping, not {type(given).__name__}"
        )
    if unknown := given.keys() - {field.name for field in dataclasses.fields(SessionSettings)}:
        raise TypeError(f"Unknown session settings: {', '.join(sorted(map(str, unknown)))}")
    return SessionSettings(**given)


def _item(message: ChatMessage) -> TResponseInputItem | None:
    """Return the item of a message; of one that the SDK did not store, its text."""
    if message.payload is not None:
        return cast("TResponseInputItem", message.payload)
    if message.role == "tool":  # Without the id of its call it is no item.
        return None
    return cast("TResponseInputItem", {"role": message.role, "content": message.content})


def _identity(message: ChatMessage) -> tuple[str, str]:
    # By the text of the payload: NaN does not equal itself.
    return message.message_id, repr(message.payload)


def _kept(message: ChatMessage) -> NewMessage:
    return NewMessage(
        message.role,
        message.content,
        message_id=message.message_id,
        timestamp=message.timestamp,
        metadata=message.metadata,
        payload=message.payload,
    )
