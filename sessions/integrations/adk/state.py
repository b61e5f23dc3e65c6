"""The state of ADK in a repository: of a session, of a user in an app, and of an app."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from sessions import validation
from sessions.errors import InvalidInputError, SessionConflictError
from sessions.integrations.common import derived_id

if TYPE_CHECKING:
    from sessions.models import SessionData
    from sessions.repositories import AsyncSessionRepository

__all__ = ["APP_NAME", "APP_STATE_OWNER", "Delta", "Holder", "from_metadata", "to_metadata"]

APP_STATE_OWNER = "adk:app-state"
"""Owner of the sessions that hold the state of the apps."""

# Keys of a session's metadata.
APP_NAME = "app_name"
STATE_OF = "state_of"
# A key of the state is a key of the metadata, so that it is merged by itself.
STATE = "state:"
# With the key as a JSON text, where it has a character that metadata cannot have.
QUOTED = "state_json:"
# The only key of an object that stands for a value which metadata cannot have, as a JSON text.
WRAPPER = "$json"
# ADK's prefixes of the scopes.
APP, USER, TEMP = "app:", "user:", "temp:"
# Rounds in which somebody else creates or deletes a holder between two calls.
ATTEMPTS = 5


class Delta(NamedTuple):
    """State by its scope, with keys without their prefixes."""

    app: Mapping[str, Any]
    user: Mapping[str, Any]
    session: Mapping[str, Any]

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Delta:
        """Return state by its scope, without temporary one."""
        app, user, session = {}, {}, {}
        for key, value in state.items():
            if key.startswith(APP):
                app[key.removeprefix(APP)] = value
            elif key.startswith(USER):
                user[key.removeprefix(USER)] = value
            elif not key.startswith(TEMP):
                session[key] = value
        return cls(app, user, session)

    def merged(self) -> dict[str, Any]:
        """Return the state as agents see it."""
        app = {APP + key: value for key, value in self.app.items()}
        user = {USER + key: value for key, value in self.user.items()}
        return {**self.session, **app, **user}


class Holder(NamedTuple):
    """The session that holds the state of an app, or of a user in an app.

    Attributes:
        owner: Its owner: the user, or `APP_STATE_OWNER`.
        session_id: Its id.
        data: Its title and metadata, without the state.
    """

    owner: str
    session_id: str
    data: SessionData

    @classmethod
    def of_app(cls, app_name: str) -> Holder:
        """Return the holder of an app's state."""
        return cls(APP_STATE_OWNER, derived_id("adk-app-state", app_name), _data("app", app_name))

    @classmethod
    def of_user(cls, app_name: str, user_id: str) -> Holder:
        """Return the holder of a user's state in an app."""
        return cls(user_id, derived_id("adk-user-state", app_name, user_id), _data("user", app_name))

    async def read(self, repository: AsyncSessionRepository) -> dict[str, Any]:
        """Return the state; empty if there is none."""
        found = await repository.get_session(self.owner, self.session_id)
        return {} if found is None else from_metadata(found.metadata)

    async def merge(self, repository: AsyncSessionRepository, state: Mapping[str, Any]) -> None:
        """Set keys of the state, atomically, and create the holder if it does not exist."""
        if not state:
            return
        merge = to_metadata(state)
        data: SessionData = {**self.data, "metadata": {**(self.data.get("metadata") or {}), **merge}}
        for _ in range(ATTEMPTS):
            if await repository.update_session_async(self.owner, self.session_id, merge_metadata=merge):
                return
            if await repository.ensure_session_exists(self.session_id, self.owner, data):
                return
        raise SessionConflictError("what holds the state is created and deleted again and again")


def _data(kind: str, app_name: str) -> SessionData:
    title = f"State of the {kind} in {app_name}"[:255]
    return {"title": title, "metadata": {STATE_OF: kind, APP_NAME: app_name}}


def to_metadata(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return state as keys of metadata.

    A value is stored as it is, and can be looked for with ``where``; NaN, infinities, integers of more than
    64 bits, NUL and lone surrogates are in a JSON text.
    """
    return {_to_key(key): _to_value(value) for key, value in state.items()}


def from_metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the state in metadata."""
    state = {}
    for key, value in metadata.items():
        if key.startswith(STATE):
            state[key.removeprefix(STATE)] = _from_value(value)
        elif key.startswith(QUOTED):
            state[json.loads(key.removeprefix(QUOTED))] = _from_value(value)
    return state


def _to_key(key: str) -> str:
    return STATE + key if _fits({key: None}) else QUOTED + json.dumps(key)


def _to_value(value: Any) -> Any:
    is_wrapper = isinstance(value, dict) and value.keys() == {WRAPPER}
    return value if _fits({"": value}) and not is_wrapper else {WRAPPER: json.dumps(value)}


def _from_value(value: Any) -> Any:
    return json.loads(value[WRAPPER]) if isinstance(value, dict) and value.keys() == {WRAPPER} else value


def _fits(metadata: dict[str, Any]) -> bool:
    try:
        validation.check_metadata(metadata)
    except InvalidInputError:
        return False
    return True
