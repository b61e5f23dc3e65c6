"""OpenAI's chat-completions messages, one conversation per line, as its fine-tuning files hold them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sessions.cli.formats.conversations import Draft, DraftMessage, Identities, require, text_of, title_of
from sessions.errors import InvalidInputError

__all__ = ["drafts"]

# "function" is the former name of "tool".
ROLES = {"function": "tool"} | {role: role for role in ("user", "assistant", "system", "developer", "tool")}


def drafts(value: dict[str, Any], identities: Identities, *, forks: bool) -> Iterator[Draft]:
    """Yield the conversation of one object with ``messages``; the file has no branches.

    Raises:
        InvalidInputError: It is none.
    """
    given = require("messages", value.get("messages"), list, "a list")
    messages = [_message(f"messages[{place}]", item) for place, item in enumerate(given)]
    metadata: dict[str, Any] = {}
    if isinstance(model := value.get("model"), str):
        metadata["model"] = model
    if isinstance(tools := value.get("tools"), list):
        metadata["tools"] = tools
    yield Draft(identities.key(value), title_of(messages), messages, metadata=metadata)


def _message(place: str, item: Any) -> DraftMessage:
    fields = require(place, item, dict, "an object")
    name = fields.get("role")
    role = ROLES.get(name) if isinstance(name, str) else None
    if role is None:
        raise InvalidInputError(f"{place}.role", f"must be one of {', '.join(sorted(ROLES))}")
    content = text_of(fields.get("content"))
    if content is None:
        raise InvalidInputError(f"{place}.content", "must be a text, null, or a list of parts")
    # Tool calls, names and parts that are no text are kept as they are.
    plain = (
        fields.keys() == {"role", "content"} and isinstance(fields["content"], str) and role in fields["role"]
    )
    return DraftMessage(role, content, payload=None if plain else fields)
