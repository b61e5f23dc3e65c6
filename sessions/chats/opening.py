"""Resolves the arguments of `AsyncChats` and `Chats` to a repository."""

from __future__ import annotations

from typing import Any, Literal

from sessions.errors import ConfigurationError
from sessions.repositories import AsyncSessionRepository, SessionRepositoryFactory, SessionRepositoryType
from sessions.repositories.urls import repository_type_of

__all__ = ["BackendName", "open_repository"]

BackendName = Literal["mongodb", "postgres", "sqlite", "redis"]


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
