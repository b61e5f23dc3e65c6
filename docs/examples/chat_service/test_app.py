import importlib
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio


@pytest_asyncio.fixture
async def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[httpx.AsyncClient]:
    monkeypatch.setenv("SESSIONS_DEFAULT_REPOSITORY", "sqlite")
    monkeypatch.setenv("SQLITE_PATH", f"{tmp_path}/test.db")
    monkeypatch.setenv("FAKE_MODEL_SECONDS", "0")
    app = importlib.import_module("app").app
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://service") as client,
    ):
        yield client


@pytest.mark.asyncio
async def test_a_user_reads_what_was_said(client: httpx.AsyncClient) -> None:
    alice, bob = {"X-User": "alice"}, {"X-User": "bob"}
    answered = await client.post("/api/chat", json={"message": "Rome"}, headers=alice)
    session_id, answer = answered.json()["session_id"], answered.json()["message"]
    messages = f"/api/sessions/{session_id}/messages"

    history = (await client.get(messages, headers=alice)).json()

    assert [message["content"] for message in history] == ["Rome", answer]
    assert (await client.get(messages, headers=bob)).status_code == 404
