"""Processes of Python that a test gives its work, and may kill."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil

KILL_SECONDS = 60.0


@contextmanager
def child(module: str) -> Iterator[subprocess.Popen[str]]:
    """Run a module that reads its work from standard input and prints what came of it.

    At the end it is killed with all that it started, however the block ends. Ctrl-C in the test run is for
    the test: the process does not get it.
    """
    environment = {"PYTHONPATH": ":".join(path for path in sys.path if path)}
    with subprocess.Popen(
        [sys.executable, "-P", "-m", module],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            _kill_with_children(process)


def load_package() -> None:
    """Import all modules of the backends: a process does it once before it forks for many jobs."""
    for name in ("sessions.backends", "sessions.repositories"):
        for module in pkgutil.walk_packages(importlib.import_module(name).__path__, f"{name}."):
            importlib.import_module(module.name)


def _kill_with_children(process: subprocess.Popen[str]) -> None:
    if process.poll() is not None:
        return
    parent = psutil.Process(process.pid)
    parent.suspend()  # It starts no other meanwhile.
    everything = [parent, *parent.children(recursive=True)]
    for each in everything:
        with suppress(psutil.NoSuchProcess):
            each.kill()
    process.wait(KILL_SECONDS)
    psutil.wait_procs(everything, timeout=KILL_SECONDS)
