"""Statistics: what a backend counts, and what is made of it; the same on every backend."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from zoneinfo import ZoneInfo

from sessions.models.statistics import Bucket, ModelUse, Spread, Statistics, UserActivity

__all__ = ["Counts", "Period", "start_of_bucket", "to_statistics"]

MILLISECONDS = 1000


@dataclass(slots=True, frozen=True)
class Period:
    """What statistics are of.

    Attributes:
        since: Beginning, in UTC; None for none.
        until: End, not included, in UTC; None for none.
        bucket: ``hour``, ``day``, ``week`` or ``month``.
        time_zone: Name of the time zone of the buckets.
        top: How many users to name.
    """

    since: datetime | None
    until: datetime | None
    bucket: str
    time_zone: str
    top: int


@dataclass(slots=True)
class Counts:
    """What a backend counts in a period.

    Attributes:
        users: Users with a session or a message.
        sessions: Number, earliest ``created_at``, latest ``updated_at``.
        created: Sessions by the beginning of the bucket.
        activity: Messages, and users with a message, by the beginning of the bucket.
        roles: Messages by role.
        turns: Sessions by their number of messages of the user.
        answers: Answers by the milliseconds that they took.
        models: Model or None, messages, input tokens, output tokens.
        top_users: User, sessions, messages; the first first.
        bytes_on_disk: Of the whole database.
    """

    users: int
    sessions: tuple[int, datetime | None, datetime | None]
    created: Mapping[datetime, int]
    activity: Mapping[datetime, tuple[int, int]]
    roles: Mapping[str, int]
    turns: Mapping[int, int]
    answers: Mapping[int, int]
    models: list[tuple[str | None, int, int, int]]
    top_users: list[tuple[str, int, int]]
    bytes_on_disk: int


def to_statistics(counts: Counts) -> Statistics:
    """Return the statistics."""
    number, oldest, newest = counts.sessions
    starts = sorted({*counts.created, *counts.activity})
    models = sorted(
        (ModelUse(model, *rest) for model, *rest in counts.models if model is not None),
        key=lambda use: (-use.messages, use.model),
    )
    return Statistics(
        counts.users,
        number,
        sum(counts.roles.values()),
        oldest,
        newest,
        [
            Bucket(start, counts.created.get(start, 0), *counts.activity.get(start, (0, 0)))
            for start in starts
        ],
        dict(sorted(counts.roles.items())),
        _spread(counts.turns, 1),
        _spread(counts.answers, MILLISECONDS),
        sum(row[2] for row in counts.models),
        sum(row[3] for row in counts.models),
        models,
        [UserActivity(*row) for row in counts.top_users],
        counts.bytes_on_disk,
    )


def _spread(histogram: Mapping[int, int], unit: int) -> Spread:
    """Return the spread of numbers, of which each is given with how often it occurs."""
    count = sum(histogram.values())
    if not count:
        return Spread()
    total = sum(value * times for value, times in histogram.items())

    values = sorted(histogram)
    reached = list(accumulate(histogram[value] for value in values))

    def percentile(percent: int) -> float:
        return values[bisect_left(reached, math.ceil(count * percent / 100))] / unit

    return Spread(count, total / count / unit, percentile(50), percentile(95))


def start_of_bucket(moment: datetime, bucket: str, zone: ZoneInfo) -> datetime:
    """Return the beginning of the bucket that a point in time is in, in UTC."""
    local = moment.astimezone(zone)
    if bucket == "hour":
        # With the offset of this hour, which occurs twice when clocks are set back.
        within = timedelta(minutes=local.minute, seconds=local.second, microseconds=local.microsecond)
        return moment.astimezone(UTC) - within
    day = local.replace(hour=0, minute=0, second=0, microsecond=0, fold=0, tzinfo=None)
    if bucket == "week":
        day -= timedelta(days=day.weekday())
    elif bucket == "month":
        day = day.replace(day=1)
    return day.replace(tzinfo=zone).astimezone(UTC)
