"""Work done in a forked child, which never outlives the test that forked it."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable

CHILD_SECONDS = 120.0


def in_child(work: Callable[[], object]) -> int:
    """Fork, do the work in the child, and return the child's process id for `exit_status`.

    The child ends when the work is done: with 0, or with 1 after printing what it raised.
    """
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        work()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def exit_status(child: int, seconds: float = CHILD_SECONDS) -> int:
    """Return how a child ended; one that takes too long is killed, and -9 returned."""
    deadline = time.monotonic() + seconds
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0):
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            ended = os.waitpid(child, 0)
            break
        time.sleep(0.005)
    return os.waitstatus_to_exitcode(ended[1])
