"""A plugin of pytest that ends the processes which a test leaves behind, however it ended.

Each process with tests adopts the orphans below it (Linux), so it finds also what its children started: a
child of a fork, a server in a session of its own. A test that passed and left a process fails.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Generator
from contextlib import suppress
from types import FrameType

import psutil
import pytest

PR_SET_CHILD_SUBREAPER = 36
# For those that were told to end, on a busy machine; the test of this plugin has no use for it.
GRACE_SECONDS = float(os.environ.get("SESSIONS_TEST_GRACE_SECONDS", "30"))
KILL_SECONDS = 30.0

_before_all: set[psutil.Process] = set()
_kept: set[psutil.Process] = set()


def pytest_configure(config: pytest.Config) -> None:
    """Adopt orphans, and end what is left in the end: all that a crashed process of pytest-xdist had."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _interrupt)  # A run that is terminated stops its servers, too.
    _before_all.update(_children())
    config.add_cleanup(_end_all)


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[object]) -> Generator[None, object, object]:
    """Keep what a fixture of several tests starts."""
    before = _children() if fixturedef.scope != "function" else set()
    try:
        return (yield)
    finally:
        if fixturedef.scope != "function":
            _kept.update(_children() - before)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Take down whether the test failed."""
    report = yield
    item.stash[_FAILED] = item.stash.get(_FAILED, False) or report.failed
    return report


_FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    """End what is left once all fixtures of the test are done."""
    failed = item.stash.get(_FAILED, False)
    try:
        result = yield
    except BaseException:
        failed = True
        raise
    finally:
        left = _left()
        if left and not failed:
            left = set(psutil.wait_procs(left, timeout=GRACE_SECONDS)[1])
        names = _end(left)
    if names and not failed:
        pytest.fail(f"the test left processes behind: {'; '.join(names)}", pytrace=False)
    return result


def _interrupt(number: int, _frame: FrameType | None, tests: int = os.getpid()) -> None:
    if os.getpid() == tests:
        raise KeyboardInterrupt
    signal.signal(number, signal.SIG_DFL)  # In a fork.
    signal.raise_signal(number)


def keep(pid: int) -> None:
    """Keep a process that a test starts for others too: a server that several tests share, started again."""
    _kept.add(psutil.Process(pid))


def _end_all() -> None:
    _kept.clear()
    _end(_left())


def _children() -> set[psutil.Process]:
    if hasattr(os, "waitid"):
        # One system call, instead of a scan of all processes after each test.
        try:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return set()
    return set(psutil.Process().children())


def _left() -> set[psutil.Process]:
    """Return the children that no fixture keeps, once those that ended were waited for."""
    left = set()
    for process in _children() - _kept - _before_all:
        with suppress(psutil.NoSuchProcess):
            if process.status() == psutil.STATUS_ZOMBIE:
                with suppress(ChildProcessError):
                    os.waitpid(process.pid, os.WNOHANG)
            elif not _is_pythons_own(process):
                left.add(process)
    return left


def _is_pythons_own(process: psutil.Process) -> bool:
    """Return whether it is multiprocessing's own, which serves the process with the tests to its end."""
    return any("multiprocessing.resource_tracker" in word for word in process.cmdline())


def _end(processes: set[psutil.Process]) -> list[str]:
    """Kill processes with all below them, and return what they were."""
    names = []
    while processes:
        everything = set(processes)
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                names.append(f"{process.pid} {' '.join(process.cmdline())[:200]}")
                everything.update(process.children(recursive=True))
        for process in everything:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(everything, timeout=KILL_SECONDS)
        processes = _left()  # Whatever was forked meanwhile is ours now.
    return names
