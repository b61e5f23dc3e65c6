"""What Pydantic AI's messages say, from their JSON: their role, their text, their tool and their model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sessions.models import Role

__all__ = ["facts_of", "role_of", "text_of"]

# Kinds of the parts of a request, by who says them; the first that a request has decides.
_SAID_BY: tuple[tuple[Role, tuple[str, ...]], ...] = (
    ("user", ("user-prompt",)),
    ("tool", ("tool-return", "builtin-tool-return", "retry-prompt", "retry-feedback")),
)
_CALLS = ("tool-call", "builtin-tool-call")


def role_of(message: Mapping[str, Any]) -> Role:
    """Return ``assistant`` for a response; for a request ``user``, ``tool`` or ``system``."""
    if message["kind"] == "response":
        return "assistant"
    kinds = {part["part_kind"] for part in message["parts"]}
    return next((role for role, wanted in _SAID_BY if not kinds.isdisjoint(wanted)), "system")


def text_of(message: Mapping[str, Any]) -> str:
    """Return what a person reads of a message: its texts, else what it thinks, else its calls.

    Of a request only what the one who gives it its role says: the user's text without the system's.
    """
    parts = message["parts"]
    if message["kind"] == "response":
        groups: tuple[tuple[str, ...], ...] = (("text", "speech", "file"), ("thinking",), _CALLS)
    else:
        groups = tuple(kinds for role, kinds in _SAID_BY if role == role_of(message))
    for kinds in groups:
        texts = [text for part in parts if part["part_kind"] in kinds and (text := _part(part))]
        if texts:
            return "\n".join(texts)
    return "\n".join(filter(None, map(_part, parts)))


def facts_of(message: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata of a message: model and tokens of a response, the tool of a call or its return."""
    facts: dict[str, Any] = {}
    if message["kind"] == "response":
        usage = message.get("usage") or {}
        facts["model"] = message.get("model_name")
        for key in ("input_tokens", "output_tokens"):
            if usage.get(key):
                facts[f"usage.{key}"] = usage[key]
    names = dict.fromkeys(part["tool_name"] for part in message["parts"] if part.get("tool_name"))
    if names:
        facts["tool.name"] = ", ".join(names)
    return facts


def _part(part: Mapping[str, Any]) -> str:
    if part["part_kind"] in _CALLS:
        return f"{part['tool_name']}({_shown(part.get('args'))})"
    return _shown(part.get("content") or part.get("transcript"))


def _shown(content: Any) -> str:
    """Return text as it is, a list of a prompt's contents line by line, and any other value as JSON."""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(isinstance(item, str) or _kind(item) for item in content):
        return "\n".join(filter(None, map(_shown, content)))
    if kind := _kind(content):
        if isinstance(text := content.get("content"), str):
            return text
        return "" if kind == "cache-point" else f"[{kind.removesuffix('-url')}]"
    return "" if content is None else json.dumps(content, ensure_ascii=False)


def _kind(content: Any) -> str:
    """Return the kind of an image, a document, …; empty for a value of another form."""
    kind = content.get("kind") if isinstance(content, Mapping) else None
    return kind if isinstance(kind, str) else ""
