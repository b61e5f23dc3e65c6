"""Chats in each SQL database, and its rows as they are stored."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from sessions import AsyncChats


@pytest.fixture(params=["postgres", "sqlite"])
def sql_url(request: pytest.FixtureRequest) -> str:
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture
async def chats(sql_url: str) -> AsyncIterator[AsyncChats]:
    async with AsyncChats(sql_url) as opened:
        yield opened
