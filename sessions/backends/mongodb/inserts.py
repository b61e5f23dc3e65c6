"""Inserts into MongoDB: into a collection that is ready, and idempotent by the ids of the documents."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from pymongo.errors import DuplicateKeyError, OperationFailure, WriteConcernError

from sessions.errors import MessageConflictError
from sessions.models.documents import SESSION_FIELD

__all__ = ["in_commands", "insert", "is_refused", "not_stored", "stored_batches"]

DUPLICATE_KEY = 11000
IDS_AT_ONCE = 1000
# The server's limits are 48 MB and 100,000 documents. Smaller commands let other operations in between.
COMMAND_BYTES = 8 * 1024 * 1024
COMMAND_DOCUMENTS = 10_000


async def insert(
    collection: Any, documents: list[dict[str, Any]], uuid: Any = None, client_session: Any = None
) -> None:
    """Insert documents in order with one command, which never creates the collection.

    Not the driver's ``insert_many``, which takes no collection UUID: the server would create a dropped
    collection again, without indexes and validator.

    Args:
        collection: Target collection.
        documents: Documents with ``_id``.
        uuid: The collection's UUID, or None if the server does not check it.
        client_session: Client session of a transaction, or None.

    Raises:
        DuplicateKeyError: A document with one of the ids exists.
        OperationFailure: The server rejects a document. The documents before it are inserted, unless in a
            transaction.
        OperationFailure: With code 361 (CollectionUUIDMismatch): the collection was dropped or replaced.
    """
    command: dict[str, Any] = {"insert": collection.name, "documents": documents}
    if uuid is not None:
        command["collectionUUID"] = uuid
    # In a transaction only the commit has a write concern.
    if client_session is None and (concern := collection.write_concern.document):
        command["writeConcern"] = concern
    reply = await collection.database.command(command, session=client_session)
    for failure in reply.get("writeErrors", ()):
        kind = DuplicateKeyError if failure["code"] == DUPLICATE_KEY else OperationFailure
        raise kind(failure["errmsg"], failure["code"], failure)
    if failure := reply.get("writeConcernError"):
        raise WriteConcernError(failure["errmsg"], failure.get("code"), failure)


def is_refused(error: BaseException) -> bool:
    """Return whether the server rejects one document of an insert, as a service's own validator may."""
    return isinstance(error, OperationFailure) and "index" in (error.details or {})


def in_commands(documents: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Yield messages in parts, each of which fits one command."""
    part: list[dict[str, Any]] = []
    size = 0
    for document in documents:
        # A character takes at most four bytes.
        needed = len(document["content"]) * 4
        if part and (len(part) == COMMAND_DOCUMENTS or size + needed > COMMAND_BYTES):
            yield part
            part, size = [], 0
        part.append(document)
        size += needed
    if part:
        yield part


async def stored_batches(messages: Any, marks: Iterable[Any], client_session: Any = None) -> set[Any]:
    """Return the marks of those batches that are complete.

    Args:
        messages: Collection of the messages.
        marks: The ``_id`` of the last message of each batch.
        client_session: Client session of a transaction, or None.
    """
    found = messages.find({"_id": {"$in": list(marks)}}, {"_id": 1}, session=client_session)
    return {document["_id"] for document in await found.to_list(None)}


async def not_stored(messages: Any, documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the messages that are not stored yet, after a duplicate key error.

    A message that an earlier attempt stored for an earlier session with the same id, or in an incomplete
    batch, is assigned to this attempt.

    Raises:
        MessageConflictError: Another message is stored under one of the ids.
    """
    wanted = {document["_id"]: document for document in documents}
    if len(wanted) < len(documents):
        raise MessageConflictError("a message id occurs twice in one batch")
    ids, stored = list(wanted), set()
    for start in range(0, len(ids), IDS_AT_ONCE):
        found = await messages.find({"_id": {"$in": ids[start : start + IDS_AT_ONCE]}}).to_list(None)
        marks = {document["batch"] for document in found if document.get("batch")}
        complete = await stored_batches(messages, marks) if marks else set()
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
    chosen: dict[str, Any] = {"_id": found["_id"], SESSION_FIELD: found.get(SESSION_FIELD)}
    update: dict[str, Any] = {"$set": {SESSION_FIELD: mine[SESSION_FIELD]}}
    if "batch" in mine:
        update["$set"]["batch"] = mine["batch"]
    else:
        update["$unset"] = {"batch": ""}
    await messages.update_one(chosen, update)
