"""Checks of what to search for."""

from __future__ import annotations

from sessions.errors import InvalidInputError
from sessions.validation.text import check_text

__all__ = ["check_query"]

MAX_QUERY_LENGTH = 1000


def check_query(value: object) -> list[str]:
    """Return the terms of a query, each once: its words, and its phrases in double quotes.

    Words are separated by white space. A phrase is the text between two quotes as it is. A quote without
    another one after it is a character of its word.

    Raises:
        InvalidInputError: Also if there is no term, or more than 1000 characters.
    """
    query = check_text("query", value)
    if len(query) > MAX_QUERY_LENGTH:
        raise InvalidInputError("query", f"must have at most {MAX_QUERY_LENGTH} characters")
    parts = query.split('"')
    if len(parts) % 2 == 0:
        parts[-2:] = ['"'.join(parts[-2:])]
    terms: dict[str, None] = {}
    for index, part in enumerate(parts):
        # Every second part is between two quotes.
        terms |= dict.fromkeys([part] if index % 2 else part.split())
    terms.pop("", None)
    if not terms:
        raise InvalidInputError("query", "must have a word or a phrase to search for")
    return list(terms)
