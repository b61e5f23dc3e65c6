"""An error of MongoDB has a clear text, and a health check detects that writes would fail."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from typing import Any

import pytest
from pymongo import MongoClient

from sessions import BackendUnavailableError, ConfigurationError, RetryConfig, SessionRepositoryFactory
from tests.support import servers
from tests.support.certificates import expired_tls_server
from tests.support.mongodb_with_users import DATABASE, PASSWORD, mongodb_with_users
from tests.support.refusals import SECRET, refusal
from tests.support.serving import serving
from tests.support.timing import within

QUICK = RetryConfig(max_attempts=2, base_delay=0.01)


def repository(url: str, **options: Any) -> Any:
    return SessionRepositoryFactory.create_repository("mongodb", url=url, retry=QUICK, **options)


@pytest.fixture(scope="module")
def guarded_server() -> Iterator[int]:
    """The port of a server with authentication."""
    with mongodb_with_users() as port:
        yield port


def url_of(port: int, user: str, database: str = DATABASE) -> str:
    return f"mongodb://{user}:{PASSWORD}@127.0.0.1:{port}/{database}?authSource={DATABASE}"


async def test_a_user_without_write_privileges_may_read_and_is_unhealthy(guarded_server: int) -> None:
    async with repository(url_of(guarded_server, "dbAdmin")) as repo:
        session_id = await repo.create_session_async("alice")
        assert await repo.is_healthy() is True
    async with repository(url_of(guarded_server, "read")) as repo:
        assert (await repo.get_session("alice", session_id)) is not None
        assert "code 13" in await refusal(repo, ConfigurationError)
        assert await repo.is_healthy() is False
        assert await repo._connection_manager.is_healthy() is False


async def test_a_wrong_password_and_a_database_without_rights_are_configuration_errors(
    guarded_server: int,
) -> None:
    async with repository(url_of(guarded_server, "read").replace(PASSWORD, "wrong")) as repo:
        assert "code 18" in await refusal(repo, ConfigurationError)
        assert await repo.is_healthy() is False
    async with repository(url_of(guarded_server, "readWrite", "another")) as repo:
        assert "code 13" in await refusal(repo, ConfigurationError)
        assert await repo.is_healthy() is False


async def test_a_certificate_that_has_expired_is_named() -> None:
    with expired_tls_server("mongodb") as (port, ca_file):
        url = f"mongodb://u:{SECRET}@127.0.0.1:{port}/d?tls=true&tlsCAFile={ca_file}"
        async with repository(url, connect_timeout=0.5) as repo:
            assert "certificate has expired" in await refusal(repo, BackendUnavailableError)
            assert await repo.is_healthy() is False


async def test_an_unreachable_server_is_named_after_the_retries(caplog: pytest.LogCaptureFixture) -> None:
    repo = repository(f"mongodb://u:{SECRET}@127.0.0.1:{servers.free_port()}/d", connect_timeout=0.3)
    assert "within connect_timeout: 127.0.0.1:" in await refusal(repo, BackendUnavailableError)
    ours = [record for record in caplog.records if record.name.startswith("sessions")]
    assert [record.levelno for record in ours] == [logging.WARNING]
    assert "create_session: attempt 1 of 2 failed with ServerSelectionTimeoutError" in caplog.text


async def test_a_health_check_stores_nothing(mongodb_url: str) -> None:
    async with repository(mongodb_url) as repo:
        assert await repo.is_healthy() is True
        await repo.count_sessions("alice")
        assert await repo.is_healthy() is True
        database = (await repo._connection_manager.connect()).database
        for name in ("chat_sessions", "chat_messages"):
            assert await database[name].count_documents({}) == 0


async def no_update_waits(client: MongoClient[dict[str, Any]]) -> None:
    """Wait until the server executes nothing on the sessions of the client's database."""
    on_sessions = {"active": True, "ns": f"{client.get_default_database().name}.chat_sessions"}
    async with asyncio.timeout(60):
        while client.admin.command({"currentOp": 1} | on_sessions)["inprog"]:
            await asyncio.sleep(0.05)


async def test_an_operation_that_takes_too_long_ends_after_its_attempts_and_changes_nothing(
    mongodb_url: str,
) -> None:
    async with repository(mongodb_url) as patient, repository(mongodb_url, timeout=0.5) as repo:
        session_id = await patient.create_session_async("alice")
        with (
            MongoClient[dict[str, Any]](mongodb_url) as client,
            client.start_session() as client_session,
            client_session.start_transaction(),
        ):
            chosen = {"session_id": session_id}
            client.get_default_database().chat_sessions.update_one(
                chosen, {"$set": {"title": "held"}}, session=client_session
            )
            started = time.monotonic()
            with within(2), pytest.raises(BackendUnavailableError, match="within timeout") as caught:
                await repo.update_session_async("alice", session_id, {"title": "late"})
            took = time.monotonic() - started
            # The server ends what it received soon after that. Without the lock it would still do it.
            await no_update_waits(client)
            client_session.abort_transaction()
        assert took >= 0.4
        assert caught.value.__cause__ is not None
        found = await patient.get_session("alice", session_id)
        assert found is not None
        assert found.title == "New Chat"


async def test_the_timeout_of_the_url_wins(mongodb_url: str) -> None:
    separator = "&" if "?" in mongodb_url else "?"
    async with repository(f"{mongodb_url}{separator}timeoutMS=4321", timeout=7) as repo:
        assert (await repo._connection_manager.connect()).timeout == 4.321
    async with repository(mongodb_url, timeout=7) as repo:
        assert (await repo._connection_manager.connect()).timeout == 7


async def test_a_health_check_of_a_server_that_does_not_respond_is_bounded() -> None:
    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()  # Until the client closes the connection.

    async with serving(swallow) as port, repository(f"mongodb://127.0.0.1:{port}/d") as repo:
        with within(5):
            assert await repo.is_healthy() is False
