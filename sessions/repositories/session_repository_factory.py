"""Repositories by name: a registry, filled by decorators and entry points, and the factory."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, ClassVar, Literal, TypeVar, Unpack, overload

from sessions.config import load_settings
from sessions.config.settings import variables_of
from sessions.connections import ConnectionType
from sessions.connections.built_in import BUILT_IN
from sessions.connections.factory import is_same_class
from sessions.core.forks import ProcessLock, importing
from sessions.errors import ConfigurationError, MissingDependencyError, UnknownRepositoryError
from sessions.repositories.async_session_repository import AsyncSessionRepository, repository_class
from sessions.repositories.base_session_repository import BaseSessionRepository
from sessions.repositories.options import (
    BuiltInOptions,
    MongoOptions,
    PostgresOptions,
    RedisOptions,
    SqliteOptions,
)

__all__ = [
    "SessionRepositoryFactory",
    "SessionRepositoryRegistry",
    "SessionRepositoryType",
    "register_repository",
]

C = TypeVar("C", bound=type[BaseSessionRepository])

ENTRY_POINT_GROUP = "sessions.repositories"


# The backends of this package; other packages register further names.
SessionRepositoryType = ConnectionType


class SessionRepositoryRegistry:
    """Repository classes by name."""

    _classes: ClassVar[dict[str, type[BaseSessionRepository]]] = {}
    _lock: ClassVar[ProcessLock] = ProcessLock()

    @classmethod
    def register_repository(cls, repo_type: SessionRepositoryType | str) -> Callable[[C], C]:
        """Register the decorated class under a name.

        The same class again, such as from a notebook cell that is run twice, replaces the former one.

        Raises:
            ValueError: The name is taken by another class.
        """
        name = str(repo_type)

        def decorate(repository: C) -> C:
            with cls._lock:
                if not is_same_class(cls._classes.get(name, repository), repository) or (
                    name in BUILT_IN and repository.__module__ != _face(name)
                ):
                    raise _taken(name)
                cls._classes[name] = repository
            return repository

        return decorate

    @classmethod
    def get_repository_class(cls, repo_type: SessionRepositoryType | str) -> type[BaseSessionRepository]:
        """Return the class registered under a name.

        Raises:
            UnknownRepositoryError: There is none; the text lists the known names.
            MissingDependencyError: It needs a package that is not installed.
            ValueError: Several packages register another class under that name.
        """
        name = str(repo_type)
        if found := cls._classes.get(name):
            return found
        if name in BUILT_IN:
            try:
                with importing:
                    return cls._built_in(SessionRepositoryType(name))
            except ModuleNotFoundError as error:
                raise MissingDependencyError(BUILT_IN[SessionRepositoryType(name)].needs(error)) from error
        loaded = [_load(point) for point in entry_points(group=ENTRY_POINT_GROUP, name=name)]
        if loaded:
            with cls._lock:
                # Its module may also have registered it with the decorator.
                found = cls._classes.setdefault(name, loaded[0])
            if not all(is_same_class(found, other) for other in loaded):
                raise _taken(name)
            return found
        known = ", ".join(sorted(map(str, cls.list_repositories())))
        raise UnknownRepositoryError(f"no repository {name[:80]!r}; known: {known}")

    @classmethod
    def _built_in(cls, repo_type: SessionRepositoryType) -> type[BaseSessionRepository]:
        if face := _face(repo_type):
            import_module(face)  # It registers its class.
        else:
            with cls._lock:
                cls._classes.setdefault(repo_type, repository_class(repo_type))
        return cls._classes[repo_type]

    @classmethod
    def list_repositories(cls) -> list[SessionRepositoryType | str]:
        """Return all names: the built-in ones first, then those of other packages."""
        others = {*cls._classes, *(point.name for point in entry_points(group=ENTRY_POINT_GROUP))}
        return [*BUILT_IN, *sorted(others - set(BUILT_IN))]


def _load(point: EntryPoint) -> type[BaseSessionRepository]:
    try:
        loaded: type[BaseSessionRepository] = point.load()
    except ModuleNotFoundError as error:
        raise MissingDependencyError(f"{point.name} needs {error.name}, which is not installed") from error
    return loaded


def _taken(name: str) -> ValueError:
    return ValueError(f"a repository is already registered as {name!r}")


def _face(name: str) -> str | None:
    return BUILT_IN[SessionRepositoryType(name)].face


def register_repository(repo_type: SessionRepositoryType | str) -> Callable[[C], C]:
    """Register the decorated repository class under a name of your own, or a new enum member.

    Raises:
        ValueError: The name is taken by another class.
    """
    return SessionRepositoryRegistry.register_repository(repo_type)


def default_repository_class() -> tuple[str, type[BaseSessionRepository]]:
    """Return the name that ``sessions.default_repository`` holds, and the class that is registered under it.

    Raises:
        ConfigurationError: Nothing is registered under it; the text lists the known names.
        MissingDependencyError: It needs a package that is not installed.
    """
    name = load_settings().sessions.default_repository
    try:
        return name, SessionRepositoryRegistry.get_repository_class(name)
    except UnknownRepositoryError as error:
        variables = ", ".join(variables_of("sessions.default_repository"))
        origin = f"from {variables}: " if variables else ""
        raise ConfigurationError(f"sessions.default_repository: {origin}{error}") from error


def _with_cache(repository: Any) -> Any:
    """Return a repository with the cache that ``sessions.cache.url`` names, if it names one."""
    settings = load_settings().sessions.cache
    if not isinstance(repository, AsyncSessionRepository) or settings.url is None:
        return repository
    with importing:
        cache = import_module("sessions.cache")  # It stands above this module.
    return cache.CachedSessionRepository(
        repository, cache=cache.configured_cache(), namespace=settings.namespace
    )


class SessionRepositoryFactory:
    """Creates repositories. Cheap enough for every request: connections are shared behind them.

    With ``sessions.cache.url`` in the settings, they are `CachedSessionRepository` objects.
    """

    @overload
    @staticmethod
    def create_repository(
        repo_type: Literal["postgres", SessionRepositoryType.POSTGRES], **options: Unpack[PostgresOptions]
    ) -> AsyncSessionRepository: ...

    @overload
    @staticmethod
    def create_repository(
        repo_type: Literal["mongodb", SessionRepositoryType.MONGODB], **options: Unpack[MongoOptions]
    ) -> AsyncSessionRepository: ...

    @overload
    @staticmethod
    def create_repository(
        repo_type: Literal["sqlite", SessionRepositoryType.SQLITE], **options: Unpack[SqliteOptions]
    ) -> AsyncSessionRepository: ...

    @overload
    @staticmethod
    def create_repository(
        repo_type: Literal["redis", SessionRepositoryType.REDIS], **options: Unpack[RedisOptions]
    ) -> AsyncSessionRepository: ...

    @overload
    @staticmethod
    def create_repository(
        repo_type: SessionRepositoryType, **options: Unpack[BuiltInOptions]
    ) -> AsyncSessionRepository: ...

    # A built-in backend with an unknown option. Without this overload the last one would match; with it, the
    # result has no operations for a type checker.
    @overload
    @staticmethod
    def create_repository(
        repo_type: SessionRepositoryType | Literal["mongodb", "postgres", "sqlite", "redis"], **options: Any
    ) -> object: ...

    @overload
    @staticmethod
    def create_repository(repo_type: str, **options: Any) -> Any: ...

    @staticmethod
    def create_repository(repo_type: SessionRepositoryType | str, **options: Any) -> Any:
        """Return a new repository.

        Args:
            repo_type: A built-in type or a registered name.
            **options: Options of its class. The built-in ones accept ``url=``, or ``engine=`` (SQL) or
                ``client=`` (MongoDB, Redis) of your own, which is never closed here; ``retry=``; and any
                key of their settings.

        Returns:
            An `AsyncSessionRepository` for a built-in type, else an instance of the registered class.

        Raises:
            UnknownRepositoryError: There is no such type.
            MissingDependencyError: It needs a package that is not installed.
            ConfigurationError: A setting is missing or wrong.
        """
        return _with_cache(SessionRepositoryRegistry.get_repository_class(repo_type)(**options))

    @staticmethod
    def get_default_repository(**options: Unpack[BuiltInOptions]) -> AsyncSessionRepository:
        """Return the repository that ``sessions.default_repository`` names; MongoDB if it names none.

        Args:
            **options: As in `create_repository`; they override the settings.

        Returns:
            An `AsyncSessionRepository`, unless the setting names a type that another package registers.

        Raises:
            ConfigurationError: The setting names an unknown type; the text lists the known ones. Or another
                setting is missing or wrong, or the type has no such option.
            MissingDependencyError: It needs a package that is not installed.
        """
        found: Any
        _, found = default_repository_class()
        repository: AsyncSessionRepository = _with_cache(found(**options))
        return repository

    @staticmethod
    def list_repositories() -> list[SessionRepositoryType | str]:
        """Return the names that `create_repository` accepts."""
        return SessionRepositoryRegistry.list_repositories()
