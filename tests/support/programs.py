"""Python programs without the time that a new interpreter takes to import the drivers.

One process imports the drivers, and forks for each program: ``python programs.py SOCKET``. It imports
nothing of this package, so a program imports that itself, this release or another, and ends as any
interpreter ends. A program whose caller is gone is killed.
"""

from __future__ import annotations

import builtins
import ctypes
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import types
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import psutil

VARIABLE = "SESSIONS_TEST_PROGRAMS"
# What the programs import the most of their time. No uvloop: some programs run without it.
LOADED = (
    *("aiosqlite", "alembic.command", "anyio.from_thread", "asyncpg", "beanie", "celery"),
    *("pydantic_settings", "pymongo.asynchronous.mongo_client", "redis.asyncio", "rich.console"),
    *("sqlalchemy.dialects.postgresql.asyncpg", "sqlalchemy.dialects.sqlite.aiosqlite"),
    *("sqlalchemy.ext.asyncio", "typer", "yaml"),
)
START_SECONDS = 60.0
GRACE_SECONDS = float(os.environ.get("SESSIONS_TEST_GRACE_SECONDS", "30"))
PR_SET_CHILD_SUBREAPER = 36


class Programs:
    """Runs Python programs.

    Args:
        path: The socket of the process that forks.
    """

    def __init__(self, path: str) -> None:
        self._path = path

    def run(
        self,
        *arguments: str | Path,
        cwd: str | Path = ".",
        env: Mapping[str, str] | None = None,
        timeout: float = 150.0,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program as ``python`` with these arguments does, and return its end and its output.

        Args:
            *arguments: ``-W error`` first, or not; then a file, ``-c`` with code or ``-m`` with a module;
                then the program's own arguments.
            cwd: Its working directory.
            env: Its environment; without it, that of the tests. ``PYTHONPATH`` is respected.
            timeout: Seconds after which it is killed.

        Raises:
            subprocess.TimeoutExpired: It took too long.
            AssertionError: It left processes running.
        """
        with (
            open(os.devnull) as nothing,
            tempfile.TemporaryFile("w+", encoding="utf-8") as output,
            tempfile.TemporaryFile("w+", encoding="utf-8") as errors,
        ):
            streams = (nothing.fileno(), output.fileno(), errors.fileno())
            with _Connection(self._path, arguments, cwd, env, streams) as connection:
                end = connection.end(timeout)
            for stream in (output, errors):
                stream.seek(0)
            printed = output.read(), errors.read()
        assert end["left"] == [], f"{arguments} left processes behind: {end['left']}\n{printed}"
        return subprocess.CompletedProcess(arguments, end["status"], *printed)

    @contextmanager
    def start(
        self,
        *arguments: str | Path,
        cwd: str | Path = ".",
        env: Mapping[str, str] | None = None,
        stderr: IO[Any] | int = 2,
    ) -> Iterator[Started]:
        """Start a program that the caller talks to.

        At the end it is killed with all that it started, however the block ends. Ctrl-C in the test run is
        for the test: the program does not get it.

        Args:
            *arguments: As for `run`.
            cwd: Likewise.
            env: Likewise.
            stderr: Where its errors go; without it, where those of this process go.
        """
        with ExitStack() as opened:
            theirs = ExitStack()
            with theirs:
                readable, to_write = os.pipe()
                theirs.callback(os.close, readable)
                stdin = open(to_write, "w", encoding="utf-8")  # noqa: SIM115
                opened.callback(_close_pipe, stdin)
                to_read, writable = os.pipe()
                theirs.callback(os.close, writable)
                stdout = opened.enter_context(open(to_read, encoding="utf-8"))
                errors = stderr if isinstance(stderr, int) else stderr.fileno()
                connection = opened.enter_context(
                    _Connection(self._path, arguments, cwd, env, (readable, writable, errors))
                )
            started = Started(connection, stdin, stdout)
            opened.callback(started.end)
            yield started


def _close_pipe(stream: IO[str]) -> None:
    with suppress(BrokenPipeError):  # What was never read is no error.
        stream.close()


class _Connection:
    """To the process that forks, for one program.

    Attributes:
        pid: Of the program.
    """

    def __init__(
        self,
        path: str,
        arguments: tuple[str | Path, ...],
        cwd: str | Path,
        env: Mapping[str, str] | None,
        streams: tuple[int, int, int],
    ) -> None:
        self._words = [str(argument) for argument in arguments]
        job: dict[str, Any] = {"arguments": self._words, "cwd": os.path.abspath(cwd)}
        job["env"] = dict(os.environ if env is None else env)
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._socket.connect(path)
            socket.send_fds(self._socket, [b"\n"], list(streams))
            self._socket.sendall(json.dumps(job).encode() + b"\n")
            self._replies = self._socket.makefile()
            self.pid = int(self._replies.readline())
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> _Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self._replies.close()
        self._socket.close()

    def forsake(self) -> None:
        """Have the program killed, with all that it started."""
        self._socket.shutdown(socket.SHUT_WR)

    def end(self, timeout: float) -> dict[str, Any]:
        """Wait for the end, and return its status and the processes that it left; after the time, kill it."""
        self._socket.settimeout(timeout)
        try:
            end: dict[str, Any] = json.loads(self._replies.readline())
        except TimeoutError:
            os.kill(self.pid, signal.SIGKILL)
            raise subprocess.TimeoutExpired(self._words, timeout) from None
        return end


class Started:
    """A program that is running.

    Attributes:
        pid: Of its process.
        stdin: What it reads.
        stdout: What it prints.
    """

    def __init__(self, connection: _Connection, stdin: IO[str], stdout: IO[str]) -> None:
        self.pid = connection.pid
        self.stdin = stdin
        self.stdout = stdout
        self._connection = connection
        self._ended: dict[str, Any] | None = None

    def kill(self) -> None:
        """Kill it with SIGKILL; what it started goes on until the end of the block."""
        if self._ended is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def wait(self, timeout: float = 150.0) -> int:
        """Return how it ended: its exit status, or the negative number of a signal."""
        if self._ended is None:
            self._ended = self._connection.end(timeout)
        return int(self._ended["status"])

    def end(self) -> None:
        """Kill it with all that it started, if it has not ended yet."""
        if self._ended is None:
            self._connection.forsake()
            self.wait()


@contextmanager
def programs() -> Iterator[str]:
    """Yield the path of the socket for `Programs`."""
    if path := os.environ.get(VARIABLE):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="sessions-programs-") as folder:
        path = f"{folder}/socket"
        with subprocess.Popen(
            [sys.executable, __file__, path], stdin=subprocess.DEVNULL, start_new_session=True
        ) as process:
            try:
                deadline = time.monotonic() + START_SECONDS
                while not os.path.exists(path):
                    assert process.poll() is None, "it did not start"
                    assert time.monotonic() < deadline, "it did not start in time"
                    time.sleep(0.01)
                yield path
            finally:
                process.terminate()


# -- In the process that forks ---------------------------------------------------------------------


def _serve(path: str) -> dict[str, Any]:
    """Fork for each connection; return the job in the process of its program."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{path}.new")
    listener.listen(64)
    os.rename(f"{path}.new", path)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    loaded = False
    while True:
        connection, _ = listener.accept()
        if not loaded:  # At the first program: most test runs of a developer have none.
            for module in LOADED:
                importlib.import_module(module)
            gc.collect()
            gc.freeze()
            loaded = True
        if os.fork() == 0:
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            return _attend(connection)
        connection.close()


