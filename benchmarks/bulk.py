"""Import and copy of conversations of ten messages, beside the fastest way to insert the same rows.

That is ``COPY`` with asyncpg, ``insert_many`` with PyMongo's asyncio client, and ``executemany`` of sqlite3,
with commits as durable, in smaller batches, without checks and conversions. In alternation, each into emptied
tables: ``python -m benchmarks.bulk``.
"""

from __future__ import annotations

import argparse
import asyncio
import sqlite3
import statistics
import uuid
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from time import perf_counter, process_time
from typing import Any

import asyncpg
from pymongo import AsyncMongoClient, WriteConcern

from benchmarks import servers
from benchmarks.tables import table
from sessions import ChatMessage, ChatSession, SessionRepositoryFactory
from sessions.cli.copying import Copy
from sessions.cli.exported_lines import format_line
from sessions.cli.importing import import_lines

__all__ = ["measure"]

SERVERS = {"postgres": servers.postgres, "mongodb": servers.mongodb, "sqlite": servers.sqlite}
RAW = {"postgres": "`COPY`", "mongodb": "`insert_many`", "sqlite": "`executemany`"}
TARGETS = {"postgres": 20_000, "mongodb": 10_000, "sqlite": 20_000}
MESSAGES, BATCH = 10, 500
RATIO = 0.4
THEN = datetime(2026, 1, 1, tzinfo=UTC)
SESSION = ("session_id", "title", "user_id", "created_at", "updated_at", "metadata", "version")
MESSAGE = ("message_id", "session_id", "role", "content", "timestamp", "metadata", "payload", "write_order")

Conversation = tuple[ChatSession, list[ChatMessage]]


def _conversations(count: int) -> Iterator[Conversation]:
    for number in range(count):
        session_id = str(uuid.uuid4())
        owner = ChatSession(session_id, "A chat", f"user {number % 100}", THEN, THEN, {"n": number}, MESSAGES)
        yield (
            owner,
            [
                ChatMessage(
                    str(uuid.uuid4()),
                    session_id,
                    "assistant" if place % 2 else "user",
                    f"Message {place} of a conversation: " + "what should I see first in Rome? " * 4,
                    THEN + timedelta(milliseconds=place),
                )
                for place in range(MESSAGES)
            ],
        )


def measure(quick: bool, backends: tuple[str, ...] = tuple(SERVERS)) -> str:
    """Return a Markdown table of the median rates, in messages per second."""
    rows = []
    for backend in backends:
        with SERVERS[backend]() as url:
            rows += asyncio.run(_of_backend(backend, url, 3 if quick else 2_000, 1 if quick else 5))
    head = ("", "messages/s", "target", "beside", "messages/s", "ratio", "target", "CPU time of a message")
    return table(head, rows)


async def _of_backend(backend: str, url: str, count: int, rounds: int) -> list[list[str]]:
    conversations = list(_conversations(count))
    lines = [format_line(*conversation) for conversation in conversations]
    seconds: dict[str, list[float]] = {"import": [], "copy": [], "raw": []}
    cpu: dict[str, list[float]] = {"import": [], "copy": [], "raw": []}
    create = SessionRepositoryFactory.create_repository
    async with create(backend, url=url) as repository, create("sqlite", url="sqlite://") as source:
        await repository.ensure_ready()
        await _import(source, lines)
        ways: dict[str, Callable[[], Awaitable[None]]] = {
            "import": lambda: _import(repository, lines),
            "copy": lambda: _copy(source, repository),
            "raw": lambda: _raw(backend, url, conversations),
        }
        for turn in range(rounds):
            for name in sorted(ways, reverse=bool(turn % 2)):
                await _empty(backend, url)
                began, began_cpu = perf_counter(), process_time()
                await ways[name]()
                seconds[name].append(perf_counter() - began)
                cpu[name].append(process_time() - began_cpu)
    total = count * MESSAGES
    rates = {name: total / statistics.median(taken) for name, taken in seconds.items()}
    return [
        [
            f"{backend}: {name}",
            f"{rates[name]:,.0f}",
            f"≥ {TARGETS[backend]:,}",
            RAW[backend],
            f"{rates['raw']:,.0f}",
            f"{rates[name] / rates['raw']:.2f}",
            f"≥ {RATIO}",
            f"{statistics.median(cpu[name]) / total * 1e6:.1f} µs",
        ]
        for name in ("import", "copy")
    ]


