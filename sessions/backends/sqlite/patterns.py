"""What a search looks for, in the terms of SQLite's ``GLOB``."""

from __future__ import annotations

from sessions.core.casefolding import equivalents

__all__ = ["glob_pattern"]


def glob_pattern(term: str) -> str:
    """Return a pattern for the texts that contain a term, whatever the case.

    ``GLOB`` itself compares characters, whatever `LIKE` and `lower` are on a service's own connection.
    """
    return f"*{''.join(map(_character, term))}*"


def _character(character: str) -> str:
    same = equivalents(character)
    return f"[{same}]" if len(same) > 1 or character in "*?[" else character
