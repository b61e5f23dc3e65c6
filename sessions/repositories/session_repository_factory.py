"""Repositories by name: a registry that decorators and entry points fill, and the factory over it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from enum import StrEnum
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, ClassVar, Literal, TypeVar, overload

from sessions.config import load_settings
from sessions.errors import ConfigurationError, MissingDependencyError, UnknownRepositoryError
from sessions.repositories.async_session_repository import AsyncSessionRepository
from sessions.repositories.base_session_repository import BaseSessionRepository

__all__ = [
    "SessionRepositoryFactory",
    "SessionRepositoryRegistry",
    "SessionRepositoryType",
    "register_repository",
]

C = TypeVar("C", bound=type[BaseSessionRepository])

ENTRY_POINT_GROUP = "sessions.repositories"


class SessionRepositoryType(StrEnum):
    """The backends of this package; other packages register further names."""

    POSTGRES = "postgres"
    MONGODB = "mongodb"
    SQLITE = "sqlite"


# Named by text so that a service loads only the driver it uses.
_BUILT_IN = {
    SessionRepositoryType.MONGODB: "mongo_session_repository",
    SessionRepositoryType.POSTGRES: "postgres_session_repository",
    SessionRepositoryType.SQLITE: "sqlite_session_repository",
}


class SessionRepositoryRegistry:
    """Repository classes by name."""

    _classes: ClassVar[dict[str, type[BaseSessionRepository]]] = {}
    _lock: ClassVar[threading.RLock] = threading.RLock()

    @classmethod
    def register_repository(cls, repo_type: SessionRepositoryType | str) -> Callable[[C], C]:
        """Register the decorated class under a name.

        Raises:
            ValueError: The name is taken by another class.
        """
        name = str(repo_type)

        def decorate(repository: C) -> C:
            with cls._lock:
                taken = cls._classes.get(name)
                if taken not in (None, repository) or (
                    name in _BUILT_IN and repository.__module__ != _built_in_module(name)
                ):
                    raise ValueError(f"a repository is already registered as {name!r}")
                cls._classes[name] = repository
            return repository

        return decorate

    @classmethod
    def get_repository_class(cls, repo_type: SessionRepositoryType | str) -> type[BaseSessionRepository]:
        """Return the class registered under a name.

        Raises:
            UnknownRepositoryError: There is none; the text lists the known names.
            MissingDependencyError: It needs a package that is not installed.
        """
        name = str(repo_type)
        if found := cls._classes.get(name):
            return found
        if name in _BUILT_IN:
            try:
                import_module(_built_in_module(name))
            except ModuleNotFoundError as error:
                package = str(error.name).partition(".")[0]
                raise MissingDependencyError(
                    f"{name} needs {package}; install it with: pip install agenthub-sessions"
                ) from error
            return cls._classes[name]
        for point in entry_points(group=ENTRY_POINT_GROUP, name=name):
            try:
                loaded = point.load()
            except ModuleNotFoundError as error:
                raise MissingDependencyError(f"{name} needs {error.name}, which is not installed") from error
            with cls._lock:
                return cls._classes.setdefault(name, loaded)
        known = ", ".join(sorted(map(str, cls.list_repositories())))
        raise UnknownRepositoryError(f"no repository {name[:80]!r}; known: {known}")

    @classmethod
    def list_repositories(cls) -> list[SessionRepositoryType | str]:
        """Return all names: the built-in ones first, then those of other packages."""
        others = {*cls._classes, *(point.name for point in entry_points(group=ENTRY_POINT_GROUP))}
        return [*_BUILT_IN, *sorted(others - set(_BUILT_IN))]


def _built_in_module(name: str) -> str:
    return f"sessions.repositories.{_BUILT_IN[SessionRepositoryType(name)]}"


def register_repository(repo_type: SessionRepositoryType | str) -> Callable[[C], C]:
    """Register the decorated repository class under a name of your own, or a new enum member.

    Raises:
        ValueError: The name is taken by another class.
    """
    return SessionRepositoryRegistry.register_repository(repo_type)


class SessionRepositoryFactory:
    """Creates repositories. Cheap enough for every request: connections are shared behind them."""

    @overload
    @staticmethod
    def create_repository(
        repo_type: SessionRepositoryType | Literal["mongodb", "postgres", "sqlite"], **options: Any
    ) -> AsyncSessionRepository: ...

    @overload
    @staticmethod
    def create_repository(repo_type: str, **options: Any) -> Any: ...

    @staticmethod
    def create_repository(repo_type: SessionRepositoryType | str, **options: Any) -> Any:
        """Return a new repository.

        Args:
            repo_type: A built-in type or a registered name.
            **options: What its class takes. The built-in ones take ``url=``, or ``engine=`` (SQL) or
                ``client=`` (MongoDB) of your own, which is never closed here; ``retry=``; and any key of
                their settings.

        Returns:
            An `AsyncSessionRepository` for a built-in type, else an instance of the registered class.

        Raises:
            UnknownRepositoryError: There is no such type.
            MissingDependencyError: It needs a package that is not installed.
            ConfigurationError: A setting is missing or wrong.
        """
        return SessionRepositoryRegistry.get_repository_class(repo_type)(**options)

    @staticmethod
    def get_default_repository() -> Any:
        """Return the repository that ``sessions.default_repository`` names; MongoDB if it names none.

        Raises:
            ConfigurationError: The setting names an unknown type.
        """
        name = load_settings().sessions.default_repository
        try:
            return SessionRepositoryFactory.create_repository(name)
        except UnknownRepositoryError as error:
            raise ConfigurationError(f"sessions.default_repository: {error}") from error

    @staticmethod
    def list_repositories() -> list[SessionRepositoryType | str]:
        """Return the names that `create_repository` takes."""
        return SessionRepositoryRegistry.list_repositories()
