"""The cost of a search for a user with 50,000 messages in a large table.

The rows are created on a server that is started for it: ``python -m benchmarks.search``.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import re
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from time import perf_counter
from typing import Any

import asyncpg
from bson import ObjectId
from pymongo import AsyncMongoClient

from benchmarks import servers
from benchmarks.fillers import MongoFiller
from benchmarks.growth import new_database
from benchmarks.tables import milliseconds, table
from sessions import SessionRepositoryFactory
from sessions.repositories import AsyncSessionRepository

__all__ = ["QUERIES", "SEARCHERS", "Size", "measure", "of_backend"]

TITLES = {"postgres": "PostgreSQL", "mongodb": "MongoDB"}

COMMON = re.findall(
    r"\w+", "the of and to in a is that it for was on are as with be at by this from have an they"
)
RARER = re.findall(
    r"\w+",
    "forum temple morning ticket museum bridge river garden market station window coffee bread harbour "
    "square tower palace street church gallery theatre library mountain village island beach journey summer "
    "winter evening question answer reason example number letter language history science music picture",
)
# Texts that the messages repeat, each with a number of its own.
TEXTS = 20_000
RARE = ("quagga", "зебра")
QUERIES = {
    "a common word": "the",
    "two words": "museum garden",
    "a rare word": RARE[0],
    "a rare word in Cyrillic": RARE[1],
    "no hit": "okapi",
}


@dataclass(frozen=True)
class Size:
    """The amount of data.

    Attributes:
        rows: Messages of other users, by backend.
        messages: Messages of each user who searches.
        calls: Timed calls of each query.
    """

    rows: Mapping[str, int]
    messages: int = 50_000
    calls: int = 15


FULL = Size({"postgres": 10_000_000, "mongodb": 1_000_000})
QUICK = Size({"postgres": 20_000, "mongodb": 20_000}, messages=2_500, calls=2)


@dataclass(frozen=True)
class Searcher:
    """A user who searches.

    Attributes:
        user_id: The user.
        sessions: Number of sessions.
        is_spread: Whether the messages are spread evenly over the table; else they are side by side.
    """

    user_id: str
    sessions: int
    is_spread: bool

    def describe(self, messages: int) -> str:
        """Return the user's messages in words."""
        place = "spread over the table" if self.is_spread else "side by side"
        return f"{self.sessions:,} x {messages // self.sessions:,}, {place}"


SEARCHERS = (
    Searcher("few, side by side", 50, False),
    Searcher("many, side by side", 2_500, False),
    Searcher("few, spread", 50, True),
    Searcher("many, spread", 2_500, True),
)


def texts(choice: random.Random) -> Iterator[str]:
    """Yield the texts of messages, of 260 characters on average."""
    for _ in range(TEXTS):
        words = choice.choices(COMMON + RARER, [4] * len(COMMON) + [1] * len(RARER), k=choice.randint(5, 100))
        yield " ".join(words)


async def fill(backend: str, url: str, size: Size) -> None:
    """Create all messages in a database whose schema is ready."""
    await {"postgres": _fill_postgres, "mongodb": _fill_mongodb}[backend](url, size)


async def _fill_postgres(url: str, size: Size) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute("CREATE TABLE texts (n integer PRIMARY KEY, content text)")
    rows = list(enumerate(texts(random.Random(1))))
    await connection.copy_records_to_table("texts", records=rows)
    others, step = size.rows["postgres"], size.rows["postgres"] // size.messages
    sessions = others // 100
    owner = " ".join(
        f"WHEN {place} THEN {_session_of(searcher, f'i / {step}')}"
        for place, searcher in enumerate(one for one in SEARCHERS if one.is_spread)
    )
    # Indexes and foreign keys afterwards, as pg_restore does.
    await connection.execute(
        f"""
        SET session_replication_role = replica;
        SET maintenance_work_mem = '512MB';
        ANALYZE texts;
        ALTER TABLE chat_messages DROP CONSTRAINT chat_messages_pkey;
        DROP INDEX idx_messages_session_id;
        {_add_sessions("other", sessions, "'other' || i")}
        {_add_messages(others, f"CASE i % {step} {owner} ELSE md5('other' || i % {sessions}) END")}
        """
    )
    for searcher in SEARCHERS:
        await connection.execute(_add_sessions(searcher.user_id, searcher.sessions, f"'{searcher.user_id}'"))
        if not searcher.is_spread:
            await connection.execute(_add_messages(size.messages, _session_of(searcher, "i")))
        for word in RARE:
            await connection.execute(_add_messages(1, _session_of(searcher, "i"), f"'One {word}.'"))
    await connection.execute(
        """
        DROP TABLE texts;
        ALTER TABLE chat_messages ADD CONSTRAINT chat_messages_pkey PRIMARY KEY (message_id);
        CREATE INDEX idx_messages_session_id
            ON chat_messages (session_id, timestamp, write_order, message_id);
        """
    )
    await connection.execute("VACUUM ANALYZE")
    await connection.execute("CHECKPOINT")
    await connection.close()


