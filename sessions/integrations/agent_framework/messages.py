"""What a message of the Agent Framework says: its role, its text, and its agent, model and tool."""

from __future__ import annotations

import json
from typing import Any

from sessions.models import Role

__all__ = ["message_facts", "message_role", "message_text"]

_ROLES: dict[str, Role] = {
    "user": "user",
    "assistant": "assistant",
    "system": "system",
    "developer": "developer",
    "tool": "tool",
}


def message_role(message: Any) -> Role:
    """Return the role of a message; a role of the caller's own is taken for the agent's."""
    return _ROLES.get(str(message.role), "assistant")


def message_text(message: Any) -> str:
    """Return what a person reads of a message; empty if there is nothing.

    Its text, and after it calls as ``name(arguments)``, their results, and other data by its media type in
    brackets.
    """
    others = (_shown(content) for content in message.contents if content.type != "text")
    texts = (content.text or "" for content in message.contents if content.type == "text")
    return "\n".join(filter(None, [" ".join(texts), *others]))


def message_facts(message: Any, response: Any) -> dict[str, Any]:
    """Return the metadata of a message: agent, tool; of a response's last one the model and its tokens."""
    facts: dict[str, Any] = {}
    if message.author_name is not None and message.role != "user":
        facts["agent.name"] = message.author_name
    names = [content.name or content.tool_name for content in message.contents]
    if found := next((name for name in names if isinstance(name, str)), None):
        facts["tool.name"] = found
    if response is not None and response.messages and message is response.messages[-1]:
        facts["model"] = _model(response.raw_representation)
        usage = response.usage_details or {}
        facts["usage.input_tokens"] = usage.get("input_token_count")
        facts["usage.output_tokens"] = usage.get("output_token_count")
    return facts


def _model(raw: Any) -> str | None:
    """Return the model of a chat client's response, or of the pieces of a streamed one."""
    models = (getattr(each, "model", None) for each in (raw if isinstance(raw, list) else [raw]))
    return next((model for model in models if isinstance(model, str)), None)


def _shown(content: Any) -> str:
    kind = str(content.type)
    if kind.endswith("_call") and (name := content.name or content.tool_name):
        return f"{name}({_text(content.arguments)})"
    if kind == "function_result":
        return _text(content.result)
    if kind == "error":
        return str(content)
    if kind in ("data", "uri", "hosted_file"):
        return f"[{content.media_type or kind}]"
    return ""


def _text(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, ensure_ascii=False, default=str)
