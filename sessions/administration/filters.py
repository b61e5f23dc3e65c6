"""Which sessions an iteration or an export yields."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Self, get_args
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from sessions import validation
from sessions.core.conditions import has_values
from sessions.core.counting import Period
from sessions.core.values import Where
from sessions.errors import InvalidInputError
from sessions.models import ChatSession
from sessions.models.statistics import TimeBucket
from sessions.validation.text import check_text

__all__ = ["SessionFilter", "check_period"]

MAX_TOP = 1000


@dataclass(slots=True, frozen=True)
class SessionFilter:
    """Which sessions an iteration or an export yields.

    Applied here, not in the database: without an index for it, a statement that looks for the next session
    that matches would read an unbounded part of the table.

    Attributes:
        since: The earliest ``updated_at``; None for any.
        before: The end of the accepted times of ``updated_at``; None for none.
        where: Accepted values of metadata; None for any.
    """

    since: datetime | None
    before: datetime | None
    where: Where | None

    @classmethod
    def checked(cls, updated_since: object, updated_before: object, where: object) -> Self:
        """Return the filter of checked arguments.

        Raises:
            InvalidInputError: One of them is invalid.
        """
        since, before = (
            None if value is None else validation.check_timestamp(name, value)
            for name, value in (("updated_since", updated_since), ("updated_before", updated_before))
        )
        return cls(since, before, validation.check_where(where))

    def accepts(self, chat_session: ChatSession) -> bool:
        """Return whether a session is to be yielded."""
        updated_at = chat_session.updated_at
        return (
            (self.since is None or updated_at >= self.since)
            and (self.before is None or updated_at < self.before)
            and has_values(chat_session.metadata, self.where)
        )


def check_period(since: object, until: object, bucket: object, time_zone: object, top: object) -> Period:
    """Return the period of checked arguments.

    Raises:
        InvalidInputError: One of them is invalid.
    """
    times = [
        None if value is None else validation.check_timestamp(name, value)
        for name, value in (("since", since), ("until", until))
    ]
    if bucket not in get_args(TimeBucket):
        raise InvalidInputError("bucket", f"must be one of {', '.join(get_args(TimeBucket))}")
    name = check_text("time_zone", time_zone)
    try:
        zone = ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        zone = None
    if zone is None:
        raise InvalidInputError("time_zone", "is not known")
    number = validation.check_count("top", top)
    if number > MAX_TOP:
        raise InvalidInputError("top", f"must be at most {MAX_TOP}")
    return Period(times[0], times[1], str(bucket), name, number)
