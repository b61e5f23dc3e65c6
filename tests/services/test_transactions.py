"""Operations in a service's own transaction commit and roll back together with its rows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from sessions import (
    AsyncChats,
    ConfigurationError,
    InvalidInputError,
    MessageConflictError,
    NewMessage,
    SessionNotFoundError,
    SessionRepositoryFactory,
    VersionConflictError,
)
from sessions.testing.open_connections import count_checked_out
from tests.support.databases import mongodb_client

SQL = {"sqlite": "sqlite+aiosqlite", "postgres": "postgresql+asyncpg"}


@pytest.fixture(params=SQL)
async def sql(request: pytest.FixtureRequest) -> AsyncIterator[tuple[AsyncChats, AsyncEngine]]:
    """Chats with a ready schema, and a service's own engine with a table of its own."""
    url = request.getfixturevalue(f"{request.param}_url")
    engine = create_async_engine(url.replace(url.partition("://")[0], SQL[request.param], 1))
    if request.param == "sqlite":

        @event.listens_for(engine.sync_engine, "connect")
        def enforce_foreign_keys(connection: Any, _record: object) -> None:
            connection.execute("PRAGMA foreign_keys=ON")

    async with AsyncChats(url) as chats:
        await chats.ensure_ready()
        async with engine.begin() as connection:
            await connection.execute(text("CREATE TABLE bills (session_id VARCHAR(36), amount INTEGER)"))
        yield chats, engine
    await engine.dispose()


async def bills(engine: AsyncEngine) -> list[int]:
    async with engine.connect() as connection:
        return list(await connection.scalars(text("SELECT amount FROM bills ORDER BY amount")))


async def everything(chats: AsyncChats, bill: Any) -> str:
    """Use each kind of operation, and insert a row of the service."""
    session_id = await chats.create_session("alice", title="In one transaction")
    await chats.add_message("alice", session_id, "user", "One")
    await chats.add_messages("alice", session_id, [("assistant", "Two"), ("user", "Three")])
    assert await chats.update_session("alice", session_id, metadata={"paid": True})
    second = await chats.create_session("alice")
    assert await chats.delete_session("alice", second)
    with pytest.raises(SessionNotFoundError):
        await chats.add_message("bob", session_id, "user", "Not mine")
    history = await chats.get_session_history("alice", session_id)
    assert [message.content for message in history] == ["One", "Two", "Three"]
    hits = (await chats.search_messages("alice", "T")).hits
    assert [hit.message.content for hit in hits] == ["Three", "Two"]
    assert await chats.count_sessions("alice") == len((await chats.list_sessions("alice")).sessions) == 1
    await bill(session_id)
    return session_id


@pytest.mark.parametrize("of_orm", [True, False])
@pytest.mark.parametrize("commits", [True, False])
async def test_a_message_and_a_row_commit_or_roll_back_together(
    sql: tuple[AsyncChats, AsyncEngine], commits: bool, of_orm: bool
) -> None:
    chats, engine = sql
    statement = text("INSERT INTO bills VALUES (:session_id, 7)")
    opened: Any = AsyncSession(engine) if of_orm else engine.connect()
    async with opened as transaction:
        await transaction.begin()

        async def bill(session_id: str) -> None:
            await transaction.execute(statement, {"session_id": session_id})

        borrowed = chats.using(transaction)
        async with borrowed:  # Closes nothing.
            session_id = await everything(borrowed, bill)
        if not of_orm:
            assert transaction.in_transaction()
        await (transaction.commit() if commits else transaction.rollback())

    found = await chats.get_session("alice", session_id)
    history = await chats.get_session_history("alice", session_id)
    assert await bills(engine) == ([7] if commits else [])
    assert (found is not None) is commits
    assert [message.content for message in history] == (["One", "Two", "Three"] if commits else [])
    assert count_checked_out(chats.repository) == 0


