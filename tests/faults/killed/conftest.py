"""A standalone MongoDB, and processes that are killed between two commands to it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pymongo import MongoClient

from tests.faults.killed.dying import Dying, dying
from tests.support.databases import Backend


@pytest.fixture(scope="session")
def processes() -> Iterator[Dying]:
    with dying() as started:
        yield started


@pytest.fixture
def backend(mongodb_standalone_url: str) -> Backend:
    return Backend("mongodb-standalone", "mongodb", mongodb_standalone_url)


@pytest.fixture
def raw(backend: Backend) -> Iterator[Any]:
    """The database, through a plain client."""
    with MongoClient[dict[str, Any]](backend.url) as client:
        yield client.get_default_database()
