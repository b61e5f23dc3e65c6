"""The contract of conditions on metadata, and of previews."""
# The tests are named for the behaviour they hold.
# ruff: noqa: D102

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from sessions.models import NewMessage, PreviewPage, SessionPreview
from sessions.testing.callers import Caller
from sessions.testing.shared import RepositoryContract
from sessions.testing.values import OTHER, TEXTS, USER

__all__ = ["ConditionsContract"]

ABSENT = object()
# The value of one key in each session.
VALUES: dict[str, Any] = {
    "absent": ABSENT,
    "null": None,
    "true": True,
    "false": False,
    "one": 1,
    "zero": 0,
    "half": 0.5,
    "whole": 3.0,
    "big": 2**53 + 1,
    "bigger": 2**62,
    "text one": "1",
    "text": "pinned",
    "empty": "",
    "list": ["pinned", 1, None],
    "empty list": [],
    "object": {"pinned": 1},
    "null in a list": [None],
    "text of null": "null",
}
# What each condition on that key accepts.
CONDITIONS: list[tuple[Any, set[str]]] = [
    (None, {"absent", "null"}),
    (True, {"true"}),
    (False, {"false"}),
    (1, {"one"}),
    (1.0, {"one"}),
    (0, {"zero"}),
    (-0.0, {"zero"}),
    (0.5, {"half"}),
    (3, {"whole"}),
    (2**53 + 1, {"big"}),
    (2**62, {"bigger"}),
    ("1", {"text one"}),
    ("pinned", {"text"}),
    ("Pinned", set()),
    ("pinned ", set()),
    ("pin%", set()),
    ("", {"empty"}),
    ("null", {"text of null"}),
    ([], set()),
    (["pinned"], {"text"}),
    (("pinned", 1, True), {"text", "one", "true"}),
    ({None, "pinned"}, {"absent", "null", "text"}),
    ([None, None], {"absent", "null"}),
    ([0, False], {"zero", "false"}),
]
ODD_KEYS = ["", "$set", "$", "a.b", ".", "_id", "0", "\xe9", "e\u0301", "'\"\\%_", "$a.b", "k" * 300]


async def _titles(chats: Caller, where: Any, **options: Any) -> set[str]:
    found: list[str] = []
    cursor = None
    while True:
        page = await chats.list_sessions(USER, where=where, cursor=cursor, **options)
        found += [item.title for item in page.sessions]
        if (cursor := page.next_cursor) is None:
            break
    assert len(set(found)) == len(found)
    assert await chats.count_sessions(USER, where=where) == len(found)
    return set(found)


