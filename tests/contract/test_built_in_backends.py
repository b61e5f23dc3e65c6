"""The contract on every backend of this package.

Each has one database for all tests, emptied before each test: a new database takes too long.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from pymongo import MongoClient

from sessions import SessionRepositoryFactory
from sessions.testing import AsyncCaller, SessionRepositoryContract
from tests.support.databases import Backend, execute_postgres, in_database, redis_database, run_in_thread


def _new_name() -> str:
    return f"sessions_contract_{uuid.uuid4().hex}"


@pytest.fixture(scope="module")
def sqlite_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("contract") / "sessions.db"

    async def migrate() -> None:
        async with SessionRepositoryFactory.create_repository("sqlite", url=f"sqlite:///{path}") as created:
            assert await created.count_sessions("nobody") == 0

    run_in_thread(migrate)
    return path


@pytest.fixture(scope="module")
def postgres_database(postgres_server: str, postgres_template: str) -> Iterator[str]:
    name = _new_name()
    execute_postgres(postgres_server, f"CREATE DATABASE {name} TEMPLATE {postgres_template}")
    yield in_database(postgres_server, name)
    execute_postgres(postgres_server, f"DROP DATABASE {name} WITH (FORCE)")


def _mongodb_database(server: str) -> Iterator[tuple[str, Any]]:
    name = _new_name()
    with MongoClient[dict[str, Any]](server) as client:
        yield in_database(server, name), client[name]
        client.drop_database(name)


@pytest.fixture(scope="module")
def replica_set_database(mongodb_replica_set_server: str) -> Iterator[tuple[str, Any]]:
    yield from _mongodb_database(mongodb_replica_set_server)


@pytest.fixture(scope="module")
def standalone_database(mongodb_standalone_server: str) -> Iterator[tuple[str, Any]]:
    yield from _mongodb_database(mongodb_standalone_server)


def _empty(database: Any) -> None:
    for collection in ("chat_messages", "chat_sessions"):
        database[collection].delete_many({})


class TestSqlite(SessionRepositoryContract):
    @pytest.fixture
    async def repository(self, sqlite_file: Path, sqlite_url: str) -> AsyncIterator[Any]:
        shutil.copy(sqlite_file, sqlite_url.removeprefix("sqlite:///"))
        async with SessionRepositoryFactory.create_repository("sqlite", url=sqlite_url) as repository:
            yield repository


class TestPostgres(SessionRepositoryContract):
    @pytest.fixture
    async def repository(self, postgres_database: str) -> AsyncIterator[Any]:
        execute_postgres(postgres_database, "DELETE FROM chat_messages", "DELETE FROM chat_sessions")
        async with SessionRepositoryFactory.create_repository(
            "postgres", url=postgres_database
        ) as repository:
            yield repository


class TestMongodbReplicaSet(SessionRepositoryContract):
    takes_only_uuids = False

    @pytest.fixture
    async def repository(self, replica_set_database: tuple[str, Any]) -> AsyncIterator[Any]:
        url, database = replica_set_database
        _empty(database)
        async with SessionRepositoryFactory.create_repository("mongodb", url=url) as repository:
            yield repository


class TestMongodbStandalone(SessionRepositoryContract):
    takes_only_uuids = False

    @pytest.fixture
    async def repository(self, standalone_database: tuple[str, Any]) -> AsyncIterator[Any]:
        url, database = standalone_database
        _empty(database)
        async with SessionRepositoryFactory.create_repository("mongodb", url=url) as repository:
            yield repository


@pytest.fixture(scope="module")
def redis_numbered_database(redis_server: str) -> Iterator[tuple[str, Any]]:
    with redis_database(redis_server) as url, redis.Redis.from_url(url) as client:
        yield url, client


class TestRedis(SessionRepositoryContract):
    takes_only_uuids = False

    @pytest.fixture
    async def repository(self, redis_numbered_database: tuple[str, Any]) -> AsyncIterator[Any]:
        url, client = redis_numbered_database
        client.flushdb()
        async with SessionRepositoryFactory.create_repository("redis", url=url) as repository:
            yield repository


class TestRedisCluster(SessionRepositoryContract):
    takes_only_uuids = False

    @pytest.fixture
    def chats(self, repository: Any) -> AsyncCaller:
        """In one style: blocking calls run the same code."""
        return AsyncCaller(repository)

    @pytest.fixture
    async def repository(self, redis_cluster: Backend) -> AsyncIterator[Any]:
        async with redis_cluster.repository() as repository:
            yield repository
