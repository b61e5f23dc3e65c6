"""Servers with a certificate that has expired."""

from __future__ import annotations

import contextlib
import socket
import ssl
import tempfile
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme

POSTGRES_SSL_REQUEST_BYTES = 8


@contextlib.contextmanager
def expired_tls_server(kind: str) -> Iterator[tuple[int, Path]]:
    """Yield the port of a server and the file of the authority that signed its certificate.

    Args:
        kind: ``"postgres"`` asks for TLS in its own protocol first, ``"mongodb"`` begins with it.
    """
    authority = trustme.CA()
    yesterday = datetime.now(UTC) - timedelta(days=1)
    certificate = authority.issue_cert("127.0.0.1", not_after=yesterday)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)

    def serve(listener: socket.socket) -> None:
        # Blocking, one after the other: what asyncio accepts and has not yet shaken hands with, it forgets.
        while True:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):
                connection.settimeout(5)
                if kind == "postgres":
                    connection.recv(POSTGRES_SSL_REQUEST_BYTES, socket.MSG_WAITALL)
                    connection.send(b"S")
                with context.wrap_socket(connection, server_side=True) as encrypted:
                    encrypted.recv(1)  # Nothing more comes from a client that checks.

    def serve_until_closed(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            serve(listener)

    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as listener:
        file = Path(folder, "ca.pem")
        authority.cert_pem.write_to_path(str(file))
        thread = threading.Thread(target=serve_until_closed, args=(listener,))
        thread.start()
        try:
            yield listener.getsockname()[1], file
        finally:
            listener.shutdown(socket.SHUT_RDWR)  # Wakes who accepts.
            thread.join(10)
