"""Caches by URL, and by the settings: one for all repositories of this process."""

from __future__ import annotations

from typing import Any

from sessions.cache.base import SessionCache
from sessions.cache.memory import MemoryCache
from sessions.cache.redis_cache import RedisCache
from sessions.config import CacheSettings, load_settings
from sessions.core.forks import ProcessLock

__all__ = ["cache_of", "configured_cache"]

MEMORY = "memory://"

_lock = ProcessLock()
_caches: dict[CacheSettings, SessionCache] = {}


def cache_of(url: str) -> SessionCache:
    """Return the cache of a URL; its other settings are those of ``sessions.cache``.

    Args:
        url: ``memory://``, ``redis://…``, ``rediss://…``, ``valkey://…`` or ``unix://…``.

    Raises:
        ConfigurationError: The URL is wrong. The text does not show it.
        MissingDependencyError: The cache needs a package that is not installed.
    """
    return _shared(load_settings().sessions.cache.with_url(url))


def configured_cache() -> SessionCache | None:
    """Return the cache that ``sessions.cache.url`` names; None if it names none.

    Raises:
        ConfigurationError: A setting is missing or wrong.
        MissingDependencyError: The cache needs a package that is not installed.
    """
    settings = load_settings().sessions.cache
    return None if settings.url is None else _shared(settings)


def _shared(settings: CacheSettings) -> SessionCache:
    with _lock:
        if (found := _caches.get(settings)) is None:
            found = _caches[settings] = _new(settings)
        return found


def _new(settings: CacheSettings) -> SessionCache:
    assert settings.url is not None
    url = settings.url.get_secret_value()
    if url == MEMORY:
        return _SharedMemoryCache(settings)
    return RedisCache(
        url,
        ttl=settings.ttl,
        prefix=settings.prefix,
        timeout=settings.timeout,
        max_value_bytes=settings.max_value_bytes,
    )


class _SharedMemoryCache(MemoryCache):
    """The cache in memory of some settings."""

    def __init__(self, settings: CacheSettings) -> None:
        super().__init__(
            ttl=settings.ttl, max_bytes=settings.max_bytes, max_value_bytes=settings.max_value_bytes
        )
        self._settings = settings

    def __reduce__(self) -> Any:
        return _shared, (self._settings,)
