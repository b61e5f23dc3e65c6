"""What an event of ADK says: its role, its text, and which agent, model and tool it is of."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from sessions.models import Role

__all__ = ["event_facts", "event_role", "event_text"]


def event_role(event: Any) -> Role:
    """Return the role of an event: ``tool`` for what a tool returns, ``assistant`` for what an agent does."""
    if event.author == "user":
        return "user"
    parts = _parts(event)
    return "tool" if parts and all(part.function_response for part in parts) else "assistant"


def event_text(event: Any) -> str:
    """Return what a person reads of an event; empty if there is nothing, as in a change of state.

    A call is shown as ``name(arguments)``, and other data by its media type in brackets.
    """
    lines: list[str] = []
    is_text = False
    for part in _parts(event):
        text, was_text, is_text = _part_text(part), is_text, part.text is not None
        if text and is_text and was_text:
            lines[-1] += text  # A model's text may come in pieces.
        elif text:
            lines.append(text)
        else:
            is_text = was_text
    if not lines:
        transcriptions = (getattr(event, f"{side}_transcription", None) for side in ("input", "output"))
        lines.extend(found.text for found in transcriptions if found and found.text)
    return "\n".join(lines) or str(event.error_message or "")


def event_facts(event: Any) -> dict[str, Any]:
    """Return the metadata of an event's message: agent, model, tokens and tool, where the event tells."""
    facts: dict[str, Any] = {}
    if event.author not in ("", "user"):
        facts["agent.name"] = event.author
    if isinstance(model := getattr(event, "model_version", None), str):
        facts["model"] = model
    if (usage := event.usage_metadata) is not None:
        facts["usage.input_tokens"] = usage.prompt_token_count
        produced = [usage.candidates_token_count, getattr(usage, "thoughts_token_count", None)]
        if (counts := [count for count in produced if count is not None]) and facts:
            facts["usage.output_tokens"] = sum(counts)
    calls = (part.function_call or part.function_response for part in _parts(event))
    names = [call.name for call in calls if call is not None and call.name]
    if names:
        facts["tool.name"] = names[0]
    return facts


def _parts(event: Any) -> Iterable[Any]:
    return () if event.content is None else event.content.parts or ()


def _part_text(part: Any) -> str:
    if part.text is not None:
        return "" if part.thought else str(part.text)
    if (call := part.function_call) is not None:
        return f"{call.name or ''}({_shown(call.args)})"
    if (response := part.function_response) is not None:
        return _shown(response.response)
    if (code := part.executable_code) is not None:
        return str(code.code or "")
    if (result := part.code_execution_result) is not None:
        return str(result.output or "")
    for data in (part.inline_data, part.file_data):
        if data is not None:
            return f"[{data.mime_type or 'data'}]"
    return ""


def _shown(value: Any) -> str:
    return "" if value is None else json.dumps(value, ensure_ascii=False, default=str)
