"""The order in which a process writes messages, in microseconds since 1970."""

from __future__ import annotations

from datetime import datetime, timedelta

from sessions.core.forks import ProcessLock
from sessions.core.write_orders import last_write_order, reserve_write_orders
from sessions.models.documents import EPOCH

__all__ = ["write_order", "write_time"]

_lock = ProcessLock(reentrant=False)
# The greatest one of a message with a new id.
_last_of_new_ids = 0


def write_order(new_id: str | None) -> int:
    """Return the write order of a message, which is the time of its write.

    Messages with a caller's id follow all earlier ones of this process. A message with a new id follows those
    with a caller's id. Among messages with new ids, which concurrent calls may write in another order, the
    ids decide: a service of the previous release sorts by timestamp and id, and sees the same order.

    Args:
        new_id: A UUIDv7 that was generated for this call; None for an id of the caller.
    """
    global _last_of_new_ids
    with _lock:
        if new_id is None:
            return reserve_write_orders(1, beyond=_last_of_new_ids).start
        written = max(_time_of(new_id), last_write_order() + 1)
        _last_of_new_ids = max(_last_of_new_ids, written)
        return written


def write_time(written: int) -> datetime:
    """Return a write order as a datetime, in UTC."""
    return EPOCH + timedelta(microseconds=written)


def _time_of(new_id: str) -> int:
    """Return microseconds that never decrease with the id: the first bits of its counter are a fraction."""
    milliseconds = int(new_id[:8] + new_id[9:13], 16)
    return milliseconds * 1000 + (int(new_id[15:18], 16) * 1000 >> 12)
