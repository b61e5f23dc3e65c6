"""A cache in front of a repository, in the memory of a process or on a Redis server.

Why not a library made for it: a cached value must never be older than the last write that has returned. That
takes a store that is conditional on what writers did since the reader began, decided by the cache itself, and
a mark of the writers that are under way. Libraries for caching results of functions (cashews, aiocache) read,
compute and store without such a condition, so a slow reader puts back what a writer has just removed. Their
tags are sets of keys to delete, which a value that is stored a moment later is not in; the locks against
stampedes are held by readers only, and writers do not see them; the memory backends count entries, not bytes.
What is left are the parts: cachetools for bounded memory, and redis-py.
"""

from __future__ import annotations

from sessions.cache.base import SessionCache
from sessions.cache.memory import MemoryCache
from sessions.cache.opening import cache_of, configured_cache
from sessions.cache.redis_cache import RedisCache
from sessions.cache.repository import CachedSessionRepository

__all__ = [
    "CachedSessionRepository",
    "MemoryCache",
    "RedisCache",
    "SessionCache",
    "cache_of",
    "configured_cache",
]
