"""What is taken from asyncio that it keeps for makers of event loops and of task classes.

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

    The function is documented for makers of task classes (Python's manual, "Extending asyncio"); no other one
    keeps a task out.
    """
    asyncio._unregister_task(task)


@contextlib.contextmanager
def no_running_loop() -> Iterator[None]:
    """Let other greenlets of this thread run, which are in no event loop.

    Python keeps the running event loop by thread. Both functions are for makers of event loops, and in
    ``asyncio.events.__all__``.
    """
    loop = asyncio._get_running_loop()
    asyncio._set_running_loop(None)
    try:
        yield
    finally:
        asyncio._set_running_loop(loop)
