from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessions import validation
from tests.unit.test_validation import NOT_TEXT, SURROGATE, Text, refused


@pytest.mark.parametrize(
    ("query", "terms"),
    [
        ("rome", ["rome"]),
        ("  trip\tto\nrome ", ["trip", "to", "rome"]),
        ("a\u00a0b\u2003c\u3000d\u2028e", ["a", "b", "c", "d", "e"]),
        ("a\u200bb", ["a\u200bb"]),
        ("trip trip", ["trip"]),
        ('"trip to" rome', ["trip to", "rome"]),
        ('" trip  to " rome', [" trip  to ", "rome"]),
        ('rome "trip to"', ["rome", "trip to"]),
        ('said"trip to"rome', ["said", "trip to", "rome"]),
        ('"trip to', ['"trip', "to"]),
        ('trip" to', ['trip"', "to"]),
        ('"trip to" 5"', ["trip to", '5"']),
        ('"', ['"']),
        ('"" rome', ["rome"]),
        ('" "', [" "]),
        ("'trip to'", ["'trip", "to'"]),
        ("“trip to”", ["“trip", "to”"]),
        ("100% a_b \\ c* OR -d", ["100%", "a_b", "\\", "c*", "OR", "-d"]),
        ("你好 ไทย 😀", ["你好", "ไทย", "😀"]),
        ("x" * 1000, ["x" * 1000]),
        (Text("held"), ["held"]),
    ],
)
def test_a_query_has_words_and_phrases(query: str, terms: list[str]) -> None:
    assert validation.check_query(query) == terms


@pytest.mark.parametrize(
    "query", ["", " ", "\u3000\t", '""', '"" ""', "x" * 1001, "a\x00", SURROGATE, *NOT_TEXT]
)
def test_a_query_without_a_term_or_too_long_or_no_text_is_refused(query: object) -> None:
    with refused("query"):
        validation.check_query(query)


@given(st.text(st.characters(exclude_characters='"\x00', exclude_categories=["Cs"]), max_size=50))
def test_without_quotes_the_terms_are_the_words(query: str) -> None:
    words = list(dict.fromkeys(query.split()))
    if words:
        assert validation.check_query(query) == words
    else:
        with refused("query"):
            validation.check_query(query)
