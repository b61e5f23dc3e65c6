"""Tests in the folders need the agent frameworks; they run with ``pytest -m frameworks``.

They share the fixtures of all tests: `repository` is one on each backend.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integrations.racing import Race, racing

HERE = Path(__file__).parent


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Import tests that need the frameworks only if they are asked for: then a missing one is an error."""
    is_asked_for = re.search(r"(?<!not )\bframeworks\b", config.option.markexpr) is not None
    is_folder = collection_path.parent == HERE and collection_path.is_dir()
    return True if is_folder and not is_asked_for else None


@pytest.hookimpl(tryfirst=True)  # Before pytest chooses by marks.
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that need the frameworks."""
    for item in items:
        if item.path.is_relative_to(HERE) and item.path.parent != HERE:
            item.add_marker(pytest.mark.frameworks)


@pytest.fixture(scope="module")
def race(request: pytest.FixtureRequest) -> Iterator[Race]:
    """Processes that run functions of the test's module together."""
    with racing(request.module.__name__) as started:
        yield started
