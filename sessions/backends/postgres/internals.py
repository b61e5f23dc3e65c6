"""Access to private parts of asyncpg that have no public equivalent.

`tests/postgres/test_internals.py` fails when asyncpg changes it.
"""

from __future__ import annotations

import socket
from typing import Any

__all__ = ["socket_of"]


def socket_of(connection: Any) -> socket.socket | None:
    """Return the socket of a connection, for its TCP options.

    asyncpg has no argument for these options, and no public access to the socket or its transport.

    Args:
        connection: ``asyncpg.Connection``.
    """
    found: socket.socket | None = connection._transport.get_extra_info("socket")
    return found
