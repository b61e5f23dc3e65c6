"""A search finds the same on every backend as in Python: the folded words in the folded content."""

# Letters that look like others are what is searched for.
# ruff: noqa: RUF001

from __future__ import annotations

import random
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sessions import InvalidInputError, NewMessage, SearchPage
from sessions.core.casefolding import equivalents, simple_fold
from sessions.validation import check_query

# Short, so that words meet; with letters whose cases are special, and with what patterns are made of.
ALPHABETS = {
    "Latin": "abcikstſKſßẞåÅÅéÉ",
    "Turkish": "iIıİı\u0307x",
    "Cyrillic": "абвжшщёЁЙй",
    "Greek": "σςΣαΑάωΩΩθϴϑµμ",
    "Arabic": "ابتثسلم\u064b\u0651",
    "Chinese": "我想去罗马旅行",
    "Japanese": "ローマろーまカか\u3099",
    "Thai": "สวัสดีกำ",
    "emoji": "\U0001f468\U0001f469\u200d\u2764\ufe0f\U0001f3fd",
    "combining marks": "aAeE\u0301\u0308\u0345ιΙ",
    "other cases": "ǅǆǄꭰᎠꮿᲐა\U00010400\U00010428ﬅﬆΐΐ",
    "patterns": "aA%_\\*?[]^$.|(){}+-'\"`/#!",
    "white space": "aA \n\t\u00a0\u3000",
}
MESSAGES_OF_EACH = 12
QUERIES_OF_EACH = 14


def texts(choice: random.Random) -> Iterator[str]:
    everything = "".join(ALPHABETS.values())
    for alphabet in [*ALPHABETS.values(), everything]:
        for _ in range(MESSAGES_OF_EACH):
            yield "".join(choice.choices(alphabet, k=choice.randrange(30)))


def queries(choice: random.Random, contents: list[str]) -> Iterator[str]:
    """Yield parts of contents in any case, some with another character, and what is in none."""
    for _ in range(QUERIES_OF_EACH * len(ALPHABETS)):
        words = []
        for _ in range(choice.choice((1, 1, 1, 2, 3))):
            content = choice.choice(contents) or "a"
            start = choice.randrange(len(content))
            word = [choice.choice(equivalents(one)) for one in content[start : start + choice.randint(1, 6)]]
            if choice.random() < 0.3:
                word[choice.randrange(len(word))] = choice.choice(choice.choice(contents) or "a")
            text = "".join(word)
            words.append(f'"{text}"' if choice.random() < 0.3 else text)
        yield " ".join(words)


@pytest.mark.parametrize("seed", [1, 2])
async def test_a_search_finds_what_python_finds(repository: Any, seed: int) -> None:
    choice = random.Random(seed)
    contents = list(texts(choice))
    ids = [await repository.create_session_async("user") for _ in range(5)]
    foreign = await repository.create_session_async("another")
    for number, session_id in enumerate([*ids, foreign]):
        part = contents[number::5] if session_id != foreign else contents
        await repository.add_messages(session_id, [("user", content) for content in part])
    compared = found = 0
    for query in queries(choice, contents):
        try:
            terms = [simple_fold(term) for term in check_query(query)]
        except InvalidInputError:
            continue
        expected = sorted(
            content for content in contents if all(term in simple_fold(content) for term in terms)
        )
        page = await repository.search_messages("user", query, limit=1000)
        assert sorted(hit.message.content for hit in page.hits) == expected, ascii(query)
        compared += 1
        found += bool(expected)

    assert compared > 100
    assert found > compared / 2


async def test_every_letter_is_found_in_each_of_its_cases(repository: Any) -> None:
    classes = {same for one in map(chr, range(0x20000)) if len(same := equivalents(one)) > 1}
    assert len(classes) > 1300
    session_id = await repository.create_session_async("user")
    members = [[same[min(number, len(same) - 1)] for same in sorted(classes)] for number in range(4)]
    # Of each class its first letters, in another message its second ones, and so on.
    for part in members:
        await repository.add_message(session_id, "user", "".join(f"{one}\n" for one in part))
    for part in members:
        for start in range(0, len(part), 400):
            page = await repository.search_messages("user", " ".join(part[start : start + 400]))
            assert len(page.hits) == len(members)


