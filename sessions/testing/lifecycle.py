"""The contract of closing, and of combined async and blocking calls."""
# The tests are named for the behaviour they hold.
# ruff: noqa: D102

from __future__ import annotations

import asyncio
from typing import Any

from sessions.testing.callers import Caller
from sessions.testing.shared import RepositoryContract
from sessions.testing.twins import find_twin_mismatches
from sessions.testing.values import USER

__all__ = ["LifecycleContract"]


class LifecycleContract(RepositoryContract):
    """Closing, and combined async and blocking calls."""

    async def test_a_repository_works_again_after_it_was_closed(self, chats: Caller) -> None:
        for number in range(1, 3):
            session_id = await chats.create_session(USER, None)
            await chats.add_message(session_id, "user", "Hi")
            await chats.aclose()
            self.assert_nothing_left_open(chats.repository)
            assert await chats.is_healthy() is True
            # Whether an in-memory database survives a close is up to the backend.
            assert await chats.count_sessions(USER) in (number, 0)

    async def test_it_is_made_ready_at_once_and_again_after_a_close(self, chats: Caller) -> None:
        await chats.ensure_ready()
        session_id = await chats.create_session(USER, None)
        await chats.ensure_ready()
        assert await chats.get_session(USER, session_id) is not None
        await chats.aclose()
        await chats.ensure_ready()
        assert await chats.is_healthy() is True

    async def test_a_second_close_does_nothing(self, chats: Caller) -> None:
        await chats.aclose()
        await chats.create_session(USER, None)
        await chats.aclose()
        await chats.aclose()

    async def test_it_closes_at_the_end_of_its_context(self, repository: Any) -> None:
        async with repository as entered:
            assert entered is repository
            await repository.create_session_async(USER)
        self.assert_nothing_left_open(repository)
        with repository as entered:
            assert entered is repository
            repository.create_session(USER)
        self.assert_nothing_left_open(repository)

    async def test_async_and_blocking_operations_have_the_same_signatures(self, repository: Any) -> None:
        assert find_twin_mismatches(type(repository)) == []

    async def test_async_and_blocking_operations_see_the_same_sessions(self, repository: Any) -> None:
        # The blocking calls block the running loop, which a service should not do.
        first = repository.create_session(USER, {"title": "sync"})
        second = await repository.create_session_async(USER, {"title": "async"})
        await repository.add_message(first, "user", "async")
        repository.add_message_sync(second, "user", "sync")
        assert [item.content for item in await repository.get_session_history(USER, second)] == ["sync"]
        assert [item.content for item in repository.get_session_history_sync(USER, first)] == ["async"]
        listed = repository.list_paginated_sessions(USER)
        assert listed == await repository.list_paginated_sessions_async(USER)
        exported = [item async for item in repository.export_user(USER)]
        assert list(repository.export_user_sync(USER)) == exported

    async def test_many_threads_may_call_at_once(self, repository: Any) -> None:
        def converse(number: int) -> list[str]:
            user_id = f"thread-{number}"
            session_id = repository.create_session(user_id, None)
            for content in "abc":
                repository.add_message_sync(session_id, "user", content, user_id=user_id)
            return [item.content for item in repository.get_session_history_sync(user_id, session_id)]

        outcomes = await asyncio.gather(*(asyncio.to_thread(converse, number) for number in range(12)))
        assert outcomes == [["a", "b", "c"]] * 12
