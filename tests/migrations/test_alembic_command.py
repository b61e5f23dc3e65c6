from __future__ import annotations

import re
import shutil
import sqlite3
from pathlib import Path

import pytest

from sessions import migrations
from tests.migrations.migration_helpers import (
    OUR_TABLES,
    ROOT,
    AlembicCommand,
    describe_postgres,
    describe_sqlite,
    execute,
    migrate,
    postgres_rows,
    printed_statements,
    sqlite_file,
    sqlite_rows,
)
from tests.support.databases import execute_postgres


def sqlite_environment(url: str) -> dict[str, str]:
    return {"SESSIONS_DEFAULT_REPOSITORY": "sqlite", "SQLITE_PATH": sqlite_file(url)}


# --- online ----------------------------------------------------------------------------------------


async def test_upgrade_head_in_the_checkout_migrates_the_database_of_the_environment(
    empty_postgres_url: str, postgres_url: str, alembic_command: AlembicCommand
) -> None:
    for _ in range(2):
        alembic_command("upgrade", "head", POSTGRES_URL=empty_postgres_url)

        assert await describe_postgres(empty_postgres_url) == await describe_postgres(postgres_url)


async def test_the_command_works_from_any_folder(
    empty_postgres_url: str, tmp_path: Path, alembic_command: AlembicCommand
) -> None:
    alembic_command(
        "upgrade", "head", cwd=tmp_path, ini=str(ROOT / "alembic.ini"), POSTGRES_URL=empty_postgres_url
    )

    assert await postgres_rows(empty_postgres_url, "SELECT * FROM sessions_alembic_version") == [
        (migrations.HEAD,)
    ]
    assert list(tmp_path.iterdir()) == []


async def test_the_command_takes_the_schema_back(postgres_url: str, alembic_command: AlembicCommand) -> None:
    assert migrations.HEAD in alembic_command("current", POSTGRES_URL=postgres_url)

    alembic_command("downgrade", "base", POSTGRES_URL=postgres_url)

    assert await describe_postgres(postgres_url) == {"columns": [], "constraints": [], "indexes": []}


async def test_the_command_migrates_sqlite_where_that_is_the_default_repository(
    sqlite_url: str, tmp_path: Path, alembic_command: AlembicCommand
) -> None:
    alembic_command("upgrade", "head", **sqlite_environment(sqlite_url))

    await migrate(f"sqlite:///{tmp_path}/other.db")
    assert describe_sqlite(sqlite_url) == describe_sqlite(f"sqlite:///{tmp_path}/other.db")
    assert sqlite_rows(sqlite_url, "SELECT * FROM sessions_alembic_version") == [(migrations.HEAD,)]


def test_the_command_fails_where_the_database_is_of_another_release(
    postgres_url: str, alembic_command: AlembicCommand
) -> None:
    execute_postgres(postgres_url, "UPDATE sessions_alembic_version SET version_num = '9999'")

    with pytest.raises(AssertionError, match="9999"):
        alembic_command("upgrade", "head", POSTGRES_URL=postgres_url)


def test_a_new_revision_can_be_generated_and_reads_like_the_others(
    tmp_path: Path, alembic_command: AlembicCommand
) -> None:
    # In a copy: the folder of the real ones stays as it is.
    shutil.copytree(ROOT / "alembic", tmp_path / "alembic")
    shutil.copy(ROOT / "alembic.ini", tmp_path)

    alembic_command("revision", "-m", "Add colour.", "--rev-id", "0004", ini=str(tmp_path / "alembic.ini"))

    text = (tmp_path / "alembic" / "versions" / "0004_add_colour.py").read_text()
    compile(text, "0004_add_colour.py", "exec")
    assert 'down_revision = "0003"' in text.replace("'", '"')
    assert "Revision: 0004, after 0003" in text


# --- offline ---------------------------------------------------------------------------------------


async def test_the_printed_sql_makes_the_same_postgresql_schema(
    empty_postgres_url: str, postgres_url: str, alembic_command: AlembicCommand
) -> None:
    script = alembic_command("upgrade", "head", "--sql")

    # One at a time, as psql does: CREATE INDEX CONCURRENTLY refuses company.
    await execute(empty_postgres_url, *printed_statements(script))

    assert await describe_postgres(empty_postgres_url) == await describe_postgres(postgres_url)
    assert await postgres_rows(empty_postgres_url, "SELECT * FROM sessions_alembic_version") == [
        (migrations.HEAD,)
    ]


async def test_the_printed_sql_takes_the_schema_back(
    postgres_url: str, alembic_command: AlembicCommand
) -> None:
    script = alembic_command("downgrade", "head:base", "--sql")

    await execute(postgres_url, *printed_statements(script))

    assert await describe_postgres(postgres_url) == {"columns": [], "constraints": [], "indexes": []}


async def test_the_printed_sql_makes_the_same_sqlite_schema(
    sqlite_url: str, tmp_path: Path, alembic_command: AlembicCommand
) -> None:
    script = alembic_command("upgrade", "head", "--sql", SESSIONS_DEFAULT_REPOSITORY="sqlite")

    connection = sqlite3.connect(sqlite_file(sqlite_url))
    connection.executescript(script)
    connection.close()

    online = f"sqlite:///{tmp_path}/online.db"
    await migrate(online)
    assert describe_sqlite(sqlite_url) == describe_sqlite(online)
    assert sqlite_rows(sqlite_url, "SELECT * FROM sessions_alembic_version") == [(migrations.HEAD,)]


def test_printing_needs_no_server_and_uses_only_our_names(alembic_command: AlembicCommand) -> None:
    script = alembic_command("upgrade", "head", "--sql", POSTGRES_URL="postgresql://u@192.0.2.1/d")

    assert set(re.findall(r"(?:TABLE(?: IF NOT EXISTS)?|INTO|UPDATE) (\w+)", script)) == {
        *OUR_TABLES,
        "sessions_alembic_version",
    }
