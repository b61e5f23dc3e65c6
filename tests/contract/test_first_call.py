"""The first call of a process on a ready database runs few commands beyond those of the operation."""

from __future__ import annotations

from tests.support.databases import Backend
from tests.support.wire import counted

VERSION = "SELECT sessions_alembic_version.version_num FROM sessions_alembic_version"
EXPECTED = {
    "postgres": [VERSION],
    "sqlite": [VERSION],
    # The topology, the collections, and whether the server rejects writes to a replaced collection.
    "mongodb-replica-set": ["ping", "listCollections", "listIndexes", "listIndexes", "find"],
    "mongodb-standalone": ["ping", "listCollections", "listIndexes", "listIndexes", "find"],
    # Its settings, and whether it accepts writes, and the user may ask for the time.
    "redis": ["INFO", "CONFIG GET", "SETRANGE", "TIME"],
}


async def test_the_first_call_on_a_ready_database_opens_one_connection_and_runs_few_commands(
    backend: Backend,
) -> None:
    async with backend.repository() as repository:
        assert await repository.count_sessions("user") == 0

    async with counted(backend) as (repository, wire):
        assert await repository.count_sessions("user") == 0
        *before, _call = wire.statements
        assert [" ".join(statement.split()) for statement in before] == EXPECTED[backend.name]
        assert wire.connections == 1

        wire.clear()
        await repository.count_sessions("user")
        assert len(wire.statements) == 1
        assert wire.connections == 0


async def test_a_second_repository_of_the_same_database_runs_no_further_commands(backend: Backend) -> None:
    async with counted(backend) as (repository, wire):
        await repository.count_sessions("user")
        wire.clear()
        other = type(repository)(connection_manager=repository._connection_manager)
        await other.count_sessions("user")

        assert len(wire.statements) == 1
        assert wire.connections == 0