async def test_hostile_queries_are_words(repository: Any) -> None:
    plain, same = [await repository.create_session_async("user") for _ in range(2)]
    await repository.add_message(plain, "user", "a" * 5000)
    hostile = [
        *["(a+)+$", "(a|a)*b", "a{1,1000}{1,1000}", "[[:alpha:]]", "[a", "(", "\\", "\\\\", "a\\", "*" * 999],
        *["%" * 1000, "_" * 1000, "?" * 1000, "[" * 1000, "]" * 1000, "^" * 1000, "\\" * 1000, "(" * 1000],
        *["(?:", "(?<=a)", "(*UTF8)a", "(*COMMIT)", "\\Qa\\E", "\\x61", "\\p{L}", "***:a", "(?q)a", "a\tb*"],
        *["' OR 1=1 --", "'; SELECT pg_sleep(9)", '{"$where": "1"}', "$regex", "/a/i", "a AND a", "NOT b"],
    ]
    for query in hostile:
        found = await repository.search_messages("user", query, session_id=plain)
        assert found == SearchPage([], None), query
        await repository.add_message(same, "assistant", query)
        [newest, *_] = (await repository.search_messages("user", query)).hits
        assert newest.message.content == query


async def test_a_page_is_found_in_the_midst_of_messages_of_the_same_time(repository: Any) -> None:
    ids = [await repository.create_session_async("user") for _ in range(3)]
    for number in range(4):
        for session_id in ids:
            await repository.add_messages(session_id, [("user", f"hit {number}"), ("assistant", "hit")])
    at_once = await repository.search_messages("user", "hit", limit=100)
    for limit in (1, 2, 7):
        hits, cursor = [], None
        while True:
            page = await repository.search_messages("user", "hit", limit=limit, cursor=cursor)
            hits += page.hits
            cursor = page.next_cursor
            if cursor is None:
                break
        assert hits == at_once.hits
    assert len({hit.message.message_id for hit in at_once.hits}) == 24


async def test_pages_of_many_sessions_are_parts_of_one_list(repository: Any) -> None:
    choice = random.Random(7)
    start = datetime(2026, 1, 1, tzinfo=UTC)
    contents = choice.choices(["hit", "other"], k=30 * 24)
    for number in range(30):
        session_id = await repository.create_session_async("user")
        part = [
            NewMessage("user", content, timestamp=start + timedelta(seconds=choice.randrange(150)))
            for content in contents[number::30]
        ]
        await repository.add_messages(session_id, part)
    # More hits than any part of the sessions has.
    at_once = await repository.search_messages("user", "hit", limit=1000)
    found = [hit.message.timestamp for hit in at_once.hits]
    assert found == sorted(found, reverse=True)
    assert len(found) == contents.count("hit")
    for limit in (2, 20):
        cursor = None
        for place in range(0, 5 * limit, limit):
            page = await repository.search_messages("user", "hit", limit=limit, cursor=cursor)
            assert page.hits == at_once.hits[place : place + limit]
            cursor = page.next_cursor
        after = await repository.search_messages("user", "hit", limit=1000, cursor=cursor)
        assert after.hits == at_once.hits[5 * limit :]


async def test_a_cursor_continues_when_its_message_was_deleted(repository: Any) -> None:
    ids = [await repository.create_session_async("user") for _ in range(4)]
    for session_id in ids:
        await repository.add_message(session_id, "user", f"hit {session_id}")
    first = await repository.search_messages("user", "hit", limit=2)
    await repository.delete_session_async("user", first.hits[-1].session.session_id)
    await repository.add_message(str(uuid.UUID(ids[0])), "user", "hit, newer")

    rest = await repository.search_messages("user", "hit", limit=10, cursor=first.next_cursor)

    assert {hit.message.content for hit in rest.hits} == {f"hit {ids[0]}", f"hit {ids[1]}"}
