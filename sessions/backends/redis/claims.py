"""Unique ids on a cluster.

The script keeps ids unique in its slot. Among slots they are claimed first: the claim of an id is in the slot
of the id, and names the user, and a token. A claim may be left of a session or message that is gone, or was
never stored. So before another user takes it over, the slot of the first one is asked whether the id is
stored; if not, the token is fenced there: a call that is on its way under this claim stores nothing.

The ids of sessions are claimed, by which `Claims.owners` finds the user of a session, and those ids of
messages that callers give. Generated ids of messages are not: another user would have to copy one.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

from redis import exceptions

from sessions.backends.redis.commands import Connections

__all__ = ["RELEASED", "Claims", "Tokens"]

# The first part of a reply of the script that deleted sessions; then their claims, and the reply itself.
RELEASED = "\0released"

SESSION, MESSAGE = "s", "m"
# Seconds. Later the id of a message is still unique among the messages of users in the same slot.
MESSAGE_SECONDS = 7 * 86_400
# Claims may be lost to others as often, in one attempt.
ROUNDS = 10

Tokens = dict[str, str]
"""The token of the claim of each id."""


class Claims:
    """The claims of one cluster's ids.

    Args:
        connection: The connections to its nodes.
    """

    def __init__(self, connection: Connections) -> None:
        self._connection = connection

    def _key(self, kind: str, name: str) -> str:
        return f"{self._connection.scope(name)}:{kind}:{name}"

    async def owners(self, session_ids: Sequence[str]) -> dict[str, str]:
        """Return the tag of the user of each session that is claimed."""
        connection = self._connection
        names = list(dict.fromkeys(session_ids))
        found = await connection.commands(
            [(connection.scope(name), ("GET", self._key(SESSION, name))) for name in names]
        )
        return {
            name: holder.partition("\0")[0]
            for name, holder in zip(names, found, strict=True)
            if holder is not None
        }

    async def store(
        self,
        tag: str,
        session_id: str | None,
        message_ids: Sequence[str],
        store: Callable[[str, Tokens], Awaitable[Any]],
    ) -> list[Any]:
        """Claim ids, and store what has them; return the reply.

        Args:
            tag: Of the user.
            session_id: Of a session to store; None for none.
            message_ids: Of the messages to store, as far as callers gave them.
            store: Runs an operation with the token of the session, and those of the messages.
        """
        for _ in range(ROUNDS):
            sessions = await self._claim(SESSION, [session_id] if session_id is not None else [], tag)
            if sessions is None:
                return ["taken"]
            messages = await self._claim(MESSAGE, message_ids, tag)
            if messages is None:
                reply = ["conflict"]
            else:
                reply = await store(sessions.get(session_id or "", ""), messages)
            if reply[0] != "fenced":
                if session_id is not None and reply[0] in ("absent", "conflict", "place"):
                    await self._abandon(session_id, tag, sessions[session_id])
                return reply
            kind, name = reply[1:]
            token = (sessions if kind == SESSION else messages or {})[name]
            await self._replace(kind, name, f"{tag}\0{token}", tag)
        raise exceptions.TryAgainError("other callers claim the same ids")

    async def _claim(self, kind: str, names: Sequence[str], tag: str) -> Tokens | None:
        """Claim ids; return their tokens, or None if an id is stored by another user."""
        if not names:
            return {}
        connection, claim = self._connection, _new_claim(tag)
        holders = await connection.run_many(
            [(connection.scope(name), "claim", kind, name, claim, _seconds(kind)) for name in names]
        )
        tokens: Tokens = {}
        for name, holder in zip(names, holders, strict=True):
            held = holder
            while True:
                holding, _, token = held.partition("\0")
                if holding == tag:
                    tokens[name] = token
                    break
                if await connection.run(connection.scope(holding), "fence", kind, name, token):
                    return None
                held = await self._replace(kind, name, held, tag)
        return tokens

    async def _replace(self, kind: str, name: str, held: str, tag: str) -> str:
        """Replace a claim unless there is a newer one; return the one that holds now."""
        connection = self._connection
        claim: str = await connection.run(
            *(connection.scope(name), "reclaim", kind, name, held, _new_claim(tag), _seconds(kind))
        )
        return claim

    async def _abandon(self, session_id: str, tag: str, token: str) -> None:
        """Remove the claim of a session that was not stored."""
        connection = self._connection
        if not await connection.run(connection.scope(tag), "fence", SESSION, session_id, token):
            await self.release([session_id, f"{tag}\0{token}"])

    async def release(self, released: Sequence[str]) -> None:
        """Remove claims of sessions that were deleted, if their nodes respond.

        Args:
            released: Id and claim, in turn. A claim that stays does no harm, and is taken over.
        """
        connection = self._connection
        with suppress(Exception):
            await connection.run_many(
                [
                    (connection.scope(name), "release", SESSION, name, claim)
                    for name, claim in zip(released[::2], released[1::2], strict=True)
                ]
            )


def _new_claim(tag: str) -> str:
    return f"{tag}\0{secrets.token_hex(8)}"


def _seconds(kind: str) -> str:
    return str(MESSAGE_SECONDS) if kind == MESSAGE else ""
