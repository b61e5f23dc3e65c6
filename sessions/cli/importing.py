"""Stores the conversations of a file in batches, of which one is stored while the next one is read.

A batch takes few statements. Where one of its conversations cannot be stored, or exists already, the batch is
stored one conversation at a time, so that each fault is reported with its place.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Iterator

from sessions.cli.collecting import collecting_rarely
from sessions.cli.conversation_lines import LINE
from sessions.cli.entries import Entry, Totals, read_lines
from sessions.cli.storing import Stored, complete, new_conversation, store
from sessions.errors import (
    BackendUnavailableError,
    InvalidInputError,
    MessageConflictError,
    SessionConflictError,
    SessionNotFoundError,
    SessionsError,
)
from sessions.repositories import AsyncSessionRepository

__all__ = ["count_entries", "import_entries", "import_lines"]

# Errors of one line, after which the import continues.
LINE_ERRORS = (InvalidInputError, SessionConflictError, SessionNotFoundError, MessageConflictError)

# What a batch holds at most. A larger line is a batch of its own.
BATCH_MESSAGES = 5000
BATCH_BYTES = 4 * 1024 * 1024
# If so many lines at the beginning are bad, and none is good, the file has another format.
BAD_LINES = 10


async def import_lines(
    repository: AsyncSessionRepository,
    lines: Iterable[bytes],
    *,
    report: Callable[[str], None],
    advance: Callable[[int, Totals], None],
) -> Totals:
    """Store one conversation per line, with a bounded batch in memory at a time; blank lines are skipped.

    Args:
        repository: Where to store them.
        lines: The file.
        report: Called with the place of a line that was not stored, and the reason.
        advance: Called for the lines that are done, with their length in bytes and the totals so far.

    Raises:
        BackendUnavailableError: The database cannot be used; the text names the first line not stored.
        InvalidInputError: The file has another format.
    """
    return await import_entries(repository, read_lines(lines), report=report, advance=advance)


async def import_entries(
    repository: AsyncSessionRepository,
    entries: Iterable[Entry],
    *,
    report: Callable[[str], None],
    advance: Callable[[int, Totals], None],
) -> Totals:
    """Store conversations; see `import_lines`."""
    work = _Import(repository, report, advance)
    unread = iter(entries)
    with collecting_rarely():
        try:
            while True:
                # One name only: the entry is let go when it is stored.
                taken = list(_next(unread))
                if not taken:
                    break
                await work.put(taken.pop())
            await work.flush()
            await work.wait()
        finally:
            await work.cancel()
    return work.totals


def count_entries(
    entries: Iterable[Entry], *, report: Callable[[str], None], advance: Callable[[int, Totals], None]
) -> Totals:
    """Return what an import into an empty database would do, without the checks that need one."""
    totals = Totals()
    for entry in entries:
        if entry.fault is not None:
            totals.failed += 1
            report(f"{entry.place}: {_fault(entry.fault)}")
        elif entry.replaces and entry.given is not None:
            totals.add_restored(*entry.given)
        elif entry.session_id is not None:
            totals.add(Stored(True, entry.messages))
        advance(entry.size, totals)
    return totals


def _next(entries: Iterator[Entry]) -> Iterator[Entry]:
    for entry in entries:
        yield entry
        return


class _Import:
    """Collects a batch while the one before is stored."""

    def __init__(
        self,
        repository: AsyncSessionRepository,
        report: Callable[[str], None],
        advance: Callable[[int, Totals], None],
    ) -> None:
        self._repository = repository
        self._report, self._advance = report, advance
        self.totals = Totals()
        self._batch: list[Entry] = []
        self._ids: set[str] = set()
        self._messages = self._bytes = 0
        self._seen = self._good = 0
        self._storing: asyncio.Task[None] | None = None

    async def put(self, entry: Entry) -> None:
        self._check_format(entry)
        session_id = entry.session_id
        too_much = (
            self._messages + entry.messages > BATCH_MESSAGES
            or self._bytes + entry.size > BATCH_BYTES
            or len(self._batch) >= BATCH_MESSAGES
        )
        if self._batch and (too_much or session_id in self._ids):
            await self.flush()
        if session_id is not None:
            self._ids.add(session_id)
        self._messages += entry.messages
        self._bytes += entry.size
        self._batch.append(entry)
        if entry.size > BATCH_BYTES:
            # Nothing beside it: it may need most of the memory.
            del entry
            await self.flush()
            await self.wait()
        elif self._storing is not None:
            await asyncio.sleep(0)  # Lets the batch before it go on.

    async def flush(self) -> None:
        """Begin to store the batch, once the one before is stored."""
        await self.wait()
        batch, self._batch = self._batch, []
        self._ids = set()
        self._messages = self._bytes = 0
        if batch:
            self._storing = asyncio.create_task(self._store(batch))
            del batch
            await asyncio.sleep(0)

    async def wait(self) -> None:
        if self._storing is not None:
            storing, self._storing = self._storing, None
            await storing

    async def cancel(self) -> None:
        if self._storing is not None:
            self._storing.cancel()
            with contextlib.suppress(asyncio.CancelledError, SessionsError):
                await self._storing
            self._storing = None

    def _check_format(self, entry: Entry) -> None:
        """Name a wrong format once, instead of each of its lines."""
        if entry.fault is None:
            self._good += entry.session_id is not None
            return
        self._seen += 1
        if self._seen == BAD_LINES and not self._good:
            self._batch.clear()
            reason = f"has another format: its first {BAD_LINES} lines are bad ({_fault(entry.fault)})"
            raise InvalidInputError("file", reason)

    async def _store(self, batch: list[Entry]) -> None:
        new = [entry for entry in batch if entry.session_id is not None and not entry.replaces]
        old = [entry for entry in batch if entry.replaces]
        stored: dict[str, int] = {}
        at_once = len(batch) > 1 or batch[0].size <= BATCH_BYTES
        try:
            if at_once:
                await self._store_many(old, stored, only_new=False)
                await self._store_many(
                    [entry for entry in new if _is_canonical(entry)], stored, only_new=True
                )
        except LINE_ERRORS:
            stored.clear()  # One by one: it is known then which of them it is.
        except BackendUnavailableError as error:
            # Faults before the first one that is not stored are reported all the same.
            faulty = [entry for entry in batch if entry.place]
            for entry in faulty:
                if entry.fault is None:
                    raise _stopped(entry, error) from error
                self._fail(entry, entry.fault)
            raise
        size = 0
        batch.reverse()
        while batch:
            entry = batch.pop()
            size += entry.size
            if not entry.place:
                continue
            if entry.fault is not None:
                self._fail(entry, entry.fault)
            elif (session_id := entry.session_id) in stored:
                self._count(entry, Stored(True, stored[session_id or ""]))
            else:
                await self._store_one(entry)
        self._advance(size, self.totals)

    async def _store_many(self, entries: list[Entry], stored: dict[str, int], *, only_new: bool) -> None:
        conversations = [
            entry.given or new_conversation(entry.conversation)  # type: ignore[arg-type]
            for entry in entries
        ]
        if not conversations:
            return
        by_id = {chat_session.session_id: len(messages) for chat_session, messages in conversations}
        found = await self._repository.admin.restore_many(conversations, only_new=only_new)
        stored |= {session_id: by_id[session_id] for session_id in found if session_id in by_id}

    async def _store_one(self, entry: Entry) -> None:
        try:
            if entry.conversation is not None:
                self._count(entry, await store(self._repository, entry.conversation))
            elif entry.given is not None and entry.replaces:
                await self._repository.admin.restore(*entry.given)
                self._count(entry, Stored(True, len(entry.given[1])))
            elif entry.given is not None:
                self._count(entry, await complete(self._repository, *entry.given))
        except LINE_ERRORS as error:
            self._fail(entry, error)
        except BackendUnavailableError as error:
            raise _stopped(entry, error) from error

    def _count(self, entry: Entry, stored: Stored) -> None:
        if entry.replaces and entry.given is not None:
            self.totals.add_restored(*entry.given)
        else:
            self.totals.add(stored)

    def _fail(self, entry: Entry, error: SessionsError) -> None:
        self.totals.failed += 1
        self._report(f"{entry.place}: {_fault(error)}")


def _is_canonical(entry: Entry) -> bool:
    """Return whether every backend stores the session's id as it is."""
    session_id = entry.session_id or ""
    return session_id == session_id.lower()


def _stopped(entry: Entry, error: BackendUnavailableError) -> BackendUnavailableError:
    return BackendUnavailableError(f"stopped at {entry.place}: {error}; run it again to continue")


def _fault(error: SessionsError) -> str:
    if isinstance(error, InvalidInputError) and error.argument == LINE:
        return error.reason  # Without the argument's name: "line 3: is not JSON".
    return str(error)
