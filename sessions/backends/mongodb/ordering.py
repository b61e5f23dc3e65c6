"""The order of a session's messages, and queries for what comes before or after one of them."""

from __future__ import annotations

from typing import Any

from bson import Int64

from sessions.core.values import Position
from sessions.models.documents import aware

__all__ = ["IN_ORDER", "IN_REVERSE", "after", "before", "position_of"]

IN_ORDER = {"timestamp": 1, "write_order": 1, "message_id": 1}
IN_REVERSE = {name: -direction for name, direction in IN_ORDER.items()}
# Of messages without a write order, which sort first: those of earlier releases and of other programs.
NO_WRITE_ORDER = -1


def position_of(document: dict[str, Any]) -> Position:
    """Return the place of a message in the order."""
    write_order = document.get("write_order")
    written = NO_WRITE_ORDER if write_order is None else int(write_order)
    return aware(document["timestamp"]), written, document["message_id"]


def before(position: Position, *, inclusive: bool = False) -> dict[str, Any]:
    """Return a query for the messages before a position."""
    timestamp, write_order, message_id = position
    this = {"message_id": {"$lte" if inclusive else "$lt": message_id}}
    if write_order == NO_WRITE_ORDER:
        same_time: list[dict[str, Any]] = [{"write_order": None, **this}]
    else:
        # A comparison with a number matches no absent field.
        written = Int64(write_order)
        same_time = [
            {"write_order": None},
            {"write_order": {"$lt": written}},
            {"write_order": written, **this},
        ]
    # The first condition gives the index its bound.
    return {"timestamp": {"$lte": timestamp}, "$or": [{"timestamp": {"$lt": timestamp}}, *same_time]}


def after(position: Position, *, inclusive: bool = False) -> dict[str, Any]:
    """Return a query for the messages after a position."""
    timestamp, write_order, message_id = position
    this = {"message_id": {"$gte" if inclusive else "$gt": message_id}}
    if write_order == NO_WRITE_ORDER:
        same_time: list[dict[str, Any]] = [{"write_order": {"$ne": None}}, {"write_order": None, **this}]
    else:
        written = Int64(write_order)
        same_time = [{"write_order": {"$gt": written}}, {"write_order": written, **this}]
    return {"timestamp": {"$gte": timestamp}, "$or": [{"timestamp": {"$gt": timestamp}}, *same_time]}
