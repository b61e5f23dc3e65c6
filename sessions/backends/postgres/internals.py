"""What is taken from inside asyncpg, because nothing public gives it.

`tests/postgres/test_internals.py` fails when asyncpg changes it.
"""

from __future__ import annotations

import socket
from typing import Any

__all__ = ["socket_of"]


def socket_of(connection: Any) -> socket.socket | None:
    """Return the socket of a connection, for its TCP options.

    asyncpg neither takes these options nor hands out the socket or its transport.

    Args:
        connection: ``asyncpg.Connection``.
    """
    found: socket.socket | None = connection._transport.get_extra_info("socket")
    return found