async def test_others_see_nothing_before_the_commit(sql: tuple[AsyncChats, AsyncEngine]) -> None:
    chats, engine = sql
    async with AsyncSession(engine) as db_session, db_session.begin():
        session_id = await chats.using(db_session).create_session("alice")
        assert await chats.using(db_session).get_session("alice", session_id) is not None
        assert await chats.get_session("alice", session_id) is None
    assert await chats.get_session("alice", session_id) is not None


@pytest.mark.parametrize("commits", [True, False])
async def test_changes_of_messages_commit_or_roll_back_together(
    sql: tuple[AsyncChats, AsyncEngine], commits: bool
) -> None:
    chats, engine = sql
    session_id = await chats.create_session("alice")
    ids = await chats.add_messages("alice", session_id, [("user", str(number)) for number in range(6)])
    other = await chats.create_session("alice")
    [foreign] = await chats.add_messages("alice", other, [("user", "Other")])
    before = (
        await chats.get_session("alice", session_id),
        await chats.get_session_history("alice", session_id),
    )
    async with AsyncSession(engine) as db_session:
        borrowed = chats.using(db_session)
        key = "alice", session_id
        assert (await borrowed.pop_message(*key)).message_id == ids[5]
        assert await borrowed.delete_messages(*key, [ids[4]]) == 1
        assert await borrowed.delete_messages_from(*key, ids[3]) == 1
        assert await borrowed.update_message(*key, ids[0], content="new", merge_metadata={"a": 1})
        # Errors leave the transaction usable.
        taken = [("user", "lost"), NewMessage("user", "lost", message_id=foreign)]
        with pytest.raises(MessageConflictError):
            await borrowed.replace_messages(*key, taken)
        with pytest.raises(VersionConflictError):
            await borrowed.clear_messages(*key, expected_version=99)
        with pytest.raises(InvalidInputError):
            await borrowed.fork_session(*key, through=foreign)
        copy = await borrowed.fork_session(*key, through=ids[1])
        await borrowed.replace_messages(*key, [NewMessage("tool", "kept", message_id=ids[0]), ("user", "x")])
        assert await borrowed.clear_messages("alice", other) == 1
        assert (await borrowed.get_session(*key)).version == before[0].version + 5
        await (db_session.commit() if commits else db_session.rollback())

    found = [message.content for message in await chats.get_session_history("alice", session_id)]
    copied = [message.content for message in await chats.get_session_history("alice", copy)]
    assert found == (["kept", "x"] if commits else [str(number) for number in range(6)])
    assert copied == (["new", "1"] if commits else [])
    assert await chats.count_messages("alice", other) == (0 if commits else 1)
    if not commits:
        assert await chats.get_session("alice", session_id) == before[0]
        assert await chats.get_session_history("alice", session_id) == before[1]
    assert count_checked_out(chats.repository) == 0


async def test_concurrent_operations_take_turns(sql: tuple[AsyncChats, AsyncEngine]) -> None:
    chats, engine = sql

    async def at_once(chats: AsyncChats) -> None:
        session_id = await chats.create_session("alice", messages=[("user", "One")])
        results = await asyncio.gather(
            *(chats.get_session("alice", session_id) for _ in range(3)),
            *(chats.get_session_history("alice", session_id) for _ in range(3)),
            *(chats.add_message("alice", session_id, "user", "More") for _ in range(3)),
            *(chats.update_session("alice", session_id, metadata={str(n): n}) for n in range(3)),
        )
        assert all(results)
        assert len(await chats.get_session_history("alice", session_id)) == 4

    async with AsyncSession(engine) as db_session:
        await at_once(chats.using(db_session))
    async with engine.begin() as connection:
        await at_once(chats.using(connection))
    await chats.repository.run_in_transaction(lambda repository: at_once(repository.chats))
    assert await chats.count_sessions("alice") == 2


