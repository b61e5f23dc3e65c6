"""One connection manager for each database, however many repositories use it."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Hashable
from typing import Any, ClassVar, TypeVar

from sessions.connections.base import (
    AsyncBaseConnectionManager,
    BaseConnectionManager,
    ConnectionType,
)
from sessions.connections.built_in import BUILT_IN, class_of
from sessions.connections.keys import built_in_key, name_variables
from sessions.core.blocking import run_blocking
from sessions.core.forks import ProcessLock, importing
from sessions.errors import ConfigurationError, MissingDependencyError, UnknownRepositoryError

__all__ = ["ConnectionFactory", "ConnectionManager", "register_connection_manager"]

ConnectionManager = BaseConnectionManager | AsyncBaseConnectionManager
Key = tuple[str, Hashable]
Managers = dict[Key, ConnectionManager]
M = TypeVar("M", bound=type[ConnectionManager])


def is_same_class(one: type, other: type) -> bool:
    """Return whether two classes are one, or have the same module and qualified name."""
    return one is other or (one.__module__, one.__qualname__) == (other.__module__, other.__qualname__)


def kept_by(own: Any) -> Managers:
    """Return the managers of a service's own engine or client, stored as an attribute of it."""
    # An AsyncEngine has slots; its `sync_engine` accepts attributes.
    holder = own.sync_engine if hasattr(type(own), "sync_engine") else own
    try:
        managers: Managers = vars(holder).setdefault("_sessions_managers", {})
    except TypeError:  # Neither an engine nor a client: the manager raises.
        managers = {}
    return managers


class ConnectionFactory:
    """Creates and caches connection managers: one for each type and set of options."""

    _classes: ClassVar[dict[str, type[ConnectionManager]]] = {}
    _managers: ClassVar[Managers] = {}
    # Closed managers, as long as a repository references them.
    _closed: ClassVar[weakref.WeakValueDictionary[Key, ConnectionManager]] = weakref.WeakValueDictionary()
    # Managers of temporary databases, which are not shared.
    _unshared: ClassVar[weakref.WeakSet[ConnectionManager]] = weakref.WeakSet()
    _lock: ClassVar[ProcessLock] = ProcessLock()

    @classmethod
    def register(cls, connection_type: ConnectionType | str, manager: type[ConnectionManager]) -> None:
        """Register a manager class under a name; `register_connection_manager` is its decorator.

        The same class again, such as from a notebook cell that is run twice, replaces the former one.

        Raises:
            ValueError: The name is taken by another class.
        """
        name = str(connection_type)
        with cls._lock:
            if name in BUILT_IN or not is_same_class(cls._classes.get(name, manager), manager):
                raise ValueError(f"a connection manager is already registered as {name!r}")
            if cls._classes.get(name, manager) is not manager:
                # Managers of the former class stay with the repositories that reference them.
                for key in [key for key in (*cls._managers, *cls._closed) if key[0] == name]:
                    cls._managers.pop(key, None)
                    cls._closed.pop(key, None)
            cls._classes[name] = manager

    @classmethod
    def get_connection_manager(
        cls, connection_type: ConnectionType | str, **options: Any
    ) -> ConnectionManager:
        """Return the manager for this type and these options; create it on first use.

        Args:
            connection_type: A built-in type or a registered name.
            **options: Options of the manager class; for the built-in ones ``url=``, ``engine=`` or
                ``client=``, and any key of their settings.

        Raises:
            UnknownRepositoryError: Nothing is registered under that name.
            MissingDependencyError: The driver is not installed.
            ConfigurationError: A setting is missing or wrong.
        """
        name = str(connection_type)
        manager_class = cls._manager_class(name)
        if name not in BUILT_IN:
            return cls._made((name, manager_class.cache_key(**options)), manager_class, options)
        try:
            key = (name, built_in_key(name, manager_class, options))
            return cls._made(key, manager_class, options)
        except ConfigurationError as error:
            name_variables(error, options)
            raise

    @classmethod
    def _made(
        cls, key: Key, manager_class: type[ConnectionManager], options: dict[str, Any]
    ) -> ConnectionManager:
        if key[1] is None:
            unshared = manager_class(**options)
            unshared.made_with = options
            cls._unshared.add(unshared)
            return unshared
        own = options.get("engine") if options.get("client") is None else options["client"]
        managers = cls._managers if own is None or key[0] not in BUILT_IN else kept_by(own)
        manager = managers.get(key)
        if manager is None:
            with cls._lock:
                manager = managers.get(key)
                if manager is None:
                    manager = cls._closed.pop(key, None) or manager_class(**options)
                    managers[key] = manager
                    if managers is cls._managers:
                        manager.made_with = options
                        manager.on_close = functools.partial(cls._forget_closed, key)
        return manager

    @classmethod
    def _forget_closed(cls, key: Key) -> None:
        with cls._lock:
            if (manager := cls._managers.pop(key, None)) is not None:
                cls._closed[key] = manager

    @classmethod
    def _manager_class(cls, name: str) -> type[ConnectionManager]:
        if found := cls._classes.get(name):
            return found
        if name not in BUILT_IN:
            known = ", ".join(sorted({*BUILT_IN, *cls._classes}))
            raise UnknownRepositoryError(f"no connection type {name[:80]!r}; known: {known}")
        try:
            with importing:
                manager_class: type[ConnectionManager] = class_of(ConnectionType(name), "connection")
        except ModuleNotFoundError as error:
            raise MissingDependencyError(BUILT_IN[ConnectionType(name)].needs(error)) from error
        cls._classes[name] = manager_class
        return manager_class

    @classmethod
    async def aclose_all(cls) -> None:
        """Close every connection that a manager of this factory opened, in all event loops.

        Managers stay usable: the next call connects again.
        """
        for manager in (*cls._managers.values(), *cls._closed.values(), *cls._unshared):
            if isinstance(manager, AsyncBaseConnectionManager):
                await manager.aclose()
            else:
                manager.close()

    @classmethod
    def close_all(cls) -> None:
        """Close every connection; the blocking twin of `aclose_all`."""
        run_blocking(cls.aclose_all)


def register_connection_manager(connection_type: ConnectionType | str) -> Callable[[M], M]:
    """Register the decorated connection manager class under a name of your own.

    Raises:
        ValueError: The name is taken.
    """

    def decorate(manager: M) -> M:
        ConnectionFactory.register(connection_type, manager)
        return manager

    return decorate
