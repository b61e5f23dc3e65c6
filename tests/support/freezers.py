"""Databases that can be made to stop responding, and to continue."""

from __future__ import annotations

import contextlib
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from sessions import SessionRepositoryFactory
from tests.faults.breakable import running

# Longer than any test takes for what is to end at once.
SQLITE_BUSY_SECONDS = 60


@dataclass
class Freezer:
    """A database that can be made to stop responding, and to continue."""

    repository_type: str
    url: str
    freeze: Callable[[], None]
    thaw: Callable[[], None]

    def repository(self, **options: Any) -> Any:
        return SessionRepositoryFactory.create_repository(self.repository_type, url=self.url, **options)


def freezer_of(server: Any) -> Freezer:
    """Return what stops all processes of a running server, of all its members if it is a replica set."""

    def processes() -> list[psutil.Process]:
        parents = [psutil.Process(member.process.pid) for member in getattr(server, "members", [server])]
        return [process for parent in parents for process in (parent, *parent.children(recursive=True))]

    def send(number: int) -> None:
        for process in processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def freeze() -> None:
        send(signal.SIGSTOP)
        # A thread that is running stops a little later, and may still send a response.
        while any(map(_has_running_threads, processes())):
            time.sleep(0.001)

    kind = server.backend.partition("-")[0]
    return Freezer(kind, server.url, freeze, lambda: send(signal.SIGCONT))


def _has_running_threads(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        states = {psutil.Process(thread.id).status() for thread in process.threads()}
        return not states <= {psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD}
    return False


@contextlib.contextmanager
def freezable(server: Any) -> Iterator[Freezer]:
    """Start a server that can be frozen; thaw and stop it at the end."""
    with running(server):
        freezer = freezer_of(server)
        try:
            yield freezer
        finally:
            freezer.thaw()


@contextlib.contextmanager
def lockable(path: Path) -> Iterator[Freezer]:
    """Yield a SQLite file that another connection can lock, for less long than writers wait."""
    url = f"sqlite:///{path}?timeout={SQLITE_BUSY_SECONDS}"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as holder:

        def freeze() -> None:
            holder.execute("BEGIN IMMEDIATE")

        def thaw() -> None:
            if holder.in_transaction:
                holder.execute("ROLLBACK")

        yield Freezer("sqlite", url, freeze, thaw)
