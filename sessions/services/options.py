"""Checks of a service's options."""

from __future__ import annotations

from sessions import validation
from sessions.errors import InvalidInputError

__all__ = ["check_count", "check_seconds", "lower_uuid"]


def lower_uuid(text: str) -> str:
    """Return a UUID in the form that every backend returns; any other id as it is."""
    try:
        return validation.check_uuid("id", text)
    except InvalidInputError:
        return text


def check_count(argument: str, value: int | None) -> int | None:
    """Return a number of messages or tokens, or None for no limit."""
    return None if value is None else validation.check_count(argument, value)


def check_seconds(argument: str, value: float) -> float:
    """Return a number of seconds, more than 0."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise InvalidInputError(argument, "must be a number of seconds, more than 0")
    return float(value)
