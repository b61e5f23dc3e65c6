"""The ``_id`` of messages of release 0.1, which identifies the session's document.

That release stored no `SESSION_FIELD`. The ``_id`` holds the last 64 bits of the message's id, the lower half
XORed with a hash of the ``_id`` of the session's document.
"""

from __future__ import annotations

import hashlib
from typing import Any

__all__ = ["is_for"]


def is_for(document: dict[str, Any], session_oid: Any) -> bool:
    """Return whether a message without the field was written for this document of its session.

    Also True for a message of another program, whose ``_id`` holds no such hash.
    """
    message_id = document["message_id"]
    try:
        mixed = int.from_bytes(document["_id"].binary[4:], "big")
        random_bits = int(message_id[19:23] + message_id[24:], 16)
    except (AttributeError, ValueError):  # Not an ObjectId, or not a UUID.
        return True
    is_of_release = message_id[14:15] == "7" and random_bits >> 32 == mixed >> 32
    return not is_of_release or random_bits ^ _tag(session_oid) == mixed


def _tag(session_oid: Any) -> int:
    return int.from_bytes(hashlib.blake2b(str(session_oid).encode(), digest_size=4).digest(), "big")
