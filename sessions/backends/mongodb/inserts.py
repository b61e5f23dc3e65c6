"""Inserts into MongoDB: into a collection that is ready, and idempotent by the ids of the documents."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import bson
from pymongo.errors import DuplicateKeyError, OperationFailure, WriteConcernError

__all__ = [
    "in_commands",
    "insert",
    "insert_each",
    "is_refused",
    "message_size",
    "stored_batches",
    "update_each",
]

DUPLICATE_KEY = 11000
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
    _check_concern(reply)


async def insert_each(collection: Any, documents: list[dict[str, Any]], uuid: Any = None) -> set[int]:
    """Insert documents independently of each other.

    Args:
        collection: Target collection.
        documents: Documents of messages, with ``_id``.
        uuid: As for `insert`.

    Returns:
        The places of those that the server did not insert.
    """
    refused: set[int] = set()
    parts, place = [documents], 0
    if sum(len(document["content"]) for document in documents) * 4 > COMMAND_BYTES:
        parts = [*in_commands(documents)]
    for part in parts:
        command: dict[str, Any] = {"insert": collection.name, "documents": part, "ordered": False}
        if uuid is not None:
            command["collectionUUID"] = uuid
        reply = await _write(collection, command)
        refused |= {place + failure["index"] for failure in reply.get("writeErrors", ())}
        place += len(part)
    return refused


async def update_each(collection: Any, updates: list[dict[str, Any]]) -> tuple[int, set[int]]:
    """Update documents independently of each other.

    Not the driver's ``bulk_write``, which takes several times as long to encode the same command.

    Args:
        collection: Target collection.
        updates: ``q`` and ``u`` of each.

    Returns:
        How many updates matched a document, and the places of those that failed.
    """
    reply = await _write(collection, {"update": collection.name, "updates": updates, "ordered": False})
    return reply["n"], {failure["index"] for failure in reply.get("writeErrors", ())}


async def _write(collection: Any, command: dict[str, Any]) -> dict[str, Any]:
    if concern := collection.write_concern.document:
        command["writeConcern"] = concern
    reply: dict[str, Any] = await collection.database.command(command)
    _check_concern(reply)
    return reply


def _check_concern(reply: dict[str, Any]) -> None:
    if failure := reply.get("writeConcernError"):
        raise WriteConcernError(failure["errmsg"], failure.get("code"), failure)


def is_refused(error: BaseException) -> bool:
    """Return whether the server rejects one document of an insert, as a service's own validator may."""
    return isinstance(error, OperationFailure) and "index" in (error.details or {})


def message_size(document: dict[str, Any]) -> int:
    """Return about how many bytes the values of a message have, rather more than less."""
    # A character takes at most four bytes, and a payload is ASCII.
    size = len(document["content"]) * 4 + len(document.get("payload", ""))
    if "metadata" in document:
        size += len(bson.encode(document["metadata"]))
    return size


def in_commands(documents: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Yield messages in parts, each of which fits one command."""
    part: list[dict[str, Any]] = []
    size = 0
    for document in documents:
        needed = message_size(document)
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
