"""Claims: that a turn is under way, known to all processes, and expiring with its process.

A claim is a session of an owner of its own, with an id derived from what is claimed: creating it succeeds
for exactly one caller. Its holder changes it now and then. A claim that stays unchanged for the length of a
lease, by the clock of the process that waits, belongs to a process that was killed, and is taken over. No
data depends on claims: the version of the conversation decides what is stored.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import uuid
from collections.abc import AsyncIterator, Coroutine
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from sessions.core.turns import TurnTimeoutError, turns_for
from sessions.correlation import logger_of
from sessions.errors import BackendUnavailableError, SessionsError, TurnConflictError, VersionConflictError
from sessions.services.finishing import CLOSE_SECONDS, Finishing

if TYPE_CHECKING:
    from sessions.repositories import AsyncSessionRepository

__all__ = ["CLAIM_OWNER", "Claims", "derived_id"]

logger = logger_of(__name__)

CLAIM_OWNER = "sessions.services.claims"
NAMESPACE = uuid.UUID("8f5c4f0e-6b0b-5c1e-9a53-7d1f3b0f1c52")
FIRST_DELAY, LONGEST_DELAY = 0.02, 0.25
# Fractions of the lease between two changes by the holder.
RENEWALS = 4
# How often a claim has to be read unchanged, too: the process that waits may have been paused itself.
UNCHANGED_READS = 5
# What killed processes have left is deleted by one of so many claims.
PURGED_BY_ONE_OF = 256
PURGE_AFTER = timedelta(days=1)


def derived_id(*parts: str) -> str:
    """Return the same UUID for the same parts, in every process."""
    return str(uuid.uuid5(NAMESPACE, "\x1f".join(parts)))


class Claims:
    """Claims in the database of a repository.

    Args:
        repository: The repository.
        finishing: Runs what must not be cut short.
        lease: Seconds after which an unchanged claim is taken over.
        patience: Seconds to wait for a claim that another turn holds.
    """

    def __init__(
        self, repository: AsyncSessionRepository, finishing: Finishing, *, lease: float, patience: float
    ) -> None:
        self._repository = repository
        self._finishing = finishing
        self._lease = lease
        self._patience = patience

    @contextlib.asynccontextmanager
    async def hold(self, *parts: str) -> AsyncIterator[None]:
        """Hold a claim for the length of a block, after those who asked before.

        Args:
            *parts: What is claimed.

        Raises:
            TurnConflictError: Another turn holds it for too long.
        """
        claim = _Claim(self._repository, derived_id("claim", *parts), self._lease)
        deadline = asyncio.get_running_loop().time() + self._patience
        # Callers of this process queue for it here, without polling.
        queue = turns_for((CLAIM_OWNER, claim.claim_id)).turn(self._patience)
        try:
            await queue.__aenter__()
        except TurnTimeoutError as error:
            raise TurnConflictError("another turn of this session is still under way") from error
        is_interrupted = True
        try:
            await claim.acquire(deadline)
            renewing = asyncio.get_running_loop().create_task(claim.renew())
            try:
                yield
            finally:
                renewing.cancel()
            is_interrupted = False
        except Exception as error:
            # Without the database, the release ends no sooner than the turn did.
            is_interrupted = isinstance(error, BackendUnavailableError)
            raise
        finally:
            try:
                await self._finishing.at_end(claim.release, CLOSE_SECONDS if is_interrupted else None)
            finally:
                await queue.__aexit__(None, None, None)


class _Claim:
    def __init__(self, repository: AsyncSessionRepository, claim_id: str, lease: float) -> None:
        self.claim_id = claim_id
        self._repository = repository
        self._lease = lease
        self._holder = uuid.uuid4().hex
        self._version = 0
        # When it was acquired; None if it was not, or if the caller was cancelled before it was known.
        self._acquired: float | None = None
        self._writing: asyncio.Task[bool] | None = None

    async def acquire(self, deadline: float) -> None:
        loop, delay = asyncio.get_running_loop(), FIRST_DELAY
        seen: tuple[object, ...] | None = None
        since, reads = loop.time(), 0
        data = {"title": "claim", "metadata": {"holder": self._holder}}
        while not await self._write(self._repository.ensure_session_exists(self.claim_id, CLAIM_OWNER, data)):
            found = await self._repository.get_session(CLAIM_OWNER, self.claim_id)
            if found is None:
                continue
            holder = found.metadata.get("holder")
            if holder == self._holder:  # Created by an attempt whose response was lost.
                break
            if (mark := (holder, found.version)) != seen:
                seen, since, reads = mark, loop.time(), 0
            reads += 1
            is_dead = reads > UNCHANGED_READS and loop.time() - since > self._lease
            if is_dead and await self._write(self._take_over(found.version)):
                break
            if loop.time() + delay > deadline:
                raise TurnConflictError("another turn of this session is still under way")
            await asyncio.sleep(delay * random.uniform(0.5, 1.0))
            delay = min(delay * 1.5, LONGEST_DELAY)
        self._acquired = loop.time()

    async def _write(self, writing: Coroutine[Any, Any, bool]) -> bool:
        """Await a write that goes on if the caller is cancelled: `release` has to see what came of it."""
        self._writing = asyncio.get_running_loop().create_task(writing)
        await asyncio.wait((self._writing,))
        return self._writing.result()

    async def _take_over(self, version: int) -> bool:
        try:
            taken = await self._repository.update_session_async(
                CLAIM_OWNER,
                self.claim_id,
                {"metadata": {"holder": self._holder}},
                expected_version=version,
            )
        except VersionConflictError:
            return False
        self._version = version + 1
        if taken:
            logger.warning("a turn's claim was unchanged for %g s, and is taken over", self._lease)
        return taken

    async def renew(self) -> None:
        """Change the claim now and then, until it is lost or this is cancelled."""
        count = 0
        while True:
            await asyncio.sleep(self._lease / RENEWALS)
            count += 1
            try:
                if not await self._repository.update_session_async(
                    CLAIM_OWNER,
                    self.claim_id,
                    merge_metadata={"renewed": count},
                    expected_version=self._version,
                ):
                    return
            except VersionConflictError:
                return
            except SessionsError as error:
                logger.warning("a turn's claim could not be renewed: %s", type(error).__name__)
            else:
                self._version += 1

    async def release(self) -> None:
        """Delete the claim, unless somebody else holds it now."""
        if self._writing is not None and not self._writing.done():
            await asyncio.wait((self._writing,))
        if self._writing is not None and not self._writing.cancelled():
            self._writing.exception()  # The caller that was cancelled did not retrieve it.
        for _ in range(3):
            if not self._is_surely_held():
                found = await self._repository.get_session(CLAIM_OWNER, self.claim_id)
                if found is None or found.metadata.get("holder") != self._holder:
                    break
                self._version = found.version
            with contextlib.suppress(VersionConflictError):
                await self._repository.delete_session_async(
                    CLAIM_OWNER, self.claim_id, expected_version=self._version
                )
                break
            self._acquired = None
        if uuid.UUID(self.claim_id).int % PURGED_BY_ONE_OF == 0:
            await self._repository.delete_sessions_older_than(
                datetime.now(UTC) - PURGE_AFTER, user_id=CLAIM_OWNER
            )

    def _is_surely_held(self) -> bool:
        # Later it may have been taken over, and released, and created anew.
        now = asyncio.get_running_loop().time()
        return self._acquired is not None and now - self._acquired < self._lease / RENEWALS
