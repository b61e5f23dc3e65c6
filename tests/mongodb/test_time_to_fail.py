"""The duration of a call without a server: short if it refuses connections, longer without a response."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from sessions import BackendUnavailableError, RetryConfig, SessionRepositoryFactory
from sessions.config import load_settings
from tests.faults.breakable import Mongod, ReplicaSet, running
from tests.support.freezers import Freezer, freezable
from tests.support.servers import free_port
from tests.support.timing import within

# The required bounds.
REFUSED_SECONDS = 5.0
SILENT_SECONDS = 30.0


def repository(url: str, **options: Any) -> Any:
    return SessionRepositoryFactory.create_repository("mongodb", url=url, **options)


async def failure(repo: Any, *, seconds: float) -> str:
    """Return the error text of a call that fails within a number of seconds."""
    with within(seconds), pytest.raises(BackendUnavailableError) as caught:
        await repo.count_sessions("alice")
    # PyMongo does not close a socket that is connecting when its client is closed.
    await asyncio.sleep(0.1)
    await repo.aclose()
    return str(caught.value)


@pytest.fixture(scope="module")
def standalone() -> Iterator[Freezer]:
    with freezable(Mongod()) as freezer:
        yield freezer


def test_the_defaults_keep_the_bounds() -> None:
    settings = load_settings().db.mongodb
    assert settings.refused_timeout + 1 <= REFUSED_SECONDS
    assert RetryConfig().max_elapsed + 2 <= SILENT_SECONDS


@pytest.mark.parametrize("hosts", [1, 2])
async def test_calls_to_servers_that_refuse_connections_fail_soon(hosts: int) -> None:
    url = ",".join(f"127.0.0.1:{free_port()}" for _ in range(hosts))
    text = await failure(repository(f"mongodb://{url}/chat"), seconds=REFUSED_SECONDS)

    assert "within refused_timeout" in text


async def fail_together(repo: Any, *, seconds: float) -> None:
    """Make many concurrent calls that fail; in sequence they would take as long each."""
    calls = (repo.count_sessions("alice") for _ in range(40))
    with within(seconds):
        found = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(error) for error in found} == {BackendUnavailableError}
    assert all("within refused_timeout" in str(error) for error in found)


async def test_concurrent_first_calls_to_a_server_that_refuses_connections_fail_together() -> None:
    repo = repository(f"mongodb://127.0.0.1:{free_port()}/chat", refused_timeout=1)
    await fail_together(repo, seconds=1)
    await repo.aclose()


async def test_calls_that_wait_for_a_connection_fail_with_those_that_have_one() -> None:
    server = Mongod()
    with running(server):
        repo = repository(server.url, refused_timeout=1, pool_size=1)
        await repo.create_session_async("alice")
        server.kill()
        await fail_together(repo, seconds=1)
        await repo.aclose()


async def test_refused_timeout_is_configurable() -> None:
    longer = load_settings().db.mongodb.refused_timeout + 1
    repo = repository(f"mongodb://127.0.0.1:{free_port()}/chat", refused_timeout=longer)
    started = time.monotonic()
    await failure(repo, seconds=longer)

    assert time.monotonic() - started >= longer - 0.1


async def test_a_call_fails_soon_if_the_server_crashes() -> None:
    server = Mongod()
    with running(server):
        repo = repository(server.url)
        await repo.create_session_async("alice")
        server.kill()
        text = await failure(repo, seconds=REFUSED_SECONDS)

    assert f"127.0.0.1:{server.port}" in text


async def test_a_call_to_a_server_that_does_not_respond_is_bounded() -> None:
    # The kernel accepts connections, and nothing reads from them.
    with socket.create_server(("127.0.0.1", 0), backlog=100) as server:
        url = f"mongodb://127.0.0.1:{server.getsockname()[1]}/chat"
        text = await failure(repository(url, retry=RetryConfig(max_elapsed=1.5)), seconds=1.5)

    assert "within connect_timeout" in text


@pytest.mark.full_size
async def test_a_server_that_does_not_respond_is_unavailable_with_default_settings() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=100) as server:
        url = f"mongodb://127.0.0.1:{server.getsockname()[1]}/chat"
        await failure(repository(url), seconds=SILENT_SECONDS)


@pytest.mark.parametrize("max_elapsed", [1.5, pytest.param(None, marks=pytest.mark.full_size)])
async def test_a_call_is_bounded_if_the_server_stops_responding(
    standalone: Freezer, max_elapsed: float | None
) -> None:
    retry = None if max_elapsed is None else RetryConfig(max_elapsed=max_elapsed)
    repo = repository(standalone.url, retry=retry)
    await repo.create_session_async("alice")
    standalone.freeze()
    try:
        await failure(repo, seconds=max_elapsed or SILENT_SECONDS)
    finally:
        standalone.thaw()


async def test_reads_without_an_answer_end_together_and_leave_no_connection(standalone: Freezer) -> None:
    async with repository(standalone.url, timeout=0.5, retry=RetryConfig(max_attempts=1)) as repo:
        session_id = await repo.create_session_async("alice")
        reads = [repo.get_session_history, repo.get_session, repo.count_messages] * 5
        standalone.freeze()
        try:
            with within(0.5):
                found = await asyncio.gather(
                    *(read("alice", session_id) for read in reads), return_exceptions=True
                )
        finally:
            standalone.thaw()
        assert {type(error) for error in found} == {BackendUnavailableError}
        assert all("no answer within timeout" in str(error) for error in found)
        assert repo._connection_manager.checked_out() == 0
        assert await repo.get_session_history("alice", session_id) == []


async def test_a_large_batch_may_take_longer_than_a_call(standalone: Freezer) -> None:
    async with repository(standalone.url) as patient:
        session_id = await patient.create_session_async("alice")
    async with repository(standalone.url, timeout=2, retry=RetryConfig(max_attempts=1)) as repo:
        assert len(await repo.add_messages(session_id, [("user", "Hello")] * 30_000)) == 30_000


async def test_a_server_that_restarts_costs_no_failed_call() -> None:
    server = Mongod()
    # On a busy machine it may take longer to start than the defaults allow.
    patient = {"refused_timeout": 60, "retry": RetryConfig(max_elapsed=120)}
    with running(server):
        async with repository(server.url, **patient) as repo:
            session_id = await repo.create_session_async("alice")
            server.kill()
            restarting = threading.Timer(1.0, server.start)
            restarting.start()
            message_id = await repo.add_message(session_id, "user", "Hello")
            restarting.join()
            history = await repo.get_session_history("alice", session_id)
            assert [message.message_id for message in history] == [message_id]


async def test_a_call_waits_for_an_election() -> None:
    members = ReplicaSet(3)
    with running(members):
        # Shorter than an election: it does not apply while a member responds.
        async with repository(members.url, refused_timeout=0.5, retry=RetryConfig(max_elapsed=120)) as repo:
            session_id = await repo.create_session_async("alice")
            primary = members.wait_for_primary()
            await asyncio.to_thread(primary.kill)
            message_id = await repo.add_message(session_id, "user", "Hello")
            history = await repo.get_session_history("alice", session_id)
            assert [message.message_id for message in history] == [message_id]
