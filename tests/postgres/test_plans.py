"""Every statement reads ranges of indexes: nothing is sorted, and no table is read from end to end."""

from __future__ import annotations

import json
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any
from unittest import mock

import asyncpg
import pytest

from sessions import SessionRepositoryFactory
from sessions.core.values import MessageRow
from tests.support import plans
from tests.support.databases import execute_postgres, in_database

Plan = dict[str, Any]

# Ids as `plans.session_id` and `plans.message_id` make them.
SESSION_ID = "('00000000-0000-4000-8000-' || lpad(to_hex({}), 12, '0'))::uuid"
MESSAGE_ID = (
    "(overlay(lpad(to_hex({}), 12, '0') placing '-' from 9 for 0)"
    " || '-7000-8000-' || lpad(to_hex(i), 12, '0'))::uuid"
)
STORED: dict[str, Callable[[Any], Awaitable[Any]]] = {
    "find what is stored": lambda r: r._calls.run(
        "append",
        r._calls.backend._not_stored,
        plans.BIG_SESSION,
        plans.USER,
        [MessageRow(plans.MESSAGE_ID, "user", "Hello")],
    ),
}
PARTS = (
    "newest messages",
    "messages before one",
    "first page",
    "next page of a listing",
    "search a session",
    "search a session after a hit",
)
TABLES = ("chat_sessions", "chat_messages")
# Their columns after the first: a condition on a later one without the second scans the whole range.
WIDE_INDEXES = {
    "idx_sessions_user_id": ("updated_at", "session_id"),
    "idx_messages_session_id": ("timestamp", "write_order", "message_id"),
}
# Default of `jit_above_cost`: machine code takes longer to compile than the search itself.
JIT_ABOVE_COST = 100_000
NOT_A_RANGE = {"Sort", "Incremental Sort", "Seq Scan", "Hash Join"}


def filled(step: str) -> tuple[str, ...]:
    """Return the SQL that fills both tables, each row older than the previous one by ``step``."""
    at = f"'{plans.NEWEST}'::timestamptz - i * interval '{step}'"
    user = f"CASE WHEN i % 2 = 1 THEN '{plans.USER}' ELSE 'user' || i % 999 END"
    milliseconds = f"{int(plans.NEWEST.timestamp()) * 1000}::bigint - i * 1000"
    some_session = SESSION_ID.format(f"i % {plans.SESSIONS} + 1")
    return (
        *(f"ALTER TABLE {table} SET (autovacuum_enabled = off)" for table in TABLES),
        f"""INSERT INTO chat_sessions
            SELECT {SESSION_ID.format("i")}, 'title', {user}, {at}, {at}, '{{}}'
            FROM generate_series(1, {plans.SESSIONS}) i""",
        f"""INSERT INTO chat_messages
            SELECT {MESSAGE_ID.format(milliseconds)},
                   CASE WHEN i % 2 = 1 THEN '{plans.BIG_SESSION}' ELSE {some_session} END,
                   'user', 'Hello', {at}
            FROM generate_series(1, {plans.MESSAGES}) i""",
    )


@contextmanager
def listening(take_down: Callable[..., None]) -> Iterator[None]:
    async def sent(_connection: object, statement: str, *values: Any) -> None:
        take_down(statement, values)

    with (
        mock.patch.object(asyncpg.Connection, "fetch", sent),
        mock.patch.object(asyncpg.Connection, "execute", sent),
    ):
        yield


@pytest.fixture(scope="module")
def fresh(postgres_server: str, postgres_template: str) -> Iterator[str]:
    """Name of a database whose tables are filled and were never analysed."""
    name = f"sessions_plans_{uuid.uuid4().hex}"
    execute_postgres(postgres_server, f"CREATE DATABASE {name} TEMPLATE {postgres_template}")
    execute_postgres(in_database(postgres_server, name), *filled("1 s"))
    yield name
    execute_postgres(postgres_server, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="module")
