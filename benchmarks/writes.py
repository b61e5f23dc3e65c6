"""The cost of an append for the server: bytes of WAL, the size of each index, and the read that it serves."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg

from benchmarks.contenders import USER, Ours
from benchmarks.tables import milliseconds, table

__all__ = ["write_amplification"]

SESSIONS = 10_000
CHUNK = 50_000
MEASURED_APPENDS = 1_000

# The statement of `add_message`, run inside the server.
APPENDS = """
DO $$
DECLARE number bigint; chosen uuid; ids uuid[] := (SELECT array_agg(session_id) FROM chat_sessions);
BEGIN
    FOR number IN 1 .. {appends} LOOP
        chosen := ids[1 + floor(random() * array_length(ids, 1))::int];
        WITH owner AS (
            UPDATE chat_sessions
            SET updated_at = greatest(updated_at + interval '1 microsecond', clock_timestamp()),
                version = version + 1
            WHERE session_id = chosen RETURNING session_id, updated_at)
        INSERT INTO chat_messages (message_id, session_id, role, content, timestamp)
        SELECT uuidv7(), session_id, 'user', repeat('What should I see first? ', 8), updated_at FROM owner
        ON CONFLICT (message_id) DO NOTHING;
    END LOOP;
END $$"""

# Each index with a read that it serves.
READS = {
    "chat_sessions_pkey": (
        "get_session, add_message",
        "SELECT title FROM chat_sessions WHERE session_id = $1",
    ),
    "idx_sessions_user_id": (
        "list_sessions, page of 20",
        """SELECT session_id FROM chat_sessions WHERE user_id = (
               SELECT user_id FROM chat_sessions WHERE session_id = $1)
           ORDER BY updated_at DESC, session_id LIMIT 20""",
    ),
    "idx_messages_session_id": (
        "history of about 100",
        """SELECT content FROM chat_messages WHERE session_id = $1
           ORDER BY timestamp, write_order, message_id""",
    ),
    "chat_messages_pkey": (
        "a repeated add_message finds its own row",
        """SELECT 1 FROM chat_messages WHERE message_id = (
               SELECT message_id FROM chat_messages WHERE session_id = $1 LIMIT 1)""",
    ),
}
# Slows down only the read of one table without its index.
WITHOUT_INDEX = "SET enable_indexscan = off; SET enable_indexonlyscan = off; SET enable_bitmapscan = off"


async def write_amplification(url: str, appends: int) -> str:
    """Return the tables for PostgreSQL.

    Args:
        url: A server without other clients, whose writes would count.
        appends: Number of appends before the indexes are measured.
    """
    ours = Ours("postgres", url)
    session_id = await ours.create()
    connection = await asyncpg.connect(url)
    try:
        each = await _wal_of_appends(ours, session_id, connection)
        await connection.execute(
            """INSERT INTO chat_sessions (session_id, title, user_id)
               SELECT gen_random_uuid(), 'New Chat', 'user-' || number % 500
               FROM generate_series(1, $1::int) AS number""",
            SESSIONS,
        )
        before = await connection.fetchval("SELECT pg_current_wal_lsn()")
        for start in range(0, appends, CHUNK):
            await connection.execute(APPENDS.format(appends=min(CHUNK, appends - start)))
        written = await _wal_since(connection, before)
        await connection.execute("ANALYZE")
        summary = table(
            ("WAL", "bytes for each append"),
            [
                (f"{MEASURED_APPENDS:,} calls of add_message, one session", f"{each:,.0f}"),
                (
                    f"{appends:,} appends inside the server, {SESSIONS:,} sessions",
                    f"{written / appends:,.0f}",
                ),
            ],
        )
        return f"{summary}\n\n{await _indexes(connection, appends)}"
    finally:
        await connection.close()
        await ours.close()


async def _wal_of_appends(ours: Ours, session_id: str, connection: Any) -> float:
    # After a checkpoint, the first change of each page writes a full-page image, which does not count.
    for _ in range(100):
        await ours.append(session_id)
    before = await connection.fetchval("SELECT pg_current_wal_lsn()")
    for _ in range(MEASURED_APPENDS):
        await ours.append(session_id)
    return await _wal_since(connection, before) / MEASURED_APPENDS


async def _wal_since(connection: Any, position: str) -> float:
    query = "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), $1::pg_lsn)::float8"
    return float(await connection.fetchval(query, position))


async def _indexes(connection: Any, appends: int) -> str:
    rows = []
    some = await connection.fetchval(
        "SELECT session_id FROM chat_sessions WHERE user_id <> $1 ORDER BY session_id LIMIT 1", USER
    )
    for name, (purpose, query) in READS.items():
        size = await connection.fetchval("SELECT pg_relation_size($1::text::regclass)", name)
        with_index = await _seconds(connection, query, some)
        await connection.execute(WITHOUT_INDEX)
        without = await _seconds(connection, query, some)
        await connection.execute("RESET ALL")
        rows.append(
            (f"`{name}`", f"{size / 2**20:,.1f} MB", purpose, milliseconds(with_index), milliseconds(without))
        )
    head = ("index", f"size after {appends:,} appends", "for", "read with it", "without")
    return table(head, rows)


async def _seconds(connection: Any, query: str, argument: object) -> float:
    """Return the minimum of several runs: from the second on, the data is in memory."""
    loop = asyncio.get_running_loop()
    taken = []
    for _ in range(5):
        started = loop.time()
        await connection.fetch(query, argument)
        taken.append(loop.time() - started)
    return min(taken)
