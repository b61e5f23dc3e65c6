"""Errors for an unusable PostgreSQL name host, port, database, user and parameter, and no secret."""

from __future__ import annotations

import asyncio
import logging
import os
import struct
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from sessions import (
    BackendUnavailableError,
    ConfigurationError,
    RetryConfig,
    SchemaOutdatedError,
    SessionRepositoryFactory,
    SessionsError,
)
from tests.support.databases import execute_postgres, in_database
from tests.support.servers import free_port
from tests.support.serving import serving
from tests.support.timing import within

SECRET = "hunter2-Zq9"
QUICK = RetryConfig(max_attempts=3, base_delay=0.01)


@pytest.fixture(autouse=True)
def _without_libpqs_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in tuple(os.environ):
        if name.startswith("PG"):
            monkeypatch.delenv(name)


def repository(url: str | None = None, **options: Any) -> Any:
    return SessionRepositoryFactory.create_repository("postgres", url=url, **{"retry": QUICK, **options})


async def failure(repo: Any, error: type[SessionsError]) -> str:
    """Return the error text of a call; it must show no secret, also when logged with its causes."""
    with pytest.raises(error) as caught:
        await repo.count_sessions("alice")
    await repo.aclose()
    record = logging.LogRecord("x", logging.ERROR, "x", 1, "x", None, (error, caught.value, caught.tb))
    assert SECRET not in str(caught.value)
    assert SECRET not in logging.Formatter().formatException(record.exc_info).replace(
        f'SECRET = "{SECRET}"', ""
    )  # type: ignore[arg-type]
    return str(caught.value)


def error_response(sqlstate: str, words: str) -> bytes:
    fields = {b"S": b"FATAL", b"V": b"FATAL", b"C": sqlstate.encode(), b"M": words.encode()}
    body = b"".join(key + value + b"\0" for key, value in fields.items()) + b"\0"
    return b"E" + struct.pack("!I", len(body) + 4) + body


@asynccontextmanager
async def refusing(sqlstate: str, words: str) -> AsyncIterator[tuple[int, list[int]]]:
    """Yield the port of a server that rejects every login, and a list with an entry for each attempt."""
    asked: list[int] = []

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        length = struct.unpack("!I", await reader.readexactly(4))[0]
        await reader.readexactly(length - 4)
        asked.append(length)
        writer.write(error_response(sqlstate, words))
        await writer.drain()

    async with serving(refuse) as port:
        yield port, asked


# --- a server that is not there --------------------------------------------------------------------


async def test_a_refused_connection_names_address_database_and_user() -> None:
    port = free_port()
    text = await failure(
        repository(f"postgresql://me:{SECRET}@127.0.0.1:{port}/chat"), BackendUnavailableError
    )
    assert text == (
        f"cannot reach PostgreSQL at 127.0.0.1:{port}, database chat, as user me: "
        "Connection refused (ConnectionRefusedError)"
    )


async def test_the_parts_of_the_settings_are_named_as_those_of_a_url() -> None:
    port = free_port()
    repo = repository(host="127.0.0.1", port=port, database="chat", username="me", password=SECRET)
    text = await failure(repo, BackendUnavailableError)
    assert f"cannot reach PostgreSQL at 127.0.0.1:{port}, database chat, as user me: " in text


