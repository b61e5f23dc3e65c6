"""Two services in one database, sharing our records and documents."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from beanie import Document, init_beanie
from sqlalchemy import Connection, func, inspect, select, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import selectinload

from alembic import command
from sessions import SessionRepositoryFactory, migrations
from sessions.models.documents import ChatMessageDocument, ChatSessionDocument
from sessions.models.records import Base, ChatMessageRecord, ChatSessionRecord
from tests.services.second_service import NoteRecord, notes_config, write_alembic


@pytest.fixture
async def engine(empty_postgres_url: str) -> AsyncIterator[AsyncEngine]:
    """The other service's engine."""
    engine = create_async_engine(
        "postgresql+asyncpg://", async_creator=lambda: asyncpg.connect(empty_postgres_url)
    )
    yield engine
    await engine.dispose()


@pytest.fixture
def ini(tmp_path: Path) -> Path:
    return write_alembic(tmp_path)


async def run(engine: AsyncEngine, function: Any, *arguments: Any) -> Any:
    async with engine.connect() as connection:
        return await connection.run_sync(function, *arguments)


def ours(connection: Connection, move: Any, *arguments: str) -> None:
    move(migrations.alembic_config(connection), *arguments)


def theirs(connection: Connection, ini: Path, move: Any, *arguments: str) -> None:
    move(notes_config(ini, connection), *arguments)


def tables(connection: Connection) -> set[str]:
    return set(inspect(connection).get_table_names())


MAKO = """
revision, down_revision = ${repr(up_revision)}, None


def upgrade():
    ${upgrades}
"""


def versions(connection: Connection) -> list[str]:
    return [
        connection.execute(text(f"SELECT version_num FROM {table}")).scalar_one()
        for table in (migrations.VERSION_TABLE, "alembic_version")
    ]


# --- migrations ------------------------------------------------------------------------------------


async def test_each_migrates_its_own_tables_and_both_versions_live_side_by_side(
    engine: AsyncEngine, ini: Path
) -> None:
    await run(engine, ours, command.upgrade, "head")
    await run(engine, theirs, ini, command.upgrade, "head")

    both = {"chat_sessions", "chat_messages", "sessions_alembic_version", "notes", "alembic_version"}
    assert await run(engine, tables) == both
    assert await run(engine, versions) == [migrations.HEAD, "notes1"]

    # In sequence, and each again, down and up.
    await run(engine, theirs, ini, command.downgrade, "base")
    assert await run(engine, tables) == both - {"notes"}
    await run(engine, theirs, ini, command.upgrade, "head")
    await run(engine, ours, command.downgrade, "0001")
    await run(engine, ours, command.upgrade, "head")
    assert await run(engine, tables) == both
    assert await run(engine, versions) == [migrations.HEAD, "notes1"]


async def test_neither_finds_anything_to_do_in_the_tables_of_the_other(
    engine: AsyncEngine, ini: Path
) -> None:
    await run(engine, ours, command.upgrade, "head")
    await run(engine, theirs, ini, command.upgrade, "head")

    # Each fails where autogenerate would write anything.
    await run(engine, ours, command.check)
    await run(engine, theirs, ini, command.check)


async def test_their_autogenerate_writes_their_own_table_alone(engine: AsyncEngine, ini: Path) -> None:
    await run(engine, ours, command.upgrade, "head")
    (ini.parent / "migrations" / "script.py.mako").write_text(MAKO)
    (ini.parent / "migrations" / "versions" / "notes1.py").unlink()
    written: list[Any] = []

    def generate(connection: Connection) -> None:
        written.append(command.revision(notes_config(ini, connection), autogenerate=True))

    await run(engine, generate)

    upgrade = Path(written[0].path).read_text()
    assert "create_table('notes'" in upgrade
    assert "['chat_sessions.session_id']" in upgrade
    assert upgrade.count("op.") == 1


def test_our_metadata_has_our_tables_alone() -> None:
    assert set(Base.metadata.tables) == {"chat_sessions", "chat_messages"}
    assert set(NoteRecord.metadata.tables) == {"notes"}


# --- records ---------------------------------------------------------------------------------------


@pytest.fixture
async def repository(engine: AsyncEngine, ini: Path) -> AsyncIterator[Any]:
    """Ours, in the process of the other service and on its engine."""
    async with SessionRepositoryFactory.create_repository("postgres", engine=engine) as repository:
        await repository.count_sessions("nobody")
        await run(engine, theirs, ini, command.upgrade, "head")
        yield repository


