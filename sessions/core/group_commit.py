"""Group commit: appends that arrive while others are under way go out together.

A commit costs about the same for one message and for a hundred. So only a few sends are under way at a time;
what arrives meanwhile queues, and leaves as one batch when one of them ends::

    callers ──► fewer than so many sends under way ──► one append by itself
         │
         └────► queue ──► a send has ended ──► all that waits, as one batch ──► each caller's own result

No timer delays anything: one caller sends at once, and the more callers there are, the larger the batches.
A long queue leaves in equal parts, so that the database works on one while this process works on another.
Items that wait and append the same are sent once: the result of one is the result of all.
This module knows neither SQL nor a backend. A `Sender` appends one item, or a batch. What a batch does not
store, because the database rejects it or the session does not exist, its caller sends alone: an error reaches
only the call that causes it.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from sessions.core.batches import GroupLimits, Item, Sender, without_repeats
from sessions.resilience import begin_wait, call_deadline, end_wait

__all__ = ["GroupCommit"]

ItemT = TypeVar("ItemT", bound=Item)

# A send that takes longer makes room for another one: it may wait for a lock that somebody else holds.
PATIENCE_SECONDS = 0.05
# The queue leaves in parts, one for each send, if it holds appends to more sessions than this.
SHARED_FROM = 16


class _Send:
    """Items under way."""

    __slots__ = ("began", "is_slow", "session_ids", "waiters")

    def __init__(self, began: float, session_ids: set[str], waiters: Sequence[_Waiter]) -> None:
        self.began = began
        self.session_ids = session_ids
        # Of a batch, or those that wait for the result of a caller that sends alone.
        self.waiters = waiters
        self.is_slow = False


class _Waiter:
    """A caller whose item is in the queue, or part of a batch."""

    __slots__ = ("deadline", "expires", "future", "item", "sender")

    def __init__(self, item: Any, sender: Any, future: asyncio.Future[bool | _Send], seconds: float) -> None:
        self.item = item
        self.sender = sender
        # Its result is whether the item is stored, or the send which the caller is to make by itself.
        self.future = future
        self.deadline = deadline = call_deadline()
        expires = time.monotonic() + seconds
        self.expires = expires if expires < deadline else deadline


class GroupCommit:
    """The queue of one event loop.

    Args:
        limits: Its bounds.
        start: Awaits ``work(*arguments)`` in the background, whatever happens to the callers.
    """

    def __init__(self, limits: GroupLimits, start: Callable[..., object]) -> None:
        self._limits = limits
        self._start = start
        self._loop = asyncio.get_running_loop()
        # In the order of their arrival: those that a batch may take, and those that are sent alone.
        self._waiting: dict[_Waiter, None] = {}
        self._alone: dict[_Waiter, None] = {}
        self._alone_first = False
        self._under_way: set[_Send] = set()
        self._session_ids: set[str] = set()
        self._slow = 0
        # Whether the last send was a batch. Its callers continue one after another, and all may append again:
        # the first of them queues, so that the others join it.
        self._is_busy = False
        self._is_scheduled = False
        self._timer: asyncio.TimerHandle | None = None

    async def submit(self, item: ItemT, sender: Sender[ItemT]) -> bool:
        """Append an item, alone or in a batch; return whether its session exists.

        A caller that is cancelled before its item is sent has appended nothing.

        Args:
            item: What to append.
            sender: Appends it. Any item's sender appends a batch.

        Raises:
            Exception: Any error of ``send_alone``, a copy of the error of a batch that concerns all of its
                items, or an error of the limits.
        """
        if item.is_cancelled:
            # Of an earlier attempt, whose batch may still wait and is to leave it out.
            item = copy.copy(item)
            item.is_cancelled = False
        waits = self._is_busy or self._waiting or self._alone or item.session_id in self._session_ids
        if not waits and self._has_room():
            return await self._send_alone(item, sender, self._begin({item.session_id}))
        queue = self._waiting
        while True:
            waiter = self._enqueue(item, sender, queue)
            expires = waiter.expires
            try:
                outcome = await waiter.future
            except asyncio.CancelledError:
                self._leave(waiter, queue)
                raise
            finally:
                # The traceback of an error in its future has this frame: a cycle, which only the garbage
                # collector would break.
                del waiter
            if outcome is True:
                return True
            if isinstance(outcome, _Send):
                token = begin_wait(expires)
                try:
                    return await self._send_alone(item, sender, outcome)
                finally:
                    end_wait(token)
            queue = self._alone

    async def _send_alone(self, item: ItemT, sender: Sender[ItemT], send: _Send) -> bool:
        try:
            is_stored = await sender.send_alone(item)
            if is_stored:
                _set_results(send.waiters, True)
            return is_stored
        finally:
            self._end(send)

    def _enqueue(self, item: Any, sender: Any, queue: dict[_Waiter, None]) -> _Waiter:
        loop = self._loop
        item.is_sent = False
        waiter = _Waiter(item, sender, loop.create_future(), self._limits.seconds)
        queue[waiter] = None
        self._schedule()
        if self._timer is None:
            self._timer = loop.call_later(PATIENCE_SECONDS, self._look)
        return waiter

    def _leave(self, waiter: _Waiter, queue: dict[_Waiter, None]) -> None:
        """Remove a caller that is cancelled."""
        queue.pop(waiter, None)
        waiter.item.is_cancelled = True
        future = waiter.future
        # The turn to send may have come at the same time.
        is_set = future.done() and not future.cancelled() and future.exception() is None
        if is_set and isinstance(outcome := future.result(), _Send):
            self._end(outcome)

    # -- Sends -------------------------------------------------------------------------------------

    def _has_room(self) -> bool:
        limits = self._limits
        return len(self._under_way) < limits.sends + min(self._slow, limits.slow_sends)

    def _begin(self, session_ids: set[str], waiters: Sequence[_Waiter] = ()) -> _Send:
        send = _Send(time.monotonic(), session_ids, waiters)
        self._under_way.add(send)
        self._session_ids |= session_ids
        return send

    def _end(self, send: _Send) -> None:
        self._under_way.discard(send)
        self._session_ids -= send.session_ids
        self._slow -= send.is_slow
        self._is_busy = len(send.waiters) > 1
        # Those of a caller that is cancelled, or whose send fails: they send alone.
        _set_results(send.waiters, False)
        if self._waiting or self._alone:
            self._schedule()

    def _schedule(self) -> None:
        """Send as soon as the tasks that are ready to run have run: they may have something to append."""
        if not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon(self._dispatch)

    def _dispatch(self) -> None:
        self._is_scheduled = False
        while self._has_room():
            self._alone_first = not self._alone_first
            one, other = self._start_batch, self._start_one
            if self._alone_first:
                one, other = other, one
            if not (one() or other()):
                return

    def _start_one(self) -> bool:
        """Let a caller send alone, also for those that append the same; return whether there is one."""
        for waiter in self._alone:
            if waiter.item.session_id not in self._session_ids and not waiter.future.done():
                break
        else:
            return False
        del self._alone[waiter]
        repeats: list[_Waiter] = []
        if (key := waiter.item.key) is not None:
            repeats = [other for other in self._alone if other.item.key == key and not other.future.done()]
            for other in repeats:
                del self._alone[other]
        self._let_send(waiter, repeats)
        return True

    def _let_send(self, waiter: _Waiter, repeats: Sequence[_Waiter] = ()) -> None:
        """Let a caller send by itself, in its own task."""
        waiter.future.set_result(self._begin({waiter.item.session_id}, repeats))

    def _start_batch(self) -> bool:
        """Send what a batch may take; return whether there is something."""
        taken = self._take_batch()
        if len(taken) > 1:
            self._start(self._send_together, self._begin({waiter.item.session_id for waiter in taken}, taken))
        elif taken:
            self._let_send(taken[0])
        return bool(taken)

    def _take_batch(self) -> list[_Waiter]:
        limits, under_way = self._limits, self._session_ids
        share = self._share()
        session_ids: set[str] = set()
        taken: list[_Waiter] = []
        count = size = 0
        for waiter in self._waiting:
            item = waiter.item
            session_id = item.session_id
            # A cancelled caller leaves the queue as soon as it runs.
            if session_id in under_way or waiter.future.done():
                continue
            if session_id not in session_ids:
                if len(session_ids) >= share:
                    continue
                session_ids.add(session_id)
            count += item.count
            size += item.size
            if taken and (count > limits.count or size > limits.size):
                break
            taken.append(waiter)
        for waiter in taken:
            del self._waiting[waiter]
        return taken

    def _share(self) -> int:
        """Return for how many sessions a batch may be, so that each send is for as many of them.

        The callers of a batch append again at the same time. So if one send is for almost all of them, the
        next one is, too, and the database has nothing to do while they run.
        """
        limits, waiting = self._limits, len(self._waiting)
        if limits.sends == 1 or not SHARED_FROM < waiting < limits.sends * limits.count:
            return waiting
        sessions = len({waiter.item.session_id for waiter in self._waiting} | self._session_ids)
        return max(SHARED_FROM, math.ceil(sessions / limits.sends))

    async def _send_together(self, send: _Send) -> None:
        waiters = send.waiters = [waiter for waiter in send.waiters if not waiter.future.done()]
        try:
            if not waiters:
                return
            items, places = without_repeats([waiter.item for waiter in waiters])
            if len(items) < len(waiters):
                for waiter, place in zip(waiters, places, strict=True):
                    # The one that is equal to it is sent for both.
                    waiter.item.is_sent = waiter.item is not items[place]
            begin_wait(max(waiter.expires for waiter in waiters))
            stored = await waiters[0].sender.send_together(items)
            for waiter, place in zip(waiters, places, strict=True):
                if not waiter.future.done():
                    waiter.future.set_result(stored[place])
        except BaseException as error:
            concerns_all = not isinstance(error, Exception) or waiters[0].sender.concerns_all(error)
            for waiter in waiters:
                if waiter.future.done():
                    continue
                if not concerns_all:
                    waiter.future.set_result(False)
                elif isinstance(error, Exception):
                    waiter.future.set_exception(_copy(error))
                else:  # The connections are being closed.
                    waiter.future.set_exception(self._limits.no_answer())
            if not isinstance(error, Exception):
                raise
        finally:
            self._end(send)

    # -- Time limits -------------------------------------------------------------------------------

    def _look(self) -> None:
        """Find the slow sends, and the callers whose time limit has ended."""
        now = time.monotonic()
        for send in self._under_way:
            if not send.is_slow and now - send.began >= PATIENCE_SECONDS:
                send.is_slow = True
                self._slow += 1
            for waiter in send.waiters:
                if waiter.future.done():
                    continue
                if waiter.deadline <= now:
                    error = self._limits.no_answer()
                elif waiter.expires <= now and not waiter.item.is_sent:
                    error = self._limits.queue_timeout()
                else:
                    continue
                waiter.item.is_cancelled = True
                waiter.future.set_exception(error)
        for queue in (self._waiting, self._alone):
            for waiter in [waiter for waiter in queue if waiter.expires <= now]:
                del queue[waiter]
                if not waiter.future.done():
                    waiter.future.set_exception(self._limits.queue_timeout())
        self._timer = None
        if self._waiting or self._alone or any(send.waiters for send in self._under_way):
            self._timer = self._loop.call_later(PATIENCE_SECONDS, self._look)
            self._schedule()


def _set_results(waiters: Sequence[_Waiter], is_stored: bool) -> None:
    """Give those that have no result yet one."""
    for waiter in waiters:
        if not waiter.future.done():
            waiter.future.set_result(is_stored)


def _copy(error: Exception) -> Exception:
    """Return a copy of an error for one of several callers, each of whom adds to its traceback."""
    copied = error
    with contextlib.suppress(Exception):
        copied = copy.copy(error)
        copied.__cause__ = cause = error.__cause__
        # The frames of its traceback hold all items of the batch.
        copied.__cause__ = copy.copy(cause)
    return copied
