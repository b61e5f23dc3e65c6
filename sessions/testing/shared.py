"""Base class of the contract classes: fixtures, the hook at the end of each test, and helpers."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import pytest

from sessions.errors import InvalidInputError
from sessions.models import ChatSession
from sessions.testing.bad_calls import BadCall
from sessions.testing.callers import Caller, MixedCaller
from sessions.testing.open_connections import count_checked_out
from sessions.testing.values import USER

__all__ = ["RepositoryContract"]

RETURN_SECONDS = 1.0


@pytest.mark.asyncio
class RepositoryContract:
    """Base class of the contract classes; subclasses provide the fixture ``repository``.

    Attributes:
        takes_only_uuids: Whether an id must be a UUID; otherwise any 1 to 255 characters are valid.
        clock_resolution: Minimum distance of two times that the database stores as different.
    """

    takes_only_uuids: ClassVar[bool] = True
    clock_resolution: ClassVar[timedelta] = timedelta(milliseconds=1)

    @pytest.fixture
    def chats(self, repository: Any) -> Caller:
        """The repository, called async or blocking."""
        return MixedCaller(repository)

    @pytest.fixture(autouse=True)
    def _nothing_is_left_open(self, repository: Any) -> Iterator[None]:
        yield
        self.assert_nothing_left_open(repository)

    def assert_nothing_left_open(self, repository: Any) -> None:
        """Fail if the repository still holds a resource of an operation; called at the end of each test.

        Override it for a backend whose connection manager has a pool of its own.
        """
        # The loop of blocking calls may return a connection just now, in its own thread.
        ends = time.monotonic() + RETURN_SECONDS
        while (left := count_checked_out(repository)) != 0 and time.monotonic() < ends:
            time.sleep(0.01)
        assert left == 0, "connections are still checked out of the pool"

    async def tick(self) -> datetime:
        """Wait for the clock resolution; return a time after those already stored, and before later ones."""
        await asyncio.sleep(2 * self.clock_resolution.total_seconds())
        now = datetime.now(UTC)
        await asyncio.sleep(2 * self.clock_resolution.total_seconds())
        return now

    async def session_of(self, chats: Caller, user_id: str, session_id: str) -> ChatSession:
        """Return a session of the user's list."""
        listed = await chats.list_paginated_sessions(user_id, 0, 1000)
        found: ChatSession = next(item for item in listed if item.session_id == session_id)
        return found

    @asynccontextmanager
    async def changing(
        self, chats: Caller, session_id: str, *, by: int = 1, touching: bool = True
    ) -> AsyncIterator[None]:
        """Fail unless the writes of this block raise the version of the user's session as given.

        Args:
            chats: The repository.
            session_id: A session of ``USER``.
            by: How often it is to be changed; ``updated_at`` stays with 0.
            touching: Whether ``updated_at`` is bumped.
        """
        before = await chats.get_session(USER, session_id)
        moment = await self.tick()
        yield
        after = await chats.get_session(USER, session_id)
        assert after.version == before.version + by
        if by and touching:
            assert before.updated_at < moment < after.updated_at
        else:
            assert after.updated_at == before.updated_at
        assert after.created_at == before.created_at

    async def assert_refused(self, chats: Caller, call: BadCall) -> None:
        """Make an invalid call; fail unless the error names the invalid argument."""
        try:
            operation = getattr(chats, call.operation)
            if call.operation == "export_user":
                await anext(operation(**call.arguments), None)
            else:
                await operation(**call.arguments)
        except InvalidInputError as error:
            # The argument in "metadata.tags[2]".
            named = re.split(r"\W", error.argument, maxsplit=1)[0]
            if named != call.named:
                pytest.fail(f"{call} was refused for {error.argument!a}, not for {call.named}")
        except Exception as error:
            error.add_note(str(call))
            raise
        else:
            pytest.fail(f"accepted: {call}")
