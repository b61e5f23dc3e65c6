"""Messages of LangChain as messages of this package, and back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from langchain_core import messages as lc
from langchain_core.messages import BaseMessage, message_to_dict

from sessions.errors import InvalidInputError
from sessions.integrations.common import new_message
from sessions.integrations.langchain.values import decode, encode
from sessions.integrations.unvalidated import rebuilt
from sessions.models import ChatMessage, NewMessage, Role

__all__ = ["CLASSES", "of_payload", "said_by_user", "to_message", "to_new_message"]

# By their ``type``: what LangChain itself reads back, `langchain_core.messages.messages_from_dict`.
CLASSES: dict[str, tuple[type[BaseMessage], Role]] = {
    "human": (lc.HumanMessage, "user"),
    "HumanMessageChunk": (lc.HumanMessageChunk, "user"),
    "ai": (lc.AIMessage, "assistant"),
    "AIMessageChunk": (lc.AIMessageChunk, "assistant"),
    "system": (lc.SystemMessage, "system"),
    "SystemMessageChunk": (lc.SystemMessageChunk, "system"),
    "tool": (lc.ToolMessage, "tool"),
    "ToolMessageChunk": (lc.ToolMessageChunk, "tool"),
    "function": (lc.FunctionMessage, "tool"),
    "FunctionMessageChunk": (lc.FunctionMessageChunk, "tool"),
    "chat": (lc.ChatMessage, "assistant"),
    "ChatMessageChunk": (lc.ChatMessageChunk, "assistant"),
    "remove": (lc.RemoveMessage, "system"),
}
_FIELDS = {name: cls.model_fields.keys() for name, (cls, _) in CLASSES.items()}
# Of `ChatMessage`, whose role may be any text.
_SPEAKERS: dict[str, Role] = {
    "user": "user",
    "assistant": "assistant",
    "system": "system",
    "developer": "developer",
    "tool": "tool",
    "human": "user",
    "ai": "assistant",
    "model": "assistant",
    "function": "tool",
}
# How LangChain tells a developer's message from a system's.
_OPENAI_ROLE = "__openai_role__"
# Key of a payload that has values which JSON has no type for.
_ENCODED = "encoded"


def to_new_message(message: BaseMessage) -> NewMessage:
    """Return a message to store, with what `message_to_dict` returns as its payload.

    Raises:
        InvalidInputError: The message is of another class, or has a value that cannot be stored.
    """
    if getattr(message, "type", None) not in CLASSES:
        raise InvalidInputError("messages", "must be messages of the classes of langchain_core")
    payload = message_to_dict(message)
    data = payload["data"]
    if data.get("artifact") is not None:
        data["artifact"] = message.artifact  # type: ignore[attr-defined]  # Not yet made a dict.
    encoded = encode(data)
    if encoded is not data:
        payload = {"type": message.type, "data": encoded, _ENCODED: True}
    return new_message(_role_of(message), _text_of(message), payload, metadata=_facts_of(message))


def to_message(stored: ChatMessage) -> BaseMessage:
    """Return the message that was stored, or one with the text of a message of another writer."""
    message = of_payload(stored.payload)
    return _plain(stored) if message is None else message


def of_payload(payload: object) -> BaseMessage | None:
    """Return the message that LangChain has stored as a payload; None for any other."""
    if (
        not isinstance(payload, dict)
        or not isinstance(data := payload.get("data"), dict)
        or (name := payload.get("type", "")) not in CLASSES
    ):
        return None
    if _ENCODED in payload:
        data = decode(data)
    message_class, _ = CLASSES[name]
    fields = _FIELDS[name]
    if data.keys() == fields:
        return rebuilt(message_class, data, {})
    if data.keys() > fields:  # The caller's own.
        extra = {key: value for key, value in data.items() if key not in fields}
        return rebuilt(message_class, {key: data[key] for key in data if key in fields}, extra)
    # Of a release of LangChain with fewer fields.
    return message_class.model_construct(None, **data)


def _role_of(message: BaseMessage) -> Role:
    if isinstance(message, lc.ChatMessage):
        # A role of the caller's own is taken for the agent's.
        return _SPEAKERS.get(message.role.lower(), "assistant")
    _, role = CLASSES[message.type]
    return "developer" if message.additional_kwargs.get(_OPENAI_ROLE) == "developer" else role


def _text_of(message: BaseMessage) -> str:
    """Return what a person reads of a message: its text, then other parts in brackets, then calls."""
    text = message.content if isinstance(message.content, str) else str(message.text)
    return "\n".join(filter(None, [text, *_parts(message)]))


def _parts(message: BaseMessage) -> Iterator[str]:
    # Not the characters of a text.
    for block in message.content if isinstance(message.content, list) else ():
        if isinstance(block, dict):
            kind = str(block.get("type"))
            yield from (f"[{word}]" for word in ("image", "audio", "video", "file", "media") if word in kind)
    if isinstance(message, lc.AIMessage):
        for call in message.tool_calls:
            yield f"{call['name']}({_shown(call['args'])})"
        for invalid in message.invalid_tool_calls:
            yield f"{invalid['name']}({invalid['args'] or ''})"


def _shown(arguments: dict[str, Any]) -> str:
    return json.dumps(arguments, ensure_ascii=False, default=str, skipkeys=True)


def _facts_of(message: BaseMessage) -> dict[str, Any]:
    """Return the metadata: what LangChain has in a place of its own."""
    if isinstance(message, lc.AIMessage):
        facts: dict[str, Any] = {"agent.name": message.name}
        response = message.response_metadata
        facts["model"] = response.get("model_name") or response.get("model")
        if usage := message.usage_metadata:
            facts["usage.input_tokens"] = usage.get("input_tokens")
            facts["usage.output_tokens"] = usage.get("output_tokens")
        if message.tool_calls:
            facts["tool.name"] = message.tool_calls[0]["name"]
        return facts
    is_result = isinstance(message, lc.ToolMessage | lc.FunctionMessage)
    return {"tool.name": message.name} if is_result else {}


def said_by_user(messages: Iterable[BaseMessage]) -> Iterator[NewMessage]:
    """Yield the messages of the user, with the text that a person reads."""
    return (NewMessage("user", _text_of(each)) for each in messages if _role_of(each) == "user")


def _plain(stored: ChatMessage) -> BaseMessage:
    """Return a message that was not written by LangChain."""
    content, message_id = stored.content, stored.message_id
    match stored.role:
        case "user":
            return lc.HumanMessage(content, id=message_id)
        case "assistant":
            return lc.AIMessage(content, id=message_id)
        case "tool":
            return lc.ToolMessage(content, id=message_id, tool_call_id=message_id)
        case "developer":
            return lc.SystemMessage(content, id=message_id, additional_kwargs={_OPENAI_ROLE: "developer"})
        case _:
            return lc.SystemMessage(content, id=message_id)
