from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest

from sessions import BackendUnavailableError, SessionRepositoryFactory, migrations
from tests.migrations.migration_helpers import (
    OLD_INDEXES,
    OLD_MESSAGES,
    OLD_SCHEMA,
    OLD_SESSIONS,
    AlembicCommand,
    describe_postgres,
    execute,
    postgres_rows,
)

IDS = [str(uuid.UUID(int=number)) for number in range(1, 10)]

ROWS = f"""
    INSERT INTO chat_sessions (session_id, title, user_id, created_at, updated_at, metadata) VALUES
        ('{IDS[0]}', 'Full', 'ann', '2024-01-02 03:04:05.678901+00', '2024-02-03 04:05:06+05:30',
         '{{"a": {{"b": [1, 2.5, null]}}, "$x": "ü"}}'),
        ('{IDS[1]}', 'Other', 'bob', '2023-01-01 00:00:00+00', '2023-01-01 00:00:00+00', '{{}}');
    INSERT INTO chat_messages (message_id, session_id, role, content, timestamp) VALUES
        ('{IDS[5]}', '{IDS[0]}', 'user', 'second', '2024-01-02 03:04:07+00'),
        ('{IDS[4]}', '{IDS[0]}', 'assistant', E'first\\n😀', '2024-01-02 03:04:06+00');
"""
EVERYTHING = {
    "chat_sessions": "SELECT session_id, title, user_id, created_at, updated_at, metadata "
    "FROM chat_sessions ORDER BY session_id",
    "chat_messages": "SELECT message_id, session_id, role, content, timestamp "
    "FROM chat_messages ORDER BY message_id",
}


@pytest.fixture
def url(empty_postgres_url: str) -> str:
    return empty_postgres_url


async def upgrade_on_first_call(url: str) -> None:
    async with SessionRepositoryFactory.create_repository("postgres", url=url) as repo:
        await repo.count_sessions("ann")


async def everything(url: str) -> dict[str, Any]:
    return {table: await postgres_rows(url, statement) for table, statement in EVERYTHING.items()}


@pytest.fixture
async def fresh_schema(postgres_url: str) -> dict[str, Any]:
    """The schema that an empty database gets."""
    return await describe_postgres(postgres_url)


@pytest.fixture(params=["first call", "alembic"])
def upgrade(request: pytest.FixtureRequest, alembic_command: AlembicCommand) -> Any:
    """Each way to upgrade."""

    async def upgrade_by_alembic(url: str) -> None:
        alembic_command("upgrade", "head", POSTGRES_URL=url)

    return upgrade_on_first_call if request.param == "first call" else upgrade_by_alembic


async def test_a_database_from_before_is_upgraded_in_place_and_no_row_is_lost_or_changed(
    url: str, fresh_schema: dict[str, Any], upgrade: Any
) -> None:
    await execute(url, *OLD_SCHEMA, ROWS)
    before = await everything(url)

    await upgrade(url)

    assert await everything(url) == before
    assert [len(rows) for rows in before.values()] == [2, 2]
    assert await describe_postgres(url) == fresh_schema
    assert await postgres_rows(url, "SELECT * FROM sessions_alembic_version") == [(migrations.HEAD,)]


@pytest.mark.parametrize(
    "present",
    [
        [OLD_SESSIONS],
        [OLD_SESSIONS, OLD_INDEXES[0]],
        [OLD_SESSIONS, OLD_MESSAGES],
        [OLD_SESSIONS, OLD_MESSAGES, OLD_INDEXES[1]],
    ],
    ids=["sessions only", "sessions with index", "no index", "one index"],
)
async def test_only_what_is_missing_is_created(
    url: str, fresh_schema: dict[str, Any], present: list[str]
) -> None:
    await execute(url, *present, ROWS.partition("INSERT INTO chat_messages")[0])
    before = await postgres_rows(url, EVERYTHING["chat_sessions"])

    await upgrade_on_first_call(url)

    assert await postgres_rows(url, EVERYTHING["chat_sessions"]) == before
    assert await describe_postgres(url) == fresh_schema


async def test_an_empty_database_from_before_is_upgraded(url: str, fresh_schema: dict[str, Any]) -> None:
    await execute(url, *OLD_SCHEMA)

    await upgrade_on_first_call(url)

    assert await describe_postgres(url) == fresh_schema


