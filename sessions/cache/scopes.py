"""What each operation of a backend reads or writes, as keys and tags of the cache.

The tags of a value are all that a write may concern: everything, all of a user, one session, a user's lists.
A writer that an operation is not listed for is one that writes anything.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sessions.cache.base import Owner, Write
from sessions.cache.encoding import (
    decode_history,
    decode_previews,
    decode_session,
    decode_sessions,
    encode_lines,
)
from sessions.core.values import Append, HistoryRange, NewSession
from sessions.models import ChatMessage, ChatSession

__all__ = ["CACHED", "EVERYTHING", "UNCACHED", "WRITE_TO_EVERYTHING", "Names", "Read"]

T = TypeVar("T")

EVERYTHING = "all"
"""The tag of every value."""

WRITE_TO_EVERYTHING = Write((EVERYTHING,))

# With another one, values are not those of a release that writes or reads them differently. The tags stay the
# same: what one release writes, others see.
FORMAT = 1

CACHED = frozenset({"get", "history", "list_after", "list_page", "list_previews"})
"""Reads that may be answered by the cache."""

UNCACHED = frozenset(
    {
        *("count", "count_messages", "get_message", "search"),
        *("export_many", "export_messages", "export_sessions"),
        *("count_all", "list_all", "list_users", "make_ready", "sizes"),
    }
)
"""Reads that always go to the database."""


@dataclass(frozen=True, slots=True)
class Read(Generic[T]):
    """A read that may be answered by the cache.

    Attributes:
        key: Key of its value.
        tags: Tags of its value.
        wanted: Of a history how many messages are wanted; None for all.
        encode: Returns a result as bytes; None if it is not to be stored.
        decode: Returns a result of bytes.
        covers: Returns how many messages a result has of a history that may have more; None if it has all.
        owner: What a result says of the owner of a session.
    """

    key: str
    tags: tuple[str, ...]
    wanted: int | None
    encode: Callable[[T], bytes | None]
    decode: Callable[[bytes], T]
    covers: Callable[[T], int | None]
    owner: Owner | None


def _all_of_it(_result: object) -> None:
    return None


class Names:
    """The keys and tags of one database in a cache.

    Args:
        database: Tells the databases of one cache apart.
    """

    __slots__ = ("_prefix", "database")

    def __init__(self, database: str) -> None:
        self.database = database
        # With its length, so that no database's name and id together make those of another one.
        self._prefix = f"{len(database)}:{database}:"

    # -- Tags --------------------------------------------------------------------------------------

    @property
    def all_lists(self) -> str:
        """The tag of the lists of all users."""
        return f"{self._prefix}lists"

    def session(self, session_id: str) -> str:
        """Return the tag of a session."""
        return f"{self._prefix}s:{session_id}"

    def user(self, user_id: str) -> str:
        """Return the tag of all of a user."""
        return f"{self._prefix}u:{user_id}"

    def lists(self, user_id: str) -> str:
        """Return the tag of the lists of a user."""
        return f"{self._prefix}l:{user_id}"

    def _key(self, kind: str, user_id: str, rest: str) -> str:
        return f"{self._prefix}{FORMAT}:{kind}:{len(user_id)}:{user_id}:{rest}"

    # -- Reads -------------------------------------------------------------------------------------

    def read_of(self, work: str, arguments: Sequence[Any]) -> Read[Any] | None:
        """Return how to answer a read from the cache; None for one that goes to the database.

        Args:
            work: Name of the backend's method.
            arguments: Its arguments.
        """
        if work == "get":
            return self._read_session(*arguments)
        if work == "history":
            return self._read_history(*arguments)
        if work == "list_page":
            user_id, offset, limit = arguments
            return None if offset else self._read_list(work, user_id, limit, None)
        if work in ("list_after", "list_previews"):
            user_id, after, limit, where = arguments
            return None if after is not None else self._read_list(work, user_id, limit, where)
        return None

    def _tags_of_session(self, session_id: str, user_id: str) -> tuple[str, ...]:
        return EVERYTHING, self.user(user_id), self.session(session_id)

    def _read_session(self, session_id: str, user_id: str) -> Read[ChatSession | None]:
        def encode(found: ChatSession | None) -> bytes | None:
            # An absent session is not stored: anybody may ask for any number of them.
            return None if found is None else encode_lines((user_id,), [found])

        return Read(
            self._key("get", user_id, session_id),
            self._tags_of_session(session_id, user_id),
            None,
            encode,
            lambda payload: decode_session(payload, user_id, session_id),
            _all_of_it,
            self.owner(session_id, user_id),
        )

    def _read_history(
        self, session_id: str, user_id: str, part: HistoryRange
    ) -> Read[list[ChatMessage]] | None:
        if (part.before, part.after, part.since) != (None, None, None):
            return None
        limit = part.limit

        def encode(found: list[ChatMessage]) -> bytes | None:
            return encode_lines((user_id, session_id), found) if found else None

        return Read(
            self._key("history", user_id, session_id),
            self._tags_of_session(session_id, user_id),
            limit,
            encode,
            lambda payload: decode_history(payload, user_id, session_id, limit),
            lambda found: None if limit is None or len(found) < limit else len(found),
            self.owner(session_id, user_id),
        )

    def _read_list(self, work: str, user_id: str, limit: int, where: Any) -> Read[list[Any]]:
        decode: Callable[[bytes, str], list[Any]] = (
            decode_previews if work == "list_previews" else decode_sessions
        )
        accepted = json.dumps(where, sort_keys=True)
        digest = hashlib.blake2b(accepted.encode(), digest_size=16).hexdigest()
        return Read(
            self._key(work, user_id, f"{limit}:{digest}"),
            (EVERYTHING, self.all_lists, self.lists(user_id)),
            None,
            lambda found: encode_lines((user_id,), found),
            lambda payload: decode(payload, user_id),
            _all_of_it,
            None,
        )

    # -- Writes ------------------------------------------------------------------------------------

    def owner(self, session_id: str, user_id: str) -> Owner:
        """Return that a session belongs to a user."""
        return Owner(self.session(session_id), self.lists(user_id))

    def write_of(self, work: str, arguments: Sequence[Any]) -> Write:
        """Return what a write makes invalid.

        Args:
            work: Name of the backend's method.
            arguments: Its arguments.
        """
        if work in ("create", "ensure"):
            new: NewSession = arguments[0]
            return self._to_session(new.session_id, new.user_id, owned=True)
        if work == "fork":
            return self._to_session(arguments[3].session_id, arguments[1], owned=True)
        if work == "append":
            return self._append(*arguments)
        if work == "delete":
            gone = Owner(self.session(arguments[0]), "")
            return Write((self.session(arguments[0]), self.lists(arguments[1])), owner=gone)
        if work in _TO_ONE_SESSION:
            return self._to_session(arguments[0], arguments[1])
        if work in ("delete_beyond", "delete_user"):
            return self._to_user(arguments[0])
        if work == "delete_older" and arguments[1] is not None:
            return self._to_user(arguments[1])
        if work == "restore":
            return self._restore([arguments[0]])
        if work == "restore_many":
            return self._restore([chat_session for chat_session, _ in arguments[0]])
        return WRITE_TO_EVERYTHING

    def _append(self, *arguments: Any) -> Write:
        """Return what an append makes invalid; its arguments are those of the backend, or an `Append`."""
        if isinstance(arguments[0], Append):
            session_id, user_id = arguments[0].session_id, arguments[0].user_id
        else:
            session_id, user_id = arguments[:2]
        if user_id is not None:
            return self._to_session(session_id, user_id)
        tag = self.session(session_id)
        return Write((tag,), of_anybody=tag, otherwise=self.all_lists)

    def _to_session(self, session_id: str, user_id: str, *, owned: bool = False) -> Write:
        owner = self.owner(session_id, user_id)
        return Write((owner.session, owner.lists), owner=owner if owned else None)

    def _to_user(self, user_id: str) -> Write:
        return Write((self.user(user_id), self.lists(user_id)))

    def _restore(self, sessions: Sequence[ChatSession]) -> Write:
        tags = {self.session(each.session_id) for each in sessions}
        tags |= {self.lists(each.user_id) for each in sessions}
        # A session may have had another owner when it was deleted, with all of that user's.
        return Write(tuple(tags), forgets_owners=True)


_TO_ONE_SESSION = frozenset(
    {
        *("clear_messages", "delete_messages", "delete_messages_from", "pop_message"),
        *("replace_messages", "update", "update_message"),
    }
)
