"""``db.postgres.schema``: the tables in a schema other than the role's default."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from sessions import (
    ConfigurationError,
    SchemaOutdatedError,
    SessionRepositoryFactory,
)
from sessions.core.failures import upgrade_command
from tests.support.databases import as_role, execute_postgres
from tests.support.every_operation import use_everything

SCHEMA = "chat"
# This schema is empty, so that a name without its schema is an error.
EMPTY_PATH = {"search_path": "nowhere"}
NEEDS_QUOTES = "Tenant 7-a"


def repository(url: str | None = None, **options: Any) -> Any:
    return SessionRepositoryFactory.create_repository("postgres", url=url, **options)


def engine_of(url: str, **execution_options: Any) -> AsyncEngine:
    return create_async_engine(
        "postgresql+asyncpg://",
        async_creator=lambda: asyncpg.connect(url, server_settings=EMPTY_PATH),
        execution_options=execution_options,
    )


async def rows(url: str, statement: str) -> list[Any]:
    connection = await asyncpg.connect(url)
    try:
        return [tuple(row) for row in await connection.fetch(statement)]
    finally:
        await connection.close()


async def tables(url: str) -> set[str]:
    found = await rows(url, "SELECT schemaname, tablename FROM pg_tables WHERE tablename !~ '^(pg|sql)_'")
    return {".".join(row) for row in found}


def ours(schema: str) -> set[str]:
    return {f"{schema}.{name}" for name in ("chat_sessions", "chat_messages", "sessions_alembic_version")}


@pytest.mark.parametrize("schema", [SCHEMA, NEEDS_QUOTES, "public"])
async def test_every_operation_works_in_a_schema_that_the_first_call_creates(
    empty_postgres_url: str, schema: str
) -> None:
    # In the URL, so that a name without its schema is not found.
    url = f"{empty_postgres_url}&search_path=nowhere"

    async with repository(url, schema=schema) as repo:
        await use_everything(repo, "ann")

    assert await tables(empty_postgres_url) == ours(schema)


async def test_a_services_own_engine_is_used_in_the_schema_and_stays_as_it_was(
    empty_postgres_url: str,
) -> None:
    engine = engine_of(empty_postgres_url)
    try:
        await use_everything(repository(engine=engine, schema=SCHEMA), "ann")

        assert await tables(empty_postgres_url) == ours(SCHEMA)
        assert not engine.sync_engine.get_execution_options()
        async with engine.connect() as connection:
            assert (await connection.execute(text("SHOW search_path"))).scalar_one() == "nowhere"
    finally:
        await engine.dispose()


async def test_the_schema_that_an_engine_translates_to_by_itself_is_used(empty_postgres_url: str) -> None:
    engine = engine_of(empty_postgres_url, schema_translate_map={None: SCHEMA})
    try:
        await use_everything(repository(engine=engine), "ann")
        assert await tables(empty_postgres_url) == ours(SCHEMA)
    finally:
        await engine.dispose()


async def test_two_schemas_are_used_side_by_side_and_kept_apart(empty_postgres_url: str) -> None:
    schemas = (None, "a", "b")
    repos = [repository(empty_postgres_url, schema=schema) for schema in schemas]
    ids = [await repo.create_session_async("ann") for repo in repos]
    for repo, own in zip(repos, ids, strict=True):
        assert await repo.count_sessions("ann") == 1
        for session_id in ids:
            assert (await repo.get_session("ann", session_id) is not None) is (session_id == own)

    assert await tables(empty_postgres_url) == ours("public") | ours("a") | ours("b")
    for repo in repos:
        await repo.aclose()


async def test_the_schema_comes_from_the_settings(
    empty_postgres_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("POSTGRES_URL", empty_postgres_url)
    monkeypatch.setenv("POSTGRES_SCHEMA", "from_the_environment")
    async with repository() as repo:
        await repo.create_session_async("ann")
    file = tmp_path / "settings.yaml"
    file.write_text("db: {postgres: {url: '${POSTGRES_URL}', schema: from_a_file}}")
    monkeypatch.setenv("SESSIONS_CONFIG", str(file))
    async with repository() as repo:
        await repo.create_session_async("ann")

    assert await tables(empty_postgres_url) == ours("from_the_environment") | ours("from_a_file")


async def test_without_the_setting_the_search_path_decides(empty_postgres_url: str) -> None:
    execute_postgres(empty_postgres_url, "CREATE SCHEMA chosen")

    async with repository(f"{empty_postgres_url}&search_path=chosen") as repo:
        await use_everything(repo, "ann")

    assert await tables(empty_postgres_url) == ours("chosen")


@pytest.mark.parametrize("bad", ["", "x" * 64, "ü" * 32, 'a"b', "a;b", "a.b", "[a]", "a\0", "\ud800"])
def test_an_invalid_schema_name_is_rejected(bad: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^db\.postgres\.schema: Input should be a name") as caught:
        repository("postgresql://localhost/d", schema=bad)

    assert bad not in str(caught.value) or not bad


def test_the_name_that_the_model_keeps_it_under_is_no_option() -> None:
    with pytest.raises(ConfigurationError, match=r"^db\.postgres\.schema_name: unknown key$"):
        repository("postgresql://localhost/d", schema_name="chat")


def test_an_unset_variable_for_the_schema_is_an_error_that_names_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("db: {postgres: {schema: '${NO_SUCH_SCHEMA}'}}")
    monkeypatch.setenv("SESSIONS_CONFIG", str(file))

    with pytest.raises(ConfigurationError, match="NO_SUCH_SCHEMA"):
        repository("postgresql://localhost/d")
    repository("postgresql://localhost/d", schema="chat")


# --- who may make it -------------------------------------------------------------------------------


@pytest.fixture
def role(empty_postgres_url: str) -> Iterator[str]:
    """A role that may connect and create tables in the schema ``given``, but may not create a schema."""
    database = empty_postgres_url.partition("?")[0].rpartition("/")[2]
    name = f"role_of_{database}"
    execute_postgres(
        empty_postgres_url,
        f"CREATE ROLE {name} LOGIN",
        f"CREATE SCHEMA given AUTHORIZATION {name}",
    )
    yield name
    execute_postgres(empty_postgres_url, f"DROP OWNED BY {name} CASCADE", f"DROP ROLE {name}")


@pytest.fixture
def role_url(role: str, empty_postgres_url: str) -> str:
    return as_role(empty_postgres_url, role)


async def test_a_role_that_may_not_create_a_schema_uses_an_existing_one(
    role_url: str, empty_postgres_url: str
) -> None:
    async with repository(role_url, schema="given") as repo:
        await use_everything(repo, "ann")

    assert await tables(empty_postgres_url) == ours("given")


async def test_a_schema_that_the_role_may_not_create_is_a_configuration_error(
    role_url: str, empty_postgres_url: str
) -> None:
    with pytest.raises(ConfigurationError, match="SQLSTATE 42501"):
        await repository(role_url, schema="absent").count_sessions("ann")

    assert await tables(empty_postgres_url) == set()


async def test_without_auto_migrate_the_error_names_the_schema_in_its_command(
    empty_postgres_url: str,
) -> None:
    for schema, shown in ((SCHEMA, SCHEMA), (NEEDS_QUOTES, f"'{NEEDS_QUOTES}'")):
        with pytest.raises(SchemaOutdatedError) as caught:
            await repository(empty_postgres_url, schema=schema, auto_migrate=False).count_sessions("ann")
        command = upgrade_command("postgres", url=empty_postgres_url)
        assert str(caught.value).endswith(f"run: POSTGRES_SCHEMA={shown} {command}")

    assert await rows(empty_postgres_url, "SELECT nspname FROM pg_namespace WHERE nspname = 'chat'") == []
