"""What looks across users, in MongoDB."""

from __future__ import annotations

import inspect
from typing import Any

from sessions.backends.mongodb.collections import DOWN, UP, Filter, MongoCollections
from sessions.backends.mongodb.mapping import to_session
from sessions.core.counting import Counts, Period
from sessions.models import ChatSession
from sessions.models.documents import aware

__all__ = ["MongoAdministration"]

IN_INDEX = [("user_id", UP), ("updated_at", DOWN), ("session_id", UP)]


class MongoAdministration(MongoCollections):
    """Iterates over users and sessions, and counts."""

    async def list_users(self, after: str | None, limit: int) -> list[str]:
        # Index entries alone. The next page begins after the last user, however many sessions that one has.
        chosen: Filter = {} if after is None else {"user_id": {"$gt": after}}
        cursor = self.sessions.find(chosen, {"_id": 0, "user_id": 1}, sort=IN_INDEX, limit=limit)
        return list(dict.fromkeys([document["user_id"] for document in await cursor.to_list(None)]))

    async def list_all(self, after: str | None, limit: int) -> list[ChatSession]:
        chosen: Filter = {} if after is None else {"session_id": {"$gt": after}}
        cursor = self.sessions.find(chosen, sort=[("session_id", UP)], limit=limit)
        return [to_session(document) for document in await cursor.to_list(None)]

    async def sizes(self) -> dict[str, int]:
        sizes: dict[str, int] = {}
        indexes = 0
        for collection in (self.sessions, self.messages):
            found = collection.aggregate([{"$collStats": {"storageStats": {}}}])
            # Of a sharded cluster one document for each shard.
            parts: list[Any] = await (await found if inspect.isawaitable(found) else found).to_list(None)
            sizes[collection.name] = sum(int(part["storageStats"]["storageSize"]) for part in parts)
            indexes += sum(int(part["storageStats"]["totalIndexSize"]) for part in parts)
        sizes["indexes"] = indexes
        return sizes | {"total": sum(sizes.values())}

    async def count_all(self, period: Period) -> Counts:
        sessions, messages = _within("created_at", period), _within("timestamp", period)
        per_session: list[Filter] = [
            messages,
            {"$group": {"_id": {"s": "$session_id", "b": _bucket("$timestamp", period)}, "n": {"$sum": 1}}},
            {
                "$group": {
                    "_id": "$_id.s",
                    "parts": {"$push": {"b": "$_id.b", "n": "$n"}},
                    "n": {"$sum": "$n"},
                }
            },
            {
                "$lookup": {
                    "from": self.sessions.name,
                    "localField": "_id",
                    "foreignField": "session_id",
                    "pipeline": [{"$project": {"_id": 0, "user_id": 1}}],
                    "as": "owner",
                }
            },
            {"$unwind": "$owner"},
        ]
        found = await self._rows(
            self.sessions,
            sessions,
            {
                "$group": {
                    "_id": None,
                    "n": {"$sum": 1},
                    "oldest": {"$min": "$created_at"},
                    "newest": {"$max": "$updated_at"},
                }
            },
        )
        total = found[0] if found else None
        active = [*per_session, {"$group": {"_id": "$owner.user_id"}}]
        users = await self._rows(
            self.sessions,
            sessions,
            {"$group": {"_id": "$user_id"}},
            {"$unionWith": {"coll": self.messages.name, "pipeline": active}},
            {"$group": {"_id": "$_id"}},
            {"$count": "n"},
        )
        created = await self._rows(
            self.sessions,
            sessions,
            {"$group": {"_id": _bucket("$created_at", period), "n": {"$sum": 1}}},
        )
        activity = await self._rows(
            self.messages,
            *per_session,
            {"$unwind": "$parts"},
            {"$group": {"_id": {"b": "$parts.b", "u": "$owner.user_id"}, "n": {"$sum": "$parts.n"}}},
            {"$group": {"_id": "$_id.b", "n": {"$sum": "$n"}, "users": {"$sum": 1}}},
        )
        top: list[Filter] = [
            {"$group": {"_id": "$owner.user_id", "sessions": {"$sum": 1}, "n": {"$sum": "$n"}}},
            {"$sort": {"n": -1, "_id": 1}},
            {"$limit": period.top},
        ]
        named = await self._rows(self.messages, *per_session, *top) if period.top else []
        asked = {"$sum": {"$cond": [{"$eq": ["$role", "user"]}, 1, 0]}}
        return Counts(
            users[0]["n"] if users else 0,
            (total["n"], aware(total["oldest"]), aware(total["newest"])) if total else (0, None, None),
            {aware(row["_id"]): row["n"] for row in created},
            {aware(row["_id"]): (row["n"], row["users"]) for row in activity},
            await self._histogram(messages, {"$group": {"_id": "$role", "n": {"$sum": 1}}}),
            await self._histogram(
                messages,
                {"$group": {"_id": "$session_id", "turns": asked}},
                {"$group": {"_id": "$turns", "n": {"$sum": 1}}},
            ),
            await self._histogram(messages, *ANSWERS),
            [
                (row["_id"], row["n"], int(row["given"]), int(row["made"]))
                for row in await self._rows(self.messages, messages, *MODELS)
            ],
            [(row["_id"], row["sessions"], row["n"]) for row in named],
            (await self.sizes())["total"],
        )

    async def _histogram(self, *stages: Filter) -> dict[Any, int]:
        return {row["_id"]: row["n"] for row in await self._rows(self.messages, *stages)}

    async def _rows(self, collection: Any, *stages: Filter) -> list[Any]:
        found = collection.aggregate(list(stages), allowDiskUse=True)
        # Motor's `aggregate` returns a cursor, not a coroutine.
        rows: list[Any] = await (await found if inspect.isawaitable(found) else found).to_list(None)
        return rows


