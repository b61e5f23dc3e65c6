"""Processes of Python that a test gives its work, and may kill."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.programs import Programs, Started, programs


@contextmanager
def child(module: str) -> Iterator[Started]:
    """Run a module that reads its work from standard input and prints what came of it.

    At the end it is killed with all that it started, however the block ends.
    """
    environment = {"PYTHONPATH": ":".join(path for path in sys.path if path)}
    with programs() as path, Programs(path).start("-m", module, env=environment) as process:
        yield process


def load_package() -> None:
    """Import all modules of the backends: a process does it once before it forks for many jobs."""
    for name in ("sessions.backends", "sessions.repositories"):
        for module in pkgutil.walk_packages(importlib.import_module(name).__path__, f"{name}."):
            importlib.import_module(module.name)
