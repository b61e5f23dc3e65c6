"""The connections of one event loop to the nodes of a cluster.

A user belongs to one of `PARTS` parts, whose number is the hash tag of all keys of the user:
``sessions:{3fa}``. So an operation on a user is one call of the script on one node, as on a server without a
cluster, and a user moves as a whole when slots move. `sessions.backends.redis.claims` keeps ids unique among
the parts.

Each call of the script names two keys of its slot that never exist. While a slot moves key by key, a node
therefore rejects the call (``ASK``, ``TRYAGAIN``): it would run on the keys that happen to be on this node.
"""

from __future__ import annotations

import asyncio
import time
import zlib
from collections.abc import Callable, Sequence
from typing import Any

from redis import exceptions
from redis.crc import key_slot

from sessions.backends.redis.claims import RELEASED, Claims
from sessions.backends.redis.client import RedisConnection
from sessions.backends.redis.commands import (
    Command,
    Connections,
    NoAnswerError,
    NotAClusterError,
    NotSentError,
    PoolTimeoutError,
    Waits,
)
from sessions.backends.redis.errors import code_of
from sessions.core.shared_work import SharedWork
from sessions.resilience import time_left

__all__ = ["PARTS", "Address", "ClusterConnection", "scope_of"]

PARTS = 1024
# For a node to say which slots each node has; then another one is asked.
DISCOVERY_SECONDS = 2.0
FIRST_DELAY, LAST_DELAY = 0.01, 0.25

Address = tuple[str, int]
"""Host and port of a node."""

# For another node to take the slots of one that refuses connections.
REFUSED_SECONDS = 5.0

# The node rejects the command, which had no effect.
AGAIN = (exceptions.TryAgainError, exceptions.ClusterDownError, exceptions.MasterDownError)
# Another node may have the slots by now.
LOST = (
    *(exceptions.ConnectionError, exceptions.TimeoutError, exceptions.ReadOnlyError, OSError),
    *(exceptions.ClusterDownError, exceptions.MasterDownError, NotSentError, NoAnswerError),
)


def _part_of(tag: str) -> int:
    return zlib.crc32(tag.encode()) % PARTS


def _scope(prefix: str, part: int) -> str:
    return f"{prefix}:{{{part:03x}}}"


def scope_of(prefix: str, tag: str) -> str:
    """Return the first part of the keys of a user."""
    return _scope(prefix, _part_of(tag))


