"""Sessions in Redis or Valkey: each operation is one command, or one call of a script, and so atomic.

A user's name, percent-encoded, is the hash tag of all keys of that user, ``{tag}``; ``sessions`` is the
setting ``prefix``. So the owner is part of each key, and a foreign session looks like an absent one.

``sessions:{tag}:s:<session id>``
    Hash: title ``t``, creation ``c``, last change ``u``, version ``v``, the key ``k`` of the call that
    created it, and for each top-level key of the metadata a field ``m<key>`` with its value as JSON. So
    merging and removing keys never decodes a value: the server's JSON library would change large integers.
``sessions:{tag}:o:<session id>``
    Sorted set of the messages, ordered by text: all scores are 0. A member is the timestamp (18 digits), the
    write order ("0", or "1" and 19 digits), the id, NUL, and the body: a JSON list of texts, which are the
    role, the content, and the keys and values of the metadata; and for a payload NUL and its JSON text, which
    nothing has to encode or decode once more. A history is one range of it.
``sessions:{tag}:i:<session id>``
    Hash: the id of each message, and its timestamp and write order, which find it in the sorted set.
``sessions:{tag}:index``
    Sorted set of the user's sessions, ordered by text: the last change counted backwards (18 digits), and
    the session's id. A page of a list is one range of it.
``sessions:sessions``
    Sorted set, ordered by text: each session id, NUL, and the tag of its owner. It finds the session of an
    id without a user, and the sessions of all users.
``sessions:users``
    Sorted set of the tags of users with sessions.
``sessions:ids:<three hexadecimal digits>``
    Sets of the ids of all messages, by their SHA-1: an id that a caller gives is in no other session.

The scripts are made of several files of Lua, and sent once; the server is sent them again if it has forgotten
them. They check everything before their first write, because what one has written stays if it fails. Times of
writing are those of the server, and at least a microsecond after the session's last change. Operations on
many sessions are several calls, each of which looks at a bounded number of them: during a call, the server
does nothing else.

``sessions:{tag}:expiry``, ``sessions:expiring``
    Only with ``expire_after``. Sorted sets: the members of the user's index, by the time in milliseconds at
    which they expire, and the users, by the first of these times. The server itself deletes the hash of a
    session, which also has the time in a field ``e``, and its messages; the rest goes with a later call.

On a cluster ``sessions`` is ``sessions:{3fa}``, the scope of a user (`sessions.backends.redis.cluster`), so
all of the above is in one slot. In each scope there are besides (`sessions.backends.redis.claims`):

``…:s:<session id>``, ``…:m:<message id>``
    The claims of ids: the tag of a user, NUL, and a token.
``…:claims``
    Hash: the token of the claim of each session in this scope.
``…:fence:<token>``
    Under the claim of this token, nothing is stored any more.
"""

from __future__ import annotations

from sessions.backends.redis.counting import RedisCounting
from sessions.backends.redis.lists import RedisLists
from sessions.backends.redis.searching import RedisSearch
from sessions.backends.redis.writing import RedisWriting
from sessions.resilience import REDIS_RETRY_CONFIG

__all__ = ["RedisBackend"]


class RedisBackend(RedisWriting, RedisLists, RedisSearch, RedisCounting):
    """Sessions in Redis or Valkey."""

    DEFAULT_RETRY = REDIS_RETRY_CONFIG
