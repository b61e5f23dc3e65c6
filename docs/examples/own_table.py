# needs: POSTGRES_URL
import asyncio
import os

from sqlalchemy import ForeignKey, String, func, select
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from sessions import SessionRepositoryFactory
from sessions.models.records import ChatSessionRecord


class Base(DeclarativeBase):
    """Your own base; your Alembic sees its tables only."""


class NoteRecord(Base):
    __tablename__ = "notes"

    note_id: Mapped[int] = mapped_column(primary_key=True)
    session_id: Mapped[str] = mapped_column(ForeignKey(ChatSessionRecord.session_id, ondelete="CASCADE"))
    text: Mapped[str] = mapped_column(String(100))

    chat_session: Mapped[ChatSessionRecord] = relationship(ChatSessionRecord)


async def main() -> None:
    engine = create_async_engine(os.environ["POSTGRES_URL"].replace("postgresql://", "postgresql+asyncpg://"))
    repository = SessionRepositoryFactory.create_repository("postgres", engine=engine)
    session_id = await repository.create_session_async("alice", {"title": "Trip to Rome"})
    async with engine.begin() as connection:
        await connection.run_sync(NoteRecord.__table__.create)

    async with AsyncSession(engine) as db_session:
        db_session.add(NoteRecord(session_id=session_id, text="Call back on Monday"))
        await db_session.commit()
        notes = select(NoteRecord.text, ChatSessionRecord.title).join(NoteRecord.chat_session)
        print((await db_session.execute(notes)).all())

        await repository.delete_session_async("alice", session_id)
        print(await db_session.scalar(select(func.count()).select_from(NoteRecord)))
    await engine.dispose()


asyncio.run(main())
