"""Checks of numbers and points in time."""

from __future__ import annotations

from datetime import UTC, datetime

from sessions.errors import InvalidInputError

__all__ = [
    "MAX_HISTORY_LIMIT",
    "MAX_INTEGER",
    "MAX_LIMIT",
    "MAX_PAGE",
    "MIN_INTEGER",
    "check_count",
    "check_cutoff",
    "check_expected_version",
    "check_flag",
    "check_history_limit",
    "check_integer",
    "check_limit",
    "check_page",
    "check_since",
    "check_timestamp",
]

MAX_LIMIT = 1000
MIN_INTEGER, MAX_INTEGER = -(2**63), 2**63 - 1
# OFFSET and skip are signed 64-bit in both databases.
MAX_PAGE = MAX_INTEGER // MAX_LIMIT
# More than any history has, and a signed 32-bit integer for the drivers.
MAX_HISTORY_LIMIT = 2**31 - 1
# A day from where Python's datetimes end: there asyncpg writes infinity, and the next microsecond or another
# time zone is out of range.
MIN_TIMESTAMP, MAX_TIMESTAMP = datetime(1, 1, 2, tzinfo=UTC), datetime(9999, 12, 30, tzinfo=UTC)


def check_integer(argument: str, value: object, minimum: int, maximum: int | None) -> int:
    """Return an integer within bounds; None for no upper one."""
    # bool is a subclass of int; as a page number it is a mistake.
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidInputError(argument, f"must be int, not {type(value).__name__}")
    # Of a subclass too, whatever its own comparisons and conversions say.
    number = int.__int__(value)
    if maximum is None:
        if number < minimum:
            raise InvalidInputError(argument, f"must be {minimum} or more")
    elif not minimum <= number <= maximum:
        raise InvalidInputError(argument, f"must be from {minimum} to {maximum}")
    return number


def check_flag(argument: str, value: object) -> bool:
    """Return a bool; nothing else is taken for one."""
    if not isinstance(value, bool):
        raise InvalidInputError(argument, f"must be bool, not {type(value).__name__}")
    return value


def check_page(value: object) -> int:
    """Return a page number from 0."""
    return check_integer("page", value, 0, MAX_PAGE)


def check_limit(value: object) -> int:
    """Return a page size from 1 to 1000."""
    return check_integer("limit", value, 1, MAX_LIMIT)


def check_count(argument: str, value: object, minimum: int = 0) -> int:
    """Return a count that fits 64 bits."""
    return check_integer(argument, value, minimum, MAX_INTEGER)


def check_history_limit(value: object) -> int | None:
    """Return how many messages to read, from 0; None for all.

    There is no upper bound: a number beyond 32 bits is returned as the largest one.
    """
    return None if value is None else min(check_integer("limit", value, 0, None), MAX_HISTORY_LIMIT)


def check_expected_version(value: object) -> int | None:
    """Return the version that a session is expected to have, from 0; None for any."""
    return None if value is None else check_integer("expected_version", value, 0, MAX_INTEGER)


def _check_moment(argument: str, value: object) -> datetime:
    if type(value) is datetime and value.tzinfo is UTC:
        return value
    if not isinstance(value, datetime):
        raise InvalidInputError(argument, f"must be datetime, not {type(value).__name__}")
    # The methods of `datetime` itself: a subclass becomes the plain datetime that it is.
    if datetime.utcoffset(value) is None:
        raise InvalidInputError(argument, "must be timezone-aware")
    try:
        utc = datetime.astimezone(value, UTC)
    except OverflowError:
        raise InvalidInputError(argument, "is out of range in UTC") from None
    if type(utc) is datetime:
        return utc
    return datetime(utc.year, utc.month, utc.day, utc.hour, utc.minute, utc.second, utc.microsecond, UTC)


def check_cutoff(value: object) -> datetime:
    """Return a point in time in UTC; a naive one is rejected, as it is ambiguous."""
    return _check_moment("cutoff", value)


def check_timestamp(argument: str, value: object) -> datetime:
    """Return a point in time in UTC that every backend can store: from 0001-01-02 to 9999-12-30.

    A naive one is rejected, as it is ambiguous.
    """
    utc = _check_moment(argument, value)
    if not MIN_TIMESTAMP <= utc <= MAX_TIMESTAMP:
        raise InvalidInputError(argument, "must be from 0001-01-02 to 9999-12-30 in UTC")
    return utc


def check_since(value: object) -> datetime | None:
    """Return the point in time, in UTC, from which messages are read; None for all."""
    return None if value is None else check_timestamp("since", value)
