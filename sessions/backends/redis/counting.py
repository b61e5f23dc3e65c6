"""Statistics: the server returns sessions and messages, and they are counted here."""

from __future__ import annotations

import math
from collections import Counter
from datetime import datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

from sessions.backends.redis.administration import RedisAdministration
from sessions.backends.redis.messages import RedisMessages
from sessions.core.counting import Counts, Period, start_of_bucket
from sessions.core.values import Position
from sessions.models import ChatMessage, ChatSession

__all__ = ["RedisCounting"]

# Sessions, and messages of one of them, of one call.
PAGE = 1000
MILLISECOND = timedelta(milliseconds=1)


class _Count:
    """What is counted in a period."""

    def __init__(self, period: Period) -> None:
        self.period = period
        self.zone = ZoneInfo(period.time_zone)
        self.users: set[str] = set()
        self.oldest: datetime | None = None
        self.newest: datetime | None = None
        self.created: Counter[datetime] = Counter()
        self.messages: Counter[datetime] = Counter()
        self.active: dict[datetime, set[str]] = {}
        self.roles: Counter[str] = Counter()
        self.turns: Counter[int] = Counter()
        self.answers: Counter[int] = Counter()
        self.models: dict[str | None, list[int]] = {}
        self.by_user: dict[str, list[int]] = {}

    def _is_within(self, moment: datetime) -> bool:
        since, until = self.period.since, self.period.until
        return (since is None or since <= moment) and (until is None or moment < until)

    def _start(self, moment: datetime) -> datetime:
        return start_of_bucket(moment, self.period.bucket, self.zone)

    def add(self, chat_session: ChatSession, messages: list[ChatMessage]) -> None:
        created, updated = chat_session.created_at, chat_session.updated_at
        if self._is_within(created):
            self.users.add(chat_session.user_id)
            self.created[self._start(created)] += 1
            self.oldest = created if self.oldest is None else min(self.oldest, created)
            self.newest = updated if self.newest is None else max(self.newest, updated)
        messages = [message for message in messages if self._is_within(message.timestamp)]
        if not messages:
            return
        self.users.add(chat_session.user_id)
        of_user = self.by_user.setdefault(chat_session.user_id, [0, 0])
        of_user[0] += 1
        of_user[1] += len(messages)
        self.turns[sum(message.role == "user" for message in messages)] += 1
        for message in messages:
            start = self._start(message.timestamp)
            self.messages[start] += 1
            self.active.setdefault(start, set()).add(chat_session.user_id)
            self.roles[message.role] += 1
            self._add_model(message)
        for before, message in pairwise(messages):
            if (before.role, message.role) == ("user", "assistant"):
                self.answers[(message.timestamp - before.timestamp) // MILLISECOND] += 1

    def _add_model(self, message: ChatMessage) -> None:
        model = message.metadata.get("model")
        use = self.models.setdefault(model if isinstance(model, str) else None, [0, 0, 0])
        use[0] += 1
        for place, key in ((1, "usage.input_tokens"), (2, "usage.output_tokens")):
            tokens = message.metadata.get(key)
            if isinstance(tokens, int | float) and not isinstance(tokens, bool):
                use[place] += math.trunc(tokens)

    def counts(self, sizes: dict[str, int]) -> Counts:
        top = sorted(self.by_user.items(), key=lambda item: (-item[1][1], item[0]))[: self.period.top]
        return Counts(
            len(self.users),
            (sum(self.created.values()), self.oldest, self.newest),
            self.created,
            {start: (count, len(self.active[start])) for start, count in self.messages.items()},
            self.roles,
            self.turns,
            self.answers,
            [(model, use[0], use[1], use[2]) for model, use in self.models.items()],
            [(user_id, use[0], use[1]) for user_id, use in top],
            sizes["total"],
        )


class RedisCounting(RedisAdministration, RedisMessages):
    """Counts what the database holds."""

    async def count_all(self, period: Period) -> Counts:
        count = _Count(period)
        after: str | None = None
        while found := await self.list_all(after, PAGE):
            for chat_session in found:
                count.add(chat_session, await self._all_messages(chat_session))
            after = found[-1].session_id
        return count.counts(await self.sizes())

    async def _all_messages(self, chat_session: ChatSession) -> list[ChatMessage]:
        messages: list[ChatMessage] = []
        after: Position | None = None
        while True:
            found = await self.export_messages(chat_session.session_id, chat_session.user_id, after, PAGE)
            messages += [message for message, _ in found]
            if len(found) < PAGE:
                return messages
            after = found[-1][1]