def analysed(postgres_server: str, fresh: str) -> Iterator[str]:
    """Name of a copy of it with complete statistics."""
    name = f"{fresh}_analysed"
    execute_postgres(postgres_server, f"CREATE DATABASE {name} TEMPLATE {fresh}")
    execute_postgres(in_database(postgres_server, name), "VACUUM ANALYZE")
    yield name
    execute_postgres(postgres_server, f"DROP DATABASE {name} WITH (FORCE)")


async def plan_of(connection: asyncpg.Connection, sent: plans.Sent, *options: str) -> Plan:
    """Return the plan of a prepared statement, as the driver executes it."""
    statement, values = sent
    execution = f"EXECUTE taken_down ({', '.join(map(literal, values))})"
    await connection.execute(f"PREPARE taken_down AS {statement}")
    try:
        found = await connection.fetchval(f"EXPLAIN ({', '.join([*options, 'FORMAT JSON'])}) {execution}")
    finally:
        await connection.execute("DEALLOCATE taken_down")
    plan: Plan = json.loads(found)[0]["Plan"]
    return plan


def literal(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, list):
        return f"ARRAY[{', '.join(map(literal, value))}]::text[]"
    text = value.isoformat() if isinstance(value, datetime) else str(value)
    return "'" + text.replace("'", "''") + "'"


def nodes(plan: Plan) -> Iterator[Plan]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


def faults(plan: Plan, *, filtered: bool) -> list[str]:
    """Return the nodes of a plan that are not reads of index ranges in index order.

    Args:
        plan: The plan.
        filtered: Whether the rows of a range of sessions are filtered by their metadata.
    """
    found = []
    for node in nodes(plan):
        name = f"{node['Node Type']} {node.get('Index Name') or node.get('Relation Name', '')}".rstrip()
        if node["Node Type"] in NOT_A_RANGE:
            found.append(name)
        if node["Node Type"].startswith("Index") and "Index Cond" not in node:
            found.append(f"{name}: all of it")
        if (index := node.get("Index Name")) in WIDE_INDEXES:
            second, *later = WIDE_INDEXES[index]
            filters = node.get("Filter", "")
            if filtered and "metadata -> " in filters and "updated_at" not in filters:
                filters = ""
            if filters or "Bitmap" in name:
                found.append(f"{name}: more than the range, or out of order")
            condition = node.get("Index Cond", "")
            if any(column in condition for column in later) and second not in condition:
                found.append(f"{name}: all of the range, for one of it")
    return found


@pytest.mark.parametrize("plan_cache_mode", ["force_custom_plan", "force_generic_plan"])
@pytest.mark.parametrize("database", ["fresh", "analysed"])
async def test_a_statement_reads_ranges_of_indexes_in_their_order(
    database: str, plan_cache_mode: str, request: pytest.FixtureRequest, postgres_server: str
) -> None:
    url = in_database(postgres_server, request.getfixturevalue(database))
    connection = await asyncpg.connect(url, server_settings={"plan_cache_mode": plan_cache_mode})
    found = {}
    async with SessionRepositoryFactory.create_repository("postgres", url=url) as repository:
        await repository._ensure_connection()
        unfiltered = plans.READS | plans.WRITES | plans.PREVIEWS | plans.COMPLETE_WRITES | STORED
        unfiltered |= plans.ADMINISTRATION
        for name, operation in (unfiltered | plans.FILTERED).items():
            sent = await plans.first_statement(operation(repository), listening)
            filtered = name in plans.FILTERED
            found[name] = faults(await plan_of(connection, sent), filtered=filtered)
        # It joins what it is given with the messages that it looked up.
        plan = await plan_of(connection, await plans.first_statement(plans.restore(repository), listening))
        found["restore"] = [fault for fault in faults(plan, filtered=False) if fault != "Hash Join"]
    await connection.close()

    assert found == {name: [] for name in found}


