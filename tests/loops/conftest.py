"""Each backend with a counter of its connections."""

from __future__ import annotations

from typing import Any

import pytest

from tests.loops.shapes import SHAPES, Counter, shape_of
from tests.support.databases import Backend


@pytest.fixture(params=SHAPES)
def shape(request: pytest.FixtureRequest) -> tuple[Backend, Counter]:
    """Each backend, with the counter of its connections."""
    fixture = {
        "sqlite": "sqlite_url",
        "postgres": "postgres_url",
        "mongodb-replica-set": "mongodb_url",
        "mongodb-standalone": "mongodb_standalone_url",
        "redis": "redis_url",
    }[request.param]
    return shape_of(request.param, request.getfixturevalue(fixture))


@pytest.fixture
def repository(shape: tuple[Backend, Counter]) -> Any:
    """One repository object, for any program structure."""
    return shape[0].repository()
