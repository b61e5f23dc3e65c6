"""PostgreSQL behind TLS: what ends it stands before a server that has none, as a cloud's front does."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import trustme

SSL_REQUEST_BYTES = 8


@dataclass
class TlsFront:
    """Where the server is reached with TLS.

    Attributes:
        port: On 127.0.0.1.
        root: File of the authority that has signed its certificate, for ``db.example`` and 127.0.0.1.
        names: What the clients have called it, in the order of their connections.
        certificate: File of a client's certificate by the same authority.
        key: File of its key.
    """

    port: int
    root: Path
    certificate: Path
    key: Path
    names: list[str | None] = field(default_factory=list)


@contextlib.asynccontextmanager
async def tls_front(
    postgres_url: str,
    folder: Path,
    *,
    direct: bool = False,
    wants_certificate: bool = False,
    plain: bool = False,
) -> AsyncIterator[TlsFront]:
    """Yield a front of a server.

    Args:
        postgres_url: The server's.
        folder: For the files.
        direct: Whether a connection begins with TLS, without asking for it.
        wants_certificate: Whether a client needs one.
        plain: Whether there is no TLS at all.
    """
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("db.example", "127.0.0.1").configure_cert(context)
    context.set_alpn_protocols(["postgresql"])
    of_client = authority.issue_cert("client.example")
    front = TlsFront(0, folder / "root.crt", folder / "client.crt", folder / "client.key")
    authority.cert_pem.write_to_path(str(front.root))
    of_client.cert_chain_pems[0].write_to_path(str(front.certificate))
    of_client.private_key_pem.write_to_path(str(front.key))
    if wants_certificate:
        authority.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
    context.sni_callback = lambda _, name, __: front.names.append(name)
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        with contextlib.suppress(OSError, EOFError, asyncio.CancelledError):
            if not direct and not plain:
                await reader.readexactly(SSL_REQUEST_BYTES)
                writer.write(b"S")
                await writer.drain()
                await writer.start_tls(context)
            behind = await _connect(postgres_url)
            try:
                await asyncio.gather(_pump(reader, behind[1]), _pump(behind[0], writer))
            finally:
                behind[1].transport.abort()
        writer.transport.abort()
        tasks.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context if direct else None)
    front.port = server.sockets[0].getsockname()[1]
    try:
        yield front
    finally:
        server.close()
        for task in tuple(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _connect(postgres_url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    split = urlsplit(postgres_url)
    host = split.hostname or parse_qs(split.query)["host"][0]
    port = split.port or 5432
    if host.startswith("/"):
        return await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
    return await asyncio.open_connection(host, port)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()
