"""What an agent has answered so far, in the form that is stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from sessions import validation
from sessions.core.texts import storable
from sessions.errors import InvalidInputError
from sessions.models import ChatMessage, NewMessage
from sessions.services.agents import AgentResponse

__all__ = ["ERROR", "STATUS", "TOOLS_USED", "Reply", "Status", "UnusableReplyError", "tool_names"]

Status = Literal["complete", "partial", "failed"]

# Keys of an answer's metadata.
STATUS = "status"
ERROR = "error"
TOOLS_USED = "tools_used"
# Keys of a tool message's metadata that may hold the name of the tool.
_NAMES = ("tool.name", "tool_name", "name")


class UnusableReplyError(Exception):
    """An agent returned what is no answer; the text says of which type."""


class Reply:
    """Collects what an agent answers.

    Attributes:
        status: ``"complete"``, unless something went wrong.
        errors: What went wrong, without content.
        tool_messages: The calls of tools and their results.
        metadata: The agent's, with the counts of ``usage``.
        payload: The agent's own form of the answer.
    """

    __slots__ = ("_final", "_pieces", "_tools", "errors", "metadata", "payload", "status", "tool_messages")

    def __init__(self) -> None:
        self.status: Status = "complete"
        self.errors: list[str] = []
        self.tool_messages: list[NewMessage] = []
        self.metadata: dict[str, Any] = {}
        self.payload: Any = None
        self._pieces: list[str] = []
        self._final: str | None = None
        self._tools: list[str] | None = None

    @property
    def is_empty(self) -> bool:
        """Whether nothing has arrived that a user could see."""
        return not (self._pieces or self._final or self.tool_messages or self.payload is not None)

    @property
    def has_text(self) -> bool:
        """Whether a piece of the text has arrived."""
        return bool(self._pieces)

    @property
    def content(self) -> str:
        """The text, in the form that is stored."""
        return storable("".join(self._pieces) if self._final is None else self._final)

    @property
    def tools_used(self) -> list[str]:
        """Names of the tools, each once."""
        return tool_names(self.tool_messages) if self._tools is None else list(dict.fromkeys(self._tools))

    def fail(self, reason: str) -> None:
        """Mark the answer as failed."""
        self.status = "failed"
        self.errors.append(reason)

    def take(self, item: object) -> str:
        """Add what the agent returned or yielded; return the text that has not been seen yet.

        Raises:
            UnusableReplyError: It is neither text nor an answer.
        """
        if isinstance(item, str):
            text = str.__str__(item)
            if text:
                self._pieces.append(text)
            return text
        if item is None:
            return ""
        read = _reader(item)
        content = read("content")
        if content is None:
            content = ""
        if not isinstance(content, str):
            raise UnusableReplyError(f"content of type {type(content).__name__}")
        self._take_fields(read)
        if not self._pieces and read("success") is not False:
            return self.take(content)
        if content:
            self._final = content
        return ""

    def _take_fields(self, read: Any) -> None:
        self._take_metadata(read("metadata"), read("usage"))
        self._take_messages(read("tool_messages") or ())
        payload = read("payload")
        if payload is not None:
            try:
                validation.encode_payload(payload)
            except InvalidInputError:
                self.errors.append("the agent's payload is not JSON, and not stored")
            else:
                self.payload = payload
        if _is_texts(tools := read("tools_used")):
            self._tools = [*(self._tools or ()), *map(str, tools)]
        if _is_texts(errors := read("errors")):
            self.errors.extend(map(str, errors))
        if read("success") is False:
            self.fail("the agent reports that it failed")

    def _take_metadata(self, metadata: object, usage: object) -> None:
        added = dict(metadata) if isinstance(metadata, Mapping) else {}
        if isinstance(usage, Mapping):
            added |= {f"usage.{name}": count for name, count in usage.items()}
        if not added:
            return
        try:
            checked = validation.check_message_metadata({**self.metadata, **added})
        except InvalidInputError:
            self.errors.append("the agent's metadata is not a JSON object, and not stored")
        else:
            self.metadata = checked or {}

    def _take_messages(self, messages: Any) -> None:
        try:
            given = list(messages)
            validation.check_new_messages(given, validation.check_id)
        except (InvalidInputError, TypeError):
            self.errors.append("the agent's tool messages are invalid, and not stored")
            return
        self.tool_messages += [item if isinstance(item, NewMessage) else NewMessage(*item) for item in given]

    def messages(self) -> list[NewMessage]:
        """Return the messages to store: those of the tools, then the answer."""
        metadata = {**self.metadata, STATUS: self.status}
        if used := self.tools_used:
            metadata[TOOLS_USED] = used
        if self.status == "failed" and self.errors:
            metadata[ERROR] = storable(self.errors[-1])
        answer = NewMessage("assistant", self.content, metadata=metadata, payload=self.payload)
        return [*self.tool_messages, answer]


def _reader(item: object) -> Any:
    """Return a function that reads a field of an answer, None for an absent one."""
    if isinstance(item, AgentResponse) or hasattr(item, "content"):
        return lambda name: getattr(item, name, None)
    if isinstance(item, Mapping) and "content" in item:
        return item.get
    raise UnusableReplyError(f"an answer of type {type(item).__name__}")


def _is_texts(value: object) -> bool:
    is_list = isinstance(value, Sequence | set | frozenset) and not isinstance(value, str | bytes)
    return is_list and all(isinstance(item, str) for item in value)  # type: ignore[attr-defined]


def tool_names(messages: Sequence[NewMessage | ChatMessage]) -> list[str]:
    """Return the names of the tools that messages call, or have the results of, each once."""
    names: dict[str, None] = {}
    for message in messages:
        payload = message.payload if isinstance(message.payload, Mapping) else {}
        calls = payload.get("tool_calls")
        for call in calls if isinstance(calls, list) else ():
            call = call if isinstance(call, Mapping) else {}
            function = call.get("function")
            name = function.get("name") if isinstance(function, Mapping) else call.get("name")
            if isinstance(name, str):
                names[name] = None
        if message.role == "tool":
            for name in ((message.metadata or {}).get(key) for key in _NAMES):
                if isinstance(name, str):
                    names[name] = None
                    break
    return list(names)
