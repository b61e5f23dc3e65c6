"""Creates missing collections, indexes and validators, as far as the user is authorized."""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bson import Binary, ObjectId
from pymongo import ASCENDING, IndexModel
from pymongo.errors import DuplicateKeyError, OperationFailure

from sessions.backends.mongodb.client import MongoConnection
from sessions.correlation import logger_of
from sessions.errors import ConfigurationError
from sessions.models.documents import ChatMessageDocument, ChatSessionDocument

__all__ = [
    "COLLECTION_UUID_MISMATCH",
    "DOCUMENTS",
    "VALIDATION_FAILURE",
    "Ready",
    "prepare",
    "widen_validators",
]

logger = logger_of(__name__)

DOCUMENTS = (ChatSessionDocument, ChatMessageDocument)
UNAUTHORIZED = 13
NAMESPACE_NOT_FOUND = 26
# CollectionUUIDMismatch: the collection that a command names by UUID was dropped. Since MongoDB 6.0.
COLLECTION_UUID_MISMATCH = 361
# Interval of the checks on servers without that.
RECHECK_SECONDS = 1.0
# IndexOptionsConflict, IndexKeySpecsConflict.
INDEX_CONFLICTS = (85, 86)
INDEX_NOT_FOUND = 27
# DocumentValidationFailure
VALIDATION_FAILURE = 121
# Indexes of earlier releases, which the present ones serve in place of.
FORMER_INDEXES = {
    ChatMessageDocument.Settings.name: [
        IndexModel([("session_id", ASCENDING), ("timestamp", ASCENDING), ("message_id", ASCENDING)])
    ]
}
FORMER_ROLES = ["user", "assistant"]

Indexes = Mapping[str, Mapping[str, Any]]
"""What `index_information` returns: indexes by name."""


@dataclass(frozen=True, slots=True, eq=False)
class Ready:
    """The state of a database whose collections, indexes and validators exist.

    Attributes:
        has_transactions: Whether the server is a replica set or sharded.
        uuids: UUIDs of the collections by name; empty if the server does not check them.
        until: Time of the next check, on the monotonic clock.
    """

    has_transactions: bool
    uuids: Mapping[str, Binary]
    until: float


async def prepare(connection: MongoConnection) -> Ready:
    """Create missing collections, indexes and validators, and return the state of the database.

    Raises:
        ConfigurationError: Existing documents have duplicate values of a unique field.
        OperationFailure: Something is missing, and the user is not authorized to create it.
    """
    found = await _collections(connection)
    present = {entry["name"]: entry for entry in found["cursor"]["firstBatch"]}
    changed = False
    for document in DOCUMENTS:
        name = document.Settings.name
        options = present.get(name, {}).get("options", {})
        collection, indexes = connection.collections[name], document.Settings.indexes
        there = await collection.index_information() if name in present else {}
        if _missing(there, indexes):
            # Without a deadline: an index build may take long.
            await _ensure_indexes(collection, indexes)
            changed |= name not in present
        await _drop_indexes(collection, _former(there, FORMER_INDEXES.get(name, [])))
        validation = {"validator": document.VALIDATOR, "validationLevel": "moderate"}
        if not validation.items() <= options.items():
            # The validator last: for release 0.1 it means that the indexes exist. An existing collection
            # gets it too; its level allows updates of documents that are invalid already.
            async with connection.deadline():
                await _set_validator(connection.database, name, validation)
    if changed:
        found = await _collections(connection)
    uuids = {entry["name"]: entry.get("info", {}).get("uuid") for entry in found["cursor"]["firstBatch"]}
    # Replica sets and sharded clusters report an operation time, a standalone server does not.
    has_transactions = "operationTime" in found
    if None not in uuids.values() and await _checks_uuids(connection):
        return Ready(has_transactions, uuids, math.inf)
    return Ready(has_transactions, {}, time.monotonic() + RECHECK_SECONDS)


async def _collections(connection: MongoConnection) -> Mapping[str, Any]:
    names = [document.Settings.name for document in DOCUMENTS]
    async with connection.deadline():
        found: Mapping[str, Any] = await connection.database.command(
            "listCollections", filter={"name": {"$in": names}}
        )
    return found


