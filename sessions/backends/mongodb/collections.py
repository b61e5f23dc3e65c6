"""The collections that one attempt of an operation works on, and the sort orders of their indexes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from beanie import SortDirection
from beanie.operators import And
from pymongo.errors import OperationFailure

from sessions.backends.mongodb.client import MongoConnection
from sessions.backends.mongodb.connection import MongoConnectionManager
from sessions.backends.mongodb.inserts import in_commands, insert
from sessions.core.port import Backend
from sessions.errors import VersionConflictError
from sessions.models.documents import ChatMessageDocument, ChatSessionDocument

__all__ = [
    "CHAT_MESSAGES",
    "CHAT_SESSIONS",
    "DOWN",
    "NEWEST_FIRST",
    "UP",
    "Filter",
    "MongoCollections",
    "raw_cursor",
]

Filter = dict[str, Any]

UP, DOWN = SortDirection.ASCENDING, SortDirection.DESCENDING
NEWEST_FIRST = [("updated_at", DOWN), ("session_id", UP)]
CHAT_SESSIONS = ChatSessionDocument.Settings.name
CHAT_MESSAGES = ChatMessageDocument.Settings.name


class MongoCollections(Backend):
    """Gives the operations of one attempt their collections; see `MongoBackend.perform`.

    Attributes:
        connection: The client of the running event loop, or the caller's transaction.
        sessions: Collection of the sessions; reads from the primary, unless the operation may read from
            other members.
        messages: Collection of the messages; the same.
    """

    manager: MongoConnectionManager
    connection: MongoConnection
    sessions: Any
    messages: Any
    # Of the collections by name, as of the beginning of the attempt; where the server checks them.
    _uuids: Mapping[str, Any]

    def on(
        self, connection: MongoConnection, collections: Mapping[str, Any], uuids: Mapping[str, Any]
    ) -> Self:
        """Return this backend on the collections of one attempt.

        Args:
            connection: The connection.
            collections: Its collections by name, with the read preference of the operation.
            uuids: The UUIDs of the collections by name; empty if the server does not check them.
        """
        attempt = type(self)(self.manager)
        attempt.connection = connection
        attempt.sessions, attempt.messages = collections[CHAT_SESSIONS], collections[CHAT_MESSAGES]
        attempt._uuids = uuids
        return attempt

    @property
    def unfinished(self) -> Any:
        """Collection of notes on operations of several writes; created on first use."""
        messages = self.messages
        options = {"codec_options": messages.codec_options, "write_concern": messages.write_concern}
        return messages.database.get_collection("chat_unfinished", **options)

    async def insert(
        self, collection: Any, documents: list[dict[str, Any]], client_session: Any = None
    ) -> None:
        """Insert documents in order with one command; see `inserts.insert`."""
        await insert(collection, documents, self._uuids.get(collection.name), client_session)

    async def check_version(self, session_id: str, user_id: str | None, expected: int) -> bool:
        """Return whether there is such a session.

        Raises:
            VersionConflictError: There is, and it has another version.
        """
        chosen = {"session_id": session_id} | ({} if user_id is None else {"user_id": user_id})
        found = await self.sessions.find_one(chosen, {"version": 1})
        if found is not None and (found.get("version") or 0) != expected:
            raise VersionConflictError("the session has another version than expected")
        return found is not None

    async def insert_all(
        self,
        collection: Any,
        messages: list[dict[str, Any]],
        inserted: list[dict[str, Any]],
        client_session: Any = None,
    ) -> None:
        """Insert messages in order, with as many commands as they need.

        Args:
            collection: Target collection.
            messages: Documents of the messages.
            inserted: Collects the inserted ones, also if a later one is rejected.
            client_session: Client session of a transaction, or None.

        Raises:
            OperationFailure: See `insert`.
        """
        for part in in_commands(messages):
            try:
                await self.insert(collection, part, client_session)
            except OperationFailure as error:
                inserted += part[: (error.details or {}).get("index", 0)]
                raise
            inserted += part


def raw_cursor(query: Any, collection: Any) -> Any:
    """Return the driver's cursor of a Beanie query: it returns documents without building models.

    Args:
        query: The query. Beanie would execute it on the one collection that the document class is bound to.
        collection: The collection to execute it on.
    """
    return collection.find(
        # Not `get_filter_query`, which also encodes the values: they are those of BSON already.
        And(*query.find_expressions).query,
        sort=query.sort_expressions or None,
        skip=query.skip_number or 0,
        limit=query.limit_number or 0,
        # The server's own first batch has 101 documents.
        batch_size=query.limit_number or 0,
        session=query.session,
    )
