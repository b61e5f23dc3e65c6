"""Compares a repository with and without a cache: with the database 5 ms away, and on the same machine."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

from benchmarks.tables import milliseconds, table
from benchmarks.timing import Effort, one_caller
from sessions import CachedSessionRepository, MemoryCache, RedisCache, SessionRepositoryFactory

__all__ = ["compared", "measure"]

HEAD = ("operation", "without", "memory", "ratio", "Redis", "ratio", "target")
USER = "alice"
SECONDS_AWAY = 0.005
MESSAGES, SESSIONS = 100, 20
# How many times faster the history is where a cache pays.
TARGET = 5.0

Call = Callable[[], Awaitable[object]]


@contextlib.contextmanager
def _databases() -> Iterator[tuple[str, str, str]]:
    """Start the servers; yield the URLs of PostgreSQL, of PostgreSQL through a delay, and of Valkey."""
    # The proxy of the tests, and servers on TCP for it.
    from tests.faults.breakable import Postgres, Valkey, running
    from tests.faults.proxy import Fault, Plan, proxy

    postgres, valkey = Postgres(), Valkey("--appendonly", "no")
    with running(postgres), running(valkey), proxy(postgres.port, "postgres") as between:
        between.plan = Plan(Fault.DELAY, delay=SECONDS_AWAY)
        far = postgres.url.replace(f":{postgres.port}/", f":{between.port}/")
        yield postgres.url, far, valkey.url


def measure(effort: Effort) -> str:
    """Start the servers, and return both tables."""
    with _databases() as (near, far, redis_url):
        away = asyncio.run(compared(far, redis_url, effort.divided(4), target=TARGET))
        here = asyncio.run(compared(near, redis_url, effort, target=None))
    return f"{milliseconds(SECONDS_AWAY)} away:\n\n{away}\n\nOn the same machine:\n\n{here}"


async def compared(url: str, redis_url: str, effort: Effort, *, target: float | None) -> str:
    """Return the table of one database.

    Args:
        url: Of PostgreSQL.
        redis_url: Of the cache server.
        effort: The number of measurements.
        target: How many times faster a history of 100 should be; None for no target.
    """
    rows = []
    async with _contenders(url, redis_url) as contenders:
        for name in ("history of 100", "get_session", "page of 20 sessions", "add_message"):
            calls = {each: await _call(name, repository) for each, repository in contenders.items()}
            seconds = await one_caller(calls, effort)
            cells = [milliseconds(seconds["without"])]
            for each in ("memory", "redis"):
                faster = seconds["without"] / seconds[each]
                misses = target is not None and name == "history of 100" and faster < target
                cells += [milliseconds(seconds[each]), f"**{faster:.1f}**" if misses else f"{faster:.1f}"]
            wanted = f"≥ {target:g}" if target is not None and name == "history of 100" else ""
            rows.append((name, *cells, wanted))
    return table(HEAD, rows)


@contextlib.asynccontextmanager
async def _contenders(url: str, redis_url: str) -> AsyncIterator[dict[str, Any]]:
    async with SessionRepositoryFactory.create_repository("postgres", url=url) as behind:
        redis = RedisCache(redis_url, ttl=3600)
        yield {
            "without": behind,
            "memory": CachedSessionRepository(behind, cache=MemoryCache(ttl=3600)),
            "redis": CachedSessionRepository(behind, cache=redis),
        }
        await redis.aclose()


async def _call(name: str, repository: Any) -> Call:
    """Return a call of a repository, on a session of its own."""
    content = "Begin at the river, then walk up the hill. " * 5
    turns = [("user", content), ("assistant", content)] * (MESSAGES // 2)
    user_id = f"{USER}-{name}-{id(repository)}"
    session_id = await repository.create_session_async(user_id, messages=turns)
    if name == "history of 100":
        return lambda: repository.get_session_history(user_id, session_id, limit=MESSAGES)
    if name == "get_session":
        return lambda: repository.get_session(user_id, session_id)
    if name == "add_message":
        return lambda: repository.add_message(session_id, "user", content, user_id=user_id)
    for _ in range(SESSIONS - 1):
        await repository.create_session_async(user_id)
    return lambda: repository.list_sessions(user_id, limit=SESSIONS)
