"""Folders for the files of servers and databases."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

MEMORY = Path("/dev/shm")
# A folder takes up to 150 MB at first; more than this are there at the same time.
ROOM = 3 * 2**30


def _in_memory() -> Path | None:
    if not MEMORY.is_dir():
        return None
    room = min(shutil.disk_usage(MEMORY).free, psutil.virtual_memory().available)
    return MEMORY if room > ROOM else None


def make_folder(prefix: str) -> Path:
    """Make a folder, in memory where there is room: there no commit waits for the disk.

    A process that is killed loses nothing of it.
    """
    return Path(tempfile.mkdtemp(prefix=f"sessions-{prefix}-", dir=_in_memory()))


@contextmanager
def folder(prefix: str) -> Iterator[Path]:
    """Make a folder as `make_folder` does, and remove it at the end."""
    path = make_folder(prefix)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def made_once(tmp_path_factory: pytest.TempPathFactory, name: str) -> Iterator[tuple[Path, bool]]:
    """Yield a folder that all workers of pytest-xdist share, and whether it is made, under a lock.

    One that is not is empty: what a process that failed has left there is removed.
    """
    base = tmp_path_factory.getbasetemp()
    path = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    ready = path.with_suffix(".ready")
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not ready.exists():
            shutil.rmtree(path, ignore_errors=True)
            path.mkdir()
        yield path, ready.exists()
        ready.touch()
