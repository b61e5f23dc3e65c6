"""What the stores for agent frameworks share: ids of sessions, messages that can be stored, and titles."""

from __future__ import annotations

import asyncio
import json
import secrets
import uuid
from collections.abc import Awaitable, Iterable, Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any, TypeVar

from sessions.core.blocking import run_blocking
from sessions.core.identifiers import new_message_id
from sessions.core.texts import storable
from sessions.core.titles import title_of
from sessions.errors import MissingDependencyError
from sessions.models import ChatMessage, NewMessage, Role

__all__ = [
    "FRAMEWORK",
    "FRAMEWORK_SESSION_ID",
    "NAMESPACE",
    "derived_id",
    "first_version",
    "missing",
    "new_message",
    "new_message_id",
    "run_blocking",
    "session_id_for",
    "session_metadata",
    "settled",
    "title_for",
]

R = TypeVar("R")

# Sessions that exist have ids derived from it: it never changes.
NAMESPACE = uuid.UUID("5b1e7a52-3f0d-4c55-9d0a-0e6f5c9c2a17")
# Keys of a session's metadata.
FRAMEWORK = "framework"
FRAMEWORK_SESSION_ID = "framework_session_id"
LONGEST_INTEGER = 2**63 - 1


def missing(framework: str, extra: str, error: ImportError) -> MissingDependencyError:
    """Return the error for a framework that is not installed.

    Args:
        framework: Its import name.
        extra: The extra that installs it.
        error: What its import raised.
    """
    package = str(error.name or framework).partition(".")[0]
    return MissingDependencyError(
        f"sessions.integrations.{extra.replace('-', '_')} needs {package}; "
        f"install it with: pip install 'agenthub-sessions[{extra}]'"
    )


def derived_id(*parts: str) -> str:
    """Return the same UUID for the same parts, in every process and release.

    It is the UUID of version 5, in `NAMESPACE`, of the parts as a JSON array without spaces, in ASCII.
    """
    return str(uuid.uuid5(NAMESPACE, json.dumps(parts, separators=(",", ":"))))


def first_version() -> int:
    """Return a random version for a session to begin with.

    A session that is deleted and created again under the same id then has other versions: a writer that has
    read the former one never takes the new one for it.
    """
    return secrets.randbelow(2**50)


def session_id_for(framework: str, user_id: str, framework_session_id: str) -> str:
    """Return the id of the session for a framework's own session id.

    A UUID in its canonical form is taken as it is. Any other text gives a UUID that depends on the framework,
    the user and the text: the same text of two users is two sessions.

    Args:
        framework: Name of the framework, such as ``"openai-agents"``.
        user_id: Owner.
        framework_session_id: The framework's id.
    """
    try:
        if str(uuid.UUID(framework_session_id)) == framework_session_id:
            return framework_session_id
    except ValueError:
        pass
    return derived_id(framework, user_id, framework_session_id)


def session_metadata(framework: str, framework_session_id: str) -> dict[str, Any]:
    """Return the metadata by which a framework's sessions are found with ``where``."""
    return {FRAMEWORK: framework, FRAMEWORK_SESSION_ID: storable(framework_session_id)}


def new_message(
    role: Role,
    content: str,
    payload: Any,
    *,
    metadata: Mapping[str, Any] | None = None,
    message_id: str | None = None,
    timestamp: datetime | None = None,
) -> NewMessage:
    """Return a message that every backend can store.

    Args:
        role: Role.
        content: Plain text of the item; U+FFFD replaces what cannot be stored.
        payload: The framework's item as a JSON value.
        metadata: Known facts, such as ``model``, ``usage.input_tokens``, ``usage.output_tokens``,
            ``tool.name`` and ``agent.name``; what is neither text nor a 64-bit integer is left out.
        message_id: Unique id; None for a new one.
        timestamp: Timezone-aware; None for the time of writing.
    """
    known: dict[str, Any] = {}
    for key, value in (metadata or {}).items():
        if isinstance(value, str):
            known[key] = storable(value)
        elif isinstance(value, int) and abs(value) <= LONGEST_INTEGER:
            known[key] = value
    return NewMessage(
        role, storable(content), message_id=message_id, timestamp=timestamp, metadata=known, payload=payload
    )


async def settled(write: Awaitable[R]) -> R:
    """Wait for a write also if the caller is cancelled, and then raise the cancellation.

    So a framework that cancels a run can rely on what it finds stored. The repository's time limits bound
    the wait.
    """
    task = asyncio.ensure_future(write)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            # Further cancellations do not end the wait, either.
            with suppress(asyncio.CancelledError):
                await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # It is not reported: the cancellation is raised in its place.
        raise


def title_for(messages: Iterable[NewMessage | ChatMessage]) -> str | None:
    """Return the title of a session from its first message of the user that has a word; None without one."""
    return next(
        (title for each in messages if each.role == "user" and (title := title_of(each.content))), None
    )
