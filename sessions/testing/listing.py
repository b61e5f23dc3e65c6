"""The contract of `list_sessions` and `count_sessions`."""
# The tests are named for the behaviour they hold.
# ruff: noqa: D102

from __future__ import annotations

from sessions.models import ChatSession, SessionPage
from sessions.testing.callers import Caller
from sessions.testing.shared import RepositoryContract
from sessions.testing.values import OTHER, USER

__all__ = ["ListingContract"]


async def _create(chats: Caller, count: int, user_id: str = USER) -> list[str]:
    return [await chats.create_session(user_id, {"title": str(number)}) for number in range(count)]


async def _all(chats: Caller, limit: int) -> list[list[ChatSession]]:
    pages = [await chats.list_sessions(USER, limit=limit)]
    while pages[-1].next_cursor is not None:
        assert type(pages[-1].next_cursor) is str
        pages.append(await chats.list_sessions(USER, limit=limit, cursor=pages[-1].next_cursor))
    return [page.sessions for page in pages]


class ListingContract(RepositoryContract):
    """Keyset pagination and counting."""

    async def test_the_pages_are_the_list_of_all(self, chats: Caller) -> None:
        await _create(chats, 12)
        await _create(chats, 2, OTHER)
        listed = await chats.list_paginated_sessions(USER, 0, 1000)
        for limit, sizes in ((1, [1] * 12), (5, [5, 5, 2]), (6, [6, 6]), (12, [12]), (1000, [12])):
            pages = await _all(chats, limit)
            assert [len(page) for page in pages] == sizes
            assert [item for page in pages for item in page] == listed

    async def test_a_page_has_ten_sessions_unless_asked(self, chats: Caller) -> None:
        await _create(chats, 11)
        page = await chats.list_sessions(USER)
        assert type(page) is SessionPage
        assert len(page.sessions) == 10
        assert page.next_cursor is not None

    async def test_a_user_without_sessions_has_one_empty_page(self, chats: Caller) -> None:
        await _create(chats, 1, OTHER)
        assert await chats.list_sessions(USER) == SessionPage([], None)

    async def test_while_others_write_no_session_comes_twice_and_no_unchanged_one_is_lost(
        self, chats: Caller
    ) -> None:
        ids = await _create(chats, 15)
        await self.tick()
        seen: list[str] = []
        changed: set[str] = set()
        cursor = None
        while True:
            page = await chats.list_sessions(USER, limit=4, cursor=cursor)
            seen += [item.session_id for item in page.sessions]
            cursor = page.next_cursor
            if cursor is None:
                break
            unseen = [session_id for session_id in ids if session_id not in {*seen, *changed}]
            # A new session, one already listed, two not yet listed, and the one that the cursor names.
            await chats.create_session(USER, None)
            await chats.update_session(USER, seen[0], {"title": "Changed"})
            await chats.delete_session(USER, seen[-1])
            if len(unseen) > 2:
                await chats.add_message(unseen[0], "user", "Hi")
                await chats.delete_session(USER, unseen[-1])
                changed |= {unseen[0], unseen[-1]}
        assert len(seen) == len(set(seen))
        assert set(ids) - changed <= set(seen)

    async def test_a_cursor_shows_nothing_of_another_user(self, chats: Caller) -> None:
        await _create(chats, 3)
        page = await chats.list_sessions(USER, limit=1)
        assert (await chats.list_sessions(OTHER, cursor=page.next_cursor)).sessions == []
        theirs = await _create(chats, 2, OTHER)
        first = await chats.list_sessions(OTHER, limit=1)
        rest = await chats.list_sessions(USER, cursor=first.next_cursor)
        assert not {item.session_id for item in rest.sessions} & set(theirs)

    async def test_sessions_are_counted_by_user(self, chats: Caller) -> None:
        assert await chats.count_sessions(USER) == 0
        ids = await _create(chats, 3)
        await _create(chats, 1, OTHER)
        assert await chats.count_sessions(USER) == 3
        await chats.delete_session(USER, ids[0])
        assert (await chats.count_sessions(USER), await chats.count_sessions(OTHER)) == (2, 1)