def _attend(connection: socket.socket) -> dict[str, Any]:
    """Fork the program, and tell how it ended; return the job in the process of the program."""
    _, streams, _, _ = socket.recv_fds(connection, 1, 3)
    with connection, connection.makefile() as lines:
        job: dict[str, Any] = json.loads(lines.readline())
        if sys.platform == "linux":  # Adopts what the program leaves.
            ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        pid = os.fork()
        if pid:
            for stream in streams:
                os.close(stream)
            _accompany(connection, pid)
            os._exit(0)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    return job


def _accompany(connection: socket.socket, pid: int) -> None:
    """Say how a program ended; kill it, and what it started, when nobody waits for that any more."""
    forsaken = threading.Event()

    def watch() -> None:
        with suppress(OSError):
            connection.recv(1)
        forsaken.set()
        with suppress(psutil.NoSuchProcess):
            parent = psutil.Process(pid)
            parent.suspend()  # It starts no other meanwhile.
            for process in [*parent.children(recursive=True), parent]:
                with suppress(psutil.NoSuchProcess):
                    process.kill()

    with suppress(OSError):
        connection.sendall(f"{pid}\n".encode())
    threading.Thread(target=watch, daemon=True).start()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    end = json.dumps({"status": status, "left": _end_others(forsaken)})
    with suppress(OSError):
        connection.sendall(f"{end}\n".encode())


def _end_others(forsaken: threading.Event) -> list[str]:
    """Wait for the processes that the program left; kill those that go on, and return what they are."""
    deadline = time.monotonic() + GRACE_SECONDS
    with suppress(ChildProcessError):
        while time.monotonic() < deadline and not forsaken.is_set():
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                time.sleep(0.005)
    names = []
    while left := psutil.Process().children(recursive=True):
        for process in left:
            with suppress(psutil.NoSuchProcess):
                names.append(f"{process.pid} {' '.join(process.cmdline())[:200]}")
                process.kill()
        psutil.wait_procs(left, timeout=GRACE_SECONDS)
    return names


def _become(arguments: list[str], cwd: str, env: dict[str, str]) -> None:
    """Run the program in this process, which then ends as the interpreter does."""
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    tempfile.tempdir = None
    if arguments[:2] == ["-W", "error"]:
        sys.warnoptions.append("error")  # What a new interpreter inherits.
        warnings.simplefilter("error")
        arguments = arguments[2:]
    kind, *rest = arguments
    folder = {"-c": "", "-m": cwd}.get(kind, os.path.dirname(os.path.join(cwd, kind)))
    sys.path[0:1] = [folder, *filter(None, env.get("PYTHONPATH", "").split(":"))]
    if kind == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        return
    main = types.ModuleType("__main__")
    if kind == "-c":
        sys.argv, code, name = ["-c", *rest[1:]], rest[0], "<string>"
    else:
        sys.argv, code, name = arguments, Path(folder, os.path.basename(kind)).read_text("utf-8"), kind
        main.__file__ = name
    main.__dict__["__builtins__"] = builtins
    _kept.append(sys.modules["__main__"])
    sys.modules["__main__"] = main
    exec(compile(code, name, "exec"), main.__dict__)


_kept: list[types.ModuleType] = []  # This module, when another one is the main one.


if __name__ == "__main__":
    _become(**_serve(sys.argv[1]))
