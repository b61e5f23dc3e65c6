"""Which of the stored messages are visible: those that belong to their session's document, and are complete.

A message may be stored, and not be visible:

- It belongs to a deleted session with the same id: its ``session_oid`` is the ``_id`` of another document.
- It belongs to a batch that is not complete: ``batch`` is the ``_id`` of the last message of the batch, which
  is not stored yet.
- It was stored by an edit that is not committed: ``batch`` is the token of the edit, an ObjectId.
- An edit that is committed deletes it, or replaces it by a new version: ``dropped_by`` contains its token.

An edit is committed once ``edit.token`` in the session's document is its token; see `MongoEdits`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from bson import ObjectId

from sessions.backends.mongodb import former_ids
from sessions.models.documents import SESSION_FIELD

__all__ = ["DROPPED_FIELD", "FIELDS", "REVISED_FIELD", "marks_in", "of_session", "visible"]

DROPPED_FIELD = "dropped_by"
REVISED_FIELD = "revises"
# What `visible` needs, and the place of the message.
FIELDS = dict.fromkeys(
    ("message_id", "timestamp", "write_order", SESSION_FIELD, "batch", DROPPED_FIELD, REVISED_FIELD), 1
)


def of_session(session_oid: Any) -> dict[str, Any]:
    """Return a query for the messages of a session's document, and those that do not say whose they are.

    An absent field also matches None: those are messages of an earlier release, or of another program.
    """
    return {SESSION_FIELD: {"$in": [session_oid, None]}}


def marks_in(documents: Iterable[Mapping[str, Any]], token: Any) -> set[Any]:
    """Return the marks of those batches whose last message decides whether they are complete.

    Args:
        documents: Messages.
        token: Token of the last edit of the session.
    """
    marks = {mark for document in documents if "batch" in document and (mark := document["batch"]) != token}
    return {mark for mark in marks if not (mark is None or isinstance(mark, ObjectId))}


def visible(
    documents: list[dict[str, Any]], session_oid: Any, token: Any, complete: set[Any]
) -> list[dict[str, Any]]:
    """Return the visible ones of a session's messages.

    Args:
        documents: Messages with the id of the session, in their order. Without `SESSION_FIELD` they are
            messages that `of_session` has chosen.
        session_oid: ``_id`` of the session's document.
        token: Token of its last edit; None for none.
        complete: The marks of complete batches.
    """
    shown = [
        document
        for document in documents
        if (
            # Mostly: the query has chosen the session's document, and the ``_id`` is the message's id.
            (SESSION_FIELD not in document and isinstance(document["_id"], str))
            or _belongs(document, session_oid)
        )
        and ("batch" not in document or document["batch"] in (None, token) or document["batch"] in complete)
        and (DROPPED_FIELD not in document or token not in document[DROPPED_FIELD])
    ]
    revised = {document[REVISED_FIELD] for document in shown if REVISED_FIELD in document}
    # Until the edit has ended, a new version and the message it is copied to may both be stored.
    return [document for document in shown if document.get("_id") not in revised] if revised else shown


def _belongs(document: dict[str, Any], session_oid: Any) -> bool:
    """Return whether a message with the id of a session belongs to the session's document."""
    if (written_for := document.get(SESSION_FIELD)) is not None:
        return bool(written_for == session_oid)
    return former_ids.is_for(document, session_oid)
