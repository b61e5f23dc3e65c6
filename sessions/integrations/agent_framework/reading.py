"""Messages of the Agent Framework from stored ones.

``Message.from_dict`` takes longer than the read of a message. A text, and a message of texts, have what their
constructors set, but for a few attributes; all else is left to the framework. The tests compare each
attribute with that of a message of ``Message.from_dict``.
"""

from __future__ import annotations

from typing import Any

from agent_framework import Content, Message

from sessions.models import ChatMessage

__all__ = ["is_own", "of_payload", "to_message"]

# What they are serialized to, and the attributes that their constructors set.
_KEYS = {"type", "role", "contents", "author_name", "message_id", "additional_properties"}
_REQUIRED = {"role", "contents"}
_MESSAGE = dict(vars(Message("user", [])))
_TEXT_KEYS = {"type", "text", "additional_properties"}
_TEXT = dict(vars(Content("text", text="")))


def to_message(stored: ChatMessage) -> Message:
    """Return the message of the framework; of one that it did not store, its text."""
    payload = stored.payload
    return of_payload(payload) if is_own(payload) else Message(stored.role, [stored.content])


def is_own(payload: Any) -> bool:
    """Return whether a payload is a message of the framework, and not the item of another one."""
    return isinstance(payload, dict) and "role" in payload and isinstance(payload.get("contents"), list)


def of_payload(payload: dict[str, Any]) -> Message:
    """Return the message of the framework that was stored as a payload."""
    keys = payload.keys()
    if not keys <= _KEYS or not keys >= _REQUIRED or payload.get("additional_properties"):
        return Message.from_dict(payload)
    contents: list[Content] = []
    for each in payload["contents"]:
        if (text := _text(each)) is None:
            return Message.from_dict(payload)
        contents.append(text)
    attributes = _MESSAGE.copy()
    attributes["role"] = payload["role"]
    attributes["contents"] = contents
    attributes["author_name"] = payload.get("author_name")
    attributes["message_id"] = payload.get("message_id")
    attributes["additional_properties"] = {}
    message = Message.__new__(Message)
    message.__dict__ = attributes
    return message


def _text(payload: Any) -> Content | None:
    """Return a text; None for any other content."""
    if not isinstance(payload, dict) or payload.get("type") != "text" or payload.get("additional_properties"):
        return None
    if not payload.keys() <= _TEXT_KEYS or not isinstance(text := payload.get("text"), str):
        return None
    attributes = _TEXT.copy()
    attributes["text"] = text
    attributes["additional_properties"] = {}
    content = Content.__new__(Content)
    content.__dict__ = attributes
    return content
