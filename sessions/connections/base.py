"""Base classes of connection managers, each of which opens and releases the connections of one database."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Hashable, Mapping
from enum import StrEnum
from types import TracebackType
from typing import Any, ClassVar, Self, TypeVar

from sessions.core.forks import ProcessLock
from sessions.core.group_commit import GroupCommit
from sessions.core.loops import LoopBound
from sessions.core.telemetry import PoolUse, Target
from sessions.correlation import logger_of
from sessions.errors import SessionsError

__all__ = ["HEALTH_TIMEOUT_SECONDS", "AsyncBaseConnectionManager", "BaseConnectionManager", "ConnectionType"]

R = TypeVar("R")

logger = logger_of(__name__)

HEALTH_TIMEOUT_SECONDS = 5.0

_counting = ProcessLock()
_closing: set[asyncio.Future[None]] = set()


class ConnectionType(StrEnum):
    """The databases this package connects to; other packages register further names."""

    POSTGRES = "postgres"
    MONGODB = "mongodb"
    SQLITE = "sqlite"
    REDIS = "redis"


class _ConnectionManager:
    # Set by the factory that made this manager: the options, and a callback on close.
    made_with: Mapping[str, Any] | None = None
    on_close: Callable[[], None] | None = None
    _contexts = 0

    def hold(self) -> None:
        """Count a ``with`` block of this database that begins."""
        with _counting:
            self._contexts += 1

    def release(self) -> bool:
        """Count a ``with`` block that ends; return whether it was the last, which must close."""
        with _counting:
            self._contexts -= 1
            return self._contexts <= 0

    def _note_close(self) -> None:
        if self.on_close is not None:
            self.on_close()

    @classmethod
    def cache_key(cls, **options: Any) -> Hashable | None:
        """Return the key of a manager of this type; None for one that is not shared.

        Args:
            **options: Options of the manager.
        """
        return tuple(sorted(options.items()))


class BaseConnectionManager(_ConnectionManager, ABC):
    """Manages the connection of a synchronous client."""

    @abstractmethod
    def connect(self) -> Any:
        """Return the connection, opening it if needed."""

    @abstractmethod
    def disconnect(self) -> None:
        """Release the connection. Does nothing if there is none; `connect` opens a new one."""

    @abstractmethod
    def is_healthy(self) -> bool:
        """Return whether a write would work now."""

    def close(self) -> None:
        """Release the connection at once, also within other ``with`` blocks, and leave the factory."""
        self._note_close()
        self.disconnect()

    def __enter__(self) -> Self:
        self.connect()
        self.hold()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.release():
            self.close()


class AsyncBaseConnectionManager(_ConnectionManager, ABC):
    """Manages the connection of an asynchronous client.

    Attributes:
        preparations: How often this manager has created the schema, or found it complete.
        queues: The queues of appends, one for each event loop; None if each append is sent by itself.
        may_end_with_close: Whether the database, or a file in its place, may have the identity of another one
            once nobody has it open.
        is_borrowed: Whether its connection is one of a transaction, as those of `using` are.
    """

    preparations: int = 0
    queues: LoopBound[GroupCommit] | None = None
    may_end_with_close: ClassVar[bool] = False
    is_borrowed: ClassVar[bool] = False

    @abstractmethod
    async def connect(self) -> Any:
        """Return the connection of the running event loop, opening it if needed."""

    @abstractmethod
    async def disconnect(self) -> None:
        """Release all connections. Does nothing if there are none; `connect` opens new ones."""

    async def make_ready(self) -> None:
        """Connect, and check the schema again, also if it was ready before; here only connect."""
        await self.connect()

    @abstractmethod
    async def is_healthy(self) -> bool:
        """Return whether a write would work now. Writes nothing, is bounded, and never raises."""

    def using(self, transaction: Any) -> AsyncBaseConnectionManager:
        """Return a manager whose connection is the caller's, in a transaction of the caller's own.

        Raises:
            NotImplementedError: Here always; the built-in backends have it.
        """
        raise NotImplementedError(f"using is not implemented by {type(self).__name__}")

    async def in_transaction(self, work: Callable[[AsyncBaseConnectionManager], Awaitable[R]]) -> R:
        """Await ``work(manager)``, whose manager has a transaction of this one's; commit it, or roll it back.

        One attempt. Errors of the driver are not translated inside.

        Args:
            work: Gets a manager like that of `using`.

        Raises:
            NotImplementedError: Here always; the backends with transactions have it.
        """
        raise NotImplementedError(f"run_in_transaction is not implemented by {type(self).__name__}")

    def require_database(self) -> None:
        """Create no database until `disconnect`: for commands that only read."""
        return

    def checked_out(self) -> int:
        """Return how many connections are in use, in all event loops; 0 if that is not known."""
        return 0

    def target(self) -> Target:
        """Return the database, as telemetry names it; here only a system, by the name of the class."""
        return Target(type(self).__name__.removesuffix("ConnectionManager").lower() or "other")

    def shared_name(self) -> str | None:
        """Return a name of the database, the same by whichever address it is reached.

        None for a database that only this manager has. Databases on different servers may have the same name.
        """
        target = self.target()
        return f"{target.system}/{target.namespace or ''}"

    async def identity(self) -> str | None:
        """Return what tells this database from every other one, by whichever address it is reached.

        A cache that several databases share asks for it, seldom, and connected or not. It is the same in all
        processes, as long as the database exists. A copy of the database has another one.

        Returns:
            The identity; None if it is not known, as here.
        """
        return None

    def identity_epoch(self) -> Hashable:
        """Return what changes when this process sees that `identity` may have changed; without I/O."""
        return self.preparations

    def pools(self) -> list[PoolUse]:
        """Return the use of the pools, one for each event loop; here none is known."""
        return []

    def log_unhealthy(self, error: Exception) -> None:
        """Log why a write would not work, for `is_healthy`, which only returns False."""
        reason = error if isinstance(error, SessionsError) else self.translate(error)
        # Only the class of an unknown error: its text may quote anything.
        logger.warning("is_healthy: no, as a write would fail: %s", reason or type(error).__name__)

    def run_step(self, step: Callable[[], Awaitable[R]]) -> Awaitable[R]:
        """Await ``step()``, one attempt of an operation; a caller that is cancelled returns at once.

        Here the step is awaited directly, for drivers that support cancellation and respond to it at once.
        For any other driver a manager overrides this with ``LoopBound.run``, which continues the step in the
        background.
        """
        return step()

    def is_transient(self, error: BaseException) -> bool:
        """Return whether a call that failed with this error may be retried; here never."""
        return False

    def outcome_is_unknown(self, error: BaseException) -> bool:
        """Return whether a call that failed with this error may have taken effect: its response was lost."""
        return False

    def is_conflict(self, error: BaseException) -> bool:
        """Return whether a transient error is due to another writer; here never."""
        return False

    def took_its_timeout(self, error: BaseException) -> bool:
        """Return whether an operation got no connection within the whole timeout of a setting; here never.

        A retry would double it.
        """
        return False

    def is_duplicate_key(self, error: BaseException) -> bool:
        """Return whether a row with the same primary key exists; here never."""
        return False

    async def prepare_again(self, error: BaseException, *, seen: int) -> bool:
        """Make the schema ready again if an error reports that it is missing; concurrent callers do it once.

        Args:
            error: From an operation.
            seen: ``preparations`` when the operation began.

        Returns:
            Whether the operation may be retried at once; here never.
        """
        return False

    def driver_error(self, error: BaseException) -> BaseException:
        """Return the error of the driver itself, without a library's wrapper."""
        return error

    def translate(self, error: BaseException) -> SessionsError | None:
        """Return this package's error for a driver's error, or None to raise it unchanged.

        Its ``__cause__`` is a copy of the driver's error without values; if there is none, the driver's error
        itself becomes the cause.
        """
        return None

    async def aclose(self) -> None:
        """Release all connections at once, also within other ``with`` blocks, and leave the factory.

        If the caller is cancelled, it returns at once, and the close continues.
        """
        self._note_close()
        closing = asyncio.ensure_future(self.disconnect())
        _closing.add(closing)
        closing.add_done_callback(_closed)
        await asyncio.shield(closing)

    async def __aenter__(self) -> Self:
        await self.connect()
        self.hold()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.release():
            await self.aclose()


def _closed(closing: asyncio.Future[None]) -> None:
    _closing.discard(closing)
    if not closing.cancelled():
        closing.exception()  # Marks it as retrieved: the caller may have been cancelled.
