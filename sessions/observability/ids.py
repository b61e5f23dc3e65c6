"""Hashes of ids, for the spans of one user or one session to be found without the ids themselves."""

from __future__ import annotations

import functools
import hashlib
import inspect
from collections.abc import Callable
from typing import Any

from sessions.core.telemetry import Call
from sessions.errors import ConfigurationError

__all__ = ["HashedIds"]

ATTRIBUTES = {"user_id": "user.hash", "session_id": "sessions.session.hash"}
DIGEST_BYTES = 16


class HashedIds:
    """Makes attributes of the ids of an operation.

    Args:
        key: A secret; without it, a hash could be compared with those of guessed ids.

    Raises:
        ConfigurationError: It is empty, or longer than 64 bytes.
    """

    def __init__(self, key: str | bytes) -> None:
        self._key = key.encode() if isinstance(key, str) else key
        if not 0 < len(self._key) <= hashlib.blake2b.MAX_KEY_SIZE:
            raise ConfigurationError(f"id_key: must have 1 to {hashlib.blake2b.MAX_KEY_SIZE} bytes")

    def attributes(self, call: Call) -> dict[str, str | int]:
        """Return the hashes of the user's and the session's id that an operation has."""
        found: dict[str, str | int] = {}
        names = () if call.work is None else _parameters(_function(call.work))
        for name, argument in zip(names, call.arguments, strict=False):
            for key, attribute in ATTRIBUTES.items():
                value = argument if name == key else getattr(argument, key, None)
                if isinstance(value, str):
                    found.setdefault(attribute, self.hashed(value))
        return found

    def hashed(self, identifier: str) -> str:
        """Return the hash of an id, in hexadecimal."""
        return hashlib.blake2b(identifier.encode(), digest_size=DIGEST_BYTES, key=self._key).hexdigest()


def _function(work: Callable[..., Any]) -> Callable[..., Any]:
    return getattr(work, "__func__", work)


@functools.lru_cache(maxsize=256)
def _parameters(work: Callable[..., Any]) -> tuple[str, ...]:
    names = tuple(inspect.signature(work).parameters)
    return names[1:] if names[:1] == ("self",) else names
