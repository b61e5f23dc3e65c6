"""The parameters of a batch of appends: each column of all rows as one text.

asyncpg takes several times as long for an array as for a text of the same length, because it examines each
element. So the values of a column are joined, and the server splits them.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from sessions.backends.sql.rows import are_complete, encode_json
from sessions.core.values import Append, MessageRow
from sessions.queries import parameters

__all__ = ["grouped_texts"]

# A control character, if it occurs in no text of the batch. No text has a surrogate.
SEPARATORS = (*range(0x1F, 0, -1), *range(0xE000, 0x110000))


class _Target:
    """A session that a batch appends to."""

    __slots__ = ("calls", "place", "steps", "user_id")

    def __init__(self, place: int, user_id: str | None) -> None:
        self.place = place
        self.user_id = user_id
        self.calls = self.steps = 0


def grouped_texts(appends: Sequence[Append]) -> tuple[dict[str, Any], list[int | None]]:
    """Return the parameters of a batch of appends, and of each append its session's place.

    The place is None for an append that is cancelled, or names another owner than an earlier one to the same
    session.
    """
    targets: dict[str, _Target] = {}
    places: list[int | None] = []
    rows: list[MessageRow] = []
    # Of each row.
    owners: list[_Target] = []
    steps: list[int] = []
    for append in appends:
        if not append.send():
            places.append(None)
            continue
        target = targets.get(append.session_id)
        if target is None:
            target = targets[append.session_id] = _Target(len(targets) + 1, append.user_id)
        elif append.user_id is not None and append.user_id != target.user_id:
            if target.user_id is not None:
                places.append(None)
                continue
            # For those that name no owner, too: if it is the wrong one, the batch stores none of them.
            target.user_id = append.user_id
        places.append(target.place)
        target.calls += 1
        for row in append.rows:
            target.steps += 1
            rows.append(row)
            owners.append(target)
            steps.append(target.steps)
    contents = [row.content for row in rows]
    user_ids = [target.user_id or "" for target in targets.values()]
    separator = _separator(contents, user_ids)
    join = separator.join
    texts = parameters(
        separator=separator,
        session_ids=join(targets),
        user_ids=join(user_ids),
        calls=join([str(target.calls) for target in targets.values()]),
        steps=join([str(target.steps) for target in targets.values()]),
        places=join([str(target.place) for target in owners]),
        offsets=join([str(target.steps - step) for target, step in zip(owners, steps, strict=True)]),
        message_ids=join([row.message_id for row in rows]),
        roles=join([row.role for row in rows]),
        contents=join(contents),
    )
    if are_complete(rows):
        # As JSON text, metadata and payloads have no control characters.
        texts |= parameters(
            timestamps=join([row.timestamp.isoformat() if row.timestamp else "" for row in rows]),
            metadata_texts=join([encode_json(row.metadata) if row.metadata else "" for row in rows]),
            payloads=join([row.payload or "" for row in rows]),
        )
    return texts, places


def _separator(*columns: Sequence[str]) -> str:
    """Return a character that occurs in none of the texts."""
    texts = "".join(itertools.chain(*columns))
    return next(character for character in map(chr, SEPARATORS) if character not in texts)
