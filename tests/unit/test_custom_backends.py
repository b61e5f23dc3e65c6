"""Custom backends, as in AgentHub's guide and in the other forms that the interface allows."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
import time
import uuid
import weakref
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from sessions import (
    AsyncBaseConnectionManager,
    AsyncSessionRepository,
    BaseConnectionManager,
    ConfigurationError,
    ConnectionFactory,
    SessionRepositoryRegistry,
    UnknownRepositoryError,
    register_connection_manager,
)
from sessions.models.message import ChatMessage
from sessions.models.session import ChatSession
from sessions.repositories.base_session_repository import BaseSessionRepository
from sessions.repositories.session_repository_factory import SessionRepositoryFactory, register_repository
from sessions.testing.twins import ASYNC_NAMES, pairs_of


class FakeRedis:
    """The part of a Redis client that the guide's backend uses."""

    def __init__(self) -> None:
        self.hashes: dict[str, dict[str, str]] = {}
        self.lists: dict[str, list[str]] = {}

    def hset(self, name: str, mapping: dict[str, str]) -> None:
        self.hashes.setdefault(name, {}).update(mapping)

    def hgetall(self, name: str) -> dict[str, str]:
        return dict(self.hashes.get(name, {}))

    def delete(self, *names: str) -> int:
        gone = [name for name in names if self.hashes.pop(name, None) or self.lists.pop(name, None)]
        return len(gone)

    def rpush(self, name: str, value: str) -> None:
        self.lists.setdefault(name, []).append(value)

    def lrange(self, name: str, first: int, last: int) -> list[str]:
        return self.lists.get(name, [])[first : None if last == -1 else last + 1]

    def keys(self, prefix: str) -> list[str]:
        return [name for name in self.hashes if name.startswith(prefix)]


class RedisLikeOperations(BaseSessionRepository):
    """The guide's operations: some sync, some async, all directly on ``self._connection``."""

    def _create_tables_if_not_exist(self) -> Any:
        pass

    def create_session(self, user_id: str, session_data: dict[str, Any] | None) -> str:
        session_id, now = str(uuid.uuid4()), datetime.now(UTC).isoformat()
        data = session_data or {}
        self._connection.hset(
            f"session:{session_id}",
            mapping={
                "user_id": user_id,
                "title": data.get("title", "New Chat"),
                "metadata": json.dumps(data.get("metadata", {})),
                "created_at": now,
                "updated_at": now,
            },
        )
        return session_id

    async def get_session_history(self, user_id: str, session_id: str) -> list[ChatMessage]:
        if self._connection.hgetall(f"session:{session_id}").get("user_id") != user_id:
            return []
        rows = map(json.loads, self._connection.lrange(f"messages:{session_id}", 0, -1))
        return [ChatMessage(**row | {"timestamp": datetime.fromisoformat(row["timestamp"])}) for row in rows]

    def update_session(self, user_id: str, session_id: str, data: dict[str, Any]) -> bool:
        if self._connection.hgetall(f"session:{session_id}").get("user_id") != user_id:
            return False
        self._connection.hset(f"session:{session_id}", mapping={"title": data["title"]})
        return True

    def list_paginated_sessions(self, user_id: str, page: int = 0, limit: int = 10) -> list[ChatSession]:
        found = []
        for key in self._connection.keys("session:"):
            row = self._connection.hgetall(key)
            if row.pop("user_id") == user_id:
                times = {name: datetime.fromisoformat(row.pop(name)) for name in ("created_at", "updated_at")}
                session_id, metadata = key.removeprefix("session:"), json.loads(row.pop("metadata"))
                found.append(ChatSession(session_id, user_id=user_id, metadata=metadata, **row, **times))
        return found[page * limit : (page + 1) * limit]

    def delete_session(self, user_id: str, session_id: str) -> bool:
        if self._connection.hgetall(f"session:{session_id}").get("user_id") != user_id:
            return False
        return bool(self._connection.delete(f"session:{session_id}", f"messages:{session_id}"))

    async def add_message(self, session_id: str, role: str, content: str) -> str:
        message_id, now = str(uuid.uuid4()), datetime.now(UTC).isoformat()
        row = {
            "message_id": message_id,
            "session_id": session_id,
            "role": role,
            "content": content,
            "timestamp": now,
        }
        self._connection.rpush(f"messages:{session_id}", json.dumps(row))
        return message_id