async def with_notes(engine: AsyncEngine, repository: Any) -> tuple[str, str]:
    """Store two sessions, one with messages and notes."""
    noted = await repository.create_session_async("ann", {"title": "Noted", "metadata": {"a": [1]}})
    plain = await repository.create_session_async("ann", {"title": "Plain"})
    await repository.add_messages(noted, [("user", "one"), ("assistant", "two")])
    async with AsyncSession(engine) as db_session:
        db_session.add_all([NoteRecord(session_id=noted, text=f"note {number}") for number in range(3)])
        await db_session.commit()
    return noted, plain


async def test_records_are_joined_with_the_other_services_rows(engine: AsyncEngine, repository: Any) -> None:
    noted, _ = await with_notes(engine, repository)
    joined = (
        select(ChatSessionRecord.title, func.count())
        .join(NoteRecord, NoteRecord.session_id == ChatSessionRecord.session_id)
        .where(ChatSessionRecord.user_id == "ann")
        .group_by(ChatSessionRecord.title)
    )
    through_relationship = select(NoteRecord).join(NoteRecord.chat_session).where(NoteRecord.id > 0)

    async with AsyncSession(engine) as db_session:
        assert (await db_session.execute(joined)).all() == [("Noted", 3)]
        notes = (
            await db_session.scalars(through_relationship.options(selectinload(NoteRecord.chat_session)))
        ).all()

    assert {note.chat_session.session_id for note in notes} == {noted}
    assert notes[0].chat_session.session_metadata == {"a": [1]}
    found = await repository.get_session("ann", noted)
    assert notes[0].chat_session.updated_at == found.updated_at


async def with_messages(db_session: AsyncSession, session_id: str) -> ChatSessionRecord:
    """Return a session's record with its messages loaded."""
    messages = selectinload(ChatSessionRecord.messages)
    record = await db_session.get(ChatSessionRecord, session_id, options=[messages])
    assert record is not None
    return record


async def test_relationships_load_messages_in_order_and_lead_back(
    engine: AsyncEngine, repository: Any
) -> None:
    noted, _ = await with_notes(engine, repository)

    async with AsyncSession(engine) as db_session:
        record = await with_messages(db_session, noted)
        assert [message.content for message in record.messages] == ["one", "two"]
        assert all(message.chat_session is record for message in record.messages)

    history = await repository.get_session_history("ann", noted)
    assert [message.message_id for message in record.messages] == [item.message_id for item in history]


async def test_what_the_other_service_stores_by_records_is_what_callers_see(
    engine: AsyncEngine, repository: Any
) -> None:

    session_id, message_id = str(uuid.uuid4()), str(uuid.uuid4())
    async with AsyncSession(engine) as db_session:
        record = ChatSessionRecord(session_id=session_id, title="By record", user_id="bob")
        record.messages.append(ChatMessageRecord(message_id=message_id, role="user", content="Hello"))
        db_session.add(record)
        await db_session.commit()

    found = await repository.get_session("bob", session_id)
    assert (found.title, found.metadata) == ("By record", {})
    [message] = await repository.get_session_history("bob", session_id)
    assert (message.message_id, message.content) == (message_id, "Hello")
    assert message.timestamp.utcoffset() is not None


@pytest.mark.parametrize("by", ["repository", "record"])
async def test_deleting_a_session_deletes_only_its_messages_and_notes(
    engine: AsyncEngine, repository: Any, by: str
) -> None:
    noted, plain = await with_notes(engine, repository)

    if by == "repository":
        assert await repository.delete_session_async("ann", noted)
    else:
        async with AsyncSession(engine) as db_session:
            record = await db_session.get(ChatSessionRecord, noted)
            await db_session.delete(record)
            await db_session.commit()

    async with AsyncSession(engine) as db_session:
        counts = [
            (await db_session.execute(select(func.count()).select_from(table))).scalar_one()
            for table in (ChatSessionRecord, ChatMessageRecord, NoteRecord)
        ]
    assert counts == [1, 0, 0]
    assert (await repository.get_session("ann", plain)).title == "Plain"


async def test_a_message_that_is_taken_out_of_a_record_is_deleted(
    engine: AsyncEngine, repository: Any
) -> None:
    noted, _ = await with_notes(engine, repository)

    async with AsyncSession(engine) as db_session:
        record = await with_messages(db_session, noted)
        record.messages.pop(0)
        await db_session.commit()

    history = await repository.get_session_history("ann", noted)
    assert [message.content for message in history] == ["two"]