async def _checks_uuids(connection: MongoConnection) -> bool:
    """Return whether the server rejects a command with another collection UUID.

    By a command, not by version: compatible servers report versions of MongoDB, too.
    """
    name = ChatSessionDocument.Settings.name
    command = {"find": name, "filter": {"_id": ObjectId()}, "limit": 1}
    another = Binary.from_uuid(uuid.uuid4())
    try:
        async with connection.deadline():
            await connection.database.command({**command, "collectionUUID": another})
    except OperationFailure as error:
        if error.code is None or error.timeout:
            raise
        return error.code == COLLECTION_UUID_MISMATCH
    return False


def _missing(there: Indexes, indexes: Sequence[IndexModel]) -> list[Mapping[str, Any]]:
    return [
        index.document
        for index in indexes
        if not any(_serves(found, index.document) for found in there.values())
    ]


def _former(there: Indexes, indexes: Sequence[IndexModel]) -> list[str]:
    """Return those of the existing indexes that earlier releases created, by the names that those gave."""
    wanted = [(index.document["name"], index.document) for index in indexes]
    return [
        own_name
        for name, document in wanted
        for own_name in (name, f"sessions_{name}")
        if own_name in there and _serves(there[own_name], document)
    ]


async def _drop_indexes(collection: Any, names: list[str]) -> None:
    """Drop indexes of earlier releases, if the user is authorized.

    A process of an earlier release creates them again when it starts; the next one of this release drops
    them.
    """
    for name in names:
        try:
            await collection.drop_index(name)
        except OperationFailure as error:
            if error.code not in (UNAUTHORIZED, INDEX_NOT_FOUND):
                raise


async def widen_validators(connection: MongoConnection) -> bool:
    """Set the validators again if an earlier release has set its own; return whether it has.

    A process of an earlier release does so when it starts. Its validator rejects new roles.
    """
    found = await _collections(connection)
    for entry in found["cursor"]["firstBatch"]:
        schema = entry.get("options", {}).get("validator", {}).get("$jsonSchema", {})
        if schema.get("properties", {}).get("role", {}).get("enum") == FORMER_ROLES:
            document = ChatMessageDocument
            validation = {"validator": document.VALIDATOR, "validationLevel": "moderate"}
            async with connection.deadline():
                return await _set_validator(connection.database, document.Settings.name, validation)
    return False


async def _ensure_indexes(collection: Any, indexes: Sequence[IndexModel]) -> None:
    """Create the indexes that are missing.

    If the user is not authorized, another user must have created them. An existing index with the same name
    that is not unique stays, and ours gets another name.

    Raises:
        OperationFailure: An index is missing, and the user is not authorized to create it.
        ConfigurationError: Existing documents have duplicate values of a unique field.
    """
    try:
        await collection.create_indexes(indexes)
        return
    except DuplicateKeyError as error:
        raise _not_unique(collection) from error
    except OperationFailure as error:
        if error.code not in (UNAUTHORIZED, *INDEX_CONFLICTS):
            raise
        refused = error
    there = await collection.index_information()
    missing = _missing(there, indexes)
    if missing and refused.code == UNAUTHORIZED:
        raise refused
    for wanted in missing:
        name = f"sessions_{wanted['name']}" if wanted["name"] in there else wanted["name"]
        model = IndexModel(list(wanted["key"].items()), name=name, unique=bool(wanted.get("unique")))
        try:
            await collection.create_indexes([model])
        except DuplicateKeyError as error:
            raise _not_unique(collection) from error


def _serves(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Return whether an existing index serves in place of a wanted one."""
    if any(found.get(option) for option in ("sparse", "partialFilterExpression", "collation")):
        return False
    is_unique = bool(found.get("unique")) or not wanted.get("unique")
    return is_unique and list(found["key"]) == list(wanted["key"].items())


def _not_unique(collection: Any) -> ConfigurationError:
    return ConfigurationError(
        f"db.mongodb: several documents of {collection.name} have the same session_id, which must be unique"
    )


async def _set_validator(database: Any, name: str, validation: Mapping[str, Any]) -> bool:
    """Set the validator, if the user is authorized; the role ``readWrite`` is not.

    Returns:
        Whether it is set.
    """
    try:
        await database.command("collMod", name, **validation)
    except OperationFailure as error:
        if error.code != UNAUTHORIZED:
            raise
        logger.warning("the user may not set the validator of %s (collMod); it stays as it is", name)
        return False
    return True
