"""The backends that turns are tested on: all at full size, the three main ones by README's command."""

from __future__ import annotations

from pathlib import Path

import pytest

AT_FULL_SIZE = ("mongodb-standalone", "redis")


@pytest.hookimpl(tryfirst=True)  # Before pytest chooses by marks.
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of the other backends."""
    for item in items:
        if item.path.parent != Path(__file__).parent or not isinstance(item, pytest.Function):
            continue
        if hasattr(item, "callspec") and item.callspec.params.get("backend") in AT_FULL_SIZE:
            item.add_marker(pytest.mark.full_size)