@pytest.mark.parametrize("host", [f"postgresql://me:{SECRET}@db/chat", f"me:{SECRET}@db"])
def test_a_url_for_a_host_is_refused_and_not_shown(host: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        repository(host=host)
    assert "db.postgres.host" in str(caught.value)
    assert SECRET not in str(caught.value)


async def test_an_unknown_host_is_named_with_a_hint_for_the_url() -> None:
    text = await failure(
        repository(f"postgresql://me:{SECRET}@no-such-host.invalid/chat"), BackendUnavailableError
    )
    assert text.startswith(
        "cannot reach PostgreSQL at no-such-host.invalid:5432, database chat, as user me: "
    )
    assert "name is not known" in text
    assert "percent-encode the user name and password" in text


async def test_a_missing_socket_is_named(tmp_path: Path) -> None:
    url = f"postgresql://me@/chat?host={tmp_path}&port=6543"
    text = await failure(repository(url), BackendUnavailableError)
    assert text.startswith(
        f"cannot reach PostgreSQL at {tmp_path}/.s.PGSQL.6543, database chat, as user me: No such file"
    )


async def test_a_server_that_does_not_respond_is_named_with_the_setting_that_bounds_it() -> None:
    async def say_nothing(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    async with serving(say_nothing) as port:
        repo = repository(
            f"postgresql://me:{SECRET}@127.0.0.1:{port}/chat?connect_timeout=0.2", connect_timeout=60
        )
        with within(5):
            text = await failure(repo, BackendUnavailableError)
    assert text.startswith(f"cannot reach PostgreSQL at 127.0.0.1:{port}, database chat, as user me: ")
    assert "connect_timeout" in text


async def test_all_of_several_hosts_are_named() -> None:
    ports = free_port(), free_port()
    hosts = f"127.0.0.1:{ports[0]},[::1]:{ports[1]}"
    text = await failure(repository(f"postgresql://me:{SECRET}@{hosts}/chat"), BackendUnavailableError)
    assert text.startswith(
        f"cannot reach PostgreSQL at 127.0.0.1:{ports[0]}, [::1]:{ports[1]}, database chat, "
    )


async def test_what_a_url_leaves_out_is_named_as_the_driver_fills_it_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    port = free_port()
    monkeypatch.setenv("PGUSER", "of_the_environment")
    text = await failure(repository(f"postgresql://127.0.0.1:{port}"), BackendUnavailableError)
    assert f"127.0.0.1:{port}, database of_the_environment, as user of_the_environment: " in text


# --- several hosts ---------------------------------------------------------------------------------


def address_of(postgres_url: str) -> tuple[str, int]:
    split = urlsplit(postgres_url)
    return split.hostname or parse_qs(split.query)["host"][0], split.port or 5432


async def test_a_first_host_that_does_not_respond_leaves_time_for_the_second(postgres_url: str) -> None:
    async def say_nothing(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    host, port = address_of(postgres_url)
    path, user = urlsplit(postgres_url).path, urlsplit(postgres_url).username
    async with serving(say_nothing) as silent:
        for attributes in ("", "&target_session_attrs=read-write", "&target_session_attrs=prefer-standby"):
            url = f"postgresql://{user}@{path}?host=127.0.0.1,{host}&port={silent},{port}&connect_timeout=2"
            repo = repository(
                url + attributes, retry=RetryConfig(max_attempts=1), pool_size=1, max_overflow=0
            )
            with within(2):
                assert await repo.count_sessions("alice") == 0
            await repo.aclose()


async def test_a_host_with_the_wrong_attributes_is_said_to_be_none_of_them(postgres_url: str) -> None:
    host, port = address_of(postgres_url)
    path, user = urlsplit(postgres_url).path, urlsplit(postgres_url).username
    url = f"postgresql://{user}@{path}?host={host},{host}&port={port},{port}&target_session_attrs=standby"
    text = await failure(repository(url), BackendUnavailableError)
    assert "target_session_attrs" in text


# --- a server that does not let us in --------------------------------------------------------------


async def test_a_missing_database_is_named(postgres_url: str) -> None:
    text = await failure(repository(in_database(postgres_url, "no_such_database")), ConfigurationError)
    assert text.startswith("db.postgres.database: cannot use PostgreSQL at ")
    assert ", database no_such_database, as user " in text
    assert "there is no such database (SQLSTATE 3D000)" in text


async def test_a_missing_role_is_named(postgres_url: str) -> None:
    host, port = address_of(postgres_url)
    repo = repository(host=host, port=port, username="nobody_of_that_name", password=SECRET, database="d")
    text = await failure(repo, ConfigurationError)
    assert text.startswith("db.postgres.username: cannot use PostgreSQL at ")
    assert "as user nobody_of_that_name: " in text
    assert "SQLSTATE 28000" in text


@pytest.mark.parametrize(
    ("sqlstate", "key"),
    [
        ("28P01", "db.postgres.password"),
        ("28000", "db.postgres.username"),
        ("3D000", "db.postgres.database"),
        ("42501", "db.postgres.username"),
        ("08P01", "db.postgres.pgbouncer"),
        ("26000", "db.postgres.pgbouncer"),
        ("42P05", "db.postgres.pgbouncer"),
    ],
)
async def test_a_refusal_names_the_setting_and_is_not_retried(sqlstate: str, key: str) -> None:
    async with refusing(sqlstate, "unsupported startup parameter: statement_timeout") as (port, asked):
        url = f"postgresql://me:{SECRET}@127.0.0.1:{port}/chat?sslmode=disable"
        text = await failure(repository(url), ConfigurationError)
    assert text.startswith(f"{key}: cannot use PostgreSQL at 127.0.0.1:{port}, database chat, as user me: ")
    assert f"SQLSTATE {sqlstate}" in text
    assert len(asked) == 1, "retried"


async def test_a_configured_pooler_that_cannot_reach_its_server_is_retried() -> None:
    async with refusing("08P01", "server login failed") as (port, asked):
        url = f"postgresql://me:{SECRET}@127.0.0.1:{port}/chat?sslmode=disable&pgbouncer=true"
        text = await failure(repository(url), BackendUnavailableError)
    assert "server login failed (ProtocolViolationError, SQLSTATE 08P01)" in text
    assert len(asked) == QUICK.max_attempts


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ("options=-c%20no_such_setting%3D1", "options: is refused on connecting: unrecognized"),
        ("timezone=Nowhere", 'timezone: is refused on connecting: invalid value for parameter "TimeZone"'),
        ("role=no_such_role&application_name=me", "application_name"),
        ("lock_timeout=x", "lock_timeout: is refused on connecting: "),
    ],
)
async def test_a_setting_that_the_server_refuses_is_named(
    postgres_url: str, caplog: pytest.LogCaptureFixture, parameters: str, said: str
) -> None:
    joint = "&" if "?" in postgres_url else "?"
    text = await failure(repository(f"{postgres_url}{joint}{parameters}"), ConfigurationError)
    assert text.startswith("db.postgres.url: cannot use PostgreSQL at ")
    assert said in text
    assert parameters.partition("=")[0] in text
    assert not caplog.records, "retried"


async def test_an_unrelated_missing_privilege_is_not_blamed_on_a_setting() -> None:
    async with refusing("42501", "permission denied for database chat") as (port, _):
        url = f"postgresql://me:{SECRET}@127.0.0.1:{port}/chat?sslmode=disable&lock_timeout=5s"
        text = await failure(repository(url), ConfigurationError)
    assert text.startswith("db.postgres.username: ")
    assert "lock_timeout" not in text


async def test_a_server_that_starts_up_is_named_with_the_reason() -> None:
    async with refusing("57P03", "the database system is starting up") as (port, asked):
        text = await failure(
            repository(f"postgresql://me@127.0.0.1:{port}/chat?sslmode=disable"), BackendUnavailableError
        )
    assert text == (
        f"cannot use PostgreSQL at 127.0.0.1:{port}, database chat, as user me: "
        "the server starts up, or shuts down (CannotConnectNowError, SQLSTATE 57P03)"
    )
    assert len(asked) == QUICK.max_attempts


# --- a database that will not do -------------------------------------------------------------------


@pytest.fixture(params=["LATIN1", "SQL_ASCII"])
def database_in_another_encoding(
    postgres_server: str, request: pytest.FixtureRequest
) -> Iterator[tuple[str, str]]:
    name = f"sessions_{uuid.uuid4().hex}"
    options = f"ENCODING '{request.param}' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
    execute_postgres(postgres_server, f"CREATE DATABASE {name} {options}")
    yield in_database(postgres_server, name), request.param
    execute_postgres(postgres_server, f"DROP DATABASE {name} WITH (FORCE)")


async def test_a_database_in_another_encoding_is_refused_and_stays_empty(
    database_in_another_encoding: tuple[str, str],
) -> None:
    url, encoding = database_in_another_encoding
    engine = create_async_engine("postgresql+asyncpg://", async_creator=lambda: asyncpg.connect(url))
    for repo in (repository(url), repository(engine=engine)):
        text = await failure(repo, ConfigurationError)
        assert text.startswith("db.postgres.database: cannot use PostgreSQL")
        assert f"its encoding is {encoding}, and must be UTF8" in text
    await engine.dispose()
    connection = await asyncpg.connect(url)
    assert await connection.fetchval("SELECT count(*) FROM pg_tables WHERE tablename LIKE 'chat%'") == 0
    await connection.close()


async def test_a_missing_privilege_names_the_role(postgres_url: str) -> None:
    role = f"reader_{uuid.uuid4().hex[:12]}"
    execute_postgres(
        postgres_url, f"CREATE ROLE {role} LOGIN; GRANT SELECT ON sessions_alembic_version TO {role}"
    )
    host, port = address_of(postgres_url)
    database = urlsplit(postgres_url).path[1:]
    try:
        repo = repository(host=host, port=port, username=role, database=database)
        text = await failure(repo, ConfigurationError)
    finally:
        execute_postgres(postgres_url, f"DROP OWNED BY {role}; DROP ROLE {role}")
    assert text.startswith("db.postgres.username: ")
    assert f"database {database}, as user {role}: the role may not do this (SQLSTATE 42501)" in text


async def test_a_statement_that_takes_too_long_names_the_setting(postgres_url: str) -> None:
    blocker = await asyncpg.connect(postgres_url)
    transaction = blocker.transaction()
    await transaction.start()
    await blocker.execute("LOCK TABLE chat_sessions IN ACCESS EXCLUSIVE MODE")
    try:
        text = await failure(repository(postgres_url, statement_timeout=0.3), BackendUnavailableError)
    finally:
        await transaction.rollback()
        await blocker.close()
    assert text.startswith("cannot use PostgreSQL at ")
    assert "statement_timeout" in text


# --- what to run -----------------------------------------------------------------------------------


async def test_the_command_repeats_what_chose_the_database(
    empty_postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = urlsplit(empty_postgres_url)
    host, port = address_of(empty_postgres_url)
    secret_url = empty_postgres_url.replace("postgres:@", "postgres@").replace(
        "postgres@", f"postgres:{SECRET}@"
    )
    given = await failure(repository(secret_url, auto_migrate=False), SchemaOutdatedError)
    assert "run: sessions db upgrade --url 'postgresql://postgres:***@" in given
    assert split.path in given

    parts = repository(
        host=host,
        port=port,
        username="postgres",
        password=SECRET,
        database=split.path[1:],
        auto_migrate=False,
    )
    text = await failure(parts, SchemaOutdatedError)
    assert "run: sessions db upgrade --url 'postgresql://postgres:***@" in text
    assert split.path in text

    engine = create_async_engine(
        "postgresql+asyncpg://", async_creator=lambda: asyncpg.connect(empty_postgres_url)
    )
    text = await failure(repository(engine=engine, auto_migrate=False), SchemaOutdatedError)
    assert "--backend" not in text
    await engine.dispose()

    monkeypatch.setenv("POSTGRES_URL", secret_url)
    configured = repository(auto_migrate=False)
    # Equal settings share the manager of the first repository, so the text may name either option.
    assert "run: sessions db upgrade --" in await failure(configured, SchemaOutdatedError)
    other = repository(auto_migrate=False, pool_size=3)
    assert (await failure(other, SchemaOutdatedError)).endswith("run: sessions db upgrade --backend postgres")