def _within(name: str, period: Period) -> Filter:
    bounds = {"$gte": period.since, "$lt": period.until}
    chosen = {operator: moment for operator, moment in bounds.items() if moment is not None}
    return {"$match": {name: chosen} if chosen else {}}


def _bucket(moment: str, period: Period) -> Filter:
    unit = {"unit": period.bucket, "timezone": period.time_zone}
    if period.bucket == "week":
        unit["startOfWeek"] = "monday"
    return {"$dateTrunc": {"date": moment} | unit}


def _value(key: str) -> Filter:
    # A key of metadata may contain a point.
    return {"$getField": {"field": {"$literal": key}, "input": "$metadata"}}


def _tokens(key: str) -> Filter:
    value = _value(key)
    return {"$sum": {"$cond": [{"$isNumber": value}, {"$trunc": value}, 0]}}


_shifted = {
    name: {"$shift": {"output": f"${value}", "by": -1}}
    for name, value in (("before", "role"), ("asked", "timestamp"))
}
ANSWERS: list[Filter] = [
    {"$project": dict.fromkeys(("session_id", "timestamp", "write_order", "message_id", "role"), 1)},
    {
        "$setWindowFields": {
            "partitionBy": "$session_id",
            "sortBy": {"timestamp": 1, "write_order": 1, "message_id": 1},
            "output": _shifted,
        }
    },
    {"$match": {"role": "assistant", "before": "user"}},
    {"$group": {"_id": {"$subtract": ["$timestamp", "$asked"]}, "n": {"$sum": 1}}},
]
_model = _value("model")
MODELS: list[Filter] = [
    {"$match": {"metadata": {"$exists": True}}},
    {
        "$group": {
            "_id": {"$cond": [{"$eq": [{"$type": _model}, "string"]}, _model, None]},
            "n": {"$sum": 1},
            "given": _tokens("usage.input_tokens"),
            "made": _tokens("usage.output_tokens"),
        }
    },
]
