"""The script that runs the operations on the server."""

from __future__ import annotations

import functools
import hashlib
from importlib.resources import files

__all__ = ["READS", "script", "script_digest"]

# Operations that store nothing.
READS = frozenset(
    {"history", "get_message", "list", "count", "export_sessions", "scan", "ids", "users_with_older"}
    | {"list_users", "list_all"}
)


@functools.cache
def script() -> str:
    """Return the Lua source: the files of the folder ``scripts``, in the order of their names."""
    folder = files("sessions.backends.redis").joinpath("scripts")
    parts = sorted(
        (part for part in folder.iterdir() if part.name.endswith(".lua")), key=lambda part: part.name
    )
    return "\n".join(part.read_text("utf-8") for part in parts)


@functools.cache
def script_digest() -> str:
    """Return the name under which the server keeps the script."""
    return hashlib.sha1(script().encode(), usedforsecurity=False).hexdigest()