class ConditionsContract(RepositoryContract):
    """Conditions on metadata, and previews."""

    # -- Conditions --------------------------------------------------------------------------------

    async def test_a_condition_accepts_equal_values_alone(self, chats: Caller) -> None:
        for title, value in VALUES.items():
            metadata = {"other": 1} | ({} if value is ABSENT else {"key": value})
            await chats.create_session(USER, {"title": title, "metadata": metadata})
        await chats.create_session(OTHER, {"metadata": {"key": "pinned", "other": 1}})
        for accepted, expected in CONDITIONS:
            assert await _titles(chats, {"key": accepted}) == expected, accepted
            assert await _titles(chats, {"key": accepted}, limit=1) == expected, accepted
        everything = set(VALUES)
        assert await _titles(chats, {}) == everything
        assert await _titles(chats, None) == everything
        assert await _titles(chats, {"other": 1}) == everything

    async def test_all_conditions_must_be_met(self, chats: Caller) -> None:
        for number in range(8):
            metadata = {"pinned": number % 2 == 0, "folder": f"f{number % 3}", "n": number}
            await chats.create_session(USER, {"title": str(number), "metadata": metadata})
        assert await _titles(chats, {"pinned": True, "folder": "f0"}) == {"0", "6"}
        assert await _titles(chats, {"pinned": True, "folder": ["f0", "f1"], "n": [4, 6, 7]}) == {"4", "6"}
        assert await _titles(chats, {"pinned": False, "archived": None}) == {"1", "3", "5", "7"}
        assert await _titles(chats, {"pinned": False, "archived": True}) == set()
        assert await _titles(chats, {"pinned": [], "folder": "f0"}) == set()

    async def test_any_key_and_any_text_may_be_a_condition(self, chats: Caller) -> None:
        await chats.create_session(USER, {"title": "odd", "metadata": dict.fromkeys(ODD_KEYS, "yes")})
        await chats.create_session(
            USER, {"title": "nested", "metadata": {"a": {"b": "yes"}, "$a": {"b": "yes"}}}
        )
        for key in ODD_KEYS:
            assert await _titles(chats, {key: "yes"}) == {"odd"}, key
            assert await _titles(chats, {key: None}) == {"nested"}, key
        texts = [*TEXTS, "", '"', "[]", "{}", "\\", "true"]
        for number, text in enumerate(texts):
            await chats.create_session(USER, {"title": f"text {number}", "metadata": {"text": text}})
        for number, text in enumerate(texts):
            assert await _titles(chats, {"text": text}) == {f"text {number}"}, ascii(text)

    async def test_a_change_of_metadata_is_seen_by_conditions(self, chats: Caller) -> None:
        session_id = await chats.create_session(USER, {"title": "T"})
        await chats.update_session(USER, session_id, merge_metadata={"pinned": True})
        assert await _titles(chats, {"pinned": True}) == {"T"}
        await chats.update_session(USER, session_id, remove_metadata=["pinned"])
        assert await _titles(chats, {"pinned": True}) == set()
        assert await _titles(chats, {"pinned": None}) == {"T"}

    async def test_old_sessions_are_deleted_by_condition(self, chats: Caller) -> None:
        session_id = ""
        for user_id in (USER, OTHER):
            for number in range(4):
                metadata = {"kept": True} if number == 0 else {}
                session_id = await chats.create_session(
                    user_id, {"title": str(number), "metadata": metadata}, messages=[("user", "Hi")]
                )
        assert session_id
        later = datetime.now(UTC) + timedelta(days=1)
        unkept = {"kept": None}
        assert await chats.delete_sessions_older_than(later, user_id=USER, where={"kept": [False, 1]}) == 0
        assert await chats.delete_sessions_older_than(later, user_id=USER, where=unkept) == 3
        assert await _titles(chats, None) == {"0"}
        assert await chats.count_sessions(OTHER) == 4
        assert await chats.delete_sessions_older_than(later, where=unkept) == 3
        assert await chats.count_sessions(OTHER) == 1
        past = datetime.now(UTC) - timedelta(days=1)
        assert await chats.delete_sessions_older_than(past, where={"kept": True}) == 0
        assert await chats.delete_sessions_older_than(later, where={"kept": True}) == 2

    # -- Previews ----------------------------------------------------------------------------------

    async def test_previews_are_the_list_with_the_newest_messages(self, chats: Caller) -> None:
        for number in range(7):
            session_id = await chats.create_session(
                USER, {"title": str(number), "metadata": {"n": number % 2}}
            )
            batch = [NewMessage("tool", str(n), metadata={"m": n}, payload=["\0", n]) for n in range(number)]
            await chats.add_messages(session_id, batch)
        await chats.create_session(OTHER, None, messages=[("user", "theirs")])
        for where in (None, {"n": 1}, {"n": [0, 5]}, {"n": 2}):
            listed = (await chats.list_sessions(USER, limit=1000, where=where)).sessions
            expected = []
            for chat_session in listed:
                history = await chats.get_session_history(USER, chat_session.session_id)
                expected.append(SessionPreview(chat_session, history[-1] if history else None))
            for limit in (1, 3, len(listed) or 1, 1000):
                found: list[SessionPreview] = []
                cursor = None
                while True:
                    page = await chats.list_session_previews(USER, limit=limit, cursor=cursor, where=where)
                    assert type(page) is PreviewPage
                    assert len(page.previews) <= limit
                    found += page.previews
                    if (cursor := page.next_cursor) is None:
                        break
                assert found == expected

    async def test_the_newest_message_is_the_last_of_the_history(self, chats: Caller) -> None:
        session_id = await chats.create_session(USER, None)
        future, past = datetime(2190, 1, 1, tzinfo=UTC), datetime(2020, 1, 1, tzinfo=UTC)
        for content, moment, newest in (
            ("now", None, "now"),
            ("future", future, "future"),
            ("past", past, "future"),
            ("future too", future, "future too"),
        ):
            await chats.add_message(session_id, "user", content, timestamp=moment)
            [preview] = (await chats.list_session_previews(USER)).previews
            assert preview.last_message.content == newest
            assert preview.last_message == (await chats.get_session_history(USER, session_id))[-1]
        await chats.clear_messages(USER, session_id)
        [preview] = (await chats.list_session_previews(USER)).previews
        assert preview.last_message is None

    async def test_a_page_of_previews_has_ten_and_its_cursor_fits_the_list(self, chats: Caller) -> None:
        for number in range(12):
            await chats.create_session(USER, {"title": str(number)})
        first = await chats.list_session_previews(USER)
        assert len(first.previews) == 10
        rest = await chats.list_sessions(USER, cursor=first.next_cursor)
        previews = await chats.list_session_previews(USER, cursor=first.next_cursor)
        assert [item.session for item in previews.previews] == rest.sessions
        assert len(rest.sessions) == 2
        assert await chats.list_session_previews(OTHER) == PreviewPage([], None)
        assert (await chats.list_session_previews(OTHER, cursor=first.next_cursor)).previews == []
