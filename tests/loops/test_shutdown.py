"""Blocking calls when a process ends: at exit, in finalizers, on Ctrl-C. They end, possibly with an error."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.faults.breakable import Mongod, Postgres
from tests.loops.shapes import Counter, on_each_shape, settled
from tests.support.databases import Backend
from tests.support.freezers import Freezer, freezable, lockable
from tests.support.programs import Programs
from tests.support.timing import within

PRELUDE = """
import sys
from sessions import SessionRepositoryFactory

kind, url = sys.argv[1:3]
"""
ENDS = {
    "a call at exit, registered after the import": """
import atexit
repository = SessionRepositoryFactory.create_repository(kind, url=url)
session_id = repository.create_session("user", None)
atexit.register(lambda: print(len(repository.add_message_sync(session_id, "user", "bye")) > 0))
""",
    "a call at exit, registered before the import": """
import atexit
def bye():
    print(len(repository.add_message_sync(session_id, "user", "bye")) > 0)
    print(repository.is_healthy_sync())
repository = SessionRepositoryFactory.create_repository(kind, url=url)
session_id = repository.create_session("user", None)
from sessions.core.blocking import _background
atexit.unregister(_background.exit)
atexit.register(bye)
atexit.register(_background.exit)
""",
    "a close at exit": """
import atexit
repository = SessionRepositoryFactory.create_repository(kind, url=url)
repository.create_session("user", None)
atexit.register(repository.close)
print(True)
""",
    "a finalizer of a global": """
class Holder:
    def __init__(self):
        self.repository = SessionRepositoryFactory.create_repository(kind, url=url)
        self.session_id = self.repository.create_session("user", None)
    def __del__(self):
        self.repository.add_message_sync(self.session_id, "user", "bye")
        self.repository.close()
holder = Holder()
print(True)
""",
    "a finalizer in a cycle": """
class Holder:
    def __init__(self):
        self.repository = SessionRepositoryFactory.create_repository(kind, url=url)
        self.repository.create_session("user", None)
        self.me = self
    def __del__(self):
        self.repository.close()
holder = Holder()
print(True)
""",
    "a thread that outlives the main one": """
import threading, time
repository = SessionRepositoryFactory.create_repository(kind, url=url)
session_id = repository.create_session("user", None)
def work():
    for number in range(5):
        time.sleep(0.1)
        repository.add_message_sync(session_id, "user", "text")
    print(True)
threading.Thread(target=work).start()
""",
    "a daemon thread that never stops": """
import threading, time
repository = SessionRepositoryFactory.create_repository(kind, url=url)
session_id = repository.create_session("user", None)
def work():
    while True:
        repository.add_message_sync(session_id, "user", "text")
threading.Thread(target=work, daemon=True).start()
time.sleep(0.3)
print(True)
""",
}


@pytest.mark.parametrize(("shape", "body"), on_each_shape(ENDS, "a close at exit"), indirect=["shape"])
def test_a_process_with_calls_at_exit_ends(
    shape: tuple[Backend, Counter], body: str, programs: Programs
) -> None:
    backend, count = shape
    program = PRELUDE + textwrap.dedent(body)
    ended = programs.run("-c", program, backend.repository_type, backend.url)
    assert ended.returncode == 0, ended.stderr
    assert set(ended.stdout.split()) == {"True"}, ended.stderr
    assert settled(count, 0) == 0


# --- Ctrl-C ----------------------------------------------------------------------------------------

CALLS = {
    "plain": """
repository = SessionRepositoryFactory.create_repository(kind, url=url)
print(session_id := repository.create_session("user", None), flush=True)
sys.stdin.readline()
repository.add_message_sync(session_id, "user", "text")
""",
    "in a with block": """
with SessionRepositoryFactory.create_repository(kind, url=url) as repository:
    print(session_id := repository.create_session("user", None), flush=True)
    sys.stdin.readline()
    repository.add_message_sync(session_id, "user", "text")
""",
    "first call": """
repository = SessionRepositoryFactory.create_repository(kind, url=url)
print("ready", flush=True)
sys.stdin.readline()
repository.create_session("user", None)
""",
}


@pytest.fixture(scope="module")
def postgres() -> Iterator[Freezer]:
    with freezable(Postgres()) as freezer:
        yield freezer


@pytest.fixture(scope="module")
def mongodb() -> Iterator[Freezer]:
    with freezable(Mongod()) as freezer:
        yield freezer


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Freezer]:
    with lockable(tmp_path / "locked.db") as freezer:
        yield freezer


@pytest.mark.parametrize("body", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("kind", ["sqlite", "postgres", "mongodb"])
def test_ctrl_c_in_a_call_to_a_server_that_does_not_respond_ends_the_process(
    kind: str, body: str, request: pytest.FixtureRequest
) -> None:
    freezer: Freezer = request.getfixturevalue(kind)
    with freezer.repository() as repository:  # With the schema.
        repository.create_session("user", None)
    with subprocess.Popen(
        [sys.executable, "-c", PRELUDE + body, kind, freezer.url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Background jobs of a shell, and their children, ignore it.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    ) as process:
        try:
            assert process.stdin
            assert process.stdout
            assert process.stdout.readline()
            freezer.freeze()
            process.stdin.write("go\n")
            process.stdin.flush()
            time.sleep(1)
            with within(1):
                process.send_signal(signal.SIGINT)
                _, told = process.communicate(timeout=60)
            assert process.returncode == -signal.SIGINT, told
            assert "KeyboardInterrupt" in told
        finally:
            freezer.thaw()
            with contextlib.suppress(ProcessLookupError):
                process.kill()