@pytest.mark.parametrize("plan_cache_mode", ["force_custom_plan", "force_generic_plan"])
@pytest.mark.parametrize("database", ["fresh", "analysed"])
async def test_a_search_reads_ranges_of_the_users_own_messages(
    database: str, plan_cache_mode: str, request: pytest.FixtureRequest, postgres_server: str
) -> None:
    url = in_database(postgres_server, request.getfixturevalue(database))
    connection = await asyncpg.connect(url, server_settings={"plan_cache_mode": plan_cache_mode})
    found = {}
    async with SessionRepositoryFactory.create_repository("postgres", url=url) as repository:
        await repository._ensure_connection()
        for name, operation in plans.SEARCHES.items():
            sent = await plans.first_statement(operation(repository), listening)
            plan = await plan_of(connection, sent)
            found[name] = search_faults(plan, after="after" in name, in_session="a session" in name)
    await connection.close()

    assert found == {name: [] for name in found}


@pytest.mark.parametrize("database", ["fresh", "analysed"])
async def test_the_plan_of_a_search_does_not_depend_on_the_words(
    database: str, request: pytest.FixtureRequest, postgres_server: str
) -> None:
    url = in_database(postgres_server, request.getfixturevalue(database))
    # As of the first calls of a connection.
    connection = await asyncpg.connect(url, server_settings={"plan_cache_mode": "force_custom_plan"})
    found = []
    async with SessionRepositoryFactory.create_repository("postgres", url=url) as repository:
        await repository._ensure_connection()
        for query in ("hello", "привет 旅行", "s", "a long query of many words", "x" * 99):
            search = repository.search_messages(plans.USER, query)
            plan = await plan_of(connection, await plans.first_statement(search, listening))
            found.append([(node["Node Type"], node["Plan Rows"], node["Total Cost"]) for node in nodes(plan)])
    await connection.close()

    assert found == [found[0]] * len(found)


def search_faults(plan: Plan, *, after: bool, in_session: bool) -> list[str]:
    """Return what in the plan of a search is not a range of each session's messages, newest first."""
    kinds = {node["Node Type"] for node in nodes(plan)}
    found = sorted(kinds & (NOT_A_RANGE - {"Sort"} | {"Merge Join"}))
    if plan["Total Cost"] >= JIT_ABOVE_COST:
        found.append(f"a cost of {plan['Total Cost']:,.0f}")
    reads = [
        (node, parent)
        for parent in nodes(plan)
        for node in parent.get("Plans", ())
        if node.get("Relation Name") == "chat_messages"
    ]
    # In all sessions, first of some messages, which bound the time of the others.
    bounded = [after] if in_session else sorted([after, True])
    if sorted("timestamp" in messages.get("Index Cond", "") for messages, _ in reads) != bounded:
        found.append(f"messages where {[messages.get('Index Cond') for messages, _ in reads]}")
    for messages, above in reads:
        if (messages["Node Type"], messages.get("Scan Direction")) != ("Index Scan", "Backward"):
            found.append(f"messages by {messages['Node Type']}")
        if "session_id" not in messages.get("Index Cond", ""):
            found.append("messages of any session")
        if above["Node Type"] != "Limit":  # The hits of all sessions are sorted; those of one are in order.
            found.append(f"messages into {above['Node Type']}")
    found += [
        f"all of {node['Relation Name']}"
        for node in nodes(plan)
        if node.get("Relation Name") == "chat_sessions" and "user_id" not in str(node)
    ]
    return found


@pytest.mark.parametrize("step", ["1 s", "0 s"], ids=["one after the other", "all at once"])
async def test_a_page_of_many_rows_costs_the_same_wherever_it_begins(postgres_url: str, step: str) -> None:
    execute_postgres(postgres_url, *filled(step))
    connection = await asyncpg.connect(postgres_url)
    read = {}
    async with SessionRepositoryFactory.create_repository("postgres", url=postgres_url) as repository:
        await repository._ensure_connection()
        for name in PARTS:
            operation = (plans.READS | plans.SEARCHES)[name]
            sent = await plans.first_statement(operation(repository), listening)
            plan = await plan_of(connection, sent, "ANALYZE", "BUFFERS")
            read[name] = plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
    await connection.close()

    # Each row may be in a different page; the index adds a few, half of the table would be 200.
    assert {name: pages for name, pages in read.items() if pages > 80} == {}
