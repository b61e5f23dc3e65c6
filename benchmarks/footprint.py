"""The memory of a message in Redis, beside its JSON in a list: ``python -m benchmarks.footprint``."""

from __future__ import annotations

import argparse
import asyncio
import json
import uuid
from datetime import UTC, datetime

from redis.asyncio import Redis

from benchmarks import servers
from benchmarks.contenders import CONTENT, Ours
from benchmarks.tables import table

__all__ = ["measure"]

BATCH = 500


async def _used(client: Redis) -> int:
    used: int = (await client.info("memory"))["used_memory"]
    return used


async def _of_ours(url: str, sessions: int, messages: int) -> float:
    """Return bytes for each message, with its share of the session."""
    ours = Ours("redis", url)
    async with Redis.from_url(url) as client:
        await ours.repository.count_sessions("nobody")
        before = await _used(client)
        for _ in range(sessions):
            session_id = await ours.create()
            for start in range(0, messages, BATCH):
                await ours.append_batch(session_id, min(BATCH, messages - start))
        used = await _used(client) - before
    await ours.close()
    return used / (sessions * messages)


async def _of_lists(url: str, sessions: int, messages: int) -> float:
    """Return bytes for each message of the same fields as JSON in a list."""
    async with Redis.from_url(url) as client:
        before = await _used(client)
        for _ in range(sessions):
            key = f"messages:{uuid.uuid4()}"
            for start in range(0, messages, BATCH):
                rows = [
                    json.dumps(
                        {
                            "message_id": str(uuid.uuid4()),
                            "role": "user",
                            "content": CONTENT,
                            "timestamp": datetime.now(UTC).isoformat(),
                        }
                    )
                    for _ in range(min(BATCH, messages - start))
                ]
                await client.rpush(key, *rows)
        return (await _used(client) - before) / (sessions * messages)


def measure(quick: bool) -> str:
    """Start servers, and return a Markdown table."""
    rows = []
    for sessions, messages in ((100, 10), (10, 100)) if quick else ((2000, 10), (200, 100), (2, 10_000)):
        with servers.redis() as url:
            ours = asyncio.run(_of_ours(url, sessions, messages))
        with servers.redis() as url:
            lists = asyncio.run(_of_lists(url, sessions, messages))
        what = f"{sessions:,} sessions of {messages:,} messages of {len(CONTENT)} characters"
        rows.append((what, f"{ours:,.0f} bytes", f"{lists:,.0f} bytes", f"{ours / lists:.2f}"))
    return table(("", "a message of ours", "its JSON in a list", "ratio"), rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.footprint", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few messages: to see that it runs")
    print(measure(parser.parse_args().quick))
