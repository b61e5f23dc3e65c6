"""What looks across users, in MongoDB."""

from __future__ import annotations

import inspect
from typing import Any

from sessions.backends.mongodb.collections import DOWN, UP, Filter, MongoCollections
from sessions.backends.mongodb.mapping import to_session
from sessions.models import ChatSession, Statistics
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

    async def statistics(self) -> Statistics:
        times = {"oldest": {"$min": "$created_at"}, "newest": {"$max": "$updated_at"}}
        by_user = {"$group": {"_id": "$user_id", "sessions": {"$sum": 1}, **times}}
        total = {
            "_id": None,
            "users": {"$sum": 1},
            "sessions": {"$sum": "$sessions"},
            "oldest": {"$min": "$oldest"},
            "newest": {"$max": "$newest"},
        }
        found = self.sessions.aggregate([by_user, {"$group": total}], allowDiskUse=True)
        # Motor's `aggregate` returns a cursor, not a coroutine.
        totals: list[Any] = await (await found if inspect.isawaitable(found) else found).to_list(None)
        messages: int = await self.messages.count_documents({})
        if not totals:
            return Statistics(0, 0, messages, None, None)
        [row] = totals
        return Statistics(row["users"], row["sessions"], messages, aware(row["oldest"]), aware(row["newest"]))
