"""The chat service of the manual, over real connections: clients that disconnect, its errors, its probes."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import socket
import struct
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing

import httpx
import pytest

from sessions.services import AgentContext
from tests.support.chat_service import CHAT_SERVICE, Served, served
from tests.support.databases import Backend
from tests.support.documents import ROOT

ABANDONED = 60
# Of which so many never read what they are sent.
UNREAD = 4
PIECE = "x" * 8192
SECONDS = 60.0


class Endless:
    """Streams as many pieces as the message says, then nothing more; or without an end, as fast as it can."""

    def __init__(self) -> None:
        self.began: set[str] = set()
        self.closed: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()

    async def stream(self, query: str, _: AgentContext) -> AsyncIterator[str]:
        name, pieces = query.split(" ")
        self.began.add(name)
        try:
            while pieces == "unread" or self.sent[name] < int(pieces):
                self.sent[name] += 1
                yield PIECE if pieces == "unread" else f"piece {self.sent[name]} "
                await asyncio.sleep(0)
            await asyncio.sleep(3600)
        finally:
            self.closed[name] += 1


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


async def abandon(service: Served, agent: Endless, number: int, message_id: str) -> None:
    """Ask for an answer, and close the connection in the middle of it."""
    name, pieces = str(number), "unread" if number < UNREAD else str(number % 5)
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.setblocking(False)
    await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", service.port))
    reader, writer = await asyncio.open_connection(sock=connection, limit=4096)
    body = json.dumps({"message": f"{name} {pieces}", "message_id": message_id})
    head = f"POST /api/chat/stream HTTP/1.1\r\nHost: x\r\nX-User: alice\r\nContent-Length: {len(body)}\r\n"
    writer.write(f"{head}Content-Type: application/json\r\n\r\n{body}".encode())
    if pieces == "unread":
        before = -1
        while before != (before := agent.sent[name]) or before < 1:
            await asyncio.sleep(0.2)
    elif pieces == "0":
        await until(lambda: name in agent.began)
    else:
        await asyncio.wait_for(reader.readuntil(f'data: "piece {pieces} "'.encode()), SECONDS)
    if number % 2:  # It ends with a reset, and otherwise in the orderly way.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.close()
    # A reset raises what the test need not know.
    await asyncio.gather(writer.wait_closed(), return_exceptions=True)


async def test_the_answers_of_abandoned_streams_are_stored_as_far_as_they_came(backend: Backend) -> None:
    agent = Endless()
    ids = [str(uuid.uuid4()) for _ in range(ABANDONED)]
    with served(backend.repository_type, backend.url, answer=agent) as service:
        await asyncio.gather(*(abandon(service, agent, n, ids[n]) for n in range(ABANDONED)))
        await until(lambda: len(agent.closed) == ABANDONED)
        async with backend.repository() as repository:
            stored: dict[str, tuple[str, str]] = {}
            expected = {
                ids[n]: ("partial", "".join(f"piece {count + 1} " for count in range(n % 5)))
                for n in range(UNREAD, ABANDONED)
                if n % 5
            }
            deadline = time.monotonic() + SECONDS
            while len(stored) < len(expected) + UNREAD and time.monotonic() < deadline:
                async with aclosing(repository.export_user("alice")) as sessions:
                    stored = {
                        question.message_id: (answer.metadata["status"], answer.content)
                        async for _, (question, answer) in sessions
                    }
            unread = [stored.pop(ids[n]) for n in range(UNREAD)]
            # Nothing is stored of those whose client left before the first piece.
            assert stored == expected
            for status, content in unread:
                assert (status, content.replace(PIECE, "")) == ("partial", "")
                assert content
        # The message that is sent again gets the answer that is stored; the agent is not asked again.
        async with httpx.AsyncClient(base_url=service.url, headers={"X-User": "alice"}) as client:
            body = {"message": "19 4", "message_id": ids[19]}
            again = (await client.post("/api/chat", json=body)).json()
            assert (again["success"], again["message"]) == (False, expected[ids[19]][1])
            assert (await client.get("/health/ready")).status_code == 200
    assert set(agent.closed.values()) == {1}


class Slow:
    """Answers when it is told to."""

    def __init__(self) -> None:
        self.asked = threading.Semaphore(0)
        self.open = threading.Event()
        self.open.set()

    async def execute(self, query: str, context: AgentContext) -> str:
        self.asked.release()
        while not self.open.is_set():
            await asyncio.sleep(0.01)
        if query == "fail":
            raise RuntimeError("no answer")
        return f"{query} after {len(context.history)}"


async def test_each_error_has_its_status_and_anothers_session_looks_absent(sqlite_url: str) -> None:
    agent = Slow()
    with served("sqlite", sqlite_url, answer=agent) as service:
        async with (
            httpx.AsyncClient(base_url=service.url, headers={"X-User": "alice"}, timeout=SECONDS) as alice,
            httpx.AsyncClient(base_url=service.url, cookies={"user": "bob%20b"}, timeout=SECONDS) as bob,
        ):
            first = (await alice.post("/api/chat", json={"message": "Hi"})).json()
            mine = f"/api/sessions/{first['session_id']}"
            message = f"{mine}/messages/{first['metadata']['message_id']}"
            absent = f"/api/sessions/{uuid.uuid4()}"

            async def foreign(path: str) -> list[tuple[int, str]]:
                """Return what Bob gets for a session of Alice's, or for one that does not exist."""
                chosen = {"session_id": path.rpartition("/")[2]}
                found = [
                    await bob.get(path),
                    await bob.get(f"{path}/messages"),
                    await bob.patch(path, json={"title": "Mine", "pinned": True}),
                    await bob.post(f"{path}/regenerate"),
                    await bob.post(
                        f"{path}/messages/{uuid.uuid4()}/edit?branch=true", json={"message": "Ho"}
                    ),
                    await bob.post("/api/chat", params=chosen, json={"message": "Ho"}),
                    await bob.post("/api/chat/stream", params=chosen, json={"message": "Ho"}),
                    await bob.delete(path),
                ]
                return [(response.status_code, response.text) for response in found]

            assert await foreign(mine) == await foreign(absent)
            assert {status for status, _ in await foreign(mine)} == {404}
            assert (await bob.get("/api/sessions")).json() == {"previews": [], "next_cursor": None}
            assert (await bob.get("/api/search", params={"query": "Hi"})).json()["hits"] == []
            assert [found["content"] for found in (await alice.get(f"{mine}/messages")).json()] == [
                "Hi",
                "Hi after 0",
            ]

            async with httpx.AsyncClient(base_url=service.url) as nobody:
                assert (await nobody.get("/api/sessions")).status_code == 401
                assert (await nobody.post("/api/chat", json={"message": "Hi"})).status_code == 401
            assert (await alice.get("/api/sessions/not-a-uuid")).status_code == 400
            assert (await alice.patch(mine, json={"title": "x" * 256})).status_code == 400
            assert (await alice.get("/api/search", params={"query": " "})).status_code == 400
            assert (await alice.post("/api/chat", json={"message": ""})).status_code == 422
            refused = await alice.post(f"{message}/edit?branch=false", json={"message": "Rome\0"})
            assert (refused.status_code, "Rome" in refused.text) == (400, False)

            # Of two turns at the same time, one is stored.
            agent.open.clear()
            chosen = {"session_id": first["session_id"]}
            racing = [
                asyncio.create_task(alice.post("/api/chat", params=chosen, json={"message": text}))
                for text in ("One", "Two")
            ]
            for _ in range(3):
                await asyncio.to_thread(agent.asked.acquire)
            agent.open.set()
            raced = await asyncio.gather(*racing)
            assert sorted(response.status_code for response in raced) == [200, 409]
            taken = {"message": "Other", "message_id": first["metadata"]["message_id"]}
            assert (await alice.post("/api/chat", params=chosen, json=taken)).status_code == 409
            streamed = await alice.post("/api/chat/stream", params=chosen, json=taken)
            assert streamed.text.startswith('event: error\ndata: {"status": 409, ')

            failed = (await alice.post("/api/chat", json={"message": "fail"})).json()
            assert (failed["success"], failed["errors"]) == (False, ["the agent raised RuntimeError"])
            assert len((await alice.get("/api/sessions")).json()["previews"]) == 1


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that refuses connections, and that no other process takes meanwhile."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


