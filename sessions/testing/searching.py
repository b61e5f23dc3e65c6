"""The contract of `search_messages`."""
# The tests are named for the behaviour they hold.
# ruff: noqa: D102
# Letters that look like others are what is searched for.
# ruff: noqa: RUF001

from __future__ import annotations

import uuid
from typing import Any

import pytest

from sessions.errors import InvalidInputError
from sessions.models import SearchHit, SearchPage
from sessions.testing.callers import Caller
from sessions.testing.shared import RepositoryContract
from sessions.testing.values import OTHER, USER

__all__ = ["SearchingContract"]

FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467"

# A content, what finds it, and what does not.
FOUND: dict[str, tuple[str, list[str], list[str]]] = {
    "Latin": ("Trip to Rome", ["ROME", "rip", "tRiP t", '"trip to"'], ["Trap", '"trip rome"', "Röme"]),
    "accents": ("Café Über Ångström", ["CAFÉ", "über", "ÅNGSTRÖM", "\u212bngström"], ["cafe", "u\u0308ber"]),
    "combining marks": ("cafe\u0301", ["CAFE\u0301", "cafe"], ["café"]),
    "Cyrillic": ("Привет, Мир", ["привет", "МИР", "рИвЕ"], ["миp", "привёт"]),
    "Turkish": ("ISPARTA İzmir ırmak", ["isparta", "İZMIR", "ırMAK"], ["izmir", "İZMİR", "IRMAK", "ısparta"]),
    "German": ("Straße GROẞ", ["straße", "STRAẞE", "groß"], ["strasse", "GROSS"]),
    "Greek": ("Ὀδυσσεύς ΣΊΣΥΦΟΣ", ["ὀδυσσεύσ", "σίσυφος", "ΣΊΣΥΦΟς"], ["οδυσσευς"]),
    "Kelvin": ("300 \u212a", ["300 k", "k", "K", "\u212a"], ["\u039a", "к"]),
    "kay": ("kiosk", ["\u212aiosk", "KIOS\u212a", "\u212aIO\u017f\u212a"], ["киоск"]),
    "long s": ("Wachſtube", ["wachstube", "WACHSTUBE", "wachſtube"], ["wachßtube", "wachtube"]),
    "ligatures": ("o\ufb03ce \u01c4ep", ["o\ufb03ce", "\u01c5EP", "\u01c6ep"], ["office", "dzep"]),
    "Arabic": ("مرحبا بالعالم", ["مرحبا", "عالم"], ["مرحبآ"]),
    "Hebrew": ("שלום עולם", ["שלום", '"ם ע"'], ["שלומ"]),
    "Chinese": ("我想去罗马旅行", ["罗马", "旅行 我想"], ["羅馬"]),
    "Japanese": ("ローマで何を見る?", ["ローマ", "何を"], ["ろーま", "ロ-マ"]),
    "Korean": ("로마 여행", ["로마", "여행"], ["\u1105\u1169\u1106\u1161"]),
    "Thai": ("สวัสดีชาวโลก", ["สวัสดี", "โลก"], ["สวสดี"]),
    "Hindi": ("नमस्ते दुनिया", ["नमस्ते", "दुनि"], ["नमसते"]),
    "wide Latin": ("\uff32\uff4f\uff4d\uff45", ["\uff52\uff2f\uff2d\uff25"], ["Rome"]),
    "Deseret": ("\U00010414\U0001042f", ["\U0001043c\U00010407"], ["\U00010415"]),
    "emoji": (f"hi {FAMILY}!", [FAMILY, "\U0001f469", "\u200d"], ["\U0001f466", "\U0001f44b"]),
    "percent": ("100% sure", ["100%", "%"], ["1%0", "100%%", "1%"]),
    "underscore": ("snake_case", ["e_c", "_"], ["_nake", "snake__"]),
    "backslash": (r"C:\new\table", [r"c:\NEW", r"\t", "\\"], [r"\\n", r"C:\\new"]),
    "quotes": ("it's `so` \u201csaid\u201d", ["it's", "`SO`", "'", "\u201csaid\u201d"], ["its", "''"]),
    "a double quote": ('say "hello"', ['"', 'O"', '"hello', '"say "'], ['ay"', '"say hello"']),
    "operators": (
        "a+b -c (d|e) ^f$ [g-h] {2} *.?",
        ["a+b", "-C", "(D|E)", "^f$", "[g-H]", "{2}", "*.?", "+ | ^"],
        ["g|h", "-a", "a AND NOT c"],
    ),
    "expressions": (
        r"aab\d.",
        [r"\d", ".", r"AAB\D"],
        ["a*b", "a{2}b", "[ab]", r"\w", "(?i)aab", "***=aab", ".*", "^aab", "a.b", "(?=a)"],
    ),
    "globs": ("file*?[a]", ["*", "?", "[A]", "E*?"], ["f*e", "fil?*", "[f]", "]["]),
    "lines": ("one\ntwo\r\n\tthree", ["one two", '"one\ntwo"', '"\r\n\t"'], ['"one two"', '"one\n\ntwo"']),
    "spaces": ("a  b\u00a0c", ['"a  b"', '"  "', '"b\u00a0c"', "\u3000a\u2003b\n"], ['"a b"', '"b c"']),
    "SQL": ("Robert'); DROP TABLE chat_messages;--", ["'); drop", ";--"], ["' OR '1'='1"]),
    "JSON": ('{"$ne": null}', ["{", "$NE", '": null}'], ["{'$ne'"]),
    "empty": ("", [], ["a", "%", '" "']),
}