def _fail(fault: str) -> None:
    raise SystemExit(fault)


async def _import(repository: Any, lines: list[bytes]) -> None:
    await import_lines(repository, iter(lines), report=_fail, advance=lambda size, totals: None)


async def _copy(source: Any, target: Any) -> None:
    await Copy(source, target, prunes=False, milliseconds=False, report=_fail, advance=lambda *_: None).run()


async def _empty(backend: str, url: str) -> None:
    if backend == "postgres":
        connection = await asyncpg.connect(url)
        await connection.execute("TRUNCATE chat_sessions, chat_messages")
        await connection.close()
    elif backend == "mongodb":
        async with AsyncMongoClient[Any](url) as client:
            for name in ("chat_sessions", "chat_messages"):
                await client.get_default_database("agenthub")[name].delete_many({})
    else:
        with sqlite3.connect(url.removeprefix("sqlite:///")) as database:
            database.execute("DELETE FROM chat_messages")
            database.execute("DELETE FROM chat_sessions")
        database.close()


async def _raw(backend: str, url: str, conversations: list[Conversation]) -> None:
    parts = [conversations[start : start + BATCH] for start in range(0, len(conversations), BATCH)]
    if backend == "postgres":
        connection = await asyncpg.connect(url)
        for part in parts:
            async with connection.transaction():
                sessions, messages = _rows(part, str, lambda moment: moment)
                await connection.copy_records_to_table("chat_sessions", records=sessions, columns=SESSION)
                await connection.copy_records_to_table("chat_messages", records=messages, columns=MESSAGE)
        await connection.close()
    elif backend == "mongodb":
        async with AsyncMongoClient[Any](url) as client:
            durable = WriteConcern("majority", j=True)
            database = client.get_database("agenthub", write_concern=durable)
            for part in parts:
                sessions, messages = _rows(part, str, lambda moment: moment)
                documents = [dict(zip(SESSION, row, strict=True)) | {"metadata": {}} for row in sessions]
                await database.chat_sessions.insert_many(documents, ordered=False)
                documents = [dict(zip(MESSAGE[:5], row, strict=False)) | {"_id": row[0]} for row in messages]
                await database.chat_messages.insert_many(documents, ordered=False)
    else:
        await asyncio.to_thread(_executemany, url.removeprefix("sqlite:///"), parts)


def _executemany(path: str, parts: list[list[Conversation]]) -> None:
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("PRAGMA foreign_keys=ON")
    for part in parts:
        sessions, messages = _rows(
            part, lambda text: text.replace("-", ""), lambda moment: str(moment.replace(tzinfo=None))
        )
        database.execute("BEGIN IMMEDIATE")
        for name, columns, rows in (
            ("chat_sessions", SESSION, sessions),
            ("chat_messages", MESSAGE, messages),
        ):
            marks = ", ".join("?" * len(columns))
            database.executemany(f"INSERT INTO {name} ({', '.join(columns)}) VALUES ({marks})", rows)
        database.execute("COMMIT")
    database.close()


def _rows(
    part: list[Conversation], identifier: Callable[[str], str], moment: Callable[[datetime], Any]
) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
    sessions, messages = [], []
    for owner, history in part:
        key, then = identifier(owner.session_id), moment(owner.created_at)
        sessions.append((key, owner.title, owner.user_id, then, then, "{}", owner.version))
        for place, message in enumerate(history):
            values = identifier(message.message_id), key, message.role, message.content
            messages.append((*values, moment(message.timestamp), "{}", None, place))
    return sessions, messages


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bulk", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few messages: to see that it runs")
    parser.add_argument("--backend", action="append", choices=list(SERVERS), help="may be repeated")
    options = parser.parse_args()
    print(measure(options.quick, tuple(options.backend or SERVERS)))
