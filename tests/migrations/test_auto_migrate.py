from __future__ import annotations

import shlex
from typing import Any

import pytest
from sqlalchemy import Connection, text

from sessions import SchemaOutdatedError, SessionRepositoryFactory, migrations
from tests.migrations.migration_helpers import (
    OLD_SCHEMA,
    describe_postgres,
    describe_sqlite,
    execute,
    migrate,
    postgres_rows,
    sqlite_rows,
    with_connection,
)

KINDS = {"sqlite": "sqlite_url", "postgres": "empty_postgres_url"}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Each database that has a schema."""
    found: str = request.param
    return found


@pytest.fixture
def url(kind: str, request: pytest.FixtureRequest) -> str:
    """An empty one."""
    found: str = request.getfixturevalue(KINDS[kind])
    return found


def repository(kind: str, url: str, **options: Any) -> Any:
    return SessionRepositoryFactory.create_repository(kind, url=url, **options)


async def describe(url: str) -> dict[str, Any]:
    return describe_sqlite(url) if url.startswith("sqlite") else await describe_postgres(url)


async def set_revision(url: str, revision: str) -> None:
    def update(connection: Connection) -> None:
        connection.execute(text(f"UPDATE {migrations.VERSION_TABLE} SET version_num = '{revision}'"))
        connection.commit()

    await with_connection(url, update)


async def test_a_first_call_on_an_empty_database_makes_the_schema(kind: str, url: str) -> None:
    async with repository(kind, url) as repo:
        session_id = await repo.create_session_async("u")
        assert (await repo.get_session("u", session_id)).title == "New Chat"


def test_a_first_blocking_call_on_an_empty_database_makes_the_schema(kind: str, url: str) -> None:
    with repository(kind, url) as repo:
        session_id = repo.create_session("u", None)
        assert repo.get_session_sync("u", session_id).title == "New Chat"


async def test_an_old_schema_is_brought_up_to_date(kind: str, url: str) -> None:
    await migrate(url)
    head = await describe(url)
    await migrate(url, "0001")

    async with repository(kind, url) as repo:
        assert await repo.count_sessions("u") == 0

    assert await describe(url) == head


async def test_a_newer_schema_is_left_alone_and_the_error_says_to_update_the_package(
    kind: str, url: str
) -> None:
    await migrate(url)
    await set_revision(url, "9999")
    before = await describe(url)

    for options in ({}, {"auto_migrate": False}):
        async with repository(kind, url, **options) as repo:
            with pytest.raises(SchemaOutdatedError) as caught:
                await repo.count_sessions("u")
        assert "revision 9999" in str(caught.value)
        assert "pip install --upgrade agenthub-sessions" in str(caught.value)
        assert "db upgrade" not in str(caught.value)

    assert await describe(url) == before


async def test_without_auto_migrate_an_absent_schema_is_an_error_that_names_the_command(
    kind: str, url: str
) -> None:
    async with repository(kind, url, auto_migrate=False) as repo:
        with pytest.raises(SchemaOutdatedError) as caught:
            await repo.create_session_async("u")

    # With the URL that was given: without it the command would upgrade the database of the settings.
    assert str(caught.value).endswith(f"run: sessions db upgrade --url {shlex.quote(url)}")
    assert kind in str(caught.value)


async def test_without_auto_migrate_an_absent_schema_stays_absent(kind: str, url: str) -> None:
    async with repository(kind, url, auto_migrate=False) as repo:
        with pytest.raises(SchemaOutdatedError):
            await repo.create_session_async("u")

    if kind == "sqlite":
        assert sqlite_rows(url, "SELECT name FROM sqlite_master") == []
    else:
        assert await postgres_rows(url, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'") == []


async def test_without_auto_migrate_an_old_schema_is_an_error_that_names_the_command(
    kind: str, url: str
) -> None:
    await migrate(url, "0001")
    before = await describe(url)

    async with repository(kind, url, auto_migrate=False) as repo:
        with pytest.raises(SchemaOutdatedError) as caught:
            await repo.create_session_async("u")

    assert "revision 0001" in str(caught.value)
    assert f"needs {migrations.HEAD}" in str(caught.value)
    # With the URL that was given: without it the command would upgrade the database of the settings.
    assert str(caught.value).endswith(f"run: sessions db upgrade --url {shlex.quote(url)}")
    assert await describe(url) == before


async def test_without_auto_migrate_tables_from_before_are_not_adopted(empty_postgres_url: str) -> None:
    await execute(empty_postgres_url, *OLD_SCHEMA)

    async with repository("postgres", empty_postgres_url, auto_migrate=False) as repo:
        with pytest.raises(SchemaOutdatedError, match="sessions db upgrade"):
            await repo.count_sessions("u")


async def test_a_service_that_waits_for_the_schema_goes_on_once_it_is_there(kind: str, url: str) -> None:
    async with repository(kind, url, auto_migrate=False) as repo:
        with pytest.raises(SchemaOutdatedError):
            await repo.count_sessions("u")
        await migrate(url)

        assert await repo.count_sessions("u") == 0


async def test_auto_migrate_can_be_turned_off_in_the_settings(
    kind: str, url: str, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.mktemp("settings") / "settings.yaml"
    file.write_text(f"db: {{{kind}: {{auto_migrate: false}}}}")
    monkeypatch.setenv("SESSIONS_CONFIG", str(file))

    async with repository(kind, url) as repo:
        with pytest.raises(SchemaOutdatedError):
            await repo.count_sessions("u")


@pytest.mark.parametrize("auto_migrate", [True, False])
async def test_tables_that_are_dropped_underneath_are_created_again_or_an_outdated_schema(
    kind: str, url: str, auto_migrate: bool
) -> None:
    def drop(connection: Connection) -> None:
        connection.execute(text("DROP TABLE chat_messages"))
        connection.execute(text("DROP TABLE chat_sessions"))
        connection.commit()

    await migrate(url)
    head = await describe(url)
    async with repository(kind, url, auto_migrate=auto_migrate) as repo:
        await repo.count_sessions("u")
        await with_connection(url, drop)
        if auto_migrate:
            assert await repo.count_sessions("u") == 0
            assert await describe(url) == head
            return
        with pytest.raises(SchemaOutdatedError, match="sessions db upgrade"):
            await repo.count_sessions("u")
