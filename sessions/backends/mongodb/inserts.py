"""Inserts into MongoDB: into a collection that was made ready, and never taken for stored without a look."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pymongo.errors import DuplicateKeyError, OperationFailure, WriteConcernError

from sessions.backends.mongodb.cleanup import stored_batches
from sessions.backends.mongodb.collections import Filter
from sessions.errors import MessageConflictError
from sessions.models.documents import SESSION_FIELD, bound_uuid

__all__ = ["insert", "insert_all", "is_refused", "not_stored"]

DUPLICATE_KEY = 11000
IDS_AT_ONCE = 1000
# A command carries 48 MB and 100,000 documents. Smaller ones leave the server time for others in between.
COMMAND_BYTES = 8 * 1024 * 1024
COMMAND_DOCUMENTS = 10_000


async def insert(collection: Any, documents: list[dict[str, Any]], client_session: Any = None) -> None:
    """Insert documents in their order by one command, which creates no collection.

    Not the driver's ``insert_many``, which cannot say which collection is meant: the server would create one
    without index and validator where ours was dropped.

    Args:
        collection: Where to.
        documents: With their ``_id``.
        client_session: Of a transaction.

    Raises:
        DuplicateKeyError: A document with one of the ids is there already.
        OperationFailure: A document is refused. Those before it are inserted, unless in a transaction.
        OperationFailure: With code 361, the collection was dropped or replaced.
    """
    command: dict[str, Any] = {"insert": collection.name, "documents": documents}
    if (uuid := bound_uuid(collection.name)) is not None:
        command["collectionUUID"] = uuid
    # A transaction has one write concern for all.
    if client_session is None and (concern := collection.write_concern.document):
        command["writeConcern"] = concern
    reply = await collection.database.command(command, session=client_session)
    for failure in reply.get("writeErrors", ()):
        kind = DuplicateKeyError if failure["code"] == DUPLICATE_KEY else OperationFailure
        raise kind(failure["errmsg"], failure["code"], failure)
    if failure := reply.get("writeConcernError"):
        raise WriteConcernError(failure["errmsg"], failure.get("code"), failure)


def is_refused(error: BaseException) -> bool:
    """Return whether the server refuses one document of an insert, as a validator of the service's may."""
    return isinstance(error, OperationFailure) and "index" in (error.details or {})


async def insert_all(
    collection: Any, messages: list[dict[str, Any]], inserted: list[dict[str, Any]], client_session: Any
) -> None:
    """Insert messages in their order, by as many commands as they need.

    Args:
        collection: Where to.
        messages: Their documents.
        inserted: Takes those that were inserted, also where another one is refused.
        client_session: Of a transaction.

    Raises:
        OperationFailure: See `insert`.
    """
    for part in _in_commands(messages):
        try:
            await insert(collection, part, client_session)
        except OperationFailure as error:
            inserted += part[: (error.details or {}).get("index", 0)]
            raise
        inserted += part


def _in_commands(documents: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Yield messages in parts, each of which fits one command."""
    part: list[dict[str, Any]] = []
    size = 0
    for document in documents:
        # A character takes four bytes at the most.
        needed = len(document["content"]) * 4
        if part and (len(part) == COMMAND_DOCUMENTS or size + needed > COMMAND_BYTES):
            yield part
            part, size = [], 0
        part.append(document)
        size += needed
    if part:
        yield part


async def not_stored(messages: Any, documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the messages that are not stored yet, after an insert found one of their ids taken.

    One that an earlier attempt stored for an earlier session of the same id, or as a part of a batch that was
    never completed, is made one of this attempt.

    Raises:
        MessageConflictError: What is stored under one of the ids is another message.
    """
    wanted = {document["_id"]: document for document in documents}
    if len(wanted) < len(documents):
        raise MessageConflictError("a message id occurs twice in one batch")
    ids, stored = list(wanted), set()
    for start in range(0, len(ids), IDS_AT_ONCE):
        found = await messages.find({"_id": {"$in": ids[start : start + IDS_AT_ONCE]}}).to_list(None)
        marks = {document["batch"] for document in found if document.get("batch")}
        complete = await stored_batches(marks) if marks else set()
        for document in found:
            mine = wanted[document["_id"]]
            if any(document[name] != mine[name] for name in ("session_id", "role", "content")):
                raise MessageConflictError(f"the message id {document['_id']} is taken by another message")
            stored.add(document["_id"])
            of_batch = document.get("batch") in (None, mine.get("batch")) or document["batch"] in complete
            if document.get(SESSION_FIELD) != mine[SESSION_FIELD] or not of_batch:
                await _take_over(messages, document, mine)
    return [document for document in documents if document["_id"] not in stored]


async def _take_over(messages: Any, found: dict[str, Any], mine: dict[str, Any]) -> None:
    chosen: Filter = {"_id": found["_id"], SESSION_FIELD: found.get(SESSION_FIELD)}
    update: Filter = {"$set": {SESSION_FIELD: mine[SESSION_FIELD]}}
    if "batch" in mine:
        update["$set"]["batch"] = mine["batch"]
    else:
        update["$unset"] = {"batch": ""}
    await messages.update_one(chosen, update)
