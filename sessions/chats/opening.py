"""Resolves the arguments of `AsyncChats` and `Chats` to a repository."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypedDict, Unpack

from sessions.errors import ConfigurationError, InvalidInputError
from sessions.models import Role
from sessions.repositories import AsyncSessionRepository, SessionRepositoryFactory, SessionRepositoryType
from sessions.repositories.options import ChatsOptions
from sessions.repositories.urls import repository_type_of

__all__ = ["BackendName", "OpenedChats", "Role", "SessionData", "merged", "open_repository"]

BackendName = Literal["mongodb", "postgres", "sqlite"]


class SessionData(TypedDict, total=False):
    """Values of a session to create or update.

    Attributes:
        title: 1 to 255 characters.
        metadata: A JSON object.
    """

    title: str | None
    metadata: dict[str, Any] | None


def open_repository(
    url: str | None,
    backend: SessionRepositoryType | str | None,
    repository: AsyncSessionRepository | None,
    options: dict[str, Any],
) -> AsyncSessionRepository:
    """Return the given repository, that of the URL or of the named backend, or the default one.

    Raises:
        ConfigurationError: A setting is missing or wrong, or the backend is not an
            `AsyncSessionRepository`.
    """
    if repository is not None:
        if url is not None or backend is not None or options:
            raise ConfigurationError("repository: goes with no other option")
        found: Any = repository
    elif backend is not None:
        found = SessionRepositoryFactory.create_repository(backend, url=url, **options)
    elif url is not None:
        found = SessionRepositoryFactory.create_repository(repository_type_of(url), url=url, **options)
    else:
        found = SessionRepositoryFactory.get_default_repository(**options)
    if not isinstance(found, AsyncSessionRepository):
        # A backend of another package may have only the six operations of the base class.
        raise ConfigurationError(f"backend: {type(found).__name__} is not an AsyncSessionRepository")
    return found


class OpenedChats:
    """What `AsyncChats` and `Chats` share: how they are opened, and the repository behind them."""

    def __init__(
        self,
        url: str | None = None,
        *,
        backend: BackendName | SessionRepositoryType | None = None,
        repository: AsyncSessionRepository | None = None,
        **options: Unpack[ChatsOptions],
    ) -> None:
        self._repository = open_repository(url, backend, repository, {**options})

    @property
    def repository(self) -> AsyncSessionRepository:
        """The repository of the same database, with the operations under the names of its interface."""
        return self._repository


def merged(
    session_data: Mapping[str, Any] | None, title: str | None, metadata: dict[str, Any] | None
) -> Mapping[str, Any] | None:
    """Return one mapping of the values given by keyword or as a mapping.

    Raises:
        InvalidInputError: A value is given both ways.
    """
    given = {"title": title, "metadata": metadata}
    keywords = {key: value for key, value in given.items() if value is not None}
    if not keywords:
        return session_data
    if session_data is None:
        return keywords
    if not isinstance(session_data, Mapping):
        return session_data  # Rejected by the operation.
    for key in keywords:
        if session_data.get(key) is not None:
            raise InvalidInputError(key, "is given twice")
    return {**session_data, **keywords}