async def test_without_its_database_it_is_alive_and_not_ready(closed_port: int) -> None:
    with served("postgres", f"postgresql://user:secret@127.0.0.1:{closed_port}/chat") as service:
        async with httpx.AsyncClient(base_url=service.url, timeout=SECONDS) as client:
            probes = ("live", "ready", "startup")
            found = await asyncio.gather(*(client.get(f"/health/{probe}") for probe in probes))
            listed = await client.get("/api/sessions", headers={"X-User": "alice"})
    assert [response.status_code for response in (*found, listed)] == [200, 503, 503, 503]
    assert listed.json() == {"status": 503, "detail": "try again later"}
    assert not any("secret" in response.text for response in found)


def instructions() -> list[tuple[str, str]]:
    text = (CHAT_SERVICE / "Dockerfile").read_text("utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.partition(" ")[0], line.partition(" ")[2].strip()) for line in lines]


def test_the_image_has_what_it_copies_no_secret_and_a_user() -> None:
    found = instructions()
    for name, value in found:
        if name == "COPY" and "--from" not in value:
            for source in shlex.split(value)[:-1]:
                assert (ROOT / source).exists(), source
    last = max(index for index, (name, _) in enumerate(found) if name == "FROM")
    assert [value for name, value in found[last:] if name == "USER"] == ["10001"]
    names = " ".join(value for name, value in found if name in ("ENV", "ARG"))
    assert "POSTGRES_AUTO_MIGRATE=false" in names
    assert not re.search("PASSWORD|SECRET|TOKEN|URL", names)
    used = {path.name for path in CHAT_SERVICE.iterdir() if path.suffix in (".py", ".html")}
    copied = {name for name in used if any(f"/{name}" in value for kind, value in found if kind == "COPY")}
    assert used - copied <= {"test_app.py"}


def test_the_health_check_of_the_image_tells_whether_it_serves(sqlite_url: str, closed_port: int) -> None:
    [check] = [value.partition("CMD ")[2] for name, value in instructions() if name == "HEALTHCHECK"]
    [start] = [json.loads(value) for name, value in instructions() if name == "CMD"]
    assert start[:2] == ["uvicorn", "app:app"]
    program, *options = json.loads(check)
    assert program == "python"

    def passes(port: int) -> bool:
        command = [sys.executable, *(option.replace("8000", str(port)) for option in options)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    with served("sqlite", sqlite_url) as service:
        assert passes(service.port)
    assert not passes(closed_port)
