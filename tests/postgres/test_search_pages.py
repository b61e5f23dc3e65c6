"""Pages of hits are the same however many sessions and messages a search reads for them."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sessions import NewMessage, SessionRepositoryFactory
from sessions.queries.searching import SESSIONS_OF_BITMAP, SOME_MESSAGES

START = datetime(2026, 1, 1, tzinfo=UTC)
FEW = 3


@pytest.mark.parametrize(
    ("sessions", "messages", "one_of"),
    [
        pytest.param(2 * SESSIONS_OF_BITMAP + 1, 4, 5, id="several bitmaps"),
        pytest.param(FEW, SOME_MESSAGES[1] // FEW + 50, 40, id="a page among the second part"),
        pytest.param(FEW, SOME_MESSAGES[1] // FEW + 50, 300, id="no page among both parts"),
    ],
)
async def test_pages_of_hits_are_parts_of_one_list(
    postgres_url: str, sessions: int, messages: int, one_of: int
) -> None:
    choice = random.Random(sessions * one_of)
    expected = []
    async with SessionRepositoryFactory.create_repository("postgres", url=postgres_url) as repository:
        for number in range(sessions):
            part: list[Any] = []
            for place in range(number, sessions * messages, sessions):
                is_hit = choice.randrange(one_of) == 0
                part.append(
                    NewMessage(
                        "user",
                        f"{'hit' if is_hit else 'miss'} {place}",
                        timestamp=START + timedelta(seconds=place),
                    )
                )
                if is_hit:
                    expected.append(place)
            await repository.create_session_async("user", messages=part)
        for limit in (20, 1000):
            found, cursor = [], None
            while True:
                page = await repository.search_messages("user", "HIT", limit=limit, cursor=cursor)
                found += [int(hit.message.content.removeprefix("hit ")) for hit in page.hits]
                cursor = page.next_cursor
                if cursor is None:
                    break
            assert found == sorted(expected, reverse=True)