async def _all(chats: Caller, query: str, **options: Any) -> list[SearchHit]:
    pages = [await chats.search_messages(USER, query, **options)]
    while pages[-1].next_cursor is not None:
        assert type(pages[-1].next_cursor) is str
        assert len(pages[-1].hits) == options.get("limit", 20)
        pages.append(await chats.search_messages(USER, query, cursor=pages[-1].next_cursor, **options))
    return [hit for page in pages for hit in page.hits]


class SearchingContract(RepositoryContract):
    """What is a hit, whose, and in which order."""

    async def test_a_hit_is_the_session_and_the_message(self, chats: Caller) -> None:
        session_id = await chats.create_session(USER, {"title": "Trip", "metadata": {"a": [1]}})
        await chats.add_message(session_id, "user", "What should I see in Rome?")
        await chats.add_message(session_id, "assistant", "The Forum.")

        page = await chats.search_messages(USER, "rome")

        [message, _] = await chats.get_session_history(USER, session_id)
        assert page == SearchPage([SearchHit(await chats.get_session(USER, session_id), message)], None)

    async def test_a_word_is_found_whatever_its_case_and_is_no_pattern(self, chats: Caller) -> None:
        wrong = {}
        for kind, (content, queries, others) in FOUND.items():
            session_id = await chats.create_session(USER, None)
            await chats.add_message(session_id, "user", content)
            await chats.add_message(session_id, "assistant", "\u2014")
            for query in queries + others:
                hits = (await chats.search_messages(USER, query, session_id=session_id)).hits
                if [hit.message.content for hit in hits] != [content] * (query in queries):
                    wrong[kind, query] = len(hits)

        assert wrong == {}

    async def test_each_word_occurs_somewhere_in_the_message(self, chats: Caller) -> None:
        session_id = await chats.create_session(USER, None)
        for content in ("one two three", "three one", "two", "THREE twoone"):
            await chats.add_message(session_id, "user", content)

        found = [hit.message.content for hit in await _all(chats, "Three  one")]

        assert found == ["THREE twoone", "three one", "one two three"]
        assert len(await _all(chats, "one one ONE o")) == 3
        assert [hit.message.content for hit in await _all(chats, '"three one" one')] == ["three one"]

    async def test_many_words_are_found(self, chats: Caller) -> None:
        session_id = await chats.create_session(USER, None)
        words = [f"{chr(0x430 + number % 32)}{number}k" for number in range(150)]
        await chats.add_message(session_id, "user", " ".join(reversed(words)))

        assert len(await _all(chats, " ".join(words).upper())) == 1
        assert len(await _all(chats, " ".join(words) + " lacking")) == 0
        assert len(await _all(chats, "s" * 1000)) == 0

    async def test_hits_of_all_sessions_come_newest_first_without_gap_or_repetition(
        self, chats: Caller
    ) -> None:
        ids = [await chats.create_session(USER, None) for _ in range(3)]
        contents = [f"{'hit' if number % 3 else 'miss'} {number}" for number in range(24)]
        for number, content in enumerate(contents):
            await chats.add_message(ids[number % 2], "user", content)
            await self.tick()
        expected = [content for content in reversed(contents) if "hit" in content]

        for limit in (1, 5, 8, 15, 16, 1000):
            hits = await _all(chats, "HIT", limit=limit)
            assert [hit.message.content for hit in hits] == expected
            assert all(hit.message.session_id == hit.session.session_id for hit in hits)
        newest = await chats.search_messages(USER, "hit", limit=16)
        assert newest.next_cursor is None

    async def test_messages_of_one_batch_come_in_the_opposite_order_of_the_history(
        self, chats: Caller
    ) -> None:
        session_id = await chats.create_session(USER, None)
        await chats.add_messages(session_id, [("user", f"hit {number}") for number in range(10)])

        for limit in (1, 3, 10):
            hits = await _all(chats, "hit", limit=limit)
            history = await chats.get_session_history(USER, session_id)
            assert [hit.message for hit in hits] == list(reversed(history))

    async def test_a_page_has_20_hits_unless_asked(self, chats: Caller) -> None:
        session_id = await chats.create_session(USER, None)
        await chats.add_messages(session_id, [("user", "hit")] * 21)

        page = await chats.search_messages(USER, "hit")

        assert len(page.hits) == 20
        assert len((await chats.search_messages(USER, "hit", cursor=page.next_cursor)).hits) == 1

    async def test_one_session_is_searched_if_it_is_given(self, chats: Caller) -> None:
        ids = [await chats.create_session(USER, None) for _ in range(2)]
        for session_id in ids * 3:
            await chats.add_message(session_id, "user", "hit")

        for session_id in (ids[0], uuid.UUID(ids[1])):
            hits = await _all(chats, "hit", session_id=session_id, limit=2)
            assert [hit.session.session_id for hit in hits] == [str(session_id)] * 3

    async def test_nobody_finds_messages_of_another_user(self, chats: Caller) -> None:
        mine = await chats.create_session(USER, None)
        foreign = await chats.create_session(OTHER, None)
        await chats.add_message(mine, "user", "hit of mine")
        await chats.add_message(foreign, "user", "hit of another")

        assert [hit.message.content for hit in await _all(chats, "hit")] == ["hit of mine"]
        nothing = SearchPage([], None)
        assert await chats.search_messages(USER, "hit", session_id=foreign) == nothing
        assert await chats.search_messages(USER, "hit", session_id=str(uuid.uuid4())) == nothing
        assert await chats.search_messages("nobody", "hit") == nothing
        page = await chats.search_messages(OTHER, "hit", limit=1)
        assert [hit.session.user_id for hit in page.hits] == [OTHER]

    async def test_what_was_deleted_is_not_found(self, chats: Caller) -> None:
        session_id = str(uuid.uuid4())
        await chats.ensure_session_exists(session_id, USER)
        await chats.add_message(session_id, "user", "hit")
        assert await chats.delete_session(USER, session_id)
        assert await chats.search_messages(USER, "hit") == SearchPage([], None)
        await chats.ensure_session_exists(session_id, USER)
        assert await chats.search_messages(USER, "hit") == SearchPage([], None)

    @pytest.mark.parametrize("query", ["", " ", "\t\n", '""', ' "" ', "a" * 1001])
    async def test_a_query_without_a_word_or_of_any_length_is_refused(
        self, chats: Caller, query: str
    ) -> None:
        with pytest.raises(InvalidInputError, match="query"):
            await chats.search_messages(USER, query)

    async def test_a_cursor_of_another_list_is_refused(self, chats: Caller) -> None:
        for _ in range(2):
            session_id = await chats.create_session(USER, None)
            await chats.add_message(session_id, "user", "hit")
        of_sessions = (await chats.list_sessions(USER, limit=1)).next_cursor
        of_hits = (await chats.search_messages(USER, "hit", limit=1)).next_cursor

        with pytest.raises(InvalidInputError, match="cursor"):
            await chats.search_messages(USER, "hit", cursor=of_sessions)
        with pytest.raises(InvalidInputError, match="cursor"):
            await chats.list_sessions(USER, cursor=of_hits)
