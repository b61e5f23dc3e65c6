"""Creates the sessions of ADK in a repository."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sessions.errors import SessionConflictError
from sessions.integrations.adk.conversions import ADK, UPDATE_TIME
from sessions.integrations.adk.marker import DEFAULT_TITLE, FIRST_VERSION
from sessions.integrations.adk.state import APP_NAME, to_metadata
from sessions.integrations.common import FRAMEWORK, FRAMEWORK_SESSION_ID, derived_id, first_version
from sessions.models import ChatSession

if TYPE_CHECKING:
    from sessions.repositories import AsyncSessionRepository

__all__ = ["create", "id_of", "new_session"]


def id_of(app_name: str, user_id: str, session_id: str) -> str:
    """Return the id in the repository of a session of ADK."""
    return derived_id(ADK, app_name, user_id, session_id.strip())


def new_session(
    app_name: str, user_id: str, session_id: str, state: Mapping[str, Any], now: float
) -> ChatSession:
    """Return a session to store, with a version that no earlier session with its id has had.

    Args:
        app_name: The app.
        user_id: Owner.
        session_id: ADK's id.
        state: The session's own state.
        now: Time of its creation.
    """
    version, created_at = first_version(), datetime.now(UTC)
    metadata = {
        FRAMEWORK: ADK,
        FRAMEWORK_SESSION_ID: session_id,
        APP_NAME: app_name,
        UPDATE_TIME: now,
        FIRST_VERSION: version,
        **to_metadata(state),
    }
    return ChatSession(
        id_of(app_name, user_id, session_id),
        DEFAULT_TITLE,
        user_id,
        created_at,
        created_at,
        metadata,
        version=version,
    )


async def create(repository: AsyncSessionRepository, created: ChatSession) -> None:
    """Store a session.

    Raises:
        SessionConflictError: Its id is taken.
    """
    if await repository.admin.restore_many([(created, [])], only_new=True):
        return
    # Also if it was stored by an attempt whose response was lost.
    found = await repository.get_session(created.user_id, created.session_id)
    if found is None or found.version != created.version:
        raise SessionConflictError("the id is taken by another session")
