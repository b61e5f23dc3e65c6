"""gevent: blocking calls under ``gevent.monkey.patch_all()``.

A patched process runs all greenlets in one thread, so a blocking call blocks all of them. The background
loop is another greenlet: while it waits for its sockets, gevent's hub runs the others.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from sessions.core.internals import no_running_loop

__all__ = ["are_used", "new_event_loop"]


def are_used() -> bool:
    """Return whether gevent has replaced Python's threads."""
    monkey: Any = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("threading"))


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Return an event loop for a greenlet."""
    from gevent.selectors import GeventSelector  # pyright: ignore[reportMissingImports]

    class Selector(GeventSelector):  # type: ignore[misc]
        def select(self, timeout: float | None = None) -> Any:
            with no_running_loop():
                return super().select(timeout)

    return asyncio.SelectorEventLoop(Selector())
