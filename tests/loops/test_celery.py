"""Tasks of a real Celery worker that use blocking calls, in each of its pools."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.databases import Backend
from tests.support.programs import Programs

APP = """
import os, sys
from celery import Celery
from sessions import SessionRepositoryFactory

folder = os.environ["TEST_FOLDER"]
app = Celery("app", broker="filesystem://", backend=f"file://{folder}/results")
app.conf.update(
    broker_transport_options={
        "data_folder_in": f"{folder}/queue", "data_folder_out": f"{folder}/queue",
        "control_folder": f"{folder}/control",
    },
    worker_hijack_root_logger=False,
)
kind, url = os.environ["TEST_KIND"], os.environ["TEST_URL"]

# As a service may do while it starts: before Celery forks.
repository = SessionRepositoryFactory.create_repository(kind, url=url)
if os.environ.get("TEST_EARLY"):
    repository.is_healthy_sync()

@app.task
def store(session_id, text):
    repository.ensure_session_exists_sync(session_id, "user")
    return repository.add_message_sync(session_id, "user", text)
"""
SEND = """
import sys, app
results = [app.store.delay(sys.argv[1], str(number)) for number in range(20)]
print(len({result.get(timeout=110) for result in results}))
"""
BACKENDS = ("sqlite", "postgres", "mongodb-replica-set", "mongodb-standalone")
# The backend that README's command has in each pool, and the others in the default one.
OF_EACH_POOL = ("postgres",)
SESSION_ID = "00000000-0000-4000-8000-000000000001"


@pytest.mark.parametrize(
    ("backend", "pool"),
    [
        *((backend, "prefork") for backend in BACKENDS),
        *(
            pytest.param(backend, pool, marks=[] if backend in OF_EACH_POOL else [pytest.mark.full_size])
            for pool in ("threads", "gevent")
            for backend in BACKENDS
        ),
    ],
    indirect=["backend"],
)
def test_tasks_store_messages(backend: Backend, pool: str, tmp_path: Path, programs: Programs) -> None:
    for folder in ("queue", "control", "results"):
        (tmp_path / folder).mkdir()
    (tmp_path / "app.py").write_text(APP)
    environment = {
        **os.environ,
        "TEST_FOLDER": str(tmp_path),
        "TEST_KIND": backend.repository_type,
        "TEST_URL": backend.url,
    }
    # gevent's worker patches threads first; a thread that was started before would be a real one.
    early = {} if pool == "gevent" else {"TEST_EARLY": "1"}
    command = [
        sys.executable,
        "-m",
        "celery",
        "-A",
        "app",
        "worker",
        "-P",
        pool,
        "-c",
        "4",
        "--without-gossip",
    ]
    log = tmp_path / "worker.log"
    with log.open("wb") as output:
        worker = subprocess.Popen(
            [*command, "--without-mingle", "--without-gossip"],
            cwd=tmp_path,
            env=environment | early,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        sender = programs.run("-c", SEND, SESSION_ID, cwd=tmp_path, env=environment)
        assert sender.stdout == "20\n", sender.stderr + log.read_text()[-4000:]
        with backend.repository() as repository:
            history = repository.get_session_history_sync("user", SESSION_ID)
        assert sorted(message.content for message in history) == sorted(map(str, range(20)))
        # A warm shutdown: the pools of the worker's processes are closed, and nothing hangs.
        worker.send_signal(signal.SIGTERM)
        worker.wait(60)
    finally:
        if worker.poll() is None:
            os.killpg(worker.pid, signal.SIGKILL)
            worker.wait(10)
