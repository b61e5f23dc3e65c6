from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
import service


@pytest_asyncio.fixture
async def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[httpx.AsyncClient]:
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path}/test.db")
    transport = httpx.ASGITransport(service.app)
    async with (
        service.lifespan(service.app),
        httpx.AsyncClient(transport=transport, base_url="http://service") as client,
    ):
        yield client


@pytest.mark.asyncio
async def test_a_user_reads_what_was_said(client: httpx.AsyncClient) -> None:
    alice, bob = {"X-User": "alice"}, {"X-User": "bob"}
    session_id = (await client.post("/sessions", headers=alice)).json()["session_id"]
    messages = f"/sessions/{session_id}/messages"

    asked = await client.post(messages, params={"text": "Rome"}, headers=alice)

    assert asked.json() == {"answer": "emoR"}
    assert (await client.get(messages, headers=alice)).json() == ["Rome", "emoR"]
    assert (await client.get(messages, headers=bob)).json() == []
    assert (await client.post(messages, params={"text": "Hi"}, headers=bob)).status_code == 404


@pytest.mark.asyncio
async def test_bad_input_is_a_400(client: httpx.AsyncClient) -> None:
    refused = await client.post("/sessions", headers={"X-User": "a" * 300})
    assert refused.status_code == 400
    assert "user_id" in refused.json()["detail"]


@pytest.mark.asyncio
async def test_the_probes_answer(client: httpx.AsyncClient) -> None:
    assert (await client.get("/health/live")).json() == {"live": True}
    assert (await client.get("/health/ready")).json() == {"ready": True}
