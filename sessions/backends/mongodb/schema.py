"""What a MongoDB collection is to have, where some of it is there already or may not be made by this user."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from pymongo import IndexModel
from pymongo.errors import DuplicateKeyError, OperationFailure

from sessions.errors import ConfigurationError

__all__ = ["ensure_indexes", "set_validator"]

logger = logging.getLogger(__name__)

UNAUTHORIZED = 13
# An index of that name, or of those keys, is there and is another one.
INDEX_CONFLICTS = (85, 86)


async def ensure_indexes(collection: Any, indexes: Sequence[IndexModel]) -> None:
    """Create the indexes that are missing.

    A user who may not create any finds them made by another. One from before that has the name, but is
    not unique, is left alone, and ours takes another name.

    Raises:
        OperationFailure: An index is missing, and the user may not create it.
        ConfigurationError: Documents from before share a value that has to be unique.
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
    missing = [
        index.document
        for index in indexes
        if not any(_serves(found, index.document) for found in there.values())
    ]
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
    """Return whether an index that is there does what another one is wanted for."""
    if any(found.get(option) for option in ("sparse", "partialFilterExpression", "collation")):
        return False
    is_unique = bool(found.get("unique")) or not wanted.get("unique")
    return is_unique and list(found["key"]) == list(wanted["key"].items())


def _not_unique(collection: Any) -> ConfigurationError:
    return ConfigurationError(
        f"db.mongodb: several documents of {collection.name} have the same session_id, which is to be unique"
    )


async def set_validator(database: Any, name: str, validation: Mapping[str, Any]) -> None:
    """Let the server refuse bad documents, if the user may say so; the role ``readWrite`` may not."""
    try:
        await database.command("collMod", name, **validation)
    except OperationFailure as error:
        if error.code != UNAUTHORIZED:
            raise
        logger.warning("the user may not set the validator of %s (collMod); it stays as it is", name)
