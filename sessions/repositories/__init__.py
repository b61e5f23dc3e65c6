"""Session repositories: the interface, the factory and registry, and the built-in backends.

The backends' own modules are loaded by the factory on first use, each with its driver.
"""

from sessions.repositories.async_session_repository import AsyncSessionRepository
from sessions.repositories.base_session_repository import BaseSessionRepository
from sessions.repositories.session_repository_factory import (
    SessionRepositoryFactory,
    SessionRepositoryRegistry,
    SessionRepositoryType,
    register_repository,
)

__all__ = [
    "AsyncSessionRepository",
    "BaseSessionRepository",
    "SessionRepositoryFactory",
    "SessionRepositoryRegistry",
    "SessionRepositoryType",
    "register_repository",
]
