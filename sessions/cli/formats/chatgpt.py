"""ChatGPT's export, ``conversations.json``: an array of trees of messages, of which one path is shown."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sessions.cli.formats.conversations import Draft, DraftMessage, Identities, require, text_of, time_of
from sessions.errors import InvalidInputError

__all__ = ["drafts"]

ROLES = frozenset({"user", "assistant", "system", "tool"})


def drafts(value: dict[str, Any], identities: Identities, *, forks: bool) -> Iterator[Draft]:
    """Yield the shown path of a conversation, and with ``forks`` each other path from the root to a leaf.

    A fork is a session of its own: its metadata names the conversation, and its last node.

    Raises:
        InvalidInputError: It is no conversation of this format.
    """
    nodes = require("mapping", value.get("mapping"), dict, "an object")
    for name, node in nodes.items():
        require(f"mapping.{name[:50]}", node, dict, "an object")
    leaves = [name for name, node in nodes.items() if not node.get("children")]
    shown = value.get("current_node")
    if shown is None and leaves:
        shown = leaves[-1]
    if nodes and (not isinstance(shown, str) or shown not in nodes):
        raise InvalidInputError("current_node", "is not in mapping")
    name = value.get("conversation_id") or value.get("id")
    key = f"id {name}" if isinstance(name, str) else identities.key(value)
    metadata = {"conversation_id": name} if isinstance(name, str) else {}
    if isinstance(model := value.get("default_model_slug"), str):
        metadata["model"] = model
    title = value["title"] if isinstance(value.get("title"), str) else ""
    times = [time_of(field, value.get(field)) for field in ("create_time", "update_time")]
    path = _path(nodes, shown) if isinstance(shown, str) else []
    yield Draft(key, title, _messages(nodes, path), times[0], times[1], metadata)
    if not forks:
        return
    # The shown node may have answers below it that are not shown.
    for leaf in leaves:
        branch = _path(nodes, leaf)
        if branch != path:
            of_fork = metadata | {"fork_of": key.removeprefix("id "), "branch": leaf}
            yield Draft(f"{key}\n{leaf}", title, _messages(nodes, branch), times[0], None, of_fork)


def _path(nodes: dict[str, Any], last: str) -> list[str]:
    """Return the names of the nodes from the root to one of them.

    Raises:
        InvalidInputError: A parent is missing, or the nodes form a circle.
    """
    path: list[str] = []
    seen: set[str] = set()
    name: Any = last
    while name is not None:
        if not isinstance(name, str) or name not in nodes or name in seen:
            raise InvalidInputError("mapping", "has a node whose parent is missing, or is below it")
        seen.add(name)
        path.append(name)
        name = nodes[name].get("parent")
    return path[::-1]


def _messages(nodes: dict[str, Any], path: list[str]) -> list[DraftMessage]:
    found = (_message(name, nodes[name].get("message")) for name in path)
    return [message for message in found if message is not None]


def _message(name: str, value: Any) -> DraftMessage | None:
    """Return the message of a node; None for a node without one, and for an empty one of the system."""
    if value is None:
        return None
    place = f"mapping.{name[:50]}.message"
    fields = require(place, value, dict, "an object")
    author = require(f"{place}.author", fields.get("author"), dict, "an object")
    role = author.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise InvalidInputError(f"{place}.author.role", f"must be one of {', '.join(sorted(ROLES))}")
    content = require(f"{place}.content", fields.get("content"), dict, "an object")
    parts = content.get("parts")
    is_text = content.get("content_type") == "text" and all(isinstance(part, str) for part in parts or [])
    text = text_of(parts if parts is not None else content.get("text", content.get("result"))) or ""
    if role == "system" and not text:
        return None
    of_message = fields.get("metadata")
    metadata: dict[str, Any] = {}
    if isinstance(of_message, dict) and isinstance(model := of_message.get("model_slug"), str):
        metadata["model"] = model
    time = time_of(f"{place}.create_time", fields.get("create_time"))
    # What is more than text, such as code, an image or a call of a tool, is kept as it is.
    plain = is_text and role != "tool" and fields.get("recipient", "all") == "all"
    return DraftMessage(role, text, name, time, metadata, None if plain else fields)
