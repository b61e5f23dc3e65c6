"""Servers with a certificate that has expired."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import tempfile
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme
from serving import serving

POSTGRES_SSL_REQUEST_BYTES = 8


@contextlib.asynccontextmanager
async def expired_tls_server(kind: str) -> AsyncIterator[tuple[int, Path]]:
    """Yield the port of a server and the file of the authority that signed its certificate.

    Args:
        kind: ``"postgres"`` asks for TLS in its own protocol first, ``"mongodb"`` begins with it.
    """
    authority = trustme.CA()
    yesterday = datetime.now(UTC) - timedelta(days=1)
    certificate = authority.issue_cert("127.0.0.1", not_after=yesterday)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if kind == "postgres":
            await reader.readexactly(POSTGRES_SSL_REQUEST_BYTES)
            writer.write(b"S")
            await writer.start_tls(context)
        await reader.read()  # Nothing more comes from a client that checks.

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "ca.pem")
        authority.cert_pem.write_to_path(str(file))
        async with serving(serve, ssl=context if kind == "mongodb" else None) as port:
            yield port, file
