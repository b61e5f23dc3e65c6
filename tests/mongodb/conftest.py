"""An empty database on each kind of MongoDB server, a repository and a plain client of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from pymongo import MongoClient

from sessions import SessionRepositoryFactory


@pytest.fixture(params=["mongodb_url", "mongodb_standalone_url"], ids=["replica-set", "standalone"])
def url(request: pytest.FixtureRequest) -> str:
    """An empty database on each kind of server."""
    found: str = request.getfixturevalue(request.param)
    return found


@pytest.fixture
async def repository(url: str) -> AsyncIterator[Any]:
    """A repository on each kind of server."""
    async with SessionRepositoryFactory.create_repository("mongodb", url=url) as opened:
        yield opened


@pytest.fixture
def raw(url: str) -> Iterator[Any]:
    """The database, through a plain client."""
    with MongoClient[dict[str, Any]](url, tz_aware=False) as client:
        yield client.get_default_database()
