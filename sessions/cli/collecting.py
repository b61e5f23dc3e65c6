"""The garbage collector during bulk work."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

__all__ = ["collecting_rarely"]

# Several batches have fewer objects. With the default of 700, the collector takes a third of the time of an
# import, and finds nothing: messages are no reference cycles.
OBJECTS = 200_000


@contextlib.contextmanager
def collecting_rarely() -> Iterator[None]:
    """Let the collector look for reference cycles after many new objects only."""
    before = gc.get_threshold()
    if before[0]:
        gc.set_threshold(max(OBJECTS, before[0]), *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