class RedisLikeManager(BaseConnectionManager):
    def __init__(self) -> None:
        self.connects = 0

    def connect(self) -> FakeRedis:
        self.connects += 1
        return FakeRedis()

    def disconnect(self) -> None:
        pass

    def is_healthy(self) -> bool:
        return True


class AsyncRedisLikeManager(AsyncBaseConnectionManager):
    def __init__(self) -> None:
        self.connects = 0
        self._redis = FakeRedis()

    async def connect(self) -> FakeRedis:
        await asyncio.sleep(0.01)
        self.connects += 1
        return self._redis

    async def disconnect(self) -> None:
        pass

    async def is_healthy(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _forget_what_tests_register() -> Iterator[None]:
    owners: list[Any] = [SessionRepositoryRegistry, ConnectionFactory]
    before = [dict(owner._classes) for owner in owners]
    yield
    for owner, classes in zip(owners, before, strict=True):
        owner._classes.clear()
        owner._classes.update(classes)


@pytest.fixture
def redis_like() -> type[BaseSessionRepository]:
    """The guide's backend, registered under new names."""
    register_connection_manager("redis-like")(RedisLikeManager)

    @register_repository("redis-like")
    class RedisLikeRepository(RedisLikeOperations):
        def __init__(self) -> None:
            super().__init__("redis-like")

    return RedisLikeRepository


async def converse(repo: Any) -> None:
    """Use all six operations; the sync ones are not awaited."""
    session_id = repo.create_session("user123", {"title": "Hello", "metadata": {"a": [1]}})
    await repo.add_message(session_id, "user", "one")
    await repo.add_message(session_id, "assistant", "two")
    history = await repo.get_session_history("user123", session_id)
    assert [(message.role, message.content) for message in history] == [("user", "one"), ("assistant", "two")]
    assert await repo.get_session_history("somebody-else", session_id) == []
    assert repo.update_session("user123", session_id, {"title": "Changed"}) is True
    found = [item for item in repo.list_paginated_sessions("user123") if item.session_id == session_id]
    assert [(item.title, item.metadata) for item in found] == [("Changed", {"a": [1]})]
    assert repo.delete_session("user123", session_id) is True
    assert repo.delete_session("user123", session_id) is False


# -- The guide's shape -----------------------------------------------------------------------------


async def test_a_backend_of_the_guide_works_through_the_factory(
    redis_like: type[BaseSessionRepository],
) -> None:
    assert "redis-like" in SessionRepositoryFactory.list_repositories()
    repo = SessionRepositoryFactory.create_repository("redis-like")
    assert type(repo) is redis_like
    await converse(repo)


def test_a_sync_method_is_the_first_thing_that_is_called(redis_like: type[BaseSessionRepository]) -> None:
    # No event loop, and no earlier connection.
    repo = SessionRepositoryFactory.create_repository("redis-like")
    session_id = repo.create_session("user123", None)
    assert [item.session_id for item in repo.list_paginated_sessions("user123")] == [session_id]
    asyncio.run(converse(repo))


def test_repositories_of_one_type_share_one_manager(redis_like: type[BaseSessionRepository]) -> None:
    first, second = [SessionRepositoryFactory.create_repository("redis-like") for _ in range(2)]
    assert first._connection_manager is second._connection_manager


def test_an_unknown_connection_type_lists_the_known_ones() -> None:
    with pytest.raises(UnknownRepositoryError, match="mongodb, postgres"):
        RedisLikeOperations("redis-like")


async def test_many_first_calls_connect_and_create_tables_once(
    redis_like: type[BaseSessionRepository],
) -> None:
    repo = SessionRepositoryFactory.create_repository("redis-like")
    created: list[int] = []
    repo._create_tables_if_not_exist = lambda: created.append(threading.get_ident())
    for _ in range(2):
        await repo._ensure_connection()
    calls = [asyncio.to_thread(repo.create_session, "user123", None) for _ in range(10)]
    await asyncio.gather(*calls, repo._ensure_connection())
    assert (repo._connection_manager.connects, len(created)) == (1, 1)
    assert len(repo.list_paginated_sessions("user123", 0, 100)) == 10


def test_tables_are_created_before_the_first_sync_call_and_may_use_the_connection() -> None:
    class WithTables(RedisLikeOperations):
        def _create_tables_if_not_exist(self) -> None:
            self._connection.hset("tables", mapping={"ready": "yes"})

        def create_session(self, user_id: str, session_data: dict[str, Any] | None) -> str:
            assert self._connection.hgetall("tables") == {"ready": "yes"}
            return super().create_session(user_id, session_data)

    repo = WithTables("mine", connection_manager=RedisLikeManager())
    assert repo.create_session("user123", None)


async def test_every_thread_waits_until_the_tables_are_created() -> None:
    class Slow(RedisLikeOperations):
        def _create_tables_if_not_exist(self) -> None:
            assert self._connection.hgetall("tables") == {}
            time.sleep(0.2)
            self._connection.hset("tables", mapping={"ready": "yes"})

        def create_session(self, user_id: str, session_data: dict[str, Any] | None) -> str:
            assert self._connection.hgetall("tables") == {"ready": "yes"}
            return super().create_session(user_id, session_data)

    repo = Slow("mine", connection_manager=RedisLikeManager())
    await asyncio.gather(*(asyncio.to_thread(repo.create_session, "user123", None) for _ in range(4)))
    assert repo._connection_manager.connects == 1


def test_a_failed_creation_of_tables_is_retried() -> None:
    class Fails(RedisLikeOperations):
        attempts = 0

        def _create_tables_if_not_exist(self) -> None:
            self.attempts += 1
            if self.attempts == 1:
                raise OSError("not now")

    repo = Fails("mine", connection_manager=RedisLikeManager())
    with pytest.raises(OSError, match="not now"):
        repo.create_session("user123", None)
    for _ in range(2):
        assert repo.create_session("user123", None)
    assert (repo.attempts, repo._connection_manager.connects) == (2, 1)


# -- Other shapes ----------------------------------------------------------------------------------


async def test_a_manager_may_be_handed_over() -> None:
    manager = RedisLikeManager()
    repo = RedisLikeOperations("not-registered", connection_manager=manager)
    assert repo._connection_manager is manager
    await converse(repo)
    assert manager.connects == 1


class AsyncRedisLike(RedisLikeOperations):
    """On an async manager, with async tables."""

    created = 0

    async def _create_tables_if_not_exist(self) -> None:
        await asyncio.sleep(0.01)
        self._connection.hset("tables", mapping={"ready": "yes"})
        self.created += 1

    async def get_session_history(self, user_id: str, session_id: str) -> list[ChatMessage]:
        await self._ensure_connection()
        return await super().get_session_history(user_id, session_id)

    async def add_message(self, session_id: str, role: str, content: str) -> str:
        await self._ensure_connection()
        assert self._connection.hgetall("tables") == {"ready": "yes"}
        return await super().add_message(session_id, role, content)


async def test_an_async_manager_with_async_tables() -> None:
    register_connection_manager("async-redis-like")(AsyncRedisLikeManager)
    register_repository("async-redis-like")(AsyncRedisLike)
    repo = SessionRepositoryFactory.create_repository("async-redis-like", connection_type="async-redis-like")
    await repo._ensure_connection()
    await converse(repo)
    assert (repo.created, repo._connection_manager.connects) == (1, 1)


async def test_concurrent_first_calls_on_an_async_manager_connect_and_create_tables_once() -> None:
    repo = AsyncRedisLike("mine", connection_manager=AsyncRedisLikeManager())
    await asyncio.gather(*(repo.add_message("session", "user", str(number)) for number in range(5)))
    assert (repo.created, repo._connection_manager.connects) == (1, 1)


def test_each_event_loop_has_its_connection_but_the_tables_are_created_once() -> None:
    repo = AsyncRedisLike("mine", connection_manager=AsyncRedisLikeManager())
    for number in range(1, 4):
        asyncio.run(repo.add_message("session", "user", "Hi"))
        assert (repo.created, repo._connection_manager.connects) == (1, number)


def test_a_dropped_event_loop_is_collected_although_its_connection_references_it() -> None:
    class OfItsLoop(FakeRedis):
        def __init__(self) -> None:
            super().__init__()
            self.loop = asyncio.get_running_loop()

    class Manager(AsyncRedisLikeManager):
        async def connect(self) -> FakeRedis:
            return OfItsLoop()

    repo = AsyncRedisLike("mine", connection_manager=Manager())
    loop = asyncio.new_event_loop()
    loop.run_until_complete(repo.add_message("session", "user", "Hi"))
    dropped = weakref.ref(loop)
    loop.close()
    del loop
    gc.collect()
    assert dropped() is None


async def test_async_tables_may_use_the_operations_themselves() -> None:
    class Welcoming(AsyncRedisLike):
        async def _create_tables_if_not_exist(self) -> None:
            await super()._create_tables_if_not_exist()
            await asyncio.gather(*(self.add_message("welcome", "assistant", "Hi") for _ in range(2)))

    repo = Welcoming("mine", connection_manager=AsyncRedisLikeManager())
    async with asyncio.timeout(60):
        await repo._ensure_connection()
    assert repo.created == 1
    assert len(repo._connection.lrange("messages:welcome", 0, -1)) == 2


async def test_a_failed_creation_of_async_tables_is_retried() -> None:
    class Fails(AsyncRedisLike):
        attempts = 0

        async def _create_tables_if_not_exist(self) -> None:
            self.attempts += 1
            if self.attempts == 1:
                raise OSError("not now")
            await super()._create_tables_if_not_exist()

    repo = Fails("mine", connection_manager=AsyncRedisLikeManager())
    with pytest.raises(OSError, match="not now"):
        await repo.add_message("session", "user", "Hi")
    await repo.add_message("session", "user", "Hi")
    assert (repo.attempts, repo.created) == (2, 1)


def test_an_async_manager_that_was_not_awaited_says_what_to_do() -> None:
    repo = AsyncRedisLike("mine", connection_manager=AsyncRedisLikeManager())

    async def careless() -> None:
        repo.create_session("user123", None)

    with pytest.raises(ConfigurationError, match=r"await self\._ensure_connection\(\) first"):
        repo.create_session("user123", None)
    with pytest.raises(ConfigurationError, match=r"await self\._ensure_connection\(\) first"):
        asyncio.run(careless())


async def test_a_sync_manager_with_async_tables() -> None:
    class Mixed(RedisLikeOperations):
        created = 0

        async def _create_tables_if_not_exist(self) -> None:
            self._connection.hset("tables", mapping={"ready": "yes"})
            self.created += 1

    repo = Mixed("mine", connection_manager=RedisLikeManager())
    repo.create_session("user123", None)
    # They are created at the first opportunity to await.
    assert repo.created == 0
    for _ in range(2):
        await repo._ensure_connection()
    assert (repo.created, repo._connection_manager.connects) == (1, 1)
    await converse(repo)


async def test_an_async_manager_with_sync_tables() -> None:
    class Mixed(RedisLikeOperations):
        created = 0

        def _create_tables_if_not_exist(self) -> None:
            self._connection.hset("tables", mapping={"ready": "yes"})
            self.created += 1

    repo = Mixed("mine", connection_manager=AsyncRedisLikeManager())
    for _ in range(2):
        await repo._ensure_connection()
    await converse(repo)
    assert repo.created == 1


async def test_a_backend_may_set_its_connection_itself() -> None:
    redis = FakeRedis()

    class Own(RedisLikeOperations):
        def __init__(self) -> None:
            super().__init__("mine", connection_manager=AsyncRedisLikeManager())
            self._connection = redis

    await converse(Own())

    class InEnsure(RedisLikeOperations):
        async def _ensure_connection(self) -> None:
            assert isinstance(self._connection_manager, AsyncBaseConnectionManager)
            self._connection = await self._connection_manager.connect()

    repo = InEnsure("mine", connection_manager=AsyncRedisLikeManager())
    await repo._ensure_connection()
    await converse(repo)


async def test_a_connection_that_was_set_to_none_is_opened_again() -> None:
    manager = RedisLikeManager()
    repo = RedisLikeOperations("mine", connection_manager=manager)
    await converse(repo)
    repo._connection = None
    await converse(repo)
    assert manager.connects == 2


def test_a_backend_may_load_its_manager_in_its_own_way() -> None:
    class Own(RedisLikeOperations):
        def load_and_validate_connection(self) -> None:
            self._connection_manager = RedisLikeManager()

    assert Own("not-registered").create_session("user123", None)


def test_a_backend_without_one_of_the_operations_cannot_be_made() -> None:
    class Incomplete(BaseSessionRepository):
        def create_session(self, user_id: str, session_data: dict[str, Any] | None) -> str:
            return ""

    with pytest.raises(TypeError, match="add_message"):
        Incomplete("mine", connection_manager=RedisLikeManager())


# --- operations that a backend does not have -------------------------------------------------------


class SmallRepository(RedisLikeOperations):
    """A backend with the six operations and one more."""

    def _create_tables_if_not_exist(self) -> None: ...

    async def count_sessions(self, user_id: str) -> int:
        return 7


@pytest.fixture
def small() -> Any:
    class Nothing(BaseConnectionManager):
        def connect(self) -> None: ...
        def disconnect(self) -> None: ...
        def is_healthy(self) -> bool:
            return True

    return SmallRepository("small", connection_manager=Nothing())


HERE = {"count_sessions", "get_session_history", "add_message"}
ABSENT = sorted(
    {name for pair in pairs_of(AsyncSessionRepository) for name in pair} - HERE - set(ASYNC_NAMES)
)


@pytest.mark.parametrize("name", ["iter_users", "iter_sessions_sync", "export", "restore", "statistics_sync"])
def test_a_backend_without_administration_says_so(small: Any, name: str) -> None:
    with pytest.raises(NotImplementedError) as caught:
        getattr(small.admin, name)()
    assert str(caught.value) == f"admin.{name}: the backend 'small' (SmallRepository) has no such operation"
    with pytest.raises(AttributeError, match="iter_usrs"):
        small.admin.iter_usrs()


@pytest.mark.parametrize("name", ABSENT)
def test_an_operation_that_a_backend_does_not_have_says_so(small: Any, name: str) -> None:
    with pytest.raises(NotImplementedError) as caught:
        getattr(small, name)("alice", limit=3)

    assert str(caught.value) == f"{name}: the backend 'small' (SmallRepository) has no such operation"


async def test_what_a_backend_has_beyond_the_six_is_used(small: Any) -> None:
    assert await small.count_sessions("alice") == 7


@pytest.mark.parametrize(
    "name", ["get_sesion", "_get_session", "create_session_sync", "__deepcopy__", "_sync"]
)
def test_what_is_no_operation_is_still_no_attribute(small: Any, name: str) -> None:
    assert not hasattr(small, name)
    with pytest.raises(AttributeError, match=rf"'SmallRepository' object has no attribute '{name}'"):
        getattr(small, name)
