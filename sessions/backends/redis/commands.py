"""What operations use: commands, and calls of the script, on the connections of one event loop."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from redis import exceptions

from sessions.backends.redis.script import READS, script_of, scripts
from sessions.core.shared_work import SharedWork

if TYPE_CHECKING:
    from sessions.backends.redis.claims import Claims
    from sessions.backends.redis.client import RedisConnection

__all__ = [
    "Command",
    "Connections",
    "NoAnswerError",
    "NotAClusterError",
    "NotReplicatedError",
    "NotSentError",
    "PoolTimeoutError",
    "Waits",
]

Command = tuple[str, tuple[str | int, ...]]
"""A scope, and the parts of a command on keys in it."""


class NotSentError(Exception):
    """No connection could be opened; the cause is the driver's error. No command was sent."""


class PoolTimeoutError(Exception):
    """All connections are in use, for ``pool_timeout``."""


class NoAnswerError(Exception):
    """The server did not respond within ``timeout``; the command may have taken effect."""


class NotAClusterError(Exception):
    """The server is not a node of a cluster; the cause is the driver's error."""


class NotReplicatedError(Exception):
    """A write took effect, and fewer replicas than ``wait_replicas`` received it in time."""


@dataclass(frozen=True, slots=True)
class Waits:
    """The time limits of a connection, in seconds.

    Attributes:
        pool: For a free connection.
        connect: For a new connection.
        answer: For a response.
    """

    pool: float
    connect: float
    answer: float


class Connections(ABC):
    """The connections of one event loop: to a server, or to the nodes of a cluster.

    Attributes:
        prefix: The first part of all keys.
        kept: After the name of an operation: for how long a write keeps its session. Empty for ever.
        preparing: The check of the servers, which concurrent callers share.
        claims: The claims of ids; None where the script alone keeps them unique.
    """

    claims: Claims | None = None

    def __init__(self, prefix: str, kept: str) -> None:
        self.prefix = prefix
        self.kept = kept
        self.preparing = SharedWork()

    @abstractmethod
    def scope(self, tag: str) -> str:
        """Return the first part of the keys of a user."""

    @abstractmethod
    def scopes(self) -> Sequence[str]:
        """Return the first parts of the keys of all users, without one twice."""

    @abstractmethod
    def one_for_each_server(self, scopes: Sequence[str]) -> Sequence[str]:
        """Return one of the scopes that are on the same server."""

    @abstractmethod
    async def servers(self) -> list[RedisConnection]:
        """Return the connections to each server that accepts writes."""

    @abstractmethod
    def opened(self) -> list[RedisConnection]:
        """Return the connections to each server that was used."""

    @abstractmethod
    async def send(self, commands: Sequence[Command], *, writes: bool = False) -> list[Any]:
        """Send commands in one round trip, and return their replies, among them errors."""

    @property
    def in_use(self) -> int:
        """How many connections are in use."""
        return sum(server.in_use_here for server in self.opened())

    async def run(self, scope: str, operation: str, *arguments: str) -> Any:
        """Run an operation of the script, atomically; return its reply as text, integers and lists."""
        [reply] = await self._run([(scope, operation, *arguments)])
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def run_many(self, calls: Sequence[Sequence[str]]) -> list[Any]:
        """Run operations one after another, each atomically, in one round trip; return their replies.

        Args:
            calls: Scope, operation, and its arguments.

        Raises:
            Exception: The first error of one of them; all the others have run.
        """
        return _without_errors(await self.run_each(calls))

    async def run_each(self, calls: Sequence[Sequence[str]]) -> list[Any]:
        """Run operations as `run_many` does; return their replies, among them errors."""
        return await self._run(calls) if calls else []

    async def _run(self, calls: Sequence[Sequence[str]]) -> list[Any]:
        replies = await self._run_once(calls)
        # A server that was restarted, or a replica that was promoted, does not know the scripts; a call did
        # nothing. It may forget them again at once, so the last attempt brings its own.
        for brings_scripts in (False, True):
            forgotten = [
                place for place, reply in enumerate(replies) if isinstance(reply, exceptions.NoScriptError)
            ]
            if not forgotten:
                break
            repeated = [calls[place] for place in forgotten]
            if not brings_scripts:
                await self._load([call[0] for call in repeated])
            again = await self._run_once(repeated, brings_scripts=brings_scripts)
            for place, reply in zip(forgotten, again, strict=True):
                replies[place] = reply
        return replies

    async def _load(self, scopes: Sequence[str]) -> None:
        """Load all scripts on the servers of some scopes."""
        commands: list[Command] = [
            (scope, ("SCRIPT LOAD", script.text))
            for scope in self.one_for_each_server(scopes)
            for script in scripts()
        ]
        _without_errors(await self.send(commands))

    async def _run_once(self, calls: Sequence[Sequence[str]], *, brings_scripts: bool = False) -> list[Any]:
        kept, writes = self.kept, False
        commands: list[Command] = []
        for scope, operation, *arguments in calls:
            script = script_of(operation)
            start = ("EVAL", script.text) if brings_scripts else ("EVALSHA", script.digest)
            commands.append((scope, (*start, *self._keys(scope), operation + kept, scope, *arguments)))
            writes = writes or operation not in READS
        return await self.send(commands, writes=writes)

    def _keys(self, _scope: str) -> tuple[str | int, ...]:
        """Return the number of keys of a call of the script, and the keys."""
        return (0,)

    async def check(self) -> None:
        """Raise the error of a write; the server checks this one as any other, and it writes nothing.

        Scripts also ask for the time. A script that may not has an error without the code ``NOPERM``.
        """
        commands: list[Command] = []
        for scope in self.one_for_each_server(self.scopes()):
            commands += [(scope, ("SETRANGE", f"{scope}:check", 0, "")), (scope, ("TIME",))]
        _without_errors(await self.send(commands, writes=True))

    async def command(self, scope: str, *parts: str | int) -> Any:
        """Send a command, and return the reply, as text."""
        [reply] = await self.send([(scope, parts)])
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def commands(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands in one round trip, and return their replies, as text.

        Raises:
            Exception: The first error of one of them; all the others have run.
        """
        return _without_errors(await self.send(commands)) if commands else []

    async def aclose(self) -> None:
        """Close all connections."""
        for server in self.opened():
            await server.close_pool()


def _without_errors(replies: list[Any]) -> list[Any]:
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    return replies
