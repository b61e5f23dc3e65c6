"""A circuit breaker: after a failure, nobody waits for a server that does not work."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from sessions.correlation import logger_of

__all__ = ["Breaker"]

logger = logger_of(__name__)

# After a failure, no call is let through for so long; then one.
RETRY_SECONDS = 0.5
# So long after the first failure, a writer still tries: what it does not tell, others do not see.
INSIST_SECONDS = 0.5
# A server that fails again and again is reported so often.
WARN_SECONDS = 60.0


class Breaker:
    """Lets calls through to a server that works.

    Args:
        clock: Returns seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._closed_until = -math.inf
        self._warned_at = -math.inf
        self._is_broken = False
        self._broken_since = -math.inf

    def lets_through(self, *, insists: bool = False) -> bool:
        """Return whether to call the server now.

        Args:
            insists: Whether the call is worth a wait, as long as the failure may be a short one.
        """
        if not self._is_broken:
            return True
        now = self._clock()
        if insists and now - self._broken_since < INSIST_SECONDS:
            return True
        if now < self._closed_until:
            return False
        # Only this caller; the others wait for what becomes of it.
        self._closed_until = now + RETRY_SECONDS
        return True

    def failed(self, reason: str) -> None:
        """Note that a call has failed."""
        now = self._clock()
        if not self._is_broken:
            self._is_broken, self._broken_since = True, now
        self._closed_until = now + RETRY_SECONDS
        self.warn(reason)

    def warn(self, reason: str) -> None:
        """Log once in a while that the cache cannot be used."""
        now = self._clock()
        if now - self._warned_at >= WARN_SECONDS:
            self._warned_at = now
            logger.warning("the cache cannot be used, and reads go to the database: %s", reason)

    def worked(self) -> None:
        """Note that a call has succeeded."""
        if self._is_broken:
            self._is_broken = False
            logger.info("the cache is used again")
