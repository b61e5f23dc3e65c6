"""Checks of messages to append, of message ids, and of the part of a history to read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from sessions.errors import InvalidInputError
from sessions.models import NewMessage
from sessions.validation.metadata import check_message_metadata
from sessions.validation.numbers import check_history_limit, check_since, check_timestamp
from sessions.validation.payload import encode_payload
from sessions.validation.text import check_content, check_role

__all__ = [
    "CheckedMessage",
    "check_history_range",
    "check_message_ids",
    "check_messages",
    "check_new_message",
    "check_new_messages",
]

CheckId = Callable[[str, object], str]


class CheckedMessage(NamedTuple):
    """A message to append, in the form that is stored.

    Attributes:
        role: Role.
        content: Content.
        message_id: The caller's id; None for a generated one.
        timestamp: The caller's, in UTC; None for the time of writing.
        metadata: A JSON object, may be empty; None for an empty one.
        payload: JSON text in ASCII; None for no payload.
    """

    role: str
    content: str
    message_id: str | None = None
    timestamp: datetime | None = None
    metadata: dict[str, Any] | None = None
    payload: str | None = None


def check_messages(value: object) -> list[tuple[str, str]]:
    """Return the ``(role, content)`` pairs of a batch in their order."""
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise InvalidInputError("messages", "must be a list of (role, content) pairs")
    pairs = []
    for index, item in enumerate(value):
        if not isinstance(item, (tuple, list)) or len(item) != 2:
            raise InvalidInputError(f"messages[{index}]", "must be a (role, content) pair")
        role, content = item
        try:
            pairs.append((check_role(role), check_content(content)))
        except InvalidInputError as error:
            raise InvalidInputError(f"messages[{index}].{error.argument}", error.reason) from None
    return pairs


def check_new_message(message: NewMessage, check_id: CheckId) -> CheckedMessage:
    """Return a message in the form that is stored.

    Args:
        message: The message.
        check_id: Returns an id in the form of the backend; called with the argument's name and its value.
    """
    return CheckedMessage(
        check_role(message.role),
        check_content(message.content),
        None if message.message_id is None else check_id("message_id", message.message_id),
        None if message.timestamp is None else check_timestamp("timestamp", message.timestamp),
        check_message_metadata(message.metadata),
        encode_payload(message.payload),
    )


def check_new_messages(value: object, check_id: CheckId) -> list[CheckedMessage]:
    """Return the messages of a batch in their order.

    Args:
        value: ``(role, content)`` pairs and `NewMessage` objects, in any mixture.
        check_id: Returns an id in the form of the backend; called with the argument's name and its value.

    Raises:
        InvalidInputError: Also if two messages have the same id. It names the first bad value by its place:
            ``messages[3].role``.
    """
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise InvalidInputError("messages", "must be a list of (role, content) pairs or NewMessage objects")
    checked: list[CheckedMessage] = []
    ids: set[str] = set()
    for index, item in enumerate(value):
        try:
            if isinstance(item, NewMessage):
                message = check_new_message(item, check_id)
            elif isinstance(item, (tuple, list)) and len(item) == 2:
                message = CheckedMessage(check_role(item[0]), check_content(item[1]))
            else:
                message = None
        except InvalidInputError as error:
            raise InvalidInputError(f"messages[{index}].{error.argument}", error.reason) from None
        if message is None:
            raise InvalidInputError(f"messages[{index}]", "must be a (role, content) pair or a NewMessage")
        if message.message_id is not None:
            if message.message_id in ids:
                raise InvalidInputError(f"messages[{index}].message_id", "occurs twice in one batch")
            ids.add(message.message_id)
        checked.append(message)
    return checked


def check_message_ids(value: object, check_id: CheckId) -> list[str]:
    """Return message ids in their order, each once.

    Args:
        value: The ids.
        check_id: Returns an id in the form of the backend; called with the argument's name and its value.
    """
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise InvalidInputError("message_ids", f"must be a list of ids, not {type(value).__name__}")
    return list(dict.fromkeys(check_id(f"message_ids[{index}]", item) for index, item in enumerate(value)))


def check_history_range(
    limit: object, before: object, after: object, since: object, check_id: CheckId
) -> tuple[int | None, str | None, str | None, datetime | None]:
    """Return ``limit``, ``before``, ``after`` and ``since`` of a part of a history.

    Raises:
        InvalidInputError: Also if more than one of ``before``, ``after`` and ``since`` is given.
    """
    checked = (
        check_history_limit(limit),
        None if before is None else check_id("before", before),
        None if after is None else check_id("after", after),
        check_since(since),
    )
    if since is not None and (before is not None or after is not None):
        raise InvalidInputError("since", f"goes with no {'after' if before is None else 'before'}")
    if after is not None and before is not None:
        raise InvalidInputError("after", "goes with no before")
    return checked
