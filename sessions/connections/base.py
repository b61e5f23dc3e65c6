"""What a connection manager is: it hands out the connection of one database and releases it."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Hashable, Mapping
from enum import StrEnum
from types import TracebackType
from typing import Any, Self, TypeVar

from sessions.core.forks import ProcessLock
from sessions.errors import SessionsError

__all__ = ["HEALTH_TIMEOUT_SECONDS", "AsyncBaseConnectionManager", "BaseConnectionManager", "ConnectionType"]

R = TypeVar("R")

logger = logging.getLogger(__name__)

HEALTH_TIMEOUT_SECONDS = 5.0

_counting = ProcessLock()
_closing: set[asyncio.Future[None]] = set()


class ConnectionType(StrEnum):
    """The databases this package connects to; other packages register further names."""

    POSTGRES = "postgres"
    MONGODB = "mongodb"
    SQLITE = "sqlite"


class _ConnectionManager:
    # Set by the factory that made this manager: the options, and what to tell when it is closed.
    made_with: Mapping[str, Any] | None = None
    on_close: Callable[[], None] | None = None
    _contexts = 0

    def hold(self) -> None:
        """Count a ``with`` block of this database that has begun."""
        with _counting:
            self._contexts += 1

    def release(self) -> bool:
        """Count a ``with`` block that has ended; return whether it was the last, which has to close."""
        with _counting:
            self._contexts -= 1
            return self._contexts <= 0

    def _note_close(self) -> None:
        if self.on_close is not None:
            self.on_close()

    @classmethod
    def cache_key(cls, **options: Any) -> Hashable | None:
        """Return what tells one manager of this type from another; None for one that is not shared.

        Args:
            **options: What the manager would be made with.
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
        """Release the connection at once, whoever else is in a ``with`` block, and leave the factory."""
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
        preparations: How often this manager has made the schema, or found all of it.
    """

    preparations: int = 0

    @abstractmethod
    async def connect(self) -> Any:
        """Return the connection of the running event loop, opening it if needed."""

    @abstractmethod
    async def disconnect(self) -> None:
        """Release all connections. Does nothing if there are none; `connect` opens new ones."""

    async def make_ready(self) -> None:
        """Connect, and look at the schema again, whatever is known of it; here only connect."""
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

    def require_database(self) -> None:
        """Create no database until `disconnect`, where connecting would: for what only looks."""
        return

    def checked_out(self) -> int:
        """Return how many connections are in use, in all event loops; 0 where that is not known."""
        return 0

    def log_unhealthy(self, error: Exception) -> None:
        """Log why a write would not work, for `is_healthy`, which only says that it would not."""
        reason = error if isinstance(error, SessionsError) else self.translate(error)
        # Else its class alone: the text of an error that nobody knows may quote anything.
        logger.warning("is_healthy: no, as a write would fail: %s", reason or type(error).__name__)

    async def run_step(self, step: Callable[[], Awaitable[R]]) -> R:
        """Await ``step()``, one attempt of an operation; a caller that is cancelled returns at once.

        Here the step is awaited as it is, which is right where the driver may be cancelled anywhere and
        ends at once. For any other a manager overrides this with ``LoopBound.run``, which lets the step go
        on in the background.
        """
        return await step()

    def is_transient(self, error: BaseException) -> bool:
        """Return whether a call that failed with this error may be retried; here never."""
        return False

    def outcome_is_unknown(self, error: BaseException) -> bool:
        """Return whether what failed with this error may have taken effect: its answer was lost."""
        return False

    def is_duplicate_key(self, error: BaseException) -> bool:
        """Return whether a row with the same primary key is there already; here never."""
        return False

    async def prepare_again(self, error: BaseException, *, seen: int) -> bool:
        """Make the schema ready once more, if an error says that it is gone; concurrent callers do it once.

        Args:
            error: From an operation.
            seen: ``preparations`` when the operation began.

        Returns:
            Whether the operation may be repeated at once; here never.
        """
        return False

    def driver_error(self, error: BaseException) -> BaseException:
        """Return the error of the driver itself, where a library has wrapped it."""
        return error

    def translate(self, error: BaseException) -> SessionsError | None:
        """Return this package's error for a driver's error, or None to let it pass as it is.

        Its ``__cause__`` is what callers may see of the driver's error, where that shows too much; without
        one it is the driver's error itself.
        """
        return None

    async def aclose(self) -> None:
        """Release all connections at once, whoever else is in a ``with`` block, and leave the factory.

        A caller that is cancelled meanwhile returns, and the closing goes on.
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
        closing.exception()  # The caller has it, unless it was cancelled and has gone.
