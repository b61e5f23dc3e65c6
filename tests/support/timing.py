"""Bounds in time that hold on a busy machine."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

# For so long in all a busy machine may keep a test and its server from running.
BUSY_SECONDS = 10.0


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Fail if the block takes more than three times as long as it is to, and what a busy machine adds.

    Args:
        seconds: What it is to take at the most. What the test would detect has to take longer than the bound.
    """
    started = time.monotonic()
    yield
    took = time.monotonic() - started
    assert took < 3 * seconds + BUSY_SECONDS, (
        f"it took {took:.1f} s, and is to take {seconds:g} s at the most"
    )
