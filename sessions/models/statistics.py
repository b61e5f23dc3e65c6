"""How much a database holds, and how it is used."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

__all__ = ["Bucket", "ModelUse", "Spread", "Statistics", "TimeBucket", "UserActivity"]

TimeBucket = Literal["hour", "day", "week", "month"]
"""The length of a part of time: by the clock and the calendar of the time zone; a week begins on Monday."""


@dataclass(slots=True, frozen=True)
class Bucket:
    """What happened in one part of time.

    Attributes:
        start: Its beginning, in UTC.
        sessions: Sessions that were created in it.
        messages: Messages in it.
        active_users: Users with a message in it.
    """

    start: datetime
    sessions: int
    messages: int
    active_users: int


@dataclass(slots=True, frozen=True)
class Spread:
    """How a number is spread.

    A percentile is one of the numbers: the smallest that is not exceeded by so many percent of all (nearest
    rank).

    Attributes:
        count: How many numbers there are.
        mean: Their mean; None without any.
        p50: Their median; None without any.
        p95: Their 95th percentile; None without any.
    """

    count: int = 0
    mean: float | None = None
    p50: float | None = None
    p95: float | None = None


@dataclass(slots=True, frozen=True)
class ModelUse:
    """How a model was used.

    Attributes:
        model: The value of ``model`` in the metadata of messages.
        messages: Messages with it.
        input_tokens: Sum of their ``usage.input_tokens``.
        output_tokens: Sum of their ``usage.output_tokens``.
    """

    model: str
    messages: int
    input_tokens: int
    output_tokens: int


@dataclass(slots=True, frozen=True)
class UserActivity:
    """What a user wrote and got.

    Attributes:
        user_id: Id of the user.
        sessions: Sessions with a message.
        messages: Messages.
    """

    user_id: str
    sessions: int
    messages: int


@dataclass(slots=True, frozen=True)
class Statistics:
    """How much a database holds, and how it is used, in all or in a period.

    Sessions are counted by the time of their creation, and messages by their timestamp.

    Attributes:
        users: Number of users with a session or a message.
        sessions: Number of sessions.
        messages: Number of messages.
        oldest: The earliest ``created_at`` of a session, in UTC; None without sessions.
        newest: The latest ``updated_at`` of a session, in UTC; None without sessions.
        buckets: The parts of time in which something happened, oldest first.
        messages_by_role: Number of messages of each role that occurs.
        turns: Messages of the role ``user`` in each session with messages.
        answer_seconds: Seconds, to the millisecond, from a message of the role ``user`` to one of the role
            ``assistant`` that directly follows it.
        input_tokens: Sum of ``usage.input_tokens`` in the metadata of messages.
        output_tokens: Sum of ``usage.output_tokens``.
        models: By the value of ``model`` in the metadata, the most used first.
        top_users: The users with the most messages, the first first.
        bytes_on_disk: Of the whole database, in total; ``admin.sizes`` says of what.
    """

    users: int
    sessions: int
    messages: int
    oldest: datetime | None
    newest: datetime | None
    buckets: list[Bucket] = field(default_factory=list)
    messages_by_role: dict[str, int] = field(default_factory=dict)
    turns: Spread = Spread()
    answer_seconds: Spread = Spread()
    input_tokens: int = 0
    output_tokens: int = 0
    models: list[ModelUse] = field(default_factory=list)
    top_users: list[UserActivity] = field(default_factory=list)
    bytes_on_disk: int = 0
