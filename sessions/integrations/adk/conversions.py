"""ADK's sessions and events as those of a repository, and back."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from google.adk.events import Event
from google.adk.sessions import Session
from google.genai import types
from pydantic_core import to_jsonable_python

from sessions.integrations.adk.events import event_facts, event_role, event_text
from sessions.integrations.adk.marker import Marker
from sessions.integrations.adk.state import APP_NAME, TEMP, Delta, from_metadata
from sessions.integrations.common import FRAMEWORK_SESSION_ID, derived_id, new_message
from sessions.models import ChatMessage, ChatSession, NewMessage

__all__ = ["ADK", "UPDATE_TIME", "as_json", "time_of", "to_event", "to_message", "to_session", "update_time"]

logger = logging.getLogger(__name__)

ADK = "adk"
# Key of a session's metadata: the exact time of the last event.
UPDATE_TIME = "update_time"
# Messages have times between these.
FIRST, LAST = datetime(1, 1, 2, tzinfo=UTC), datetime(9999, 12, 30, tzinfo=UTC)


def as_json(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return state as JSON values; what JSON cannot express becomes text."""
    try:
        converted: dict[str, Any] = to_jsonable_python(dict(state))
    except Exception as error:
        logger.warning("a value of the state is no JSON, and is stored as text: %s", type(error).__name__)
        converted = to_jsonable_python(dict(state), serialize_unknown=True)
    return converted


def to_message(stored_id: str, event: Event) -> NewMessage:
    """Return the message of an event in a session; its state without temporary one."""
    payload: dict[str, Any] = event.model_dump(mode="json", exclude_none=True, by_alias=True)
    actions = payload["actions"]
    if actions["stateDelta"]:
        actions["stateDelta"] = {
            key: value for key, value in actions["stateDelta"].items() if not key.startswith(TEMP)
        }
    return new_message(
        event_role(event),
        event_text(event),
        payload,
        metadata=event_facts(event),
        # The same event again is the same message; another event with its id is another one.
        message_id=derived_id("adk-event", stored_id, json.dumps(payload, sort_keys=True)),
        timestamp=time_of(event.timestamp),
    )


def time_of(timestamp: float) -> datetime:
    """Return the time of a message that is nearest to seconds since 1970."""
    try:
        return min(max(datetime.fromtimestamp(timestamp, UTC), FIRST), LAST)
    except (OverflowError, ValueError, OSError):
        return FIRST if timestamp < 0 else LAST


def to_event(message: ChatMessage) -> Event:
    """Return the event of a message; of one that ADK did not store, its text."""
    if isinstance(message.payload, dict):
        return Event.model_validate(message.payload)
    is_user = message.role == "user"
    return Event(
        id=message.message_id,
        author="user" if is_user else str(message.metadata.get("agent.name", "model")),
        timestamp=message.timestamp.timestamp(),
        content=types.Content(role="user" if is_user else "model", parts=[types.Part(text=message.content)]),
    )


def to_session(
    chat_session: ChatSession, events: list[Event], app_state: dict[str, Any], user_state: dict[str, Any]
) -> Session:
    """Return a session with its events and the merged state."""
    metadata = chat_session.metadata
    session = Session(
        app_name=metadata[APP_NAME],
        user_id=chat_session.user_id,
        id=metadata[FRAMEWORK_SESSION_ID],
        state=Delta(app_state, user_state, from_metadata(metadata)).merged(),
        events=events,
        last_update_time=update_time(chat_session),
    )
    Marker.of(chat_session).put_on(session)
    return session


def update_time(chat_session: ChatSession) -> float:
    """Return the exact time of a session's last event, or else of its creation."""
    return float(chat_session.metadata[UPDATE_TIME])
