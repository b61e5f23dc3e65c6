"""The patterns of a search mean to an engine what the terms mean to Python."""

from __future__ import annotations

import random
import re
import sqlite3
import string
from contextlib import closing

import pytest

from sessions.backends.postgres.patterns import Patterns, patterns_of
from sessions.backends.sqlite.patterns import glob_pattern
from sessions.core.casefolding import simple_fold
from sessions.core.matching import distinct_terms, regular_expression

LETTERS = f"{string.printable}\u00e9\u00c9\u017f\u212a\u00df\u1e9e\u03c3\u03c2\u03a3\u0131\u0130\u6211\u0301"


def test_a_term_within_another_one_is_left_out_and_the_longest_comes_first() -> None:
    assert distinct_terms(["rome", "me", "In", "Trip", "ROME", "tri"]) == ["rome", "trip", "in"]
    assert distinct_terms(["\u212a", "k", "K"]) == ["k"]
    assert distinct_terms(["a"]) == ["a"]


def test_a_letter_is_any_of_its_cases_and_nothing_else_has_a_meaning() -> None:
    assert regular_expression("task") == "[Tt][Aa][Ss\u017f][Kk\u212a]"
    assert regular_expression("a.b*\n1") == r"[Aa]\.[Bb]\*" + "\n1"
    assert regular_expression("\u6211\u0301") == "\u6211\u0301"


@pytest.mark.parametrize(
    ("term", "patterns"),
    [
        ("rome", Patterns(["%rome%"], [])),
        ("100%", Patterns([r"%100\%%"], [])),
        ("a_\\b", Patterns([r"%a\_\\b%"], [])),
        ("\u65c5\u884c", Patterns(["%\u65c5\u884c%"], [])),
        ("desk", Patterns(["%de%"], [regular_expression("desk")])),
        ("asked", Patterns(["%a__ed%"], [regular_expression("asked")])),
        ("sk", Patterns([], [regular_expression("sk")])),
        ("\u043c\u0438\u0440", Patterns([], [regular_expression("\u043c\u0438\u0440")])),
        ("\u0131\u0130", Patterns(["%\u0131\u0130%"], [])),
    ],
)
def test_like_decides_where_no_letter_beyond_ascii_is_equal_in_case(term: str, patterns: Patterns) -> None:
    assert patterns_of([term]) == patterns


def test_patterns_match_what_contains_the_term() -> None:
    choice = random.Random(1)
    with closing(sqlite3.connect(":memory:")) as connection:
        for _ in range(3000):
            content = "".join(choice.choices(LETTERS, k=choice.randrange(12)))
            start = choice.randrange(len(content) + 1)
            term = simple_fold(content[start : start + 4] or "a")
            if choice.random() < 0.5:
                term = "".join(choice.sample(term, len(term)))
            expected = term in simple_fold(content)
            assert bool(re.search(regular_expression(term), content)) is expected, (term, content)
            row = connection.execute("SELECT ? GLOB ?", (content, glob_pattern(term))).fetchone()
            assert row == (expected,), (term, content)
