"""Chat conversations in PostgreSQL, MongoDB, SQLite or Redis, behind one interface.

Each name is loaded, with its dependencies, on first use: ``import sessions`` alone loads nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sessions.cache import CachedSessionRepository, MemoryCache, RedisCache
    from sessions.chats import AsyncChats, Chats
    from sessions.connections import (
        AsyncBaseConnectionManager,
        BaseConnectionManager,
        ConnectionFactory,
        ConnectionType,
        register_connection_manager,
    )
    from sessions.errors import (
        BackendUnavailableError,
        ConfigurationError,
        InvalidInputError,
        MessageConflictError,
        MissingDependencyError,
        SchemaOutdatedError,
        SessionConflictError,
        SessionNotFoundError,
        SessionsError,
        TurnConflictError,
        UnknownRepositoryError,
        VersionConflictError,
    )
    from sessions.models import (
        UNSET,
        ChatMessage,
        ChatSession,
        NewMessage,
        PreviewPage,
        Role,
        SearchHit,
        SearchPage,
        SessionData,
        SessionPage,
        SessionPreview,
        Statistics,
        Unset,
    )
    from sessions.repositories import (
        AsyncSessionRepository,
        BaseSessionRepository,
        SessionRepositoryFactory,
        SessionRepositoryRegistry,
        SessionRepositoryType,
        register_repository,
    )
    from sessions.resilience import RetryConfig, RetryStrategy, async_retry, retry

__all__ = [
    "UNSET",
    "AsyncBaseConnectionManager",
    "AsyncChats",
    "AsyncSessionRepository",
    "BackendUnavailableError",
    "BaseConnectionManager",
    "BaseSessionRepository",
    "CachedSessionRepository",
    "ChatMessage",
    "ChatSession",
    "Chats",
    "ConfigurationError",
    "ConnectionFactory",
    "ConnectionType",
    "InvalidInputError",
    "MemoryCache",
    "MessageConflictError",
    "MissingDependencyError",
    "NewMessage",
    "PreviewPage",
    "RedisCache",
    "RetryConfig",
    "RetryStrategy",
    "Role",
    "SchemaOutdatedError",
    "SearchHit",
    "SearchPage",
    "SessionConflictError",
    "SessionData",
    "SessionNotFoundError",
    "SessionPage",
    "SessionPreview",
    "SessionRepositoryFactory",
    "SessionRepositoryRegistry",
    "SessionRepositoryType",
    "SessionsError",
    "Statistics",
    "TurnConflictError",
    "UnknownRepositoryError",
    "Unset",
    "VersionConflictError",
    "async_retry",
    "register_connection_manager",
    "register_repository",
    "retry",
]

if not TYPE_CHECKING:  # With `__getattr__`, a type checker would accept any name.
    # The imports above again, for the interpreter; a test compares the two.
    _NAMES_OF = {
        "cache": ("CachedSessionRepository", "MemoryCache", "RedisCache"),
        "chats": ("AsyncChats", "Chats"),
        "connections": (
            "AsyncBaseConnectionManager",
            "BaseConnectionManager",
            "ConnectionFactory",
            "ConnectionType",
            "register_connection_manager",
        ),
        "errors": (
            "BackendUnavailableError",
            "ConfigurationError",
            "InvalidInputError",
            "MessageConflictError",
            "MissingDependencyError",
            "SchemaOutdatedError",
            "SessionConflictError",
            "SessionNotFoundError",
            "SessionsError",
            "TurnConflictError",
            "UnknownRepositoryError",
            "VersionConflictError",
        ),
        "models": (
            "UNSET",
            "ChatMessage",
            "ChatSession",
            "NewMessage",
            "PreviewPage",
            "Role",
            "SearchHit",
            "SearchPage",
            "SessionData",
            "SessionPage",
            "SessionPreview",
            "Statistics",
            "Unset",
        ),
        "repositories": (
            "AsyncSessionRepository",
            "BaseSessionRepository",
            "SessionRepositoryFactory",
            "SessionRepositoryRegistry",
            "SessionRepositoryType",
            "register_repository",
        ),
        "resilience": ("RetryConfig", "RetryStrategy", "async_retry", "retry"),
        # Modules that are attributes of the package, and that no name above loads.
        "config": (),
        "validation": (),
    }
    _MODULE_OF = {name: module for module, names in _NAMES_OF.items() for name in names}

    def __getattr__(name: str) -> object:
        from importlib import import_module

        if name in _NAMES_OF:
            return import_module(f"sessions.{name}")
        if name not in _MODULE_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(f"sessions.{_MODULE_OF[name]}"), name)
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__, *_NAMES_OF})
