"""Chat conversations in PostgreSQL, MongoDB or SQLite, behind one interface."""

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
    MissingDependencyError,
    SchemaOutdatedError,
    SessionConflictError,
    SessionNotFoundError,
    SessionsError,
    UnknownRepositoryError,
)
from sessions.models import ChatMessage, ChatSession, SessionPage
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
    "AsyncBaseConnectionManager",
    "AsyncSessionRepository",
    "BackendUnavailableError",
    "BaseConnectionManager",
    "BaseSessionRepository",
    "ChatMessage",
    "ChatSession",
    "ConfigurationError",
    "ConnectionFactory",
    "ConnectionType",
    "InvalidInputError",
    "MissingDependencyError",
    "RetryConfig",
    "RetryStrategy",
    "SchemaOutdatedError",
    "SessionConflictError",
    "SessionNotFoundError",
    "SessionPage",
    "SessionRepositoryFactory",
    "SessionRepositoryRegistry",
    "SessionRepositoryType",
    "SessionsError",
    "UnknownRepositoryError",
    "async_retry",
    "register_connection_manager",
    "register_repository",
    "retry",
]
