"""Searching messages."""

from __future__ import annotations

from sessions import validation
from sessions.core.calls import Calls
from sessions.core.cursors import decode_search_cursor, encode_search_cursor
from sessions.core.identifiers import Identifier
from sessions.core.matching import distinct_terms
from sessions.models import SearchPage

__all__ = ["SearchOperations"]


class SearchOperations:
    """Searches messages."""

    _calls: Calls

    async def search_messages(
        self,
        user_id: str,
        query: str,
        *,
        session_id: Identifier | None = None,
        limit: int = 20,
        cursor: str | None = None,
    ) -> SearchPage:
        """Return the next page of a user's messages that contain each word of a query, newest first.

        A word may be anywhere in the content, also within a longer word, in upper or lower case (Unicode's
        simple case folding); ``"double quotes"`` keep a phrase together. There are no wildcards and no
        operators. Accents count, and so does how they are encoded: nothing is normalised.

        The cost follows the number and the size of the messages of this user, or of the session, and not
        what others have stored: the contents are in no index.

        Args:
            user_id: Owner.
            query: Words separated by white space, at most 1000 characters.
            session_id: Only in this session; None for all of the user's. No hits if the user has no such
                session.
            limit: Hits on a page, 1 to 1000.
            cursor: ``next_cursor`` of the page before, for the same query; None for the first.

        Raises:
            InvalidInputError: Also if the query has no word.
        """
        user_id, limit = validation.check_user_id(user_id), validation.check_limit(limit)
        terms = distinct_terms(validation.check_query(query))
        session_id = None if session_id is None else self._calls.check_id("session_id", session_id)
        after = None if cursor is None else decode_search_cursor(cursor, self._calls.check_id)
        work = self._calls.backend.search
        found = await self._calls.run("search_messages", work, user_id, terms, session_id, after, limit + 1)
        # One more than asked for tells whether there is a next page.
        hits = [hit for hit, _ in found[:limit]]
        if len(found) <= limit:
            return SearchPage(hits, None)
        _, position = found[limit - 1]
        return SearchPage(hits, encode_search_cursor(*position))
