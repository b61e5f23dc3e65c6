"""Every statement searches an index: nothing is sorted, and no table is scanned."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine

from sessions import NewMessage
from tests.support import plans
from tests.support.databases import Backend

# Changes of messages, which are several statements each.
EDITS = (
    *("update a message", "pop a message", "delete messages", "delete messages from one"),
    *("delete messages after one", "replace messages", "clear messages", "fork", "fork through a message"),
)
# A search sorts the hits of all sessions.
SORTED = "USE TEMP B-TREE FOR ORDER BY"


def faults(steps: list[str]) -> list[str]:
    """Return the steps that are not index searches in index order; an ordered subquery may be scanned."""
    return [step for step in steps if "TEMP B-TREE" in step or step.startswith("SCAN chat_")]


@contextmanager
def listening(take_down: Callable[..., None], engine: Engine) -> Iterator[None]:
    def executed(_connection: object, _cursor: object, statement: str, values: Any, *_: object) -> None:
        if statement != "BEGIN IMMEDIATE":
            take_down(statement, values)

    event.listen(engine, "before_cursor_execute", executed)
    try:
        yield
    finally:
        event.remove(engine, "before_cursor_execute", executed)


@pytest.mark.parametrize("analyse", [False, True], ids=["fresh", "analysed"])
async def test_a_statement_searches_indexes_in_their_order(sqlite_url: str, analyse: bool) -> None:
    path = sqlite_url.removeprefix("sqlite:///")
    found = {}
    async with Backend("sqlite", "sqlite", sqlite_url).repository() as repository:
        await repository._ensure_connection()
        with closing(sqlite3.connect(path)) as connection:
            ids = "'000000000000400080000000' || printf('%08x', i)"
            connection.executescript(
                f"""
                WITH RECURSIVE numbers(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM numbers WHERE i < 2000)
                INSERT INTO chat_sessions (session_id, title, user_id)
                SELECT {ids}, 'title', iif(i % 2, '{plans.USER}', 'user' || i) FROM numbers;
                """
            )
            if analyse:
                connection.execute("ANALYZE")
            engine = (await repository._connection_manager.engine()).sync_engine
            for name, operation in (
                plans.READS
                | plans.ADMINISTRATION
                | plans.WRITES
                | plans.SEARCHES
                | plans.PREVIEWS
                | plans.FILTERED
                | plans.COMPLETE_WRITES
            ).items():
                statement, values = await plans.first_statement(
                    operation(repository), partial(listening, engine=engine)
                )
                steps = [row[-1] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", values)]
                found[name] = faults([step for step in steps if name not in plans.SEARCHES or step != SORTED])

    assert found == {name: [] for name in found}


@pytest.mark.parametrize("analyse", [False, True], ids=["fresh", "analysed"])
@pytest.mark.parametrize("name", EDITS)
async def test_every_statement_of_a_change_of_messages_does_so(
    sqlite_url: str, analyse: bool, name: str
) -> None:
    path = sqlite_url.removeprefix("sqlite:///")
    sent: list[plans.Sent] = []
    async with Backend("sqlite", "sqlite", sqlite_url).repository() as repository:
        await repository.ensure_session_exists(plans.BIG_SESSION, plans.USER)
        messages = [
            NewMessage("user", "Hello", message_id=plans.message_id(number), timestamp=plans.THEN)
            for number in range(1000)
        ]
        await repository.replace_messages(plans.USER, plans.BIG_SESSION, messages)
        before = await repository.get_session(plans.USER, plans.BIG_SESSION)
        with closing(sqlite3.connect(path)) as connection:
            if analyse:
                connection.execute("ANALYZE")
            engine = (await repository._connection_manager.engine()).sync_engine
            with listening(lambda *statement: sent.append(statement), engine):
                await plans.WRITES[name](repository)
            steps = {
                statement: [row[-1] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", values)]
                for statement, values in sent
                if statement != "COMMIT" and not isinstance(values, list)
            }
        after = await repository.get_session(plans.USER, plans.BIG_SESSION)
        sessions = await repository.count_sessions(plans.USER)

    assert len(steps) >= 3
    assert {statement: faults(plan) for statement, plan in steps.items()} == {
        statement: [] for statement in steps
    }
    for statement, plan in steps.items():
        if statement.startswith("DELETE") and "json_each" in statement:
            # Not all messages of the session.
            assert plan[0].endswith("(message_id=?)")
    assert (after.version, sessions) == ((before.version, 2) if "fork" in name else (before.version + 1, 1))
