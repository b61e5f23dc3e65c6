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


# What a later release may do: add columns, those with a default or none that is required.
NEWER_COLUMNS = (
    "ALTER TABLE chat_messages ADD COLUMN later INTEGER NOT NULL DEFAULT 3",
    "ALTER TABLE chat_sessions ADD COLUMN later TEXT",
    "CREATE TABLE later (id INTEGER)",
    f"UPDATE {migrations.VERSION_TABLE} SET version_num = '9999'",
)
NEWER = {
    "sqlite": NEWER_COLUMNS,
    "postgres": (
        *NEWER_COLUMNS,
        "ALTER TABLE chat_sessions ADD COLUMN number BIGINT GENERATED ALWAYS AS IDENTITY",
        "ALTER TABLE chat_sessions ADD COLUMN twice BIGINT NOT NULL GENERATED ALWAYS AS (2) STORED",
    ),
}
LACKING = {
    "a column": "ALTER TABLE chat_messages RENAME COLUMN content TO contents",
    "a table": "ALTER TABLE chat_messages RENAME TO messages",
    "a value for a column that is not known": "ALTER TABLE chat_sessions ADD COLUMN needed TEXT NOT NULL",
}


async def change(url: str, *statements: str) -> None:
    """Execute statements, with a connection of another service's."""

    def execute_all(connection: Connection) -> None:
        for statement in statements:
            connection.execute(text(statement))

    await with_connection(url, execute_all)


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


@pytest.mark.parametrize("options", [{}, {"auto_migrate": False}], ids=["auto", "off"])
async def test_a_newer_schema_that_has_all_that_is_needed_is_used_as_it_is(
    kind: str, url: str, options: dict[str, bool], caplog: pytest.LogCaptureFixture
) -> None:
    await migrate(url)
    await change(url, *NEWER[kind])
    before = await describe(url)

    async with repository(kind, url, **options) as repo:
        assert await repo.is_healthy()
        assert caplog.messages == []
        session_id = await repo.create_session_async("u")
        await repo.add_message(session_id, "user", "Hello")
        assert [message.content for message in await repo.get_session_history("u", session_id)] == ["Hello"]
        assert await repo.is_healthy()

    [logged] = caplog.records
    assert logged.levelname == "WARNING"
    assert f"revision 9999, newer than this package, which knows {migrations.HEAD}" in logged.getMessage()
    assert await describe(url) == before


@pytest.mark.parametrize("lacks", ["a column", "a table", "a value for a column that is not known"])
async def test_a_newer_schema_that_lacks_what_is_needed_is_an_error_that_says_to_update_the_package(
    kind: str, url: str, lacks: str
) -> None:
    await migrate(url)
    await change(url, *NEWER[kind], LACKING[lacks])
    before = await describe(url)

    for options in ({}, {"auto_migrate": False}):
        async with repository(kind, url, **options) as repo:
            assert not await repo.is_healthy()
            with pytest.raises(SchemaOutdatedError) as caught:
                await repo.count_sessions("u")
        assert "revision 9999" in str(caught.value)
        assert "pip install --upgrade agenthub-sessions" in str(caught.value)
        assert "db upgrade" not in str(caught.value)

    assert await describe(url) == before


async def test_an_upgrade_leaves_a_newer_schema_as_it_is(
    kind: str, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    await migrate(url)
    await change(url, *NEWER[kind])
    before = await describe(url)

    await with_connection(url, migrations.upgrade)

    assert "revision 9999" in caplog.text
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
