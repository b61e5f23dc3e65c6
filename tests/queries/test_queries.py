"""The statements in a service's own AsyncSession, and the columns they are built from."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from sessions import Chats
from sessions.models.records import ChatMessageRecord, ChatSessionRecord
from sessions.queries import parameters, statements_for


@pytest.mark.parametrize("name", ["sqlite", "postgres"])
async def test_a_service_reads_with_them_in_its_own_session(
    name: str, request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue(f"{name}_url")
    dialect, driver = {
        "sqlite": ("sqlite", "sqlite+aiosqlite"),
        "postgres": ("postgresql", "postgresql+asyncpg"),
    }[name]
    with Chats(url) as chats:
        session_id = chats.create_session("alice", title="Trip to Rome")
        chats.add_messages("alice", session_id, [("user", "One"), ("assistant", "Two")])
    statements = statements_for(dialect)
    engine = create_async_engine(url.replace(url.partition("://")[0], driver, 1))
    async with AsyncSession(engine) as db_session:
        listed = await db_session.execute(statements.list_first, parameters(user_id="alice", limit=5))
        assert [row.title for row in listed] == ["Trip to Rome"]
        of_bob = parameters(user_id="bob", session_id=session_id)
        of_alice = of_bob | parameters(user_id="alice")
        found = await db_session.execute(statements.history[False, False], of_alice)
        assert [row.content for row in found] == ["One", "Two"]
        assert (await db_session.execute(statements.history[False, False], of_bob)).all() == []
    await engine.dispose()


def test_they_are_made_of_the_records() -> None:
    # From the mapped attributes, so that a type decorator or a renamed column of a record takes effect.
    for dialect in ("postgresql", "sqlite"):
        statement: Any = statements_for(dialect).get_session
        entities = {description["entity"] for description in statement.column_descriptions}
        assert ChatSessionRecord in entities
        history: Any = statements_for(dialect).history[False, False]
        assert ChatMessageRecord in {description["entity"] for description in history.column_descriptions}
