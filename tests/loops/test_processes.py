"""Forks, child processes and interpreter exits, each in a separate program with warnings as errors."""

from __future__ import annotations

import subprocess
import textwrap
from pathlib import Path

import pytest

from tests.loops.shapes import Counter, on_each_shape, settled
from tests.support.databases import Backend
from tests.support.programs import Programs

PRELUDE = """
import asyncio, multiprocessing, os, sys
from sessions import SessionRepositoryFactory

kind, url = sys.argv[1:3]
repository = SessionRepositoryFactory.create_repository(kind, url=url)

def use(user_id):
    session_id = repository.create_session(user_id, {"title": user_id})
    for number in range(10):
        repository.add_message_sync(session_id, "user", str(number))
        asyncio.run(repository.add_message(session_id, "assistant", str(number)))
    history = repository.get_session_history_sync(user_id, session_id)
    expected = [str(number) for number in range(10) for _ in range(2)]
    assert [message.content for message in history] == expected, history
"""

FORK = """
use("parent")
children = []
for number in range(3):
    pid = os.fork()
    if pid == 0:
        use(f"child-{number}")
        sys.exit(0)
    children.append(pid)
use("parent-again")
for pid in children:
    assert os.waitpid(pid, 0)[1] == 0
use("parent-last")
assert repository.count_sessions_sync("parent") == 1
for number in range(3):
    assert repository.count_sessions_sync(f"child-{number}") == 1
repository.close()
"""

FORK_IN_A_LOOP = """
async def main():
    await repository.create_session_async("parent")
    pid = os.fork()
    if pid == 0:
        # The child inherits the frames of a loop that it cannot run.
        asyncio.events._set_running_loop(None)
        use("child")
        os._exit(0)
    for _ in range(20):
        await repository.create_session_async("parent")
    while os.waitpid(pid, os.WNOHANG) == (0, 0):
        await asyncio.sleep(0.05)
    assert await repository.count_sessions("parent") == 21
    assert await repository.count_sessions("child") == 1

asyncio.run(main())
"""

FORK_IN_UVLOOP = FORK_IN_A_LOOP.replace("asyncio.run(", "import uvloop\nuvloop.run(")
# Blocking calls run on uvloop where it is installed, as it is here.
WITHOUT_UVLOOP = "sys.modules['uvloop'] = None\n"

MULTIPROCESSING = """
if __name__ == "__main__":
    use("parent")
    for method in ("fork", "spawn"):
        context = multiprocessing.get_context(method)
        with context.Pool(2) as pool:
            pool.map(use, [f"{method}-{number}" for number in range(4)])
            pool.close()
            pool.join()
        use(f"parent-{method}")
        for number in range(4):
            assert repository.count_sessions_sync(f"{method}-{number}") == 1
    repository.close()
"""

EXITS = {
    "after a sync call": 'repository.create_session("user", None)',
    "after a run": 'asyncio.run(repository.create_session_async("user"))',
    "after both": 'use("user")',
    "after both, without uvloop": WITHOUT_UVLOOP + 'use("user")\nassert "uvloop.loop" not in sys.modules',
    "after a loop that is closed at exit": """
loop = asyncio.new_event_loop()
loop.run_until_complete(repository.create_session_async("user"))
import atexit
atexit.register(loop.close)
atexit.register(lambda: loop.run_until_complete(loop.shutdown_asyncgens()))
""",
    "without a call": "",
    "from a thread": """
import threading
thread = threading.Thread(target=use, args=("user",))
thread.start()
thread.join()
""",
}


def run_program(
    programs: Programs, backend: Backend, body: str, tmp_path: Path
) -> subprocess.CompletedProcess[str]:
    # A file, because multiprocessing's spawn imports the main module again.
    program = tmp_path / "program.py"
    program.write_text(PRELUDE + textwrap.dedent(body))
    return programs.run("-W", "error", program, backend.repository_type, backend.url)


FORKS = {
    "fork": FORK,
    "fork-without-uvloop": WITHOUT_UVLOOP + FORK,
    "fork-in-a-loop": FORK_IN_A_LOOP,
    "fork-in-uvloop": FORK_IN_UVLOOP,
    "multiprocessing": MULTIPROCESSING,
}


@pytest.mark.parametrize(("shape", "body"), on_each_shape(FORKS, "fork"), indirect=["shape"])
def test_parent_and_children_continue_to_work(
    shape: tuple[Backend, Counter], body: str, programs: Programs, tmp_path: Path
) -> None:
    backend, count = shape
    program = run_program(programs, backend, body, tmp_path)
    assert (program.returncode, program.stderr) == (0, "")
    assert settled(count, 0) == 0


@pytest.mark.parametrize(("shape", "body"), on_each_shape(EXITS, "after both"), indirect=["shape"])
def test_an_exit_without_close_is_quiet_and_leaves_no_connection(
    shape: tuple[Backend, Counter], body: str, programs: Programs, tmp_path: Path
) -> None:
    backend, count = shape
    program = run_program(programs, backend, body, tmp_path)
    assert (program.returncode, program.stdout, program.stderr) == (0, "", "")
    assert settled(count, 0) == 0
