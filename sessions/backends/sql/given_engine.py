"""A service's own engine."""

from __future__ import annotations

from collections.abc import Hashable

from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncEngine

from sessions.errors import ConfigurationError

__all__ = ["check_engine", "engine_key"]


def check_engine(engine: object) -> AsyncEngine:
    """Return a service's own engine.

    Raises:
        ConfigurationError: It is not an ``AsyncEngine``.
    """
    if not isinstance(engine, AsyncEngine):
        kind = "a blocking Engine" if isinstance(engine, Engine) else f"a {type(engine).__name__}"
        raise ConfigurationError(
            f"engine: must be an AsyncEngine, as create_async_engine makes it, not {kind}"
        )
    return engine


def engine_key(engine: AsyncEngine | None, settings: Hashable) -> Hashable:
    """Return the cache key of a manager: the service's own engine, or the settings with the URL."""
    if engine is not None:
        check_engine(engine)
    # The engine itself, not its id, which could be reused after a garbage collection.
    return settings if engine is None else (engine, settings)