async def test_the_repository_has_it_under_the_names_that_users_know(
    sql: tuple[AsyncChats, AsyncEngine],
) -> None:
    chats, engine = sql
    async with engine.begin() as connection:
        repository = chats.repository.using(connection)
        assert type(repository) is type(chats.repository)
        assert (repository.in_transaction, chats.repository.in_transaction) == (True, False)
        session_id = await repository.create_session_async("alice")
        await repository.add_message(session_id, "user", "Hello", user_id="alice")
        with pytest.raises(ConfigurationError, match="another event loop"):
            repository.count_sessions_sync("alice")
    assert len(await chats.repository.get_session_history("alice", session_id)) == 1


@pytest.mark.parametrize("wrong", [None, "a transaction", object()])
async def test_an_object_that_is_not_a_transaction_is_rejected(
    sql: tuple[AsyncChats, AsyncEngine], wrong: Any
) -> None:
    with pytest.raises(ConfigurationError, match="using: must be an AsyncSession or an AsyncConnection"):
        sql[0].using(wrong)


async def test_a_transaction_of_another_database_is_refused(sqlite_url: str) -> None:
    engine = create_async_engine("sqlite+aiosqlite://")
    chats = AsyncChats("postgresql://localhost/database")
    async with engine.connect() as connection, AsyncSession(engine) as db_session:
        with pytest.raises(ConfigurationError, match="is for sqlite, not postgresql"):
            chats.using(connection)
        with pytest.raises(ConfigurationError, match="is for sqlite, not postgresql"):
            await chats.using(db_session).count_sessions("alice")
    await engine.dispose()


@pytest.mark.parametrize("commits", [True, False])
async def test_messages_and_documents_commit_or_abort_together(mongodb_url: str, commits: bool) -> None:
    async with AsyncChats(mongodb_url) as chats, mongodb_client(mongodb_url) as client:
        await chats.ensure_ready()
        database = client.get_default_database()
        await database.create_collection("bills")
        started = client.start_session()
        async with await started if hasattr(started, "__await__") else started as client_session:
            begun = client_session.start_transaction()
            if hasattr(begun, "__await__"):
                await begun

            async def bill(session_id: str) -> None:
                await database.bills.insert_one({"session_id": session_id}, session=client_session)

            borrowed = chats.using(client_session)
            session_id = await everything(borrowed, bill)
            many = [("user", str(number)) for number in range(200)]
            await borrowed.add_messages("alice", session_id, many)
            assert await chats.get_session("alice", session_id) is None
            if commits:
                await client_session.commit_transaction()
            else:
                await client_session.abort_transaction()
        assert await database.bills.count_documents({}) == (1 if commits else 0)
        assert await database.chat_messages.count_documents({}) == (203 if commits else 0)
        assert len(await chats.get_session_history("alice", session_id)) == (203 if commits else 0)
        assert (await chats.get_session("alice", session_id) is not None) is commits
        # Reads of the transaction are not cached for other operations.
        if not commits:
            with pytest.raises(SessionNotFoundError):
                await chats.add_message("alice", session_id, "user", "Gone")


async def test_a_client_session_needs_a_transaction(mongodb_url: str) -> None:
    async with mongodb_client(mongodb_url) as client:
        repository = SessionRepositoryFactory.create_repository("mongodb", url=mongodb_url)
        async with repository:
            with pytest.raises(ConfigurationError, match="must be a client session"):
                repository.using(client)
            started = client.start_session()
            async with await started if hasattr(started, "__await__") else started as client_session:
                with pytest.raises(ConfigurationError, match="no transaction under way"):
                    await repository.using(client_session).count_sessions("alice")


async def test_a_standalone_server_which_has_no_transactions_is_named(mongodb_standalone_url: str) -> None:
    async with mongodb_client(mongodb_standalone_url) as client:
        repository = SessionRepositoryFactory.create_repository("mongodb", url=mongodb_standalone_url)
        started = client.start_session()
        async with (
            repository,
            await started if hasattr(started, "__await__") else started as client_session,
        ):
            begun = client_session.start_transaction()  # Sends nothing yet.
            if hasattr(begun, "__await__"):
                await begun
            with pytest.raises(ConfigurationError, match="standalone; transactions need a replica set"):
                await repository.using(client_session).count_sessions("alice")
            await client_session.abort_transaction()
