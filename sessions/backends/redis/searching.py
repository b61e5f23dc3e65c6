"""Searches: the server returns messages, newest first, and they are compared here.

The server's Lua knows no Unicode case folding. Sessions are read in parts, the last changed first, and of
each only the messages that come before the hits that there are already.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from sessions.backends.redis.base import RedisOperations
from sessions.backends.redis.mapping import content_of, place, place_of, position_of, to_message, to_session
from sessions.core.casefolding import simple_fold
from sessions.core.values import Position
from sessions.models import SearchHit

__all__ = ["RedisSearch"]

# Sessions of one part, and messages of each of them in one call.
SESSIONS = 100
MESSAGES = 50

Hit = tuple[str, str, list[str], str]
"""Place, session id, fields of the session, member."""


class RedisSearch(RedisOperations):
    """Searches messages."""

    async def search(
        self, user_id: str, terms: Sequence[str], session_id: str | None, after: Position | None, limit: int
    ) -> list[tuple[SearchHit, Position]]:
        before = "" if after is None else place(after)
        # A heap: the oldest hit is the first.
        hits: list[Hit] = []
        if session_id is not None:
            await self._search_part(user_id, terms, [session_id], before, limit, hits)
        else:
            index, more = "", True
            while more:
                index, *found = await self._run_on("ids", user_id, index, str(SESSIONS))
                await self._search_part(user_id, terms, found, before, limit, hits)
                more = bool(index)
        return [
            (
                SearchHit(to_session(found_in, user_id, fields), to_message(found_in, member)),
                position_of(member),
            )
            for _, found_in, fields, member in sorted(hits, reverse=True)
        ]

    async def _search_part(
        self,
        user_id: str,
        terms: Sequence[str],
        session_ids: list[str],
        before: str,
        limit: int,
        hits: list[Hit],
    ) -> None:
        """Add the hits of some sessions."""
        places = dict.fromkeys(session_ids, before)
        amount = MESSAGES
        while places:
            least = hits[0][0] if len(hits) == limit else ""
            asked = [text for pair in places.items() for text in pair]
            found = await self._run_on("scan", user_id, str(amount), least, *asked)
            places = {}
            for session_id, fields, members in zip(found[::3], found[1::3], found[2::3], strict=True):
                for member in members:
                    if _is_hit(member, terms):
                        hit = (place_of(member), session_id, fields, member)
                        (heapq.heappush if len(hits) < limit else heapq.heappushpop)(hits, hit)
                if len(members) == amount:
                    places[session_id] = place_of(members[-1])
            # Few sessions have more, and so many messages that fewer calls are better.
            amount = min(4 * amount, MESSAGES * SESSIONS // max(1, len(places)))


def _is_hit(member: str, terms: Sequence[str]) -> bool:
    content = simple_fold(content_of(member))
    return all(term in content for term in terms)
