"""The script that runs the operations of the cache on the server, each atomically."""

from __future__ import annotations

import functools
import hashlib
from importlib.resources import files

__all__ = ["digest_of", "script_for"]


@functools.cache
def script_for(place: str) -> str:
    """Return the Lua source for one prefix in one database of a server.

    Each has a script of its own: that the server does not know it shows that it was restarted since somebody
    used this very cache.

    Args:
        place: The prefix and the database.
    """
    source = files("sessions.cache").joinpath("cache.lua").read_text("utf-8")
    return f"-- {hashlib.sha256(place.encode()).hexdigest()}\n{source}"


def digest_of(source: str) -> str:
    """Return the name under which the server keeps a script."""
    return hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()