def _session_of(searcher: Searcher, number: str) -> str:
    return f"md5('{searcher.user_id}' || ({number}) % {searcher.sessions})"


def _add_sessions(prefix: str, number: int, user_id: str) -> str:
    return f"""
        INSERT INTO chat_sessions (session_id, title, user_id, created_at, updated_at, metadata)
        SELECT md5('{prefix}' || i)::uuid, 'title', {user_id}, now(), now() - i * interval '1 s', '{{}}'
        FROM generate_series(0, {number - 1}) i;
    """


def _add_messages(number: int, session_id: str, content: str = "content || ' ' || i") -> str:
    return f"""
        INSERT INTO chat_messages (message_id, session_id, role, content, timestamp)
        SELECT gen_random_uuid(), ({session_id})::uuid, 'user', {content},
               now() - ({number} - i) * interval '1 s'
        FROM generate_series(1, {number}) i JOIN texts ON n = i::bigint * 7919 % {TEXTS};
    """


async def _fill_mongodb(url: str, size: Size) -> None:
    filler = await MongoFiller.of(url)
    await filler.add_rows(size.rows["mongodb"])
    await filler.close()
    contents, now = list(texts(random.Random(1))), datetime.now(UTC)
    async with AsyncMongoClient[dict[str, Any]](url) as client:
        database = client.get_default_database()
        for searcher in (one for one in SEARCHERS if not one.is_spread):
            chat_sessions = [
                {"_id": ObjectId(), "session_id": f"{searcher.user_id} {number}", "user_id": searcher.user_id}
                | {"title": "title", "metadata": {}, "created_at": now}
                | {"updated_at": now - timedelta(seconds=number)}
                for number in range(searcher.sessions)
            ]
            await database["chat_sessions"].insert_many(chat_sessions)
            messages = []
            for number in range(size.messages + len(RARE)):
                owner = chat_sessions[number % searcher.sessions]
                is_rare = number >= size.messages
                content = f"One {RARE[number - size.messages]}." if is_rare else contents[number % TEXTS]
                message_id = f"{searcher.user_id} {number}"
                messages.append(
                    {"_id": message_id, "message_id": message_id, "session_oid": owner["_id"]}
                    | {"session_id": owner["session_id"], "role": "user", "content": content}
                    | {"timestamp": now - timedelta(milliseconds=number)}
                )
            await database["chat_messages"].insert_many(messages)


async def timed(
    repository: AsyncSessionRepository, size: Size, searchers: tuple[Searcher, ...] = SEARCHERS
) -> str:
    """Return the Markdown table of the medians."""
    rows = []
    for searcher in searchers:
        shown = []
        for query in QUERIES.values():
            # The first call warms the caches.
            seconds = [await _seconds(repository, searcher, query) for _ in range(size.calls + 1)][1:]
            shown.append(milliseconds(statistics.median(seconds)))
        rows.append([searcher.describe(size.messages), *shown])
    return table(("sessions x messages", *QUERIES), rows)


async def _seconds(repository: AsyncSessionRepository, searcher: Searcher, query: str) -> float:
    started = perf_counter()
    await repository.search_messages(searcher.user_id, query)
    return perf_counter() - started


async def of_backend(backend: str, url: str, size: Size) -> str:
    """Return the Markdown table of one backend.

    Args:
        backend: ``"postgres"`` or ``"mongodb"``.
        url: An empty database.
        size: The amount of data.
    """
    async with SessionRepositoryFactory.create_repository(backend, url=url) as repository:
        await repository.ensure_ready()
        await fill(backend, url, size)
        searchers = (
            SEARCHERS if backend == "postgres" else tuple(one for one in SEARCHERS if not one.is_spread)
        )
        return await timed(repository, size, searchers)


def measure(quick: bool, backends: tuple[str, ...] = tuple(TITLES)) -> str:
    """Start the servers and return the tables of all backends, as Markdown."""
    size = QUICK if quick else FULL
    parts = []
    for backend in backends:
        with getattr(servers, backend)() as url:
            text = asyncio.run(of_backend(backend, asyncio.run(new_database(backend, url)), size))
        title = f"{TITLES[backend]}: search among {size.rows[backend]:,} messages"
        parts.append(f"### {title}\n\n{text}\n")
    return "\n".join(parts)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.search", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few rows and calls: to see that it runs")
    parser.add_argument("--backend", action="append", choices=list(TITLES), help="may be repeated")
    options = parser.parse_args()
    print(measure(options.quick, tuple(options.backend or TITLES)))
