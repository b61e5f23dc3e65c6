"""The cost of a call on a large and on a small amount of data: ``python -m benchmarks.growth``.

It starts its own servers, which generate the rows.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from benchmarks import servers
from benchmarks.fillers import CONTENT, FILLERS, Filler
from benchmarks.tables import milliseconds, table
from benchmarks.timing import Call, Effort, one_caller
from sessions import SessionRepositoryFactory
from sessions.core.cursors import encode_cursor
from sessions.repositories import AsyncSessionRepository

__all__ = ["CONTENT", "FILLERS", "TITLES", "measure", "new_database", "of_backend"]

TITLES = {"postgres": "PostgreSQL", "mongodb": "MongoDB", "sqlite": "SQLite", "redis": "Redis"}
USER = "alice"
_numbers = itertools.count()
PAGE = 20
# Of half of the sessions.
WHERE = {"pinned": True}


@dataclass(frozen=True)
class Size:
    """The amount of data.

    Attributes:
        messages: Messages of the long session.
        sessions: Sessions of the large user.
        rows: Messages in the large table.
    """

    messages: int = 100_000
    sessions: int = 100_000
    rows: int = 10_000_000


# All of it is in memory.
REDIS = Size(messages=100_000, sessions=100_000, rows=1_000_000)
QUICK = Size(messages=5_000, sessions=5_000, rows=100_000)


@dataclass(frozen=True)
class Comparison:
    """One call on a large and on a small amount of data.

    Attributes:
        what: Name of the row.
        much: The call on the large amount.
        little: The call on the small amount.
        target: Upper limit of the ratio of their medians.
    """

    what: str
    much: Call
    little: Call
    target: float


async def of_backend(backend: str, url: str, effort: Effort, size: Size) -> str:
    """Return the Markdown table of one backend.

    Args:
        backend: ``"postgres"`` or ``"mongodb"``.
        url: A server on which databases may be created.
        effort: How often each call is timed.
        size: The amount of data.
    """
    small_url, large_url = await new_database(backend, url), await new_database(backend, url)
    async with (
        SessionRepositoryFactory.create_repository(backend, url=small_url) as small,
        SessionRepositoryFactory.create_repository(backend, url=large_url) as large,
    ):
        rows = await _compare(await _appends_to_large(backend, large_url, small, large, size), effort)
        rows += await _compare(await _within_one_table(backend, small_url, small, size), effort)
    return table(("", "large", "small", "ratio", "target"), rows)


async def _compare(comparisons: list[Comparison], effort: Effort) -> list[list[str]]:
    rows = []
    for one in comparisons:
        medians = await one_caller({"much": one.much, "little": one.little}, effort)
        ratio = medians["much"] / medians["little"]
        shown = [milliseconds(medians["much"]), milliseconds(medians["little"]), f"{ratio:.2f}"]
        rows.append([one.what, *shown, f"≤ {one.target}"])
    return rows


async def _appends_to_large(
    backend: str, large_url: str, small: AsyncSessionRepository, large: AsyncSessionRepository, size: Size
) -> list[Comparison]:
    await large._ensure_connection()
    filler: Filler = await FILLERS[backend].of(large_url)
    await filler.add_rows(size.rows)
    await filler.close()
    in_small, in_large = await small.create_session_async(USER), await large.create_session_async(USER)
    return [
        Comparison(
            f"append, {size.rows:,} messages in the table / none",
            lambda: large.add_message(in_large, "user", CONTENT),
            lambda: small.add_message(in_small, "user", CONTENT),
            1.3,
        )
    ]


async def _within_one_table(
    backend: str, url: str, repository: AsyncSessionRepository, size: Size
) -> list[Comparison]:
    filler: Filler = await FILLERS[backend].of(url)
    few, many = "few", "many"
    await filler.add_sessions(few, PAGE)
    await filler.add_sessions(many, size.sessions)
    ten, fifty, long = [await repository.create_session_async(USER) for _ in range(3)]
    for session_id, messages in ((ten, 10), (fifty, 50), (long, size.messages)):
        await filler.add_messages(session_id, messages)
    await filler.close()
    pages = size.sessions // PAGE
    before_last = await repository.list_paginated_sessions_async(many, pages - 2, PAGE)
    cursor = encode_cursor(before_last[-1])
    return [
        Comparison(
            f"newest 50 of {size.messages:,} messages / of 50",
            lambda: repository.get_session_history(USER, long, limit=50),
            lambda: repository.get_session_history(USER, fifty, limit=50),
            1.3,
        ),
        Comparison(
            f"first page of {size.sessions:,} sessions / of {PAGE}",
            lambda: repository.list_paginated_sessions_async(many, 0, PAGE),
            lambda: repository.list_paginated_sessions_async(few, 0, PAGE),
            1.3,
        ),
        Comparison(
            f"keyset page {pages:,} / page 1",
            lambda: repository.list_sessions(many, limit=PAGE, cursor=cursor),
            lambda: repository.list_sessions(many, limit=PAGE),
            1.3,
        ),
        Comparison(
            f"first page where= of {size.sessions:,} sessions / of {PAGE}",
            lambda: repository.list_sessions(many, limit=PAGE // 2, where=WHERE),
            lambda: repository.list_sessions(few, limit=PAGE // 2, where=WHERE),
            1.3,
        ),
        Comparison(
            f"keyset page {pages:,} where= / page 1",
            lambda: repository.list_sessions(many, limit=PAGE // 2 - 1, cursor=cursor, where=WHERE),
            lambda: repository.list_sessions(many, limit=PAGE // 2 - 1, where=WHERE),
            1.3,
        ),
        Comparison(
            f"first page of previews of {size.sessions:,} sessions / of {PAGE}",
            lambda: repository.list_session_previews(many, limit=PAGE - 1),
            lambda: repository.list_session_previews(few, limit=PAGE - 1),
            1.3,
        ),
        # Last, because it appends further messages.
        Comparison(
            f"append to a session of {size.messages:,} messages / of 10",
            lambda: repository.add_message(long, "user", CONTENT),
            lambda: repository.add_message(ten, "user", CONTENT),
            1.2,
        ),
    ]


async def new_database(backend: str, url: str) -> str:
    """Return the URL of a new database on a server."""
    name = f"growth_{uuid.uuid4().hex}"
    if backend == "redis":
        # Its databases have numbers; by default there are sixteen.
        return f"{url}/{next(_numbers) % 16}"
    if backend == "sqlite":
        return f"{url}/{name}.db"
    if backend == "postgres":
        connection = await asyncpg.connect(url)
        await connection.execute(f"CREATE DATABASE {name}")
        await connection.close()
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


@contextlib.contextmanager
def sqlite_folder() -> Iterator[str]:
    """Yield the URL of a folder for files."""
    with tempfile.TemporaryDirectory() as folder:
        yield f"sqlite:///{folder}"


def measure(quick: bool, backends: tuple[str, ...] = tuple(TITLES)) -> str:
    """Start the servers and return the tables of all backends, as Markdown."""
    effort, size = (Effort(rounds=2, calls=5), QUICK) if quick else (Effort(), Size())
    parts = []
    for backend in backends:
        if backend == "redis" and not quick:
            size = REDIS
        with sqlite_folder() if backend == "sqlite" else getattr(servers, backend)() as url:
            text = asyncio.run(of_backend(backend, url, effort, size))
        parts.append(f"### {TITLES[backend]}: large and small amounts of data\n\n{text}\n")
    return "\n".join(parts)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few rows and calls: to see that it runs")
    parser.add_argument("--backend", action="append", choices=list(TITLES), help="may be repeated")
    options = parser.parse_args()
    print(measure(options.quick, tuple(options.backend or TITLES)))
