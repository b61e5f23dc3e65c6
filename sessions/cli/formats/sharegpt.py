"""ShareGPT: objects with ``conversations``, a list of ``from`` and ``value``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sessions.cli.formats.conversations import Draft, DraftMessage, Identities, require, title_of
from sessions.errors import InvalidInputError

__all__ = ["drafts"]

ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "function_call": "assistant",
    "system": "system",
    "observation": "tool",
    "tool": "tool",
    "function_response": "tool",
}


def drafts(value: dict[str, Any], identities: Identities, *, forks: bool) -> Iterator[Draft]:
    """Yield the conversation of one object with ``conversations``; the file has no branches.

    Raises:
        InvalidInputError: It is none.
    """
    given = require("conversations", value.get("conversations"), list, "a list")
    messages = [_message(f"conversations[{place}]", item) for place, item in enumerate(given)]
    if isinstance(system := value.get("system"), str) and system:
        messages.insert(0, DraftMessage("system", system))
    title = value["title"] if isinstance(value.get("title"), str) else title_of(messages)
    yield Draft(identities.key(value), title, messages)


def _message(place: str, item: Any) -> DraftMessage:
    fields = require(place, item, dict, "an object")
    name = fields.get("from")
    role = ROLES.get(name) if isinstance(name, str) else None
    if role is None:
        raise InvalidInputError(f"{place}.from", f"must be one of {', '.join(sorted(ROLES))}")
    content = require(f"{place}.value", fields.get("value"), str, "a text")
    plain = fields.keys() == {"from", "value"} and name in ("human", "gpt", "system")
    return DraftMessage(role, content, payload=None if plain else fields)
