"""Expressions and update pipelines on sessions: their version, and metadata with keys of any characters.

Keys with a dot or a leading dollar sign cannot be part of a path. They occur here only in literals.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

from bson import Int64

from sessions.backends.mongodb.mapping import storable
from sessions.core.values import SessionChange, Where

__all__ = [
    "NEXT_VERSION",
    "SessionUpdate",
    "has_metadata",
    "has_version",
    "metadata_merged",
    "session_update",
]

Expression = Any
Filter = dict[str, Any]

# Other programs may have stored something else.
METADATA: Expression = {"$cond": [{"$eq": [{"$type": "$metadata"}, "object"]}, "$metadata", {"$literal": {}}]}
# Sessions of an earlier release have none.
NEXT_VERSION: Expression = {"$add": [{"$ifNull": ["$version", 0]}, Int64(1)]}


class SessionUpdate(NamedTuple):
    """What changes a session.

    Attributes:
        pipeline: Stages of an update.
        variables: Values of its variables.
    """

    pipeline: list[Filter]
    variables: Filter


def has_version(expected: int | None) -> Filter:
    """Return a query for sessions with a version; for all sessions if it is None."""
    if expected is None:
        return {}
    # A session of an earlier release has no version.
    return {"version": {"$in": [0, None]} if expected == 0 else expected}


def has_metadata(where: Where | None) -> Filter:
    """Return a query for sessions whose metadata has one of the accepted values of each key.

    Values are compared as a whole: not with the elements of a list, and 1 is 1.0, and not True.
    """
    if where is None:
        return {}
    return {"$expr": {"$and": [_is_accepted(key, accepted) for key, accepted in where.items()]}}


def _is_accepted(key: str, accepted: tuple[Any, ...]) -> Expression:
    value = {"$getField": {"field": {"$literal": key}, "input": METADATA}}
    among = {"$in": [value, {"$literal": [item for item in accepted if item is not None]}]}
    if None not in accepted:
        return among
    # The last is what `storable` stores in place of some nulls.
    return {"$or": [among, {"$in": [{"$type": value}, ["missing", "null", "minKey"]]}]}


def _merged(metadata: Expression, keys: Expression) -> Expression:
    return {"$mergeObjects": [metadata, keys]}


def metadata_merged(keys: dict[str, Any]) -> Filter:
    """Return the stage of an update that sets top-level keys of a session's metadata."""
    return {"$set": {"metadata": _merged(METADATA, {"$literal": storable(keys)})}}


def session_update(change: SessionChange, now: datetime) -> SessionUpdate | None:
    """Return the update for a change of a session; None if it changes nothing of any session.

    It sets ``version`` and ``updated_at`` only if a value changes.
    """
    # Large values occur once, as variables.
    variables: Filter = {}
    differs: list[Expression] = []
    new: Filter = {}
    if change.title is not None:
        variables["title"] = {"$literal": change.title}
        new["title"] = "$$title"
        differs.append({"$ne": ["$title", "$$title"]})
    metadata = METADATA
    if change.metadata is not None:
        variables["metadata"] = {"$literal": storable(change.metadata)}
        metadata = "$$metadata"
    if change.merge is not None:
        variables["merge"] = {"$literal": storable(change.merge)}
        metadata = _merged(metadata, "$$merge")
    if change.remove:
        variables["remove"] = {"$literal": list(change.remove)}
        metadata = _without_keys(metadata, "$$remove")
    if metadata is not METADATA:
        is_same = {"$setEquals": [{"$objectToArray": METADATA}, {"$objectToArray": metadata}]}
        new["metadata"] = {"$cond": [is_same, "$metadata", metadata]}
        differs.append({"$not": is_same})
    if not differs:
        return None
    any_differs = {"$or": differs}
    new["version"] = {"$cond": [any_differs, NEXT_VERSION, "$version"]}
    if change.touch:
        variables["now"] = now
        new["updated_at"] = {"$cond": [any_differs, {"$max": ["$updated_at", "$$now"]}, "$updated_at"]}
    return SessionUpdate([{"$set": new}], variables)


def _without_keys(metadata: Expression, keys: Expression) -> Expression:
    kept = {"$not": {"$in": ["$$this.k", keys]}}
    return {"$arrayToObject": {"$filter": {"input": {"$objectToArray": metadata}, "cond": kept}}}


def page_query(user_id: str, after: tuple[datetime, str] | None, where: Where | None) -> Filter:
    """Return the query for a user's sessions that come after a place in the list."""
    chosen: Filter = {"user_id": user_id} | has_metadata(where)
    if after is not None:
        updated_at, session_id = after
        chosen["updated_at"] = {"$lte": updated_at}
        chosen["$or"] = [{"updated_at": {"$lt": updated_at}}, {"session_id": {"$gt": session_id}}]
    return chosen
