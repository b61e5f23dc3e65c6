"""The contract of retention, of deleting a user, and of the export."""
# The tests are named for the behaviour they hold.
# ruff: noqa: D102

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from sessions.testing.callers import Caller
from sessions.testing.shared import RepositoryContract
from sessions.testing.values import OTHER, USER

__all__ = ["DeletingContract"]

# More sessions than the built-in backends delete in one transaction.
MANY = 130


async def _create(chats: Caller, user_id: str, count: int) -> list[str]:
    ids = []
    for number in range(count):
        ids.append(await chats.create_session(user_id, {"title": str(number)}))
        await chats.add_message(ids[-1], "user", f"of {user_id}")
    return ids


async def _ids(chats: Caller, user_id: str) -> set[str]:
    return {item.session_id for item in await chats.list_paginated_sessions(user_id, 0, 1000)}


class DeletingContract(RepositoryContract):
    """Retention and export."""

    # -- Retention ---------------------------------------------------------------------------------

    async def test_keep_latest_deletes_all_but_the_latest_changed(self, chats: Caller) -> None:
        ids = await _create(chats, USER, 6)
        theirs = await _create(chats, OTHER, 3)
        await self.tick()
        await chats.add_message(ids[0], "assistant", "of now")
        await self.tick()
        await chats.update_session(USER, ids[2], {"title": "of now"})
        assert await chats.keep_latest_sessions(USER, 6) == 0
        assert await chats.keep_latest_sessions(USER, 1000) == 0
        assert await chats.keep_latest_sessions(USER, 2) == 4
        assert await _ids(chats, USER) == {ids[0], ids[2]}
        assert await chats.keep_latest_sessions(USER, 2) == 0
        assert len(await chats.get_session_history(USER, ids[0])) == 2
        assert await chats.get_session_history(USER, ids[1]) == []
        assert await chats.keep_latest_sessions(USER, 0) == 2
        assert await chats.count_sessions(USER) == 0
        assert await _ids(chats, OTHER) == set(theirs)
        assert await chats.keep_latest_sessions("nobody", 0) == 0

    async def test_keep_latest_keeps_the_head_of_the_list(self, chats: Caller) -> None:
        # Written concurrently, so that some may have the same updated_at.
        await asyncio.gather(*(chats.create_session(USER, None) for _ in range(12)))
        listed = await chats.list_paginated_sessions(USER, 0, 1000)
        assert await chats.keep_latest_sessions(USER, 5) == 7
        assert await chats.list_paginated_sessions(USER, 0, 1000) == listed[:5]

    @pytest.mark.parametrize("user_id", [None, USER])
    async def test_sessions_last_changed_before_the_cutoff_go(
        self, chats: Caller, user_id: str | None
    ) -> None:
        mine, theirs = await _create(chats, USER, 4), await _create(chats, OTHER, 2)
        cutoff = await self.tick()
        await chats.add_message(mine[1], "user", "later")
        await chats.update_session(USER, mine[3], {"title": "Changed"})
        # The same time in another time zone.
        cutoff = cutoff.astimezone(timezone(timedelta(hours=5, minutes=30)))
        deleted = await chats.delete_sessions_older_than(cutoff, user_id=user_id)
        assert deleted == (2 if user_id else 4)
        assert await _ids(chats, USER) == {mine[1], mine[3]}
        assert await _ids(chats, OTHER) == (set(theirs) if user_id else set())
        assert await chats.get_session_history(USER, mine[0]) == []
        assert len(await chats.get_session_history(USER, mine[1])) == 2
        assert await chats.delete_sessions_older_than(cutoff, user_id=user_id) == 0

    async def test_a_session_changed_at_the_cutoff_stays(self, chats: Caller) -> None:
        [session_id] = await _create(chats, USER, 1)
        moment = (await chats.get_session(USER, session_id)).updated_at
        assert await chats.delete_sessions_older_than(moment) == 0
        assert await chats.delete_sessions_older_than(moment + self.clock_resolution) == 1

    async def test_any_time_there_is_will_do_for_a_cutoff(self, chats: Caller) -> None:
        [session_id] = await _create(chats, USER, 1)
        for moment in (datetime(1, 1, 1, tzinfo=UTC), datetime(1600, 1, 1, tzinfo=UTC)):
            assert await chats.delete_sessions_older_than(moment) == 0
        assert await _ids(chats, USER) == {session_id}
        assert await chats.delete_sessions_older_than(datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)) == 1

    async def test_delete_user_forgets_everything_of_that_user_alone(self, chats: Caller) -> None:
        mine, theirs = await _create(chats, USER, 3), await _create(chats, OTHER, 2)
        assert await chats.delete_user(USER) == 3
        assert await chats.delete_user(USER) == 0
        assert await chats.list_paginated_sessions(USER) == []
        for session_id in mine:
            assert await chats.get_session_history(USER, session_id) == []
        assert await _ids(chats, OTHER) == set(theirs)
        assert [len(await chats.get_session_history(OTHER, item)) for item in theirs] == [1, 1]

    async def test_many_sessions_are_deleted_and_counted_in_one_call(self, chats: Caller) -> None:
        far = datetime.now(UTC) + timedelta(days=1)
        for left, operation, arguments in (
            (3, "keep_latest_sessions", (USER, 3)),
            (0, "delete_sessions_older_than", (far,)),
            (0, "delete_user", (USER,)),
        ):
            before = await chats.count_sessions(USER)
            await asyncio.gather(*(chats.create_session(USER, None) for _ in range(MANY)))
            assert await getattr(chats, operation)(*arguments) == before + MANY - left
            assert await chats.count_sessions(USER) == left

    # -- Export ------------------------------------------------------------------------------------

    async def test_the_export_holds_each_session_with_its_messages_oldest_first(self, chats: Caller) -> None:
        ids = [await chats.create_session(USER, {"title": str(n), "metadata": {"n": n}}) for n in range(5)]
        await _create(chats, OTHER, 2)
        await self.tick()
        await chats.add_messages(ids[1], [("user", "a"), ("assistant", "b")])
        exported = [item async for item in chats.export_user(USER)]
        listed = await chats.list_paginated_sessions(USER, 0, 1000)
        assert [chat_session for chat_session, _ in exported] == listed[::-1]
        for chat_session, messages in exported:
            assert messages == await chats.get_session_history(USER, chat_session.session_id)
        assert [len(messages) for _, messages in exported] == [0, 0, 0, 0, 2]
        assert [item async for item in chats.export_user("nobody")] == []

    async def test_a_long_session_is_exported_in_parts_of_at_most_1000_messages(self, chats: Caller) -> None:
        session_id = await chats.create_session(USER, None)
        ids = await chats.add_messages(session_id, [("user", str(number)) for number in range(2500)])
        full = await chats.create_session(USER, None)
        await chats.add_messages(full, [("user", "Hi")] * 1000)
        exported: list[Any] = [item async for item in chats.export_user(USER)]
        parts = [messages for chat_session, messages in exported if chat_session.session_id == session_id]
        assert [len(part) for part in parts] == [1000, 1000, 500]
        assert [item.message_id for part in parts for item in part] == ids
        sizes = [len(messages) for chat_session, messages in exported if chat_session.session_id == full]
        assert sum(sizes) == 1000
        # The parts of a session are consecutive.
        order = [chat_session.session_id for chat_session, _ in exported]
        assert order == sorted(order, key=order.index)

    async def test_an_export_goes_on_while_sessions_change_and_go(self, chats: Caller) -> None:
        ids = await _create(chats, USER, 6)
        export = chats.export_user(USER)
        first, messages = await anext(export)
        assert (first.session_id, len(messages)) == (ids[0], 1)
        await self.tick()
        # One that was exported, and one that was not.
        await chats.add_message(ids[0], "assistant", "later")
        await chats.add_message(ids[2], "assistant", "later")
        await chats.delete_session(USER, ids[4])
        exported = [chat_session.session_id async for chat_session, _ in export]
        assert len(exported) == len(set(exported))
        assert {ids[1], ids[2], ids[3], ids[5]} <= set(exported)
        assert ids[0] not in exported

    async def test_an_export_may_be_left_early(self, chats: Caller) -> None:
        await _create(chats, USER, 3)
        export = chats.export_user(USER)
        await anext(export)
        await export.aclose()
        assert await chats.delete_user(USER) == 3
