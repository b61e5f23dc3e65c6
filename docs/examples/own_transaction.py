# needs: POSTGRES_URL
import asyncio
import os
from datetime import UTC, datetime

import uuid_utils
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from sessions import AsyncChats
from sessions.queries import parameters, statements_for

statements = statements_for("postgresql")


async def main() -> None:
    engine = create_async_engine(os.environ["POSTGRES_URL"].replace("postgresql://", "postgresql+asyncpg://"))
    chats = AsyncChats(backend="postgres", engine=engine)
    session_id = await chats.create_session("alice", title="Trip to Rome")

    message = parameters(
        user_id="alice",
        session_id=session_id,
        message_id=str(uuid_utils.uuid7()),
        role="user",
        content="Book it.",
        now=datetime.now(UTC),
    )
    for ends_well in (False, True):
        async with AsyncSession(engine) as db_session:
            appended = (await db_session.execute(statements.add_message[True], message)).first()
            # … and statements of your own.
            await (db_session.commit() if ends_well else db_session.rollback())
        print(appended is not None, len(await chats.get_session_history("alice", session_id)))
    await engine.dispose()


asyncio.run(main())
