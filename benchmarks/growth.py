"""The cost of a call on a large and on a small amount of data: ``python -m benchmarks.growth``.

It starts its own servers, which generate the rows.
"""

from __future__ import annotations

import argparse
import asyncio
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol
from urllib.parse import urlsplit, urlunsplit

import asyncpg
from pymongo import AsyncMongoClient

from benchmarks import servers
from benchmarks.tables import milliseconds, table
from benchmarks.timing import Call, Effort, one_caller
from sessions import SessionRepositoryFactory
from sessions.core.cursors import encode_cursor
from sessions.models.documents import ChatMessageDocument
from sessions.repositories import AsyncSessionRepository

__all__ = ["CONTENT", "FILLERS", "TITLES", "measure", "new_database", "of_backend"]

TITLES = {"postgres": "PostgreSQL", "mongodb": "MongoDB"}
USER = "alice"
CONTENT = ("What should I see first when I am in Rome for a day? " * 4)[:200]
PAGE = 20
# Sessions among which the rows of a large table are spread.
OTHERS = 100_000


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


class Filler(Protocol):
    """Inserts rows into a database whose schema is ready."""

    async def add_sessions(self, user_id: str, number: int) -> None:
        """Insert sessions of a user, each a second older than the previous one."""

    async def add_messages(self, session_id: str, number: int) -> None:
        """Insert messages of a session, each a millisecond older than the previous one."""

    async def add_rows(self, number: int) -> None:
        """Insert messages of many sessions, and wait until the server is idle."""

    async def close(self) -> None: ...


class PostgresFiller:
    """Inserts rows into PostgreSQL."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    @classmethod
    async def of(cls, url: str) -> PostgresFiller:
        return cls(await asyncpg.connect(url))

    async def add_sessions(self, user_id: str, number: int) -> None:
        await self._connection.execute(
            """INSERT INTO chat_sessions (session_id, title, user_id, created_at, updated_at, metadata)
               SELECT gen_random_uuid(), 'title', $1, at, at, '{}'
               FROM generate_series(1, $2::integer) i, LATERAL (SELECT now() - i * interval '1 s') t(at)""",
            user_id,
            number,
        )

    async def add_messages(self, session_id: str, number: int) -> None:
        await self._connection.execute(
            """INSERT INTO chat_messages (message_id, session_id, role, content, timestamp)
               SELECT gen_random_uuid(), $1, 'user', $2, now() - i * interval '1 ms'
               FROM generate_series(1, $3::integer) i""",
            uuid.UUID(session_id),
            CONTENT,
            number,
        )

    async def add_rows(self, number: int) -> None:
        # Indexes and foreign keys afterwards, as pg_restore does.
        await self._connection.execute(
            f"""
            SET session_replication_role = replica;
            SET maintenance_work_mem = '512MB';
            INSERT INTO chat_sessions (session_id, title, user_id, metadata)
            SELECT md5(i::text)::uuid, 'title', 'user' || i, '{{}}' FROM generate_series(0, {OTHERS - 1}) i;
            ALTER TABLE chat_messages DROP CONSTRAINT chat_messages_pkey;
            DROP INDEX idx_messages_session_id;
            INSERT INTO chat_messages (message_id, session_id, role, content, timestamp)
            SELECT gen_random_uuid(), md5((i % {OTHERS})::text)::uuid, 'user', '{CONTENT}',
                   now() - i * interval '1 ms'
            FROM generate_series(1, {number}) i;
            ALTER TABLE chat_messages ADD CONSTRAINT chat_messages_pkey PRIMARY KEY (message_id);
            CREATE INDEX idx_messages_session_id ON chat_messages
                (session_id, timestamp, write_order, message_id);
            """
        )
        await self._connection.execute("VACUUM ANALYZE")
        await self._connection.execute("CHECKPOINT")

    async def close(self) -> None:
        await self._connection.close()


class MongoFiller:
    """Inserts documents into MongoDB."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._database = client.get_default_database()

    @classmethod
    async def of(cls, url: str) -> MongoFiller:
        return cls(AsyncMongoClient(url))

    async def add_sessions(self, user_id: str, number: int) -> None:
        at = {"$subtract": [datetime.now(UTC), {"$multiply": ["$n", 1000]}]}
        fields = {"user_id": user_id, "title": "title", "metadata": {"$literal": {}}}
        fields |= {"session_id": _text(f"{user_id}-", "$n"), "created_at": at, "updated_at": at}
        await self._add("chat_sessions", number, fields)

    async def add_messages(self, session_id: str, number: int) -> None:
        at = {"$subtract": [datetime.now(UTC), "$n"]}
        fields = {"session_id": session_id, "message_id": _text(f"{session_id}-", "$n"), "timestamp": at}
        await self._add("chat_messages", number, fields | {"role": "user", "content": CONTENT})

    async def add_rows(self, number: int) -> None:
        messages = self._database["chat_messages"]
        options = await messages.options()
        at = {"$subtract": [datetime.now(UTC), "$n"]}
        fields = {
            "session_id": _text("other-", {"$mod": ["$n", OTHERS]}),
            "message_id": _text("other-", "$n"),
            "timestamp": at,
            "role": "user",
            "content": CONTENT,
        }
        await messages.drop()
        await self._add("chat_messages", number, fields, {"$out": "chat_messages"})
        await messages.create_indexes(ChatMessageDocument.Settings.indexes)
        await self._database.command("collMod", "chat_messages", **options)
        await self._client.admin.command("fsync")

    async def _add(
        self, collection: str, number: int, fields: dict[str, Any], into: dict[str, Any] | None = None
    ) -> None:
        step = 1000
        # $range builds an array, so the numbers are made in two steps.
        numbers = {"$map": {"input": {"$range": [0, -(-number // step)]}, "in": {"k": "$$this"}}}
        merge = {"$merge": {"into": collection, "whenMatched": "fail"}}
        cursor = await self._database.aggregate(
            [
                {"$documents": numbers},
                {"$set": {"n": {"$range": [1, step + 1]}}},
                {"$unwind": "$n"},
                {"$set": {"n": {"$add": ["$n", {"$multiply": ["$k", step]}]}}},
                {"$match": {"n": {"$lte": number}}},
                {"$project": {"_id": 0} | fields},
                into or merge,
            ],
            allowDiskUse=True,
        )
        await cursor.to_list(None)

    async def close(self) -> None:
        await self._client.close()


def _text(prefix: str, number: Any) -> dict[str, Any]:
    return {"$concat": [prefix, {"$toString": number}]}


FILLERS: Mapping[str, Any] = {"postgres": PostgresFiller, "mongodb": MongoFiller}


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
    if backend == "postgres":
        connection = await asyncpg.connect(url)
        await connection.execute(f"CREATE DATABASE {name}")
        await connection.close()
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


def measure(quick: bool, backends: tuple[str, ...] = tuple(TITLES)) -> str:
    """Start the servers and return the tables of all backends, as Markdown."""
    effort, size = (Effort(rounds=2, calls=5), QUICK) if quick else (Effort(), Size())
    parts = []
    for backend in backends:
        with getattr(servers, backend)() as url:
            text = asyncio.run(of_backend(backend, url, effort, size))
        parts.append(f"### {TITLES[backend]}: large and small amounts of data\n\n{text}\n")
    return "\n".join(parts)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few rows and calls: to see that it runs")
    parser.add_argument("--backend", action="append", choices=list(TITLES), help="may be repeated")
    options = parser.parse_args()
    print(measure(options.quick, tuple(options.backend or TITLES)))