async def test_a_transaction_of_the_other_service_holds_both_tables(
    engine: AsyncEngine, repository: Any
) -> None:
    noted, _ = await with_notes(engine, repository)

    async with AsyncSession(engine) as db_session:
        record = await db_session.get(ChatSessionRecord, noted)
        assert record is not None
        record.title = "Changed"
        db_session.add(NoteRecord(session_id=noted, text="with it"))
        await db_session.flush()
        assert (await repository.get_session("ann", noted)).title == "Noted"
        await db_session.rollback()

    assert (await repository.get_session("ann", noted)).title == "Noted"


# --- in a schema -----------------------------------------------------------------------------------


async def test_records_in_a_schema_are_shared_by_an_engine_that_translates_to_it(
    engine: AsyncEngine, tmp_path: Path
) -> None:
    """As the manual tells, the other service's tables stay where they are, by a schema of their own name."""
    in_chat = engine.execution_options(schema_translate_map={None: "chat", "notes": "public"})
    repository = SessionRepositoryFactory.create_repository("postgres", engine=engine, schema="chat")
    session_id = await repository.create_session_async("ann", {"title": "In a schema"})
    await repository.add_message(session_id, "user", "Hello")
    ini = write_alembic(tmp_path, "chat.chat_sessions")
    await run(engine, theirs, ini, command.upgrade, "head")

    async with AsyncSession(in_chat) as db_session:
        record = await db_session.get(
            ChatSessionRecord, session_id, options=[selectinload(ChatSessionRecord.messages)]
        )
        assert record is not None
        assert [message.content for message in record.messages] == ["Hello"]
        await db_session.delete(record)
        await db_session.commit()

    assert await repository.count_sessions("ann") == 0
    await run(in_chat, ours, command.check)


async def test_records_in_a_schema_are_shared_by_a_search_path_too(
    engine: AsyncEngine, empty_postgres_url: str, tmp_path: Path
) -> None:
    """Without a map, so that tables of both kinds are named as they are."""
    repository = SessionRepositoryFactory.create_repository("postgres", engine=engine, schema="chat")
    session_id = await repository.create_session_async("ann", {"title": "In a schema"})
    ini = write_alembic(tmp_path, "chat.chat_sessions")
    with_path = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=lambda: asyncpg.connect(
            empty_postgres_url, server_settings={"search_path": "public, chat"}
        ),
    )
    try:
        await run(with_path, theirs, ini, command.upgrade, "head")
        async with AsyncSession(with_path) as db_session:
            db_session.add(NoteRecord(session_id=session_id, text="beside it"))
            await db_session.commit()
            joined = select(ChatSessionRecord.title, NoteRecord.text).join(NoteRecord.chat_session)
            assert (await db_session.execute(joined)).all() == [("In a schema", "beside it")]
        await run(with_path, theirs, ini, command.check)
    finally:
        await with_path.dispose()


# --- documents -------------------------------------------------------------------------------------


class NoteDocument(Document):
    """The other service's own document."""

    session_id: str
    text: str

    class Settings:
        name = "notes"


async def test_documents_are_part_of_the_other_services_own_init_beanie(mongodb_url: str) -> None:
    repository = SessionRepositoryFactory.create_repository("mongodb", url=mongodb_url)
    session_id = await repository.create_session_async("ann", {"title": "Noted", "metadata": {"a": 1}})
    await repository.add_message(session_id, "user", "Hello")
    connection = await repository._connection_manager.connect()

    await init_beanie(
        connection.database, document_models=[NoteDocument, ChatSessionDocument, ChatMessageDocument]
    )
    await NoteDocument(session_id=session_id, text="beside it").insert()
    document = await ChatSessionDocument.find_one(ChatSessionDocument.user_id == "ann")
    assert document is not None
    notes = await NoteDocument.find(NoteDocument.session_id == document.session_id).to_list()
    messages = await ChatMessageDocument.find(ChatMessageDocument.session_id == session_id).to_list()

    assert (document.title, document.metadata, notes[0].text) == ("Noted", {"a": 1}, "beside it")
    assert [message.content for message in messages] == ["Hello"]
    # Its writes are visible to our callers, and our operations continue to work.
    document.title = "By document"
    await document.save()
    assert (await repository.get_session("ann", session_id)).title == "By document"
    assert await repository.delete_session_async("ann", session_id)
    assert await ChatSessionDocument.count() == 0
    assert await NoteDocument.count() == 1
    await repository.aclose()