class ClusterConnection(Connections):
    """The connections of one event loop to the nodes of a cluster.

    Args:
        prefix: The first part of all keys.
        kept: As in `Connections`.
        seeds: Nodes to ask for the others.
        open_node: Returns the connections to a node, without I/O.
        waits: The time limits.
    """

    def __init__(
        self,
        prefix: str,
        kept: str,
        seeds: Sequence[Address],
        open_node: Callable[[Address], RedisConnection],
        waits: Waits,
    ) -> None:
        super().__init__(prefix, kept)
        self._seeds = seeds
        self._open_node = open_node
        self._waits = waits
        self._scopes = [_scope(prefix, part) for part in range(PARTS)]
        self._slots = {scope: key_slot(scope.encode()) for scope in self._scopes}
        self._nodes: dict[Address, RedisConnection] = {}
        self._owners: dict[str, Address] = {}
        self._is_current = False
        self._discovery = SharedWork()
        self.claims = self._claims = Claims(self)

    def scope(self, tag: str) -> str:
        return self._scopes[_part_of(tag)]

    def scopes(self) -> Sequence[str]:
        return self._scopes

    def one_for_each_server(self, scopes: Sequence[str]) -> Sequence[str]:
        return list({self._owners.get(scope): scope for scope in scopes}.values())

    async def servers(self) -> list[RedisConnection]:
        await self._discovery.run(self._discover)
        return [self._node(address) for address in set(self._owners.values())]

    def opened(self) -> list[RedisConnection]:
        return list(self._nodes.values())

    def _keys(self, scope: str) -> tuple[str | int, ...]:
        return (2, f"{scope}:none:1", f"{scope}:none:2")

    def _node(self, address: Address) -> RedisConnection:
        if (node := self._nodes.get(address)) is None:
            node = self._nodes[address] = self._open_node(address)
        return node

    async def send(self, commands: Sequence[Command], *, writes: bool = False) -> list[Any]:
        replies: list[Any] = [None] * len(commands)
        # By place: the node that another one has named, and whether the slot is moving to it.
        pending: dict[int, tuple[Address, bool] | None] = dict.fromkeys(range(len(commands)))
        start = time.monotonic()
        end = start + time_left(self._waits.answer)
        delay = FIRST_DELAY
        while True:
            if not self._is_current:
                await self._discovery.run(self._discover)
            sent = await self._send_once(commands, pending, writes)
            pending, has_to_wait = {}, False
            for place, address, reply in sent:
                replies[place] = reply
                if not isinstance(reply, Exception):
                    continue
                if isinstance(reply, exceptions.MovedError):
                    pending[place] = None
                    self._owners[commands[place][0]] = _named(reply, address)
                elif isinstance(reply, exceptions.AskError):
                    pending[place] = _named(reply, address), True
                elif isinstance(reply, AGAIN) or (
                    _is_unreachable(reply) and time.monotonic() < start + REFUSED_SECONDS
                ):
                    pending[place], has_to_wait = None, True
                if isinstance(reply, LOST):
                    self._is_current = False
            if not pending or time.monotonic() + delay > end:
                return replies
            if has_to_wait:
                await asyncio.sleep(delay)
                delay = min(2 * delay, LAST_DELAY)

    async def _run(self, calls: Sequence[Sequence[str]]) -> list[Any]:
        replies = await super()._run(calls)
        released: list[str] = []
        for place, reply in enumerate(replies):
            if isinstance(reply, list) and reply and reply[0] == RELEASED:
                _, claims, replies[place] = reply
                released += claims
        if released:
            await self._claims.release(released)
        return replies

    async def _send_once(
        self, commands: Sequence[Command], pending: dict[int, tuple[Address, bool] | None], writes: bool
    ) -> list[tuple[int, Address, Any]]:
        """Send the pending commands to their nodes; return place, node and reply of each."""
        groups: dict[Address, list[tuple[int, bool]]] = {}
        for place, named in pending.items():
            address, is_moving = named or (self._owners[commands[place][0]], False)
            groups.setdefault(address, []).append((place, is_moving))
        if len(groups) == 1:
            [(address, group)] = groups.items()
            return await self._send_to(address, group, commands, writes)
        sent = await asyncio.gather(
            *(self._send_to(address, group, commands, writes) for address, group in groups.items())
        )
        return [reply for of_node in sent for reply in of_node]

    async def _send_to(
        self, address: Address, group: list[tuple[int, bool]], commands: Sequence[Command], writes: bool
    ) -> list[tuple[int, Address, Any]]:
        parts: list[tuple[str | int, ...]] = []
        for place, is_moving in group:
            parts += [("ASKING",)] * is_moving
            parts.append(commands[place][1])
        try:
            replies = await self._node(address).exchange(parts, writes=writes)
        except Exception as error:
            return [(place, address, error) for place, _ in group]
        rest = iter(replies)
        # The reply to ASKING comes first.
        return [
            (place, address, [next(rest) for _ in range(1 + is_moving)][-1]) for place, is_moving in group
        ]

    async def _discover(self) -> None:
        """Ask a node which node has which slots."""
        failure: Exception = NotSentError()
        known = dict.fromkeys([*self._nodes, *self._seeds])
        for address in known:
            node = self._node(address)
            try:
                async with asyncio.timeout(time_left(min(self._waits.connect, DISCOVERY_SECONDS))):
                    [reply] = await node.exchange([("CLUSTER SLOTS",)])
            except (exceptions.RedisError, OSError, NotSentError, NoAnswerError, PoolTimeoutError) as error:
                failure = error
                # It is the last one to ask next time.
                self._nodes[address] = self._nodes.pop(address)
                continue
            if isinstance(reply, Exception):
                # Only a node of a cluster knows the command.
                raise reply if code_of(reply) else NotAClusterError from reply
            if self._take(reply, address):
                self._is_current = True
                return
            failure = exceptions.ClusterDownError("no node has some of the slots")
        raise failure

    def _take(self, ranges: list[Any], asked: Address) -> bool:
        """Take the ranges of slots that a node reports; return whether they are all."""
        owners: dict[int, Address] = {}
        for first, last, (host, port, *_), *_ in ranges:
            # A node that does not know its own address reports none.
            owners |= dict.fromkeys(range(first, last + 1), (host or asked[0], port))
        try:
            self._owners = {scope: owners[slot] for scope, slot in self._slots.items()}
        except KeyError:
            return False
        return True


def _is_unreachable(error: Exception) -> bool:
    return isinstance(error, NotSentError) and not isinstance(
        error.__cause__, exceptions.AuthenticationError | exceptions.AuthorizationError
    )


def _named(error: exceptions.AskError, by: Address) -> Address:
    # Without a host it is that of the node itself, at another port.
    return (error.host or by[0], error.port)
