"""What the items of the OpenAI Agents SDK say: their role, their text, their tool and their model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sessions.models import Role

__all__ = ["facts_of", "role_of", "text_of"]

_ROLES: dict[str, Role] = {
    "user": "user",
    "assistant": "assistant",
    "system": "system",
    "developer": "developer",
}
# What the parts of a content hold text under, by their type.
_TEXT_KEYS = ("text", "refusal", "transcript")
# Where a call has what it is called with.
_ARGUMENTS = ("arguments", "input", "action", "operation", "queries", "code", "prompt")


def role_of(item: Any) -> Role:
    """Return the role of an item: ``tool`` for what a tool returns, ``assistant`` for what the model does."""
    role = _ROLES.get(str(_get(item, "role")))
    if role is not None:
        return role
    kind = str(_get(item, "type"))
    return "tool" if kind.endswith(("_output", "_response")) else "assistant"


def text_of(item: Any) -> str:
    """Return what a person reads of an item; empty if there is nothing, as in encrypted reasoning.

    A call is shown as ``name(arguments)``, and an image, a sound or a file as a word in brackets.
    """
    kind = str(_get(item, "type") or "message")
    if kind == "message":
        return _joined(_get(item, "content"))
    if kind == "reasoning":
        return "\n".join(filter(None, (_joined(_get(item, "summary")), _joined(_get(item, "content")))))
    if kind.endswith("_output"):
        return _joined(_get(item, "output"))
    arguments = next((value for key in _ARGUMENTS if (value := _get(item, key)) is not None), None)
    if (name := tool_name(item)) is not None:
        return f"{name}({_shown(arguments)})"
    return _joined(_get(item, "content"))


def tool_name(item: Any) -> str | None:
    """Return the name of the tool that an item calls; of a hosted tool its kind, such as ``web_search``."""
    kind = str(_get(item, "type"))
    if isinstance(name := _get(item, "name"), str) and kind.endswith(("_call", "_request")):
        return name
    return kind.removesuffix("_call") if kind.endswith("_call") else None


def facts_of(item: Any, called: dict[str, str]) -> dict[str, Any]:
    """Return the metadata of an item's message: ``tool.name`` and ``model``, where the item tells.

    Args:
        item: The item.
        called: Names of tools by the id of their call. A call is added, and its output takes it out.
    """
    call_id, facts = _get(item, "call_id"), dict[str, Any]()
    if (name := tool_name(item)) is not None:
        facts["tool.name"] = name
        if isinstance(call_id, str):
            called[call_id] = name
    elif isinstance(call_id, str) and call_id in called:
        facts["tool.name"] = called.pop(call_id)
    # Where the SDK's Chat Completions models say which model it was.
    if isinstance(model := _get(_get(item, "provider_data"), "model"), str):
        facts["model"] = model
    return facts


def _get(value: Any, key: str) -> Any:
    return value.get(key) if isinstance(value, Mapping) else None


def _joined(content: Any) -> str:
    """Return the text of a content, which is text, a part, or a list of parts."""
    if isinstance(content, str):
        return content
    if isinstance(content, Mapping):
        return _part(content)
    if isinstance(content, list | tuple):
        return "\n".join(filter(None, map(_joined, content)))
    return "" if content is None else _shown(content)


def _part(part: Mapping[str, Any]) -> str:
    for key in _TEXT_KEYS:
        if isinstance(text := part.get(key), str):
            return text
    kind = str(part.get("type") or "")
    for word in ("image", "audio", "file", "screenshot"):
        if word in kind:
            name = part.get("filename")
            return f"[{word}: {name}]" if isinstance(name, str) else f"[{word}]"
    return "" if kind else _shown(part)


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):  # Refused where it is stored.
        return ""
