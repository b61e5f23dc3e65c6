"""The test conversations contain the characters that are difficult for databases and terminals."""

from __future__ import annotations

import unicodedata
import uuid
from collections.abc import Callable

import pytest

from tests.support import conversations

CONVERSATIONS = conversations.read(conversations.OWN)
CONTENTS = [message["content"] for line in CONVERSATIONS for message in line["messages"]]
SCRIPTS = [
    "LATIN",
    "CYRILLIC",
    "GREEK",
    "ARABIC",
    "HEBREW",
    "DEVANAGARI",
    "TAMIL",
    "BENGALI",
    "THAI",
    "KHMER",
    "MYANMAR",
    "ARMENIAN",
    "GEORGIAN",
    "ETHIOPIC",
    "CJK",
    "HIRAGANA",
    "KATAKANA",
    "HANGUL",
]


def test_each_is_a_conversation_of_a_user_with_the_assistant() -> None:
    assert len(CONVERSATIONS) >= 24
    assert len({uuid.UUID(line["session_id"]) for line in CONVERSATIONS}) == len(CONVERSATIONS)
    for line in CONVERSATIONS:
        assert line.keys() == {"session_id", "user_id", "title", "metadata", "messages"}
        assert 1 <= len(line["title"]) <= 255
        roles = [message["role"] for message in line["messages"]]
        assert roles == ["user", "assistant"] * (len(roles) // 2)


@pytest.mark.parametrize("script", SCRIPTS)
def test_each_script_is_there(script: str) -> None:
    assert any(unicodedata.name(character, "").startswith(script) for text in CONTENTS for character in text)


@pytest.mark.parametrize(
    "has",
    [
        pytest.param(lambda text: text == "", id="nothing"),
        pytest.param(lambda text: text != "" and not text.strip(), id="white space alone"),
        pytest.param(lambda text: len(text.encode()) >= 100_000, id="100 kB"),
        pytest.param(lambda text: "```python" in text, id="code"),
        pytest.param(lambda text: "$$" in text, id="mathematics"),
        pytest.param(lambda text: "|---|" in text, id="a table"),
        pytest.param(lambda text: text == "%_\\", id="wildcards"),
        pytest.param(lambda text: "'" in text and '"' in text, id="quotes"),
        pytest.param(lambda text: "ß" in text and "ẞ" in text, id="German ß"),
        pytest.param(lambda text: "İ" in text and "\N{LATIN SMALL LETTER DOTLESS I}" in text, id="Turkish i"),
        pytest.param(lambda text: "\N{ZERO WIDTH JOINER}" in text, id="joined emoji"),
        pytest.param(lambda text: "\N{REGIONAL INDICATOR SYMBOL LETTER K}" in text, id="flags"),
        pytest.param(lambda text: "\N{COMBINING ACUTE ACCENT}" in text, id="combining characters"),
        pytest.param(lambda text: "\N{LEFT-TO-RIGHT ISOLATE}" in text and "ש" in text, id="both directions"),
        pytest.param(lambda text: "\N{LINE SEPARATOR}" in text, id="a line separator"),
        pytest.param(lambda text: "\r\n" in text and "\t" in text, id="CR LF and tabs"),
        pytest.param(lambda text: "\x07" in text or "\x1b" in text, id="control characters"),
    ],
)
def test_what_stores_and_terminals_stumble_over_is_there(has: Callable[[str], bool]) -> None:
    assert any(map(has, CONTENTS))


def test_one_has_more_than_two_hundred_messages() -> None:
    assert max(len(line["messages"]) for line in CONVERSATIONS) > 200
