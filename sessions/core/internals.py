"""Access to parts of asyncio that are for implementers of event loops and task classes.

`tests/unit/test_private_parts.py` fails when Python changes it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

__all__ = ["hide", "no_running_loop"]


def hide(task: asyncio.Task[Any]) -> None:
    """Keep a task out of ``asyncio.all_tasks``, and so from being cancelled at the end of ``asyncio.run``.

    The function is documented for implementers of task classes (Python's manual, "Extending asyncio"); there
    is no other way to keep a task out.
    """
    asyncio._unregister_task(task)


@contextlib.contextmanager
def no_running_loop() -> Iterator[None]:
    """Mark this thread as running no event loop, while its other greenlets run.

    Python stores the running event loop per thread. Both functions are for implementers of event loops, and
    in ``asyncio.events.__all__``.
    """
    loop = asyncio._get_running_loop()
    asyncio._set_running_loop(None)
    try:
        yield
    finally:
        asyncio._set_running_loop(loop)
