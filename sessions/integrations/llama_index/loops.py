"""Runs the calls of short-lived event loops on the background loop."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, cast

from sessions.integrations.common import run_blocking

__all__ = ["on_lasting_loop"]

Method = TypeVar("Method", bound=Callable[..., Coroutine[Any, Any, Any]])


def on_lasting_loop(method: Method) -> Method:
    """Run a method on the background loop, unless the loop is that of the main thread.

    ``Memory``'s blocking methods run each call on a new loop in another thread, and close it without the
    clean-up of ``asyncio.run``: each call would open connections, and leave them.
    """

    @functools.wraps(method)
    async def call(*args: Any, **options: Any) -> Any:
        if threading.current_thread() is threading.main_thread():
            return await method(*args, **options)
        return await asyncio.to_thread(run_blocking, method, *args, **options)

    return cast("Method", call)
