"""Checks of a session's title and metadata, given as one mapping."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sessions.errors import InvalidInputError
from sessions.validation.metadata import check_metadata
from sessions.validation.text import check_title

__all__ = ["DEFAULT_TITLE", "check_session_data", "check_update"]

DEFAULT_TITLE = "New Chat"


def _check_fields(argument: str, value: object) -> Mapping[Any, Any]:
    if not isinstance(value, Mapping):
        raise InvalidInputError(argument, f"must be a mapping, not {type(value).__name__}")
    for key in value:
        if key not in ("title", "metadata"):
            shown = repr(key)[:60] if isinstance(key, str) else type(key).__name__
            raise InvalidInputError(argument, f"unknown key {shown}; known keys are 'title' and 'metadata'")
    return value


def check_session_data(value: object) -> tuple[str, dict[str, Any]]:
    """Return title and metadata of a new session, with the defaults where they are absent or None."""
    if value is None:
        return DEFAULT_TITLE, {}
    fields = _check_fields("session_data", value)
    title, metadata = fields.get("title"), fields.get("metadata")
    return (
        DEFAULT_TITLE if title is None else check_title(title),
        {} if metadata is None else check_metadata(metadata),
    )


def check_update(value: object) -> tuple[str | None, dict[str, Any] | None]:
    """Return the title and metadata to set; None, also for the whole, keeps the old value."""
    if value is None:
        return None, None
    fields = _check_fields("data", value)
    title, metadata = fields.get("title"), fields.get("metadata")
    return (
        None if title is None else check_title(title),
        None if metadata is None else check_metadata(metadata),
    )
