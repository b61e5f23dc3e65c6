"""Statistics: the same numbers on every backend as a plain computation over the exported data."""

from __future__ import annotations

import math
import random
import uuid
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from sessions import ChatMessage, ChatSession, InvalidInputError, Statistics
from sessions.models import Bucket, ModelUse, Spread, UserActivity

# Around the night in which the clocks of Berlin are set forward, and the end of a month.
BEGINNING = datetime(2024, 3, 29, 20, 15, tzinfo=UTC)
ROLES = ("user", "assistant", "system", "developer", "tool")
MODELS = ("small", "large", "ünïcode", 7, None)


def conversations(count: int) -> list[tuple[ChatSession, list[ChatMessage]]]:
    chosen = random.Random(18)
    made = []
    for _ in range(count):
        created = BEGINNING + timedelta(milliseconds=chosen.randrange(5 * 86_400_000))
        owner = ChatSession(
            str(uuid.UUID(int=chosen.getrandbits(128), version=4)),
            "Tea",
            chosen.choice(["alice", "bob", "Zoe", "élan"]),
            created,
            created + timedelta(days=6),
        )
        moment, messages = created, []
        for _ in range(chosen.choice([0, 1, 2, 7, 20])):
            moment += timedelta(milliseconds=chosen.choice([0, 1, 250, 4_000, 3_600_000]))
            metadata: dict[str, Any] = {}
            if (model := chosen.choice(MODELS)) is not None:
                metadata = {"model": model, "usage.input_tokens": chosen.randrange(100)}
                if chosen.random() < 0.5:
                    metadata["usage.output_tokens"] = chosen.choice([5, 2.5, "many", None])
            role = chosen.choices(ROLES, (5, 5, 1, 1, 1))[0]
            message_id = str(uuid.UUID(int=chosen.getrandbits(128), version=4))
            messages.append(ChatMessage(message_id, owner.session_id, role, "Hi", moment, metadata))
        made.append((owner, messages))
    return made


def spread(numbers: list[float]) -> Spread:
    if not numbers:
        return Spread()
    ordered = sorted(numbers)
    at = [ordered[math.ceil(len(ordered) * percent / 100) - 1] for percent in (50, 95)]
    return Spread(len(ordered), pytest.approx(sum(ordered) / len(ordered)), *at)


def start_of(moment: datetime, bucket: str, zone: ZoneInfo) -> datetime:
    local = moment.astimezone(zone)
    if bucket == "hour":
        return moment.replace(minute=0, second=0, microsecond=0)
    days = {"day": 0, "week": local.weekday(), "month": local.day - 1}[bucket]
    midnight = datetime(local.year, local.month, local.day) - timedelta(days=days)
    return midnight.replace(tzinfo=zone).astimezone(UTC)


def computed(
    data: list[tuple[ChatSession, list[ChatMessage]]],
    since: datetime | None,
    until: datetime | None,
    bucket: str,
    time_zone: str,
    top: int,
    size: int,
) -> Statistics:
    def within(moment: datetime) -> bool:
        return (since is None or moment >= since) and (until is None or moment < until)

    zone = ZoneInfo(time_zone)
    sessions = [owner for owner, _ in data if within(owner.created_at)]
    found = [(owner, [one for one in rows if within(one.timestamp)]) for owner, rows in data]
    parts = [(owner, rows) for owner, rows in found if rows]
    messages = [(owner.user_id, one) for owner, rows in parts for one in rows]
    created = Counter(start_of(owner.created_at, bucket, zone) for owner in sessions)
    written = Counter(start_of(one.timestamp, bucket, zone) for _, one in messages)
    active = {(start_of(one.timestamp, bucket, zone), user) for user, one in messages}
    users_of = Counter(start for start, _ in active)
    uses: dict[Any, list[int]] = {}
    tokens = [0, 0]
    for _, one in messages:
        counted = [one.metadata.get(f"usage.{kind}_tokens") for kind in ("input", "output")]
        numbers = [int(value) if isinstance(value, int | float) else 0 for value in counted]
        tokens = [total + number for total, number in zip(tokens, numbers, strict=True)]
        if isinstance(model := one.metadata.get("model"), str):
            before = uses.get(model, [0, 0, 0])
            uses[model] = [before[0] + 1, before[1] + numbers[0], before[2] + numbers[1]]
    by_user = Counter(user for user, _ in messages)
    of_user = Counter(owner.user_id for owner, _ in parts)
    pairs = [pair for _, rows in parts for pair in pairwise(rows)]
    return Statistics(
        len({owner.user_id for owner in sessions} | set(by_user)),
        len(sessions),
        len(messages),
        min((owner.created_at for owner in sessions), default=None),
        max((owner.updated_at for owner in sessions), default=None),
        [
            Bucket(start, created[start], written[start], users_of[start])
            for start in sorted({*created, *written})
        ],
        dict(Counter(one.role for _, one in messages)),
        spread([sum(one.role == "user" for one in rows) for _, rows in parts]),
        spread(
            [
                (answer.timestamp - asked.timestamp) / timedelta(seconds=1)
                for asked, answer in pairs
                if (asked.role, answer.role) == ("user", "assistant")
            ]
        ),
        *tokens,
        [ModelUse(model, *uses[model]) for model in sorted(uses, key=lambda name: (-uses[name][0], name))],
        [
            UserActivity(user, of_user[user], by_user[user])
            for user in sorted(by_user, key=lambda name: (-by_user[name], name))[:top]
        ],
        size,
    )


async def test_the_numbers_are_those_of_a_plain_computation(repository: Any) -> None:
    await repository.admin.restore_many(conversations(60))
    data = [item async for item in repository.admin.export()]
    size = (await repository.admin.sizes())["total"]
    middle = BEGINNING + timedelta(days=2)
    cases: list[tuple[datetime | None, datetime | None, str, str, int]] = [
        (None, None, "day", "UTC", 10),
        (None, None, "day", "Europe/Berlin", 2),
        (middle, None, "hour", "America/New_York", 1),
        (None, middle, "week", "Asia/Kathmandu", 0),
        (middle, middle + timedelta(days=1), "month", "Europe/Berlin", 3),
        (middle, middle, "day", "UTC", 3),
    ]
    for since, until, bucket, time_zone, top in cases:
        found = await repository.admin.statistics(
            since=since, until=until, bucket=bucket, time_zone=time_zone, top=top
        )
        expected = computed(data, since, until, bucket, time_zone, top, found.bytes_on_disk)
        assert found == expected, (since, until, bucket, time_zone)
        assert found.bytes_on_disk > 0
    assert size > 0


async def test_bad_arguments_are_named(repository: Any) -> None:
    for name, value in (
        ("since", datetime(2024, 1, 1)),
        ("until", "yesterday"),
        ("bucket", "year"),
        ("time_zone", "Mars/Olympus"),
        ("time_zone", "../etc/passwd"),
        ("top", -1),
        ("top", 1001),
    ):
        with pytest.raises(InvalidInputError, match=f"^{name}"):
            await repository.admin.statistics(**{name: value})
