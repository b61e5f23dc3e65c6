from __future__ import annotations

import asyncio
import contextlib
import logging
import struct
import time
import traceback
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlencode, urlsplit

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from sessions import (
    BackendUnavailableError,
    ConfigurationError,
    RetryConfig,
    SessionRepositoryFactory,
    SessionsError,
)
from tests.support.servers import free_port
from tests.support.timing import within

SECRET = "hunter2-Zq9"
CONTENT = "a-very-private-thing-to-say"
ONE_TRY = RetryConfig(max_attempts=1)
SSL_REQUEST = 80877103


def repository(url: str | None = None, **options: Any) -> Any:
    return SessionRepositoryFactory.create_repository("postgres", url=url, **options)


def everything_shown(error: BaseException) -> str:
    chain = [error]
    while (linked := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(linked)
    texts = [text for link in chain for text in (str(link), repr(link))]
    return "\n".join([*texts, *traceback.format_exception(error)])


def causes_of(error: BaseException) -> list[type[BaseException]]:
    found = []
    while (linked := error.__cause__) is not None:
        found.append(type(linked))
        error = linked
    return found


@dataclass
class Parts:
    """The parts of a URL."""

    host: str
    port: int
    username: str
    password: str | None
    database: str


def parts_of(url: str) -> Parts:
    split, query = urlsplit(url), parse_qs(urlsplit(url).query)
    return Parts(
        host=query.get("host", [split.hostname])[0] or "localhost",
        port=split.port or 5432,
        username=split.username or "postgres",
        password=split.password,
        database=split.path.removeprefix("/"),
    )


async def database_of(repo: Any) -> str:
    engine = await repo._connection_manager.connect()
    async with engine.connect() as connection:
        name: str = (await connection.execute(text("SELECT current_database()"))).scalar_one()
        return name


# --- a server that answers as a test wants ---------------------------------------------------------


@dataclass
class FakeServer:
    """Reads the first request of a client, and responds with ``answer``."""

    answer: Callable[[FakeServer, asyncio.StreamReader, asyncio.StreamWriter], Any]
    port: int = 0
    requests: list[int] = field(default_factory=list)
    parameters: dict[str, str] = field(default_factory=dict)
    password: str | None = None
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.append(task)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                length, code = struct.unpack("!II", await reader.readexactly(8))
                body = await reader.readexactly(length - 8)
                self.requests.append(code)
                if code != SSL_REQUEST:
                    break
                writer.write(b"N")
            words = body.decode().split("\0")
            self.parameters = dict(zip(words[::2], words[1::2], strict=False))
            await self.answer(self, reader, writer)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


def message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!I", len(body) + 4) + body


def error_response(sqlstate: str, words: str) -> bytes:
    fields = {b"S": b"FATAL", b"V": b"FATAL", b"C": sqlstate.encode(), b"M": words.encode()}
    return message(b"E", b"".join(key + value + b"\0" for key, value in fields.items()) + b"\0")


async def say_nothing(server: FakeServer, reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await reader.read()


async def refuse_password(
    server: FakeServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    writer.write(message(b"R", struct.pack("!I", 3)))  # Asks for the password in clear text.
    kind, length = struct.unpack("!cI", await reader.readexactly(5))
    assert kind == b"p"
    server.password = (await reader.readexactly(length - 4)).rstrip(b"\0").decode()
    writer.write(error_response("28P01", f"password authentication failed for {server.parameters['user']}"))
    await writer.drain()


async def start_up(_: FakeServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(error_response("57P03", "the database system is starting up"))
    await writer.drain()


@contextlib.asynccontextmanager
async def fake_server(answer: Any, socket_folder: Path | None = None) -> AsyncIterator[FakeServer]:
    fake = FakeServer(answer)
    if socket_folder is None:
        server = await asyncio.start_server(fake.serve, "127.0.0.1", 0)
        fake.port = server.sockets[0].getsockname()[1]
    else:
        server = await asyncio.start_unix_server(fake.serve, socket_folder / ".s.PGSQL.5432")
    async with server:
        yield fake
        await asyncio.gather(*fake.tasks)


# --- forms of the URL ------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["postgresql", "postgresql+asyncpg", "postgres"])
async def test_each_form_of_the_url_reaches_the_database(postgres_url: str, scheme: str) -> None:
    async with repository(f"{scheme}://{postgres_url.partition('://')[2]}") as repo:
        session_id = await repo.create_session_async("u", {"title": "T"})
        assert (await repo.get_session("u", session_id)).title == "T"
        assert await database_of(repo) == parts_of(postgres_url).database


async def test_host_and_database_may_be_query_parameters(postgres_url: str) -> None:
    parts = parts_of(postgres_url)
    query = {"host": parts.host, "port": parts.port, "user": parts.username, "dbname": parts.database}
    if parts.password:
        query["password"] = parts.password

    async with repository(f"postgresql://?{urlencode(query)}") as repo:
        assert await database_of(repo) == parts.database


async def test_a_host_that_is_a_directory_is_a_unix_socket(tmp_path: Path) -> None:
    async with fake_server(start_up, tmp_path) as server:
        url = f"postgresql://me:{SECRET}@/mine?host={quote(str(tmp_path), safe='')}"
        with pytest.raises(BackendUnavailableError):
            await repository(url, retry=ONE_TRY).count_sessions("u")

    assert (server.parameters["user"], server.parameters["database"]) == ("me", "mine")


async def test_percent_escapes_in_a_url_are_decoded() -> None:
    async with fake_server(refuse_password) as server:
        url = f"postgresql://m%40e:p%2Fa%3As%23s%25@127.0.0.1:{server.port}/my%20db"
        with pytest.raises(ConfigurationError):
            await repository(url).count_sessions("u")

    assert (server.parameters["user"], server.parameters["database"]) == ("m@e", "my db")
    assert server.password == "p/a:s#s%"


async def test_the_password_may_be_in_a_file_that_the_url_names(tmp_path: Path) -> None:
    file = tmp_path / "passwords"
    async with fake_server(refuse_password) as server:
        file.write_text(f"127.0.0.1:{server.port}:mine:me:{SECRET}\n")
        file.chmod(0o600)
        with pytest.raises(ConfigurationError):
            await repository(
                f"postgresql://me@127.0.0.1:{server.port}/mine?sslmode=disable&passfile={file}"
            ).count_sessions("u")

    assert server.password == SECRET


async def test_a_url_sends_the_server_what_is_meant_for_it_and_nothing_else() -> None:
    async with fake_server(refuse_password) as server:
        url = (
            f"postgresql://me:x@127.0.0.1:{server.port}/mine?sslmode=disable&channel_binding=require"
            "&connect_timeout=5&keepalives=1&keepalives_idle=30&tcp_user_timeout=5000&gssencmode=prefer"
            "&hostaddr=127.0.0.1&target_session_attrs=any&prepared_statement_cache_size=0&connection_limit=3"
            "&load_balance_hosts=random&application_name=chat&options=-c%20jit%3Doff&lock_timeout=200"
        )
        with pytest.raises(ConfigurationError, match="28P01"):
            await repository(url).count_sessions("u")

    assert {name: value for name, value in server.parameters.items() if name} == {
        "client_encoding": "'utf-8'",
        "user": "me",
        "database": "mine",
        "application_name": "chat",
        "options": "-c jit=off",
        "lock_timeout": "200",
        "statement_timeout": "20000",
    }


async def test_the_parts_are_taken_from_the_environment(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = parts_of(postgres_url)
    for name, value in {
        "POSTGRES_HOST": parts.host,
        "POSTGRES_PORT": str(parts.port),
        "POSTGRES_DB": parts.database,
        "POSTGRES_USER": parts.username,
        "POSTGRES_PASSWORD": parts.password or "",
    }.items():
        monkeypatch.setenv(name, value)

    async with repository() as repo:
        assert await database_of(repo) == parts.database


async def test_the_url_is_taken_from_the_environment_and_wins_over_the_parts(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POSTGRES_URL", postgres_url)
    monkeypatch.setenv("POSTGRES_DB", "another")
    monkeypatch.setenv("POSTGRES_HOST", "192.0.2.1")

    async with repository() as repo:
        assert await database_of(repo) == parts_of(postgres_url).database


async def test_a_password_with_any_character_may_be_given_as_a_part() -> None:
    password = "p@ss:/?#[]%20 ü'\"\\"
    async with fake_server(refuse_password) as server:
        with pytest.raises(ConfigurationError):
            await repository(
                host="127.0.0.1", port=server.port, username="me", password=password, database="mine"
            ).count_sessions("u")

    assert server.password == password
    assert server.parameters["database"] == "mine"


@pytest.mark.parametrize(
    "url",
    [
        f"mysql://u:{SECRET}@h/d",
        f"postgresql+psycopg://u:{SECRET}@h/d",
        f"postgresql:/u:{SECRET}@h/d",
        f"u:{SECRET}@h/d",
        f"host=h password={SECRET}",
        f"postgresql://u:{SECRET}@[::1/d",
        f"postgresql://u:{SECRET}@h:port/d",
        f"postgresql://u:{SECRET}@127.0.0.1:99999/d",
        f"postgresql://u:{SECRET}/not-escaped@h/d",
        f"postgresql://u:not@escaped:{SECRET}@h/d",
        f"postgresql://u:{SECRET}@h/d?sslmode=maybe",
        f"POSTGRESQL+ASYNCPG//{SECRET}",
    ],
)
async def test_an_invalid_url_is_a_configuration_error_that_does_not_show_it(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        # Some errors are detected only by the driver, at the first call.
        await repository(url, retry=ONE_TRY).count_sessions("u")

    assert "db.postgres" in str(caught.value)
    assert SECRET not in everything_shown(caught.value)


# --- ssl -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ssl", "asks"),
    [("disable", []), (False, []), ("prefer", [SSL_REQUEST]), (None, [SSL_REQUEST])],
)
async def test_optional_ssl_falls_back_to_plain_text(ssl: Any, asks: list[int]) -> None:
    async with fake_server(start_up) as server:
        url = f"postgresql://u@127.0.0.1:{server.port}/d"
        with pytest.raises(BackendUnavailableError) as caught:
            await repository(url, ssl=ssl, retry=ONE_TRY).count_sessions("u")

    assert server.requests[:-1] == asks
    assert "CannotConnectNowError" in str(caught.value)


@pytest.mark.parametrize("ssl", [True, "require", "verify-ca", "verify-full"])
async def test_required_ssl_does_not_fall_back_to_plain_text(ssl: Any) -> None:
    async with fake_server(start_up) as server:
        url = f"postgresql://u:{SECRET}@127.0.0.1:{server.port}/d"
        with pytest.raises((BackendUnavailableError, ConfigurationError)) as caught:
            await repository(url, ssl=ssl, retry=ONE_TRY).count_sessions("u")

    assert set(server.requests) <= {SSL_REQUEST}
    assert SECRET not in everything_shown(caught.value)


async def test_the_sslmode_of_the_url_counts_where_the_setting_says_nothing() -> None:
    async with fake_server(start_up) as server:
        url = f"postgresql://u@127.0.0.1:{server.port}/d"
        for query in ("?sslmode=disable", "?sslmode=require"):
            with pytest.raises(BackendUnavailableError):
                await repository(url + query, retry=ONE_TRY).count_sessions("u")

    assert [code == SSL_REQUEST for code in server.requests] == [False, True]


@pytest.mark.parametrize("ssl", ["maybe", 5, ["require"]])
def test_an_unknown_ssl_value_is_refused_when_the_repository_is_made(ssl: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"db\.postgres\.ssl"):
        repository("postgresql://h/d", ssl=ssl)


# --- a server that does not let us in --------------------------------------------------------------


async def test_a_wrong_password_is_a_configuration_error_without_the_password() -> None:
    async with fake_server(refuse_password) as server:
        with pytest.raises(ConfigurationError, match="SQLSTATE 28P01") as caught:
            await repository(f"postgresql://me:{SECRET}@127.0.0.1:{server.port}/d").count_sessions("u")

    assert server.password == SECRET
    assert server.requests.count(196608) == 1, "retried"
    assert asyncpg.InvalidPasswordError in causes_of(caught.value)
    assert SECRET not in everything_shown(caught.value)


async def test_an_unknown_user_is_a_configuration_error(postgres_url: str) -> None:
    parts = parts_of(postgres_url)
    repo = repository(
        host=parts.host,
        port=parts.port,
        username="nobody_of_that_name",
        password=SECRET,
        database=parts.database,
    )

    with pytest.raises(ConfigurationError, match="SQLSTATE 28") as caught:
        await repo.count_sessions("u")

    assert caught.value.__cause__ is not None
    assert SECRET not in everything_shown(caught.value)


async def test_an_unknown_database_is_a_configuration_error(postgres_url: str) -> None:
    url = postgres_url.replace(parts_of(postgres_url).database, "no_such_database")

    with pytest.raises(ConfigurationError, match="SQLSTATE 3D000") as caught:
        await repository(url).count_sessions("u")

    assert asyncpg.InvalidCatalogNameError in causes_of(caught.value)


async def test_a_missing_privilege_is_a_configuration_error(postgres_url: str) -> None:
    role = f"reader_of_{parts_of(postgres_url).database}"
    owner = await asyncpg.connect(postgres_url)
    await owner.execute(f"CREATE ROLE {role} LOGIN; GRANT SELECT ON sessions_alembic_version TO {role}")
    parts = parts_of(postgres_url)
    try:
        async with repository(
            host=parts.host, port=parts.port, username=role, database=parts.database
        ) as repo:
            with pytest.raises(ConfigurationError, match="SQLSTATE 42501"):
                await repo.create_session_async("u")
    finally:
        await owner.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
        await owner.close()


# --- a server that is not there --------------------------------------------------------------------


async def test_a_closed_port_is_unavailable_after_the_retries() -> None:
    repo = repository(
        f"postgresql://u:{SECRET}@127.0.0.1:{free_port()}/d",
        retry=RetryConfig(max_attempts=3, base_delay=0.01),
    )

    with within(1), pytest.raises(BackendUnavailableError) as caught:
        await repo.count_sessions("u")

    assert isinstance(caught.value.__cause__, ConnectionRefusedError)
    assert SECRET not in everything_shown(caught.value)


async def test_an_unknown_host_is_unavailable() -> None:
    repo = repository(f"postgresql://u:{SECRET}@no-such-host.invalid/d", connect_timeout=2, retry=ONE_TRY)

    with within(5), pytest.raises(BackendUnavailableError) as caught:
        await repo.count_sessions("u")

    assert caught.value.__cause__ is not None
    assert SECRET not in everything_shown(caught.value)


async def test_a_missing_unix_socket_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(BackendUnavailableError) as caught:
        await repository(f"postgresql://u@/d?host={tmp_path}", retry=ONE_TRY).count_sessions("u")

    assert isinstance(caught.value.__cause__, OSError)


@pytest.mark.parametrize("attempts", [1, 3])
async def test_a_server_that_never_responds_is_unavailable_after_connect_timeout(attempts: int) -> None:
    async with fake_server(say_nothing) as server:
        repo = repository(
            f"postgresql://u:{SECRET}@127.0.0.1:{server.port}/d?sslmode=disable",
            connect_timeout=0.2,
            retry=RetryConfig(max_attempts=attempts, base_delay=0.01),
        )
        started = time.monotonic()
        with within(0.2 * attempts), pytest.raises(BackendUnavailableError) as caught:
            await repo.count_sessions("u")
        took = time.monotonic() - started

    assert took >= 0.2 * attempts
    assert len(server.requests) == attempts
    assert isinstance(caught.value.__cause__, TimeoutError)
    assert SECRET not in everything_shown(caught.value)


async def test_a_server_that_starts_up_is_retried_and_named_by_the_error_class() -> None:
    async with fake_server(start_up) as server:
        repo = repository(
            f"postgresql://u@127.0.0.1:{server.port}/d?sslmode=disable",
            retry=RetryConfig(max_attempts=3, base_delay=0.01),
        )
        with pytest.raises(BackendUnavailableError, match="CannotConnectNowError"):
            await repo.count_sessions("u")

    assert len(server.requests) == 3


async def test_health_is_false_and_never_raises_where_there_is_no_server() -> None:
    async with fake_server(refuse_password) as server:
        for port in (free_port(), server.port):
            assert await repository(f"postgresql://u@127.0.0.1:{port}/d").is_healthy() is False


@pytest.mark.parametrize("auto_migrate", [True, False])
async def test_without_a_schema_it_is_healthy_if_the_first_call_makes_one(
    empty_postgres_url: str, auto_migrate: bool
) -> None:
    async with repository(empty_postgres_url, auto_migrate=auto_migrate) as repo:
        assert await repo.is_healthy() is auto_migrate


# --- the pool --------------------------------------------------------------------------------------


async def test_an_exhausted_pool_is_unavailable_after_pool_timeout_and_recovers(postgres_url: str) -> None:
    async with repository(postgres_url, pool_size=1, max_overflow=0, pool_timeout=0.3) as repo:
        engine = await repo._connection_manager.connect()
        async with engine.connect():
            started = time.monotonic()
            with within(0.3), pytest.raises(BackendUnavailableError, match="pool_timeout") as caught:
                await repo.count_sessions("u")
            took = time.monotonic() - started

        assert took >= 0.3
        assert caught.value.__cause__ is not None
        assert await repo.count_sessions("u") == 0


async def test_callers_beyond_the_pool_size_wait_for_a_connection(postgres_url: str) -> None:
    async with repository(postgres_url, pool_size=1, max_overflow=0) as repo:
        assert await asyncio.gather(*(repo.count_sessions("u") for _ in range(30))) == [0] * 30


async def test_a_busy_caller_does_not_starve_others(postgres_url: str) -> None:
    async with repository(postgres_url, pool_size=1, max_overflow=0, pool_timeout=60) as repo:
        await repo.count_sessions("u")
        calls = 0

        async def call_on() -> None:
            nonlocal calls
            while True:
                await repo.count_sessions("u")
                calls += 1

        busy = asyncio.create_task(call_on())
        for _ in range(20):
            await repo.count_sessions("u")
        busy.cancel()
        await asyncio.gather(busy, return_exceptions=True)

        # They alternated.
        assert 10 <= calls <= 40


async def test_the_pool_opens_no_more_connections_than_the_settings_allow(postgres_url: str) -> None:
    async with repository(postgres_url, pool_size=2, max_overflow=1) as repo:
        await asyncio.gather(*(repo.create_session_async("u") for _ in range(40)))
        assert repo._connection_manager.checked_out() == 0
        engine = await repo._connection_manager.connect()
        async with engine.connect() as connection:
            assert repo._connection_manager.checked_out() == 1
            count = await connection.execute(
                text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()")
            )
            assert count.scalar_one() <= 3


# --- what is never shown ---------------------------------------------------------------------------


@pytest.mark.parametrize("own_engine", [False, True])
async def test_no_error_and_no_log_shows_the_content_of_a_message(
    postgres_url: str, own_engine: bool, caplog: pytest.LogCaptureFixture
) -> None:
    connection = await asyncpg.connect(postgres_url)
    # The server's report of this error quotes the whole row.
    await connection.execute(
        "ALTER TABLE chat_messages ADD CHECK (content NOT LIKE '%private%');"
        "ALTER TABLE chat_sessions ADD CHECK (title NOT LIKE '%private%')"
    )
    await connection.close()
    # A service's engine does not hide parameters by default.
    engine = create_async_engine("postgresql+asyncpg://", async_creator=lambda: asyncpg.connect(postgres_url))
    caplog.set_level(logging.DEBUG)
    repo = repository(engine=engine) if own_engine else repository(postgres_url)
    errors: list[SessionsError] = []
    try:
        session_id = await repo.create_session_async("u")
        for call in (
            repo.add_message(session_id, "user", CONTENT),
            repo.add_messages(session_id, [("user", "fine"), ("user", CONTENT)]),
            repo.create_session_async("u", {"title": CONTENT, "metadata": {"k": CONTENT}}),
            repo.update_session_async("u", session_id, {"title": CONTENT, "metadata": {"k": CONTENT}}),
        ):
            with pytest.raises(SessionsError) as caught:
                await call
            errors.append(caught.value)
        assert await repo.get_session_history("u", session_id) == []
    finally:
        await repo.aclose()
        await engine.dispose()

    for error in errors:
        assert isinstance(error, BackendUnavailableError)
        assert "CheckViolationError" in str(error)
        assert error.__cause__ is not None
        assert CONTENT not in everything_shown(error)
    assert CONTENT not in caplog.text


async def test_no_log_shows_the_content_of_a_message_without_an_error(
    postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    async with repository(postgres_url) as repo:
        session_id = await repo.create_session_async("u", {"title": CONTENT})
        await repo.add_message(session_id, "user", CONTENT)
        assert [item.content for item in await repo.get_session_history("u", session_id)] == [CONTENT]

    assert CONTENT not in caplog.text


# --- a service's own engine ------------------------------------------------------------------------


async def test_a_services_own_engine_is_used_and_not_closed(postgres_url: str) -> None:
    opened = 0

    async def connect() -> Any:
        nonlocal opened
        opened += 1
        return await asyncpg.connect(postgres_url)

    engine = create_async_engine("postgresql+asyncpg://", async_creator=connect, pool_size=1, max_overflow=0)
    try:
        async with repository(engine=engine) as repo:
            session_id = await repo.create_session_async("u", {"title": "T"})
        assert opened == 1
        assert engine.pool.checkedin() == 1, "the service's connection was closed"  # type: ignore[attr-defined]
        assert (await repo.get_session("u", session_id)).title == "T"
        async with engine.connect() as connection:
            found = await connection.execute(text("SELECT title FROM chat_sessions"))
            assert found.scalar_one() == "T"
        assert opened == 1
    finally:
        await engine.dispose()


async def test_a_services_own_engine_keeps_its_transactions(postgres_url: str) -> None:
    engine = create_async_engine("postgresql+asyncpg://", async_creator=lambda: asyncpg.connect(postgres_url))
    try:
        await repository(engine=engine).create_session_async("u")
        async with engine.connect() as connection:
            await connection.execute(text("DELETE FROM chat_sessions"))
            await connection.rollback()

        assert await repository(engine=engine).count_sessions("u") == 1
    finally:
        await engine.dispose()


async def test_a_services_own_engine_gets_the_schema_too(empty_postgres_url: str) -> None:
    engine = create_async_engine(
        "postgresql+asyncpg://", async_creator=lambda: asyncpg.connect(empty_postgres_url)
    )
    try:
        repo = repository(engine=engine)
        session_id = await repo.create_session_async("u")
        assert (await repo.get_session("u", session_id)).user_id == "u"
    finally:
        await engine.dispose()


async def test_an_engine_needs_no_configured_database(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("db: {postgres: {password: '${NO_SUCH_VARIABLE}'}}")
    monkeypatch.setenv("SESSIONS_CONFIG", str(file))
    engine = create_async_engine("postgresql+asyncpg://", async_creator=lambda: asyncpg.connect(postgres_url))
    try:
        assert await repository(engine=engine).count_sessions("u") == 0
        with pytest.raises(ConfigurationError, match="NO_SUCH_VARIABLE"):
            repository()
    finally:
        await engine.dispose()