async def test_the_adopted_rows_are_what_callers_see(url: str) -> None:
    await execute(url, *OLD_SCHEMA, ROWS)

    async with SessionRepositoryFactory.create_repository("postgres", url=url) as repo:
        chat_session = await repo.get_session("ann", IDS[0])
        history = await repo.get_session_history("ann", IDS[0])
        message_id = await repo.add_message(IDS[0], "user", "third", user_id="ann")
        newer = await repo.get_session_history("ann", IDS[0])

    assert chat_session.metadata == {"a": {"b": [1, 2.5, None]}, "$x": "ü"}
    assert chat_session.created_at == datetime(2024, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    assert chat_session.updated_at == datetime(2024, 2, 2, 22, 35, 6, tzinfo=UTC)
    assert [(item.message_id, item.content) for item in history] == [
        (IDS[4], "first\n😀"),
        (IDS[5], "second"),
    ]
    assert [item.message_id for item in newer] == [IDS[4], IDS[5], message_id]


async def test_only_missing_times_and_metadata_are_filled_in(url: str) -> None:
    await execute(
        url,
        *OLD_SCHEMA,
        ROWS,
        f"""
        INSERT INTO chat_sessions (session_id, title, user_id, created_at, updated_at, metadata) VALUES
            ('{IDS[2]}', 'No times', 'ann', NULL, NULL, NULL),
            ('{IDS[3]}', 'One time', 'ann', NULL, '2022-01-01 00:00:00+00', 'null');
        INSERT INTO chat_messages VALUES ('{IDS[6]}', '{IDS[2]}', 'user', 'no time', NULL)
        """,
    )
    before = await everything(url)

    await upgrade_on_first_call(url)

    after = await everything(url)
    assert after["chat_sessions"][:2] == before["chat_sessions"][:2]
    assert after["chat_messages"][:2] == before["chat_messages"][:2]
    created_at, updated_at, metadata = after["chat_sessions"][2][3:]
    assert abs((datetime.now(UTC) - created_at).total_seconds()) < 60
    assert abs((updated_at - created_at).total_seconds()) < 60
    assert metadata == "{}"
    moment = datetime(2022, 1, 1, tzinfo=UTC)
    assert after["chat_sessions"][3][3:] == (moment, moment, "null")
    assert after["chat_messages"][2][4] is not None
    async with SessionRepositoryFactory.create_repository("postgres", url=url) as repo:
        assert [item.metadata for item in await repo.list_paginated_sessions_async("ann")][:2] == [
            {},
            {"a": {"b": [1, 2.5, None]}, "$x": "ü"},
        ]
        assert (await repo.get_session("ann", IDS[3])).metadata == {}


async def test_a_message_without_a_session_stops_the_upgrade_and_nothing_is_lost(
    url: str, fresh_schema: dict[str, Any]
) -> None:
    await execute(
        url, *OLD_SCHEMA, ROWS, f"INSERT INTO chat_messages VALUES ('{IDS[7]}', NULL, 'user', 'lost', now())"
    )
    before = await everything(url)

    with pytest.raises(BackendUnavailableError, match="CheckViolationError") as caught:
        await upgrade_on_first_call(url)

    # Whose message it was, only its owner can say.
    assert "chat_messages_session_id_is_set" in str(caught.value.__cause__)
    assert await everything(url) == before

    await execute(url, "DELETE FROM chat_messages WHERE session_id IS NULL")
    await upgrade_on_first_call(url)

    assert await describe_postgres(url) == fresh_schema


async def test_a_service_from_before_goes_on_working_on_the_new_schema(url: str) -> None:
    await execute(url, *OLD_SCHEMA)
    await upgrade_on_first_call(url)

    # Its start-up and its writes, to the letter.
    await execute(url, *OLD_SCHEMA, ROWS)

    assert [len(rows) for rows in (await everything(url)).values()] == [2, 2]
    with pytest.raises(asyncpg.CheckViolationError):
        await execute(url, f"INSERT INTO chat_messages VALUES ('{IDS[8]}', '{IDS[0]}', 'owner', 'x', now())")
