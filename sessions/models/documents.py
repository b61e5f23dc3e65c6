"""Beanie documents: what MongoDB holds of `ChatSession` and `ChatMessage`.

Beanie binds a document class to one database for the whole process; these are bound by a service's own
``init_beanie``, if at all. The repository needs other collections for each database and event loop: it builds
queries from the documents, and executes them on its own collections.
"""

from __future__ import annotations

import functools
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, get_args

from beanie import Document
from beanie.exceptions import CollectionWasNotInitialized
from beanie.odm.settings.document import DocumentSettings
from pydantic import AfterValidator, Field
from pymongo import ASCENDING, DESCENDING, IndexModel

from sessions.models.message import Role

__all__ = ["SESSION_FIELD", "ChatMessageDocument", "ChatSessionDocument", "aware"]

# The field of a message that holds the ``_id`` of its session's document. A session may be deleted, and
# another one created under the same ``session_id``.
SESSION_FIELD = "session_oid"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NAIVE_EPOCH = EPOCH.replace(tzinfo=None)

_NAME = {"bsonType": "string", "minLength": 1, "maxLength": 255}


def aware(value: datetime) -> datetime:
    """Return a datetime in UTC; MongoDB stores UTC, and a client may hand it out naive."""
    if value.tzinfo is UTC:
        return value
    # What was added to an aware datetime is one: in a tenth of the time that `replace` takes.
    return EPOCH + (value - NAIVE_EPOCH) if value.tzinfo is None else value.astimezone(UTC)


UtcDatetime = Annotated[datetime, AfterValidator(aware)]
Name = Annotated[str, Field(min_length=1, max_length=255)]


class _UnboundDocument(Document):
    """A document from which queries can be built without ``init_beanie``."""

    Settings: ClassVar[Any]

    @classmethod
    def get_settings(cls) -> DocumentSettings:
        """Return Beanie's settings; before a service's ``init_beanie``, those of the class alone."""
        try:
            return super().get_settings()
        except CollectionWasNotInitialized:
            return _settings_of(cls.Settings.name)


@functools.cache
def _settings_of(name: str) -> DocumentSettings:
    return DocumentSettings(name=name)


class ChatSessionDocument(_UnboundDocument):
    """A document of ``chat_sessions``.

    Attributes:
        version: Absent in older documents, which counts as 0.
        edit: The last edit of several documents, which it committed; see ``sessions.backends.mongodb``.
    """

    session_id: Name
    title: Name
    user_id: Name
    created_at: UtcDatetime
    updated_at: UtcDatetime
    metadata: dict[str, Any] = Field(default_factory=dict)
    version: int = 0
    edit: dict[str, Any] | None = None

    class Settings:
        """Beanie's settings."""

        name = "chat_sessions"
        indexes: ClassVar[list[IndexModel]] = [
            IndexModel([("session_id", ASCENDING)], unique=True),
            IndexModel([("user_id", ASCENDING), ("updated_at", DESCENDING), ("session_id", ASCENDING)]),
        ]

    # Validated by the server, for every writer.
    VALIDATOR: ClassVar[dict[str, Any]] = {
        "$jsonSchema": {
            "bsonType": "object",
            "required": ["session_id", "title", "user_id", "created_at", "updated_at"],
            "properties": {
                "session_id": _NAME,
                "title": _NAME,
                "user_id": _NAME,
                "created_at": {"bsonType": "date"},
                "updated_at": {"bsonType": "date"},
                "metadata": {"bsonType": "object"},
                "version": {"bsonType": ["int", "long"], "minimum": 0},
            },
        }
    }


class ChatMessageDocument(_UnboundDocument):
    """A document of ``chat_messages``.

    Attributes:
        id: The ``message_id``; an ObjectId in older documents, or any value of another program.
        session_oid: ``_id`` of the session's document that it belongs to; absent in older documents.
        batch: ``_id`` of the last message of a large batch that was added without a transaction; none of
            them is visible until that one is stored. Or the token of an edit.
        write_order: Time of the write, in microseconds since 1970, which decides among equal timestamps;
            absent in older documents, which sort first.
        payload: JSON text.
    """

    id: Any = Field(default=None, alias="_id")

    message_id: Name
    session_id: Name
    role: Role
    content: str
    timestamp: UtcDatetime
    metadata: dict[str, Any] = Field(default_factory=dict)
    payload: str | None = None
    write_order: int | None = None
    session_oid: Any = None
    batch: Any = None

    class Settings:
        """Beanie's settings."""

        name = "chat_messages"
        indexes: ClassVar[list[IndexModel]] = [
            IndexModel(
                [(name, ASCENDING) for name in ("session_id", "timestamp", "write_order", "message_id")]
            ),
        ]

    VALIDATOR: ClassVar[dict[str, Any]] = {
        "$jsonSchema": {
            "bsonType": "object",
            "required": ["message_id", "session_id", "role", "content", "timestamp"],
            "properties": {
                "message_id": _NAME,
                "session_id": _NAME,
                "role": {"enum": list(get_args(Role))},
                "content": {"bsonType": "string"},
                "timestamp": {"bsonType": "date"},
                "metadata": {"bsonType": "object"},
                "payload": {"bsonType": "string"},
                "write_order": {"bsonType": ["int", "long"]},
            },
        }
    }
