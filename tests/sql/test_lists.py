"""Lists with conditions on metadata, and with previews."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sessions import AsyncChats, NewMessage

VALUES: dict[str, Any] = {
    "one": 1,
    "float one": 1.0,
    "true": True,
    "text one": "1",
    "null": None,
    "list": [1],
    "list of text": ["a"],
    "object": {"a": 1},
    "a": "a",
    "escaped": '\u2028"\\é\U0001f600',
    "empty": "",
    "big": 2**63 - 1,
    "nearly big": 2**63 - 2,
    "large": 1.2345678901234568e18,
    "huge": 1e300,
    "tiny": 5e-324,
    "zero": 0,
    "minus zero": -0.0,
    "false": False,
}
EQUAL = {"one": {"one", "float one"}, "null": {"null", "absent"}, "zero": {"zero", "minus zero"}}
EQUAL |= {"float one": EQUAL["one"], "minus zero": EQUAL["zero"]}


@pytest.mark.parametrize("key", ["key", "a.b", '"', "\\", "$", ""])
async def test_a_value_is_matched_exactly(chats: AsyncChats, key: str) -> None:
    for name, value in VALUES.items():
        await chats.create_session("alice", title=name, metadata={key: value, "other": 1, "x": {key: "a"}})
    await chats.create_session("alice", title="absent", metadata={"other": 1})
    await chats.create_session("bob", title="bob's", metadata={key: 1})

    async def found(*accepted: Any) -> set[str]:
        where = {"other": [0, 1], key: list(accepted)}
        page = await chats.list_sessions("alice", limit=100, where=where)
        titles = [chat_session.title for chat_session in page.sessions]
        assert len(titles) == await chats.count_sessions("alice", where=where)
        return set(titles)

    for name, value in VALUES.items():
        if not isinstance(value, list | dict):
            assert await found(value) == EQUAL.get(name, {name}), name
    assert await found() == set()
    assert await found("a", True, 0) == {"a", "true", "zero", "minus zero"}
    assert await found(None, "") == {"null", "absent", "empty"}
    assert await chats.count_sessions("alice", where={key: 1, "other": 2}) == 0


@pytest.mark.parametrize("where", [None, {"even": True}])
async def test_pages_with_previews_hold_each_session_once(
    chats: AsyncChats, where: dict[str, Any] | None
) -> None:
    ids = []
    for number in range(25):
        metadata = {"even": number % 2 == 0}
        session_id = await chats.create_session("alice", title=str(number), metadata=metadata)
        if number % 3:
            await chats.add_messages("alice", session_id, [("user", "first"), ("user", f"last of {number}")])
        ids.append(session_id)
    await chats.create_session("bob", metadata={"even": True}, messages=[("user", "bob's")])
    previews, cursor = [], None
    while True:
        page = await chats.list_session_previews("alice", limit=4, cursor=cursor, where=where)
        listed = await chats.list_sessions("alice", limit=4, cursor=cursor, where=where)
        assert [preview.session for preview in page.previews] == listed.sessions
        assert page.next_cursor == listed.next_cursor
        previews += page.previews
        cursor = page.next_cursor
        if cursor is None:
            break
    expected = [number for number in reversed(range(25)) if where is None or number % 2 == 0]
    assert [int(preview.session.title) for preview in previews] == expected
    for number, preview in zip(expected, previews, strict=True):
        history = await chats.get_session_history("alice", ids[number])
        assert preview.last_message == (history[-1] if history else None)
        assert (preview.last_message is not None) is (number % 3 != 0)


async def test_the_newest_message_is_the_last_of_the_history(chats: AsyncChats) -> None:
    session_id = await chats.create_session("alice")
    future = datetime.now(UTC) + timedelta(days=1)
    same = [NewMessage("user", content, timestamp=future, payload=[content]) for content in "ab"]
    await chats.add_messages("alice", session_id, [same[0]])
    await chats.add_messages("alice", session_id, [same[1], ("user", "now")])
    [preview] = (await chats.list_session_previews("alice")).previews
    assert preview.last_message is not None
    assert (preview.last_message.content, preview.last_message.payload) == ("b", ["b"])
    assert preview.last_message == (await chats.get_session_history("alice", session_id))[-1]
    assert preview.session.version == 2


async def test_only_old_sessions_with_these_values_are_deleted(chats: AsyncChats) -> None:
    for user_id in ("alice", "bob"):
        for kept in (True, False, None):
            await chats.create_session(user_id, metadata={} if kept is None else {"kept": kept})
    soon = datetime.now(UTC) + timedelta(hours=1)
    repository = chats.repository
    assert await repository.delete_sessions_older_than(soon, user_id="alice", where={"kept": [False]}) == 1
    assert await repository.delete_sessions_older_than(soon, where={"kept": [None, False]}) == 3
    assert await repository.delete_sessions_older_than(soon, where={"kept": "yes"}) == 0
    assert await chats.count_sessions("alice") == await chats.count_sessions("bob") == 1
