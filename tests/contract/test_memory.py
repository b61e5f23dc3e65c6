"""Operations that read or write in parts need the memory of one part, whatever the total.

``python -m benchmarks.memory`` measures the same of whole processes, on a hundred thousand messages and more.
"""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest

from sessions.cli import importing
from sessions.cli.conversation_lines import parse_line
from sessions.cli.importing import import_lines
from tests.support.databases import Backend

MEGABYTE = 1024 * 1024
# Four megabytes in a part of an export, twenty-four in all.
CONTENT = "x" * 4000
PART, PARTS = 1000, 6


@pytest.fixture
def traced() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


def more_at_the_most(before: int) -> float:
    """Return the peak of the allocated megabytes beyond a base."""
    return (tracemalloc.get_traced_memory()[1] - before) / MEGABYTE


async def test_an_export_needs_the_memory_of_one_part(backend: Backend) -> None:
    async with backend.repository() as repository:
        session_id = await repository.create_session_async("user", None)
        for _ in range(PARTS):
            await repository.add_messages(session_id, [("user", CONTENT)] * PART)
        tracemalloc.start()
        exported = 0
        async for _, messages in repository.export_user("user"):
            exported += len(messages)
        peak = more_at_the_most(0)
        tracemalloc.stop()

    assert exported == PART * PARTS
    # The current part, the next one, and the driver's raw data.
    assert peak < 16


async def test_all_sessions_are_iterated_in_the_memory_of_one_page(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sessions.core.calls.Calls.batch_size", 50)
    async with backend.repository() as repository:
        for number in range(300):
            data = {"metadata": {"text": CONTENT * 5}}
            await repository.create_session_async(f"user {number}", data)

        async def needed(limit: int) -> float:
            tracemalloc.start()
            count = 0
            async for _ in repository.admin.iter_sessions():
                count += 1
                if count == limit:
                    break
            peak = more_at_the_most(0)
            tracemalloc.stop()
            assert count == limit
            return peak

        await needed(1)
        one, all_of_them = await needed(50), await needed(300)

    # Six megabytes in all, one in a page.
    assert all_of_them < 2 * one + 1


def line(messages: int) -> bytes:
    turns = [{"role": "user", "content": f"{turn} {CONTENT[:200]}"} for turn in range(messages)]
    fields: dict[str, Any] = {"session_id": f"00000000-0000-4000-8000-{messages:012}", "user_id": "user"}
    return json.dumps(fields | {"messages": turns}).encode()


async def test_an_import_needs_the_memory_of_two_batches(
    sqlite_url: str, traced: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One is stored while the next one is read. Here each line is a batch.
    monkeypatch.setattr(importing, "BATCH_MESSAGES", 500)
    async with Backend("sqlite", "sqlite", sqlite_url).repository() as repository:
        await repository.count_sessions("user")

        async def imported(numbers: range) -> float:
            lines = (line(number) for number in numbers)
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            totals = await import_lines(repository, lines, report=pytest.fail, advance=lambda *_: None)
            assert totals.created == len(numbers)
            return more_at_the_most(before)

        await imported(range(1, 2))
        one, many = await imported(range(500, 501)), await imported(range(480, 500))

    # Twenty in all.
    assert many < 3 * one + 1


def test_a_long_line_is_kept_in_one_form_at_a_time(traced: None) -> None:
    held = [line(5000)]
    before, size = tracemalloc.get_traced_memory()[0], len(held[0]) / MEGABYTE
    tracemalloc.reset_peak()
    conversation = parse_line(held.pop())

    assert len(conversation.messages) == 5000
    # Its text and its messages, without the line as it was read.
    assert more_at_the_most(before) < 1.5 * size
