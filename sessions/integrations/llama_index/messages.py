"""Messages of LlamaIndex as messages of this package, and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, MessageRole, TextBlock, ToolCallBlock
from pydantic import ValidationError
from pydantic_core import to_jsonable_python

from sessions.errors import InvalidInputError
from sessions.integrations.common import new_message
from sessions.integrations.unvalidated import rebuilt
from sessions.models import ChatMessage as StoredMessage
from sessions.models import NewMessage, Role

__all__ = ["to_message", "to_new_message"]

_ROLES: dict[MessageRole, Role] = {
    MessageRole.SYSTEM: "system",
    MessageRole.DEVELOPER: "developer",
    MessageRole.USER: "user",
    MessageRole.ASSISTANT: "assistant",
    MessageRole.CHATBOT: "assistant",
    MessageRole.MODEL: "assistant",
    MessageRole.FUNCTION: "tool",
    MessageRole.TOOL: "tool",
}
_ROLES_BY_NAME = {role.value: role for role in MessageRole}
_FIELDS, _TEXT_FIELDS = ChatMessage.model_fields.keys(), TextBlock.model_fields.keys()


def to_new_message(message: ChatMessage, **metadata: str) -> NewMessage:
    """Return a message to store, with what ``model_dump`` returns for JSON as its payload.

    Args:
        message: The message.
        **metadata: What else to store in its metadata.

    Raises:
        InvalidInputError: The message has a value that cannot be stored.
    """
    try:
        # ``model_dump(mode="json")`` has no infinities.
        payload = to_jsonable_python(message.model_dump(), inf_nan_mode="constants")
    except ValueError as error:  # Pydantic's, of a value without a form in JSON.
        kind = type(error).__name__
        raise InvalidInputError("messages", f"have a value that cannot be stored: {kind}") from None
    role = _ROLES[message.role]
    return new_message(role, _text_of(message), payload, metadata={**_facts_of(message, role), **metadata})


def to_message(stored: StoredMessage) -> ChatMessage:
    """Return the message that was stored, or one with the text of a message of another writer."""
    payload = stored.payload
    if not isinstance(payload, dict) or not isinstance(blocks := payload.get("blocks"), list):
        return ChatMessage(role=stored.role, content=stored.content)
    if payload.keys() == _FIELDS and not payload["additional_kwargs"] and len(blocks) == 1:
        [block] = blocks
        role = _ROLES_BY_NAME.get(payload["role"])
        if role and block.keys() == _TEXT_FIELDS and block["block_type"] == "text":
            text = rebuilt(TextBlock, block)
            return rebuilt(ChatMessage, {"role": role, "additional_kwargs": {}, "blocks": [text]})
    try:
        return ChatMessage.model_validate(payload)
    except ValidationError:
        return _without_files(payload)


def _without_files(payload: dict[str, Any]) -> ChatMessage:
    """Return a message with blocks whose ``path`` is no file any more."""
    paths = {place: block["path"] for place, block in enumerate(payload["blocks"]) if block.get("path")}
    blocks = [{**block, "path": None} if block.get("path") else block for block in payload["blocks"]]
    message = ChatMessage.model_validate({**payload, "blocks": blocks})
    for place, path in paths.items():
        message.blocks[place].path = Path(path)  # type: ignore[union-attr]
    return message


def _text_of(message: ChatMessage) -> str:
    """Return what a person reads of a message: its text, then other blocks in brackets, then calls."""
    parts = [message.content or ""]
    for block in message.blocks:
        if isinstance(block, ToolCallBlock):
            arguments = block.tool_kwargs
            shown = arguments if isinstance(arguments, str) else json.dumps(arguments, default=str)
            parts.append(f"{block.tool_name}({shown})")
        elif block.block_type in ("image", "audio", "video", "document"):
            parts.append(f"[{block.block_type}]")
    return "\n".join(filter(None, parts))


def _facts_of(message: ChatMessage, role: Role) -> dict[str, Any]:
    """Return the metadata: the tool, which LlamaIndex names in the call and with the result."""
    names = [block.tool_name for block in message.blocks if isinstance(block, ToolCallBlock)]
    if role == "tool":
        names.append(message.additional_kwargs.get("name", ""))
    return {"tool.name": names[0]} if names and names[0] else {}
