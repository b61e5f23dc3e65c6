"""The appends of several calls, as the parameters of one transaction."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sessions.backends.sql.rows import MICROSECOND, are_complete, message_rows
from sessions.core.values import Append, MessageRow
from sessions.models.records import stored_time
from sessions.queries import parameters

__all__ = ["GroupedAppends"]


class _Target:
    """A session that a batch appends to."""

    __slots__ = ("calls", "rows", "user_id")

    def __init__(self, user_id: str | None) -> None:
        self.user_id = user_id
        self.calls = 0
        self.rows: list[MessageRow] = []


class GroupedAppends:
    """Groups appends by session, in their order.

    Args:
        appends: Messages of several calls.
        now: The time of the first message of each session, unless the session's own time is later.
    """

    def __init__(self, appends: Sequence[Append], now: datetime) -> None:
        self._appends = appends
        self._now = now
        self._targets: dict[str, _Target] = {}
        for append in appends:
            target = self._targets.get(append.session_id)
            if target is None:
                target = self._targets[append.session_id] = _Target(append.user_id)
            # With another owner than an earlier call, one of them names the wrong one.
            if target.user_id == append.user_id:
                target.calls += 1
                target.rows += append.rows
        self.is_complete = are_complete([row for append in appends for row in append.rows])

    def sessions(self) -> dict[str, Any]:
        """Return the parameters of the sessions; see `Appends.touch_sessions`."""
        first = stored_time(self._now)
        counts = {len(target.rows) for target in self._targets.values()}
        last = {count: stored_time(self._now + (count - 1) * MICROSECOND) for count in counts}
        targets = [
            (
                session_id.replace("-", ""),
                target.user_id,
                target.calls,
                len(target.rows),
                first,
                last[len(target.rows)],
            )
            for session_id, target in self._targets.items()
        ]
        return parameters(targets=json.dumps(targets, ensure_ascii=False))

    def messages(self, written: dict[str, datetime]) -> list[dict[str, Any]]:
        """Return the parameters of the messages of the sessions that exist.

        Args:
            written: The time of the last message of each of these sessions.
        """
        values: list[dict[str, Any]] = []
        for session_id, last in written.items():
            values += message_rows(
                session_id, self._targets[session_id].rows, last, complete=self.is_complete
            )
        return values

    def are_stored(self, written: dict[str, datetime]) -> list[bool]:
        """Return of each append whether its messages are among those of `messages`."""
        return [
            append.session_id in written and self._targets[append.session_id].user_id == append.user_id
            for append in self._appends
        ]
