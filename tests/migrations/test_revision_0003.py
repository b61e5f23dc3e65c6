"""Revision 0003, up and down: what it keeps, what it refuses to lose, and where it may be interrupted."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from alembic.util import CommandError
from sqlalchemy import Connection, event
from sqlalchemy.exc import DBAPIError

from alembic import command
from sessions import SessionRepositoryFactory, migrations
from tests.migrations.migration_helpers import (
    AlembicCommand,
    describe_postgres,
    describe_sqlite,
    execute,
    migrate,
    postgres_rows,
    printed_statements,
    sqlite_file,
    sqlite_rows,
    with_connection,
)

BOTH = pytest.mark.parametrize(
    "url", ["sqlite_url", "empty_postgres_url"], ids=["sqlite", "postgres"], indirect=True
)
# The history of a session, by the content of its messages.
HISTORY = "SELECT content FROM chat_messages ORDER BY timestamp, {}message_id"


@pytest.fixture
def url(request: pytest.FixtureRequest) -> str:
    """An empty database; PostgreSQL where the test does not say."""
    found: str = request.getfixturevalue(getattr(request, "param", "empty_postgres_url"))
    return found


async def describe(url: str) -> dict[str, Any]:
    return describe_sqlite(url) if url.startswith("sqlite") else await describe_postgres(url)


async def rows(url: str, statement: str) -> list[Any]:
    return sqlite_rows(url, statement) if url.startswith("sqlite") else await postgres_rows(url, statement)


async def change(url: str, *statements: str) -> None:
    def execute_all(connection: Connection) -> None:
        for statement in statements:
            connection.exec_driver_sql(statement)

    await with_connection(url, execute_all)


def stored_id(url: str, number: int) -> str:
    """Return an id as the database keeps it."""
    found = f"00000000-0000-4000-8000-{number:012d}"
    return found.replace("-", "") if url.startswith("sqlite") else found


async def populate(url: str, messages: int = 3) -> None:
    """Store a session at revision 0002, and messages with two timestamps; greater ids first."""
    session_id = stored_id(url, 1)
    times = [f"2026-01-01 00:00:0{number % 2}.000000" for number in range(messages)]
    await change(
        url,
        f"INSERT INTO chat_sessions (session_id, title, user_id) VALUES ('{session_id}', 'T', 'u')",
        *(
            "INSERT INTO chat_messages (message_id, session_id, role, content, timestamp) VALUES "
            f"('{stored_id(url, 99 - number)}', '{session_id}', 'user', 'm{number}', '{times[number]}')"
            for number in range(messages)
        ),
    )


async def contents(url: str, *, with_write_order: bool = True) -> list[str]:
    statement = HISTORY.format("write_order, " if with_write_order else "")
    return [content for (content,) in await rows(url, statement)]


# --- what it keeps -----------------------------------------------------------------------------------


@BOTH
async def test_rows_from_before_get_the_defaults_and_keep_their_order(url: str) -> None:
    await migrate(url, "0002")
    await populate(url, 5)
    assert (before := await contents(url, with_write_order=False)) == ["m4", "m2", "m0", "m3", "m1"]

    await migrate(url)

    assert await contents(url) == before
    assert await rows(url, "SELECT version FROM chat_sessions") == [(0,)]
    added = "SELECT DISTINCT CAST(metadata AS TEXT), payload, write_order FROM chat_messages"
    assert await rows(url, added) == [("{}", None, 0)]
    await migrate(url, "0002")
    assert await contents(url, with_write_order=False) == before


async def test_no_table_is_rewritten(url: str) -> None:
    await migrate(url, "0002")
    await populate(url)
    files = "SELECT pg_relation_filenode('chat_sessions'), pg_relation_filenode('chat_messages')"
    before = await postgres_rows(url, files)

    for revision in ("0003", "0002"):
        await migrate(url, revision)
        assert await postgres_rows(url, files) == before


async def test_the_check_is_not_validated_under_the_lock_that_replaces_it(url: str) -> None:
    await migrate(url, "0002")
    await populate(url)

    for revision in ("0003", "0002"):
        sent = await statements_of(url, revision)
        replacing = [
            place for place, statement in enumerate(sent) if "ADD CONSTRAINT chat_messages_role" in statement
        ]
        validating = [place for place, statement in enumerate(sent) if "VALIDATE CONSTRAINT" in statement]
        assert len(replacing) == len(validating) == 1
        assert replacing[0] < validating[0]
        assert "NOT VALID" in sent[replacing[0]]


@pytest.fixture
async def surrounded(sqlite_url: str) -> str:
    """A file at revision 0002 in which another program has added what it needs."""
    await migrate(sqlite_url, "0002")
    await populate(sqlite_url)
    with contextlib.closing(sqlite3.connect(sqlite_file(sqlite_url))) as connection:
        connection.executescript(
            """
            ALTER TABLE chat_messages ADD COLUMN "its own" TEXT DEFAULT 'x:y';
            ALTER TABLE chat_messages ADD COLUMN length INTEGER GENERATED ALWAYS AS (length(content)) VIRTUAL;
            CREATE TABLE feedback (
                message_id CHAR(32) REFERENCES chat_messages (message_id) ON DELETE CASCADE, thumb TEXT
            );
            INSERT INTO feedback SELECT message_id, 'up' FROM chat_messages;
            CREATE INDEX its_index ON chat_messages (content) WHERE content <> 'a:b';
            CREATE VIEW its_view AS SELECT content, length FROM chat_messages;
            CREATE TABLE its_log (line TEXT);
            CREATE TRIGGER its_trigger AFTER INSERT ON chat_messages
            BEGIN INSERT INTO its_log VALUES ('new: ' || NEW.content); END;
            UPDATE chat_messages SET "its own" = content;
            """
        )
    return sqlite_url


async def test_on_sqlite_what_another_program_has_added_stays(surrounded: str) -> None:
    others = "SELECT name, sql FROM sqlite_master WHERE name LIKE 'its%' OR name = 'feedback' ORDER BY name"
    before = await rows(surrounded, others)
    own = 'SELECT content, "its own", length FROM chat_messages ORDER BY content'

    # With foreign keys enforced, as on each connection of the package.
    async with SessionRepositoryFactory.create_repository("sqlite", url=surrounded) as repository:
        await repository.ensure_ready()
        engine = await repository._connection_manager.engine()
        async with engine.connect() as connection:
            for pragma, value in (("foreign_keys", 1), ("legacy_alter_table", 0)):
                assert (await connection.exec_driver_sql(f"PRAGMA {pragma}")).scalar() == value
    assert await rows(surrounded, own) == [("m0", "m0", 2), ("m1", "m1", 2), ("m2", "m2", 2)]
    await migrate(surrounded, "0002")

    assert await rows(surrounded, others) == before
    assert await rows(surrounded, own) == [("m0", "m0", 2), ("m1", "m1", 2), ("m2", "m2", 2)]
    assert await rows(surrounded, "SELECT count(*) FROM feedback") == [(3,)]
    assert await rows(surrounded, "SELECT * FROM its_log") == []
    await change(
        surrounded,
        "INSERT INTO chat_messages (message_id, session_id, role, content) "
        f"VALUES ('{stored_id(surrounded, 5)}', '{stored_id(surrounded, 1)}', 'user', 'later')",
    )
    assert await rows(surrounded, "SELECT * FROM its_log") == [("new: later",)]
    assert await rows(surrounded, "SELECT * FROM its_view WHERE content = 'later'") == [("later", 5)]
    assert await rows(surrounded, "PRAGMA foreign_key_check") == []
    with contextlib.closing(sqlite3.connect(sqlite_file(surrounded))) as connection:
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("DELETE FROM chat_messages WHERE content = 'm0'")
        assert connection.execute("SELECT count(*) FROM feedback").fetchone() == (2,)


async def test_on_sqlite_another_check_of_the_role_is_an_error_and_nothing_is_changed(
    sqlite_url: str,
) -> None:
    await migrate(sqlite_url, "0002")
    await change(
        sqlite_url,
        "PRAGMA writable_schema=ON",
        "UPDATE sqlite_master SET sql = replace(sql, 'role IN', 'role NOT NULL AND role IN')",
    )
    before = describe_sqlite(sqlite_url)

    with pytest.raises(CommandError, match="has no CHECK"):
        await migrate(sqlite_url)

    assert describe_sqlite(sqlite_url) == before


async def test_the_printed_sql_takes_a_sqlite_schema_back(
    sqlite_url: str, tmp_path: Path, alembic_command: AlembicCommand
) -> None:
    await migrate(sqlite_url)
    await populate(sqlite_url)
    script = alembic_command("downgrade", "0003:0002", "--sql", SESSIONS_DEFAULT_REPOSITORY="sqlite")

    with contextlib.closing(sqlite3.connect(sqlite_file(sqlite_url))) as connection:
        connection.executescript(script)

    online = f"sqlite:///{tmp_path}/online.db"
    await migrate(online)
    await migrate(online, "0002")
    assert describe_sqlite(sqlite_url) == describe_sqlite(online)
    assert await contents(sqlite_url, with_write_order=False) == ["m2", "m0", "m1"]


# --- what it refuses to lose -------------------------------------------------------------------------

# What loses something, by what is said of it.
LOSSES = {
    "1 with a role other than user and assistant": (
        "UPDATE chat_messages SET role = 'tool' WHERE content = 'm0'"
    ),
    "2 with metadata": """UPDATE chat_messages SET metadata = '{"a": 1}' WHERE content <> 'm0'""",
    "3 with a payload": "UPDATE chat_messages SET payload = 'null'",
}
NOTHING_TO_LOSE = "UPDATE chat_messages SET role = 'user', metadata = '{}', payload = NULL"


@BOTH
@pytest.mark.parametrize("said", [*LOSSES, ", ".join(LOSSES)], ids=["role", "metadata", "payload", "all"])
async def test_a_downgrade_refuses_to_lose_what_messages_hold_and_says_how_many(url: str, said: str) -> None:
    await migrate(url)
    await populate(url)
    # Neither is an obstacle.
    await change(url, "UPDATE chat_sessions SET version = 7", "UPDATE chat_messages SET write_order = 9")
    await change(url, *(statement for what, statement in LOSSES.items() if what in said))
    head, stored = await describe(url), await rows(url, "SELECT * FROM chat_messages ORDER BY message_id")

    for revision in ("0002", "0001", "base"):
        with pytest.raises(CommandError) as caught:
            await migrate(url, revision)
        assert f"revision 0002 cannot hold all messages: there are {said}; nothing was changed" in str(
            caught.value
        )
    assert await describe(url) == head
    assert await rows(url, "SELECT * FROM chat_messages ORDER BY message_id") == stored
    assert await rows(url, "SELECT version_num FROM sessions_alembic_version") == [("0003",)]

    await change(url, NOTHING_TO_LOSE)
    await migrate(url, "0002")
    assert await contents(url, with_write_order=False) == ["m2", "m0", "m1"]


async def test_in_one_transaction_a_downgrade_refuses_as_well(url: str) -> None:
    """As behind a proxy that lends connections for one transaction."""
    await migrate(url)
    await populate(url)
    await change(url, *LOSSES.values())
    head = await describe_postgres(url)

    def downgrade(connection: Connection) -> None:
        command.downgrade(migrations.alembic_config(connection, one_transaction=True), "0002")

    with pytest.raises(CommandError, match=", ".join(LOSSES)):
        await with_connection(url, downgrade)
    assert await describe_postgres(url) == head
    await change(url, NOTHING_TO_LOSE)
    await with_connection(url, downgrade)
    assert await rows(url, "SELECT version_num FROM sessions_alembic_version") == [("0002",)]
    assert await contents(url, with_write_order=False) == ["m2", "m0", "m1"]


@pytest.mark.parametrize("said", LOSSES, ids=["role", "metadata", "payload"])
async def test_the_printed_sql_refuses_by_a_constraint_before_anything_is_dropped(
    url: str, said: str, alembic_command: AlembicCommand
) -> None:
    await migrate(url)
    await populate(url)
    await change(url, LOSSES[said])
    stored = await rows(url, "SELECT * FROM chat_messages ORDER BY message_id")
    script = alembic_command("downgrade", "0003:0002", "--sql")

    with pytest.raises(asyncpg.CheckViolationError):
        await execute(url, *printed_statements(script))

    assert await rows(url, "SELECT * FROM chat_messages ORDER BY message_id") == stored


async def test_a_downgrade_refuses_to_lose_what_was_written_since_it_began(url: str) -> None:
    await migrate(url)
    await populate(url)
    head = await describe_postgres(url)
    reader = await asyncpg.connect(url)
    try:
        reading = reader.transaction()
        await reading.start()
        await reader.execute("SELECT 1 FROM chat_messages LIMIT 1")
        downgrading = asyncio.create_task(migrate(url, "0002"))
        waiting = "wait_event_type = 'Lock' AND query ~ 'ADD CONSTRAINT chat_messages'"
        async with asyncio.timeout(60):
            while not await postgres_rows(url, f"SELECT 1 FROM pg_stat_activity WHERE {waiting}"):
                await asyncio.sleep(0.05)
        await change(url, LOSSES["3 with a payload"])
        await reading.rollback()

        with pytest.raises(CommandError, match="there are 3 with a payload"):
            await downgrading
    finally:
        await reader.close()

    assert await describe_postgres(url) == head


async def test_while_a_downgrade_runs_nothing_is_written_that_it_would_lose(url: str) -> None:
    await migrate(url)
    await populate(url)
    sent = await statements_of(url, "0002")
    [validating] = [place for place, statement in enumerate(sent) if "VALIDATE" in statement]
    await migrate(url)

    await interrupted(url, "0002", validating)

    for loss in LOSSES.values():
        with pytest.raises(DBAPIError) as caught:
            await change(url, loss)
        assert getattr(caught.value.orig, "sqlstate", None) == "23514"
    await change(url, "UPDATE chat_messages SET content = content || '!'")
    await migrate(url, "0002")
    assert await rows(url, "SELECT version_num FROM sessions_alembic_version") == [("0002",)]


# --- interruptions -----------------------------------------------------------------------------------


class InterruptedMigrationError(Exception):
    """Takes the place of a statement that is not executed any more."""


async def statements_of(url: str, revision: str, *, stop_before: int | None = None) -> list[str]:
    """Migrate, and return the statements that were sent.

    Raises:
        InterruptedMigrationError: Before the statement with that number.
    """
    sent: list[str] = []

    def send(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        sent.append(statement)
        if len(sent) - 1 == stop_before:
            raise InterruptedMigrationError

    def move(connection: Connection) -> None:
        down = (migrations.current(connection) or "") > revision
        event.listen(connection, "before_cursor_execute", send)
        (command.downgrade if down else command.upgrade)(migrations.alembic_config(connection), revision)

    await with_connection(url, move)
    return sent


# What begins a statement after which the schema is another one.
CHANGING = {"ALTER", "CREATE", "DROP", "UPDATE", "INSERT"}


async def interrupted(url: str, revision: str, stop_before: int) -> None:
    with pytest.raises(InterruptedMigrationError):
        await statements_of(url, revision, stop_before=stop_before)


@BOTH
@pytest.mark.parametrize(("start", "end"), [("0002", "0003"), ("0003", "0002")], ids=["up", "down"])
async def test_what_was_interrupted_before_any_statement_is_simply_run_again(
    url: str, start: str, end: str
) -> None:
    await migrate(url)
    await migrate(url, end)
    there = await describe(url)
    await migrate(url, start)
    await populate(url)
    sent = await statements_of(url, end)
    assert await describe(url) == there
    changes = [place for place, statement in enumerate(sent) if statement.split()[0] in CHANGING]
    assert len(changes) > 5

    for number in changes:
        await migrate(url, start)
        await interrupted(url, end, number)
        # A service of the release before goes on meanwhile.
        await change(
            url,
            "INSERT INTO chat_messages (message_id, session_id, role, content) "
            f"VALUES ('{stored_id(url, 1000 + number)}', '{stored_id(url, 1)}', 'user', 'meanwhile')",
        )
        await migrate(url, end)
        assert await describe(url) == there, sent[number]
    assert len(await contents(url, with_write_order=end == "0003")) == 3 + len(changes)
