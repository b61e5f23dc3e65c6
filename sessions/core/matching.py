"""What a search looks for, in the terms of regular expressions: whatever the case, no operators.

Servers differ in what they take for the same letter in another case, and in what they know of Unicode. So
their own ways to ignore case are not used: for each character a pattern lists what is equal to it.
"""

from __future__ import annotations

import string
from collections.abc import Iterable

from sessions.core.casefolding import equivalents, simple_fold

__all__ = ["distinct_terms", "regular_expression"]


def distinct_terms(terms: Iterable[str]) -> list[str]:
    """Return the folded terms that are in no other one, the longest first: it rules out the most texts."""
    distinct: list[str] = []
    for term in sorted(map(simple_fold, terms), key=len, reverse=True):
        if not any(term in longer for longer in distinct):
            distinct.append(term)
    return distinct


def regular_expression(term: str) -> str:
    """Return a regular expression for the texts that contain a term, for PostgreSQL and PCRE alike."""
    return "".join(map(_character, term))


def _character(character: str) -> str:
    same = equivalents(character)
    if len(same) > 1:  # Letters only, of which none has a meaning in brackets.
        return f"[{same}]"
    return f"\\{character}" if character in string.punctuation else character
