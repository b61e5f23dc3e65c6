from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
from typing import Any

import pytest

from sessions import SessionRepositoryFactory, migrations
from tests.migrations.migration_helpers import (
    ROOT,
    describe_postgres,
    describe_sqlite,
    migrate,
    postgres_rows,
    sqlite_rows,
)

PROCESSES = 20
ONE_DID_THE_WORK = ["took 0 steps"] * (PROCESSES - 1) + [f"took {len(migrations.REVISIONS)} steps"]

# Loads the libraries once and then forks, so that twenty interpreters do not start up on two cores. The
# processes wait for each other, to make their first calls at once.
PROGRAM = """
    import logging, os, sys, traceback
    import sessions
    import alembic.command, alembic.config, alembic.runtime.migration
    from sessions import SessionRepositoryFactory

    class Steps(logging.Handler):
        taken = 0

        def emit(self, record):
            Steps.taken += record.getMessage().startswith("Running upgrade")

    logger = logging.getLogger("alembic.runtime.migration")
    logger.setLevel(logging.INFO)
    logger.addHandler(Steps())
    kind, url, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    SessionRepositoryFactory.create_repository(kind, url=url)
    gate, go = os.pipe()
    children = []
    for number in range(count):
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(go)
            os.read(gate, 1)
            try:
                with SessionRepositoryFactory.create_repository(kind, url=url) as repository:
                    repository.create_session(f"user {number}", None)
                os.write(writer, f"took {Steps.taken} steps".encode())
            except BaseException:
                os.write(writer, traceback.format_exc().encode()[-4000:])
            os._exit(0)
        os.close(writer)
        children.append((child, reader))
    os.close(gate)
    os.close(go)
    for child, reader in children:
        with os.fdopen(reader) as stream:
            print(stream.read())
        os.waitpid(child, 0)
"""


def first_calls_at_once(kind: str, url: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM), kind, url, str(PROCESSES)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return done.stdout.splitlines()


async def test_processes_that_first_call_an_empty_postgresql_at_once_all_succeed(
    empty_postgres_url: str, postgres_url: str
) -> None:
    outcomes = await asyncio.to_thread(first_calls_at_once, "postgres", empty_postgres_url)

    assert sorted(outcomes) == ONE_DID_THE_WORK
    assert await describe_postgres(empty_postgres_url) == await describe_postgres(postgres_url)
    assert await postgres_rows(empty_postgres_url, "SELECT * FROM sessions_alembic_version") == [
        (migrations.HEAD,)
    ]
    assert await postgres_rows(
        empty_postgres_url, "SELECT count(*), count(DISTINCT user_id) FROM chat_sessions"
    ) == [(PROCESSES, PROCESSES)]


async def test_processes_that_first_call_an_empty_sqlite_at_once_all_succeed(
    sqlite_url: str, tmp_path: Any
) -> None:
    outcomes = await asyncio.to_thread(first_calls_at_once, "sqlite", sqlite_url)

    assert sorted(outcomes) == ONE_DID_THE_WORK
    await migrate(f"sqlite:///{tmp_path}/alone.db")
    assert describe_sqlite(sqlite_url) == describe_sqlite(f"sqlite:///{tmp_path}/alone.db")
    assert sqlite_rows(sqlite_url, "SELECT * FROM sessions_alembic_version") == [(migrations.HEAD,)]
    assert sqlite_rows(sqlite_url, "SELECT count(*) FROM chat_sessions") == [(PROCESSES,)]


@pytest.mark.parametrize(("kind", "fixture"), [("postgres", "empty_postgres_url"), ("sqlite", "sqlite_url")])
async def test_repositories_that_first_call_an_empty_database_at_once_in_one_process_all_succeed(
    kind: str, fixture: str, request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue(fixture)
    # Different settings, so that each has a manager and a pool of its own.
    repos = [
        SessionRepositoryFactory.create_repository(kind, url=url, pool_size=size) for size in range(1, 6)
    ]

    await asyncio.gather(*(repo.create_session_async("u") for repo in repos for _ in range(3)))

    assert await repos[0].count_sessions("u") == 15
    for repo in repos:
        await repo.aclose()
