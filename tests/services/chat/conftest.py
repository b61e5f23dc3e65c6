"""The backends that turns are tested on: on a standalone MongoDB they call the same operations."""

from __future__ import annotations

import pytest

from tests.support.databases import Backend


@pytest.fixture(params=["sqlite", "postgres", "mongodb-replica-set"])
def backend(request: pytest.FixtureRequest) -> Backend:
    """Each backend, with an empty database."""
    fixture, kind = {
        "sqlite": ("sqlite_url", "sqlite"),
        "postgres": ("postgres_url", "postgres"),
        "mongodb-replica-set": ("mongodb_url", "mongodb"),
    }[request.param]
    return Backend(request.param, kind, request.getfixturevalue(fixture))
