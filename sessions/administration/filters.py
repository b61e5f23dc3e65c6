"""Which sessions an iteration or an export yields."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Self

from sessions import validation
from sessions.core.conditions import has_values
from sessions.core.values import Where
from sessions.models import ChatSession

__all__ = ["SessionFilter"]


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
