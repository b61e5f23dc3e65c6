import asyncio
from typing import Any

from sqlalchemy import event, select
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import selectinload

from sessions import SessionRepositoryFactory
from sessions.models.records import ChatSessionRecord

engine = create_async_engine("sqlite+aiosqlite:///chat.db")


@event.listens_for(engine.sync_engine, "connect")
def enforce_foreign_keys(connection: Any, _record: object) -> None:
    connection.execute("PRAGMA foreign_keys=ON")  # for SQLite only


async def main() -> None:
    repository = SessionRepositoryFactory.create_repository("sqlite", engine=engine)
    session_id = await repository.create_session_async("alice", {"metadata": {"channel": "web"}})
    await repository.add_message(session_id, "user", "Hello")

    async with AsyncSession(engine) as db_session:
        of_alice = select(ChatSessionRecord).where(ChatSessionRecord.user_id == "alice")
        with_messages = of_alice.options(selectinload(ChatSessionRecord.messages))
        record = (await db_session.scalars(with_messages)).one()
        print(record.title, record.session_metadata, [message.content for message in record.messages])
    await engine.dispose()


asyncio.run(main())
