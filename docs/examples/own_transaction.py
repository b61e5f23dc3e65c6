# needs: POSTGRES_URL
import asyncio
import os

from sqlalchemy import ForeignKey, func, select
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sessions import AsyncChats
from sessions.models.records import ChatSessionRecord


class Base(DeclarativeBase):
    pass


class BookingRecord(Base):
    __tablename__ = "bookings"

    booking_id: Mapped[int] = mapped_column(primary_key=True)
    session_id: Mapped[str] = mapped_column(ForeignKey(ChatSessionRecord.session_id, ondelete="CASCADE"))


async def main() -> None:
    url = os.environ["POSTGRES_URL"]
    engine = create_async_engine(url.replace("postgresql://", "postgresql+asyncpg://"))
    async with AsyncChats(url) as chats:
        session_id = await chats.create_session("alice", title="Trip to Rome")
        async with engine.begin() as connection:
            await connection.run_sync(BookingRecord.__table__.create)

        for ends_well in (False, True):
            async with AsyncSession(engine) as db_session:
                await chats.using(db_session).add_message("alice", session_id, "assistant", "Booked.")
                db_session.add(BookingRecord(session_id=session_id))
                await db_session.flush()
                await (db_session.commit() if ends_well else db_session.rollback())
                bookings = await db_session.scalar(select(func.count()).select_from(BookingRecord))
            print(bookings, len(await chats.get_session_history("alice", session_id)))
    await engine.dispose()


asyncio.run(main())
