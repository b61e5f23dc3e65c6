"""The tests themselves: their names, and the processes that they leave."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
import tomllib
from functools import partial
from pathlib import Path

import psutil
import pytest

from tests.support.forks import exit_status, in_child
from tests.support.programs import VARIABLE, Programs, programs

ROOT = Path(__file__).resolve().parents[2]
# Plugins that none of these runs needs take half of their time.
ENVIRONMENT = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
PYTEST = [sys.executable, "-m", "pytest", "-q", "-p", "tests.support.stray_processes"]


def test_no_test_module_is_a_top_level_one_that_could_shadow_an_installed_package() -> None:
    # pytest prepends the first folder above a test that is not a package to sys.path.
    folders = {path.parent for path in (ROOT / "tests").rglob("*.py")}
    assert {folder for folder in folders if not (folder / "__init__.py").exists()} == set()
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    assert settings["pythonpath"] == ["."]


LEAVING = """
import os, subprocess, sys, time
import pytest

def leave():
    # Away from its parent in every way: a session of its own, and the child of a child.
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            with open("left", "a") as file:
                print(os.getpid(), file=file)
            os.execvp("sleep", ["sleep", "600"])
        os._exit(0)
    os.wait()
    while not os.path.exists("left"):
        time.sleep(0.01)

@pytest.fixture(scope="module")
def server():
    with subprocess.Popen(["sleep", "600"]) as process:
        with open("server", "w") as file:
            print(process.pid, file=file)
        yield process
        process.kill()

def test_it(request):
    server = request.getfixturevalue("server")
    leave()
    {end}

def test_the_next(server):
    assert server.poll() is None
"""


@pytest.mark.parametrize(
    ("end", "options", "outcome"),
    [
        ("assert False", [], "1 failed, 1 passed"),
        ("raise KeyboardInterrupt", [], "no tests ran"),
        ("os.kill(os.getpid(), 15)", [], "no tests ran"),
        ("", [], "2 passed, 1 error"),
        ("os._exit(1)", ["-p", "xdist.plugin", "-n", "1", "--max-worker-restart", "0"], "1 failed"),
    ],
    ids=["failed", "interrupted", "terminated", "passed", "crashed"],
)
def test_processes_that_a_test_leaves_behind_are_terminated(
    tmp_path: Path, end: str, options: list[str], outcome: str
) -> None:
    (tmp_path / "test_leaving.py").write_text(textwrap.dedent(LEAVING).format(end=end))
    finished = subprocess.run(
        [*PYTEST, *options],
        cwd=tmp_path,
        env=ENVIRONMENT | {"SESSIONS_TEST_GRACE_SECONDS": "2"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert outcome in finished.stdout, finished.stdout + finished.stderr
    (left,) = (tmp_path / "left").read_text().split()
    assert not psutil.pid_exists(int(left))
    assert not psutil.pid_exists(int((tmp_path / "server").read_text()))
    assert (f"left processes behind: {left} sleep 600" in finished.stdout) == (end == "")


RACING = """
import functools, threading, time
import psutil, pytest
from tests.support.databases import Backend
from tests.support.racers import racers

@pytest.fixture(scope="module")
def started():
    with racers() as found:
        yield found

def test_it(started, tmp_path):
    # The goal is never reached: they go on for as long as they live.
    job = {{"work": "churn", "session_ids": [], "user_id": "user", "tasks": 1, "seed": 1}}
    backend = Backend("sqlite", "sqlite", f"sqlite:///{{tmp_path}}/x.db")
    run = functools.partial(started.run, backend, job, job, goals={{"never": 1}})
    racing = threading.Thread(target=run, daemon=True)
    racing.start()
    while len(found := psutil.Process(started._process.pid).children()) < 2:
        time.sleep(0.05)
    with open("left", "w") as file:
        print(started._process.pid, *[each.pid for each in found], file=file)
    {end}
"""


@pytest.mark.parametrize(
    ("end", "outcome"),
    [
        ("assert False", "1 failed"),
        pytest.param("raise KeyboardInterrupt", "no tests ran", marks=pytest.mark.full_size),
        pytest.param("os.kill(os.getpid(), 15)", "no tests ran", marks=pytest.mark.full_size),
        ("os.kill(os.getpid(), 2); racing.join()", "no tests ran"),
    ],
    ids=["failed", "interrupted", "terminated", "ctrl-c"],
)
def test_racers_and_what_they_forked_end_with_their_test(tmp_path: Path, end: str, outcome: str) -> None:
    (tmp_path / "test_racing.py").write_text("import os\n" + textwrap.dedent(RACING).format(end=end))
    with programs() as path:
        finished = subprocess.run(
            PYTEST,
            # Background jobs of a shell, and their children, ignore it.
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
            cwd=tmp_path,
            env=ENVIRONMENT | {VARIABLE: path},
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )
    assert outcome in finished.stdout, finished.stdout + finished.stderr
    left = (tmp_path / "left").read_text().split()
    assert len(left) == 3
    assert [pid for pid in left if psutil.pid_exists(int(pid))] == []


FORKING = """
import os, time
child = os.fork()
if child:
    print(os.getpid(), child, flush=True)
time.sleep(600)
"""


def test_a_program_whose_caller_is_gone_is_killed_with_what_it_started(tmp_path: Path) -> None:
    with programs() as path:

        def crash() -> None:
            with Programs(path).start("-c", FORKING, cwd=tmp_path) as started:
                (tmp_path / "pids").write_text(started.stdout.readline())
                os._exit(0)

        assert exit_status(in_child(crash)) == 0
        left = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
        assert len(left) == 2
        deadline = time.monotonic() + 60
        while left and time.monotonic() < deadline:
            left = [pid for pid in left if psutil.pid_exists(pid)]
            time.sleep(0.05)
    assert left == []
