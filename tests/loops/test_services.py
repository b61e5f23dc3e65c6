"""A FastAPI service on a real uvicorn, its synchronous test client, and connections of a service's own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from sessions import ConnectionFactory, SessionRepositoryFactory
from tests.loops.shapes import Counter, settled
from tests.support import servers
from tests.support.databases import Backend, mongodb_client

Client = tuple[asyncio.StreamReader, asyncio.StreamWriter]

SERVICE = """
import os
from contextlib import asynccontextmanager
from fastapi import FastAPI
from sessions import ConnectionFactory, SessionRepositoryFactory

def repository():
    return SessionRepositoryFactory.create_repository(os.environ["KIND"], url=os.environ["URL"])

@asynccontextmanager
async def lifespan(app):
    yield
    await ConnectionFactory.aclose_all()

app = FastAPI(lifespan=lifespan)

@app.post("/{user_id}/sessions")
async def create(user_id: str):
    return {"session_id": await repository().create_session_async(user_id)}

@app.post("/{user_id}/sessions/{session_id}/messages")
async def append(user_id: str, session_id: str):
    return {"message_id": await repository().add_message(session_id, "user", "text", user_id=user_id)}

@app.get("/{user_id}/sessions/{session_id}")
def read(user_id: str, session_id: str):
    # A plain function: FastAPI runs it in a thread, and the sync names serve it there.
    history = repository().get_session_history_sync(user_id, session_id, limit=10)
    return {"messages": len(history)}
"""


@contextlib.contextmanager
def service(backend: Backend, folder: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    (folder / "service.py").write_text(SERVICE)
    port = servers.free_port()
    command = [sys.executable, "-W", "error", "-m", "uvicorn", "service:app", "--port", str(port)]
    with subprocess.Popen(
        [*command, "--log-level", "warning", "--timeout-keep-alive", "60"],
        cwd=folder,
        env=os.environ | {"KIND": backend.repository_type, "URL": backend.url},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            with contextlib.suppress(httpx.TransportError):
                httpx.get(url)
                break
            time.sleep(0.1)
        try:
            yield url, process
        finally:
            process.terminate()
            process.wait(60)


@contextlib.asynccontextmanager
async def connected(url: str) -> AsyncIterator[Client]:
    location = urlsplit(url)
    client = await asyncio.open_connection(location.hostname, location.port)
    yield client
    client[1].close()
    await client[1].wait_closed()


async def answer(client: Client, method: str, path: str) -> Any:
    """Return the response of a service. With httpx, 2,000 requests need half a minute of CPU time."""
    reader, writer = client
    writer.write(f"{method} {path} HTTP/1.1\r\nHost: service\r\nContent-Length: 0\r\n\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 "), head
    [length] = re.findall(rb"content-length: (\d+)", head)
    return json.loads(await reader.readexactly(int(length)))


@pytest.mark.parametrize("requests", [500, pytest.param(2_000, marks=pytest.mark.full_size)])
async def test_many_requests_at_concurrency_32_then_shutdown_leave_no_connection(
    shape: tuple[Backend, Counter], tmp_path: Path, requests: int
) -> None:
    backend, count = shape
    with service(backend, tmp_path) as (url, process):
        async with contextlib.AsyncExitStack() as stack:
            free: asyncio.Queue[Client] = asyncio.Queue()
            for _ in range(32):
                free.put_nowait(await stack.enter_async_context(connected(url)))

            async def ask(method: str, path: str) -> Any:
                client = await free.get()
                try:
                    return await answer(client, method, path)
                finally:
                    free.put_nowait(client)

            users = [f"/user-{number}/sessions" for number in range(requests // 20)]
            created = await asyncio.gather(*(ask("POST", path) for path in users))
            paths = [f"{path}/{new['session_id']}" for path, new in zip(users, created, strict=True)]
            appended = await asyncio.gather(*(ask("POST", f"{path}/messages") for path in paths * 18))
            assert len({new["message_id"] for new in appended}) == 18 * len(users)
            assert await asyncio.gather(*(ask("GET", path) for path in paths)) == [{"messages": 10}] * len(
                users
            )
        # SQLite's connections are descriptors of the service's process, not of this one.
        assert backend.name == "sqlite" or count() > 0
        process.terminate()
        # uvicorn ends with the signal it was stopped by, once its lifespan is over.
        assert process.wait(60) in (0, -15)
        assert process.stderr is not None
        assert process.stderr.read() == ""
    assert settled(count, 0) == 0


@pytest.mark.filterwarnings("ignore:Using `httpx`")
def test_the_synchronous_test_client_needs_no_lifespan(
    shape: tuple[Backend, Counter], monkeypatch: pytest.MonkeyPatch
) -> None:
    from fastapi.testclient import TestClient

    backend, count = shape
    monkeypatch.setenv("KIND", backend.repository_type)
    monkeypatch.setenv("URL", backend.url)
    namespace: dict[str, Any] = {}
    exec(compile(SERVICE, "service.py", "exec"), namespace)
    client = TestClient(namespace["app"])
    session_id = client.post("/user/sessions").json()["session_id"]
    for number in range(5):
        assert client.post(f"/user/sessions/{session_id}/messages").status_code == 200
        assert client.get(f"/user/sessions/{session_id}").json() == {"messages": number + 1}
    assert client.get(f"/other/sessions/{session_id}").json() == {"messages": 0}
    ConnectionFactory.close_all()
    assert settled(count, 0) == 0


@pytest.mark.parametrize("kind", ["postgres", "sqlite"])
async def test_a_services_own_engine_is_used_and_never_closed(
    kind: str, request: pytest.FixtureRequest
) -> None:
    backend = Backend(kind, kind, request.getfixturevalue(f"{kind}_url"))
    await backend.repository()._ensure_connection()
    await ConnectionFactory.aclose_all()
    scheme, _, rest = backend.url.partition("://")
    engine = create_async_engine(
        f"{scheme}+{'asyncpg' if kind == 'postgres' else 'aiosqlite'}://{rest}", pool_size=2, max_overflow=0
    )
    async with SessionRepositoryFactory.create_repository(kind, engine=engine) as repository:
        session_id = await repository.create_session_async("user")
        await repository.add_messages(session_id, [("user", "a"), ("assistant", "b")])
        assert engine.pool.checkedin() >= 1  # type: ignore[attr-defined]
    await ConnectionFactory.aclose_all()
    assert engine.pool.checkedin() >= 1  # type: ignore[attr-defined]
    async with engine.connect() as connection:
        assert (await connection.execute(text("SELECT count(*) FROM chat_messages"))).scalar() == 2
    again = SessionRepositoryFactory.create_repository(kind, engine=engine)
    assert len(await again.get_session_history("user", session_id)) == 2
    await engine.dispose()


async def test_a_services_own_client_is_used_and_never_closed(mongodb_url: str) -> None:
    async with mongodb_client(mongodb_url) as client:
        async with SessionRepositoryFactory.create_repository("mongodb", client=client) as repository:
            session_id = await repository.create_session_async("user")
            await repository.add_message(session_id, "user", "a")
        await ConnectionFactory.aclose_all()
        messages = client.get_default_database()["chat_messages"]
        assert await messages.count_documents({"session_id": session_id}) == 1
        again = SessionRepositoryFactory.create_repository("mongodb", client=client)
        assert len(await again.get_session_history("user", session_id)) == 1
