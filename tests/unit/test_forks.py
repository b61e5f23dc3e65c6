"""Locks that another thread holds during a fork are free in the child."""

from __future__ import annotations

from tests.support.programs import Programs

PROGRAM = """
import os, sys, threading
import sessions.backends.sql.schema as schema
from sessions import ConnectionFactory, SessionRepositoryFactory
from sessions.connections import base
from sessions.core.blocking import _background
from sessions.repositories.session_repository_factory import SessionRepositoryRegistry

url = sys.argv[1]
repository = SessionRepositoryFactory.create_repository("sqlite", url=url)
locks = [
    schema._migrating, ConnectionFactory._lock, SessionRepositoryRegistry._lock,
    base._counting, _background._lock,
]
held, go = threading.Event(), threading.Event()

def hold():
    for lock in locks:
        lock.acquire()
    held.set()
    go.wait()
    for lock in locks:
        lock.release()

thread = threading.Thread(target=hold)
thread.start()
held.wait()
pid = os.fork()
if pid == 0:
    other = SessionRepositoryFactory.create_repository("sqlite", url=url + ".other")
    with other:
        other.create_session("user", None)  # Migrates, too.
    os._exit(0)
go.set()
thread.join()
assert os.waitpid(pid, 0)[1] == 0
repository.create_session("user", None)
repository.close()
"""


def test_a_child_waits_for_no_lock_of_its_parents_threads(sqlite_url: str, programs: Programs) -> None:
    ended = programs.run("-c", PROGRAM, sqlite_url)
    assert (ended.returncode, ended.stderr) == (0, "")
