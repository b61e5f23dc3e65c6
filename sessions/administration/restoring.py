"""Checks what is to be restored."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping

from sessions import validation
from sessions.core.calls import Calls
from sessions.core.values import StoredMessage
from sessions.core.write_orders import reserve_write_orders
from sessions.errors import InvalidInputError
from sessions.models import ChatMessage, ChatSession

__all__ = ["check_conversations", "check_messages", "check_session"]


def check_conversations(calls: Calls, value: object) -> list[tuple[ChatSession, list[StoredMessage]]]:
    """Return sessions with their messages in the form that is stored, in their order.

    Raises:
        InvalidInputError: A value is invalid, or a session or a message occurs twice; it is named with its
            place: ``conversations[3].messages[1].role``.
    """
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        reason = f"must be a list of sessions with messages, not {type(value).__name__}"
        raise InvalidInputError("conversations", reason)
    checked: list[tuple[ChatSession, list[StoredMessage]]] = []
    session_ids: set[str] = set()
    message_ids: set[str] = set()
    for index, item in enumerate(value):
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise InvalidInputError(f"conversations[{index}]", "must be a (chat_session, messages) pair")
        with _within(f"conversations[{index}]"):
            chat_session = check_session(calls, item[0])
            rows = check_messages(calls, chat_session.session_id, item[1])
            if chat_session.session_id in session_ids:
                raise InvalidInputError("chat_session.session_id", "occurs twice in one call")
            new_ids = {row.message_id for row in rows}
            if not message_ids.isdisjoint(new_ids):
                raise InvalidInputError("messages", "have an id that occurs twice in one call")
        session_ids.add(chat_session.session_id)
        message_ids |= new_ids
        checked.append((chat_session, rows))
    return checked


def check_session(calls: Calls, value: object) -> ChatSession:
    """Return a session in the form that is stored.

    Raises:
        InvalidInputError: A value is invalid; it is named with its place: ``chat_session.title``.
    """
    if not isinstance(value, ChatSession):
        raise InvalidInputError("chat_session", f"must be ChatSession, not {type(value).__name__}")
    with _within("chat_session"):
        checked = ChatSession(
            calls.check_id("session_id", value.session_id),
            validation.check_title(value.title),
            validation.check_user_id(value.user_id),
            validation.check_timestamp("created_at", value.created_at),
            validation.check_timestamp("updated_at", value.updated_at),
            validation.check_metadata(value.metadata),
            validation.check_count("version", value.version),
        )
        calls.backend.check_size("metadata", checked.metadata)
    return checked


def check_messages(calls: Calls, session_id: str, value: object) -> list[StoredMessage]:
    """Return messages of a session in the form that is stored, in their order.

    Args:
        calls: The calls to the backend.
        session_id: The session, in the form that is stored.
        value: The messages.

    Raises:
        InvalidInputError: A value is invalid, a message belongs to another session, or two have the same
            id; it is named with its place: ``messages[3].role``.
    """
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise InvalidInputError("messages", f"must be a list of ChatMessage, not {type(value).__name__}")
    given = list(value)
    orders = reserve_write_orders(len(given))
    rows: list[StoredMessage] = []
    ids: set[str] = set()
    for index, (message, order) in enumerate(zip(given, orders, strict=True)):
        if not isinstance(message, ChatMessage):
            raise InvalidInputError(
                f"messages[{index}]", f"must be ChatMessage, not {type(message).__name__}"
            )
        # Not `_within`: a generator for each message would take as long as its checks.
        try:
            row = _check_message(calls, session_id, message, order)
        except InvalidInputError as error:
            argument, reason = f"messages[{index}].{error.argument}", error.reason
        else:
            if row.message_id not in ids:
                ids.add(row.message_id)
                rows.append(row)
                continue
            argument, reason = f"messages[{index}].message_id", "occurs twice in one batch"
        # Outside of `except`: the first error names another argument.
        raise InvalidInputError(argument, reason)
    calls.backend.check_batch_size(rows)
    return rows


def _check_message(calls: Calls, session_id: str, message: ChatMessage, order: int) -> StoredMessage:
    given = message.session_id
    if given != session_id and calls.check_id("session_id", given) != session_id:
        raise InvalidInputError("session_id", "must be that of the session")
    return StoredMessage(
        calls.check_id("message_id", message.message_id),
        validation.check_role(message.role),
        validation.check_content(message.content),
        validation.check_timestamp("timestamp", message.timestamp),
        validation.check_message_metadata(message.metadata) or {} if message.metadata != {} else {},
        validation.encode_payload(message.payload),
        order,
    )


@contextlib.contextmanager
def _within(place: str) -> Iterator[None]:
    """Let errors name an argument with its place."""
    try:
        yield
    except InvalidInputError as error:
        argument, reason = f"{place}.{error.argument}", error.reason
    else:
        return
    # Outside of `except`: the first error names another argument.
    raise InvalidInputError(argument, reason)
