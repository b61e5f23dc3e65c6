"""Operations in batches have the same result with any batch size."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Any

import pytest

SMALL = {
    "sessions.core.calls.Calls.batch_size": 3,
    "sessions.backends.mongodb.deletion.DELETE_BATCH_SIZE": 2,
    "sessions.backends.mongodb.cleanup.ORPHAN_BATCH_SIZE": 2,
}


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in SMALL.items():
        monkeypatch.setattr(name, size)


async def test_export_and_retention_in_many_small_batches(repository: Any) -> None:
    ids = []
    for number in range(8):
        ids.append(await repository.create_session_async("user", {"title": str(number)}))
        # Lengths below, at and above full parts.
        await repository.add_messages(ids[-1], [("user", str(index)) for index in range(number)])
    other = await repository.create_session_async("other")
    await repository.add_messages(other, [("user", "Hi")] * 7)

    exported = [item async for item in repository.export_user("user")]
    whole = []
    for chat_session, group in groupby(exported, key=lambda item: item[0]):
        parts = [part for _, part in group]
        assert all(len(part) == 3 for part in parts[:-1])
        whole.append((chat_session.session_id, [message.content for part in parts for message in part]))
    # Of sessions created within a millisecond, the list's order decides.
    listed = [item.session_id for item in await repository.list_paginated_sessions_async("user")]
    assert [session_id for session_id, _ in whole] == listed[::-1]
    assert dict(whole) == {
        session_id: [str(index) for index in range(number)] for number, session_id in enumerate(ids)
    }

    assert await repository.keep_latest_sessions("user", 3) == 5
    kept = [item.session_id for item in await repository.list_paginated_sessions_async("user")]
    assert kept == listed[:3]
    assert await repository.get_session_history("user", listed[3]) == []
    assert await repository.delete_sessions_older_than(datetime.now(UTC) + timedelta(1), user_id="user") == 3
    for _ in range(7):
        await repository.create_session_async("user")
    assert await repository.delete_user("user") == 7
    assert len(await repository.get_session_history("other", other)) == 7
    assert await repository.delete_session_async("other", other)
    assert await repository.ensure_session_exists(other, "user")
    assert await repository.get_session_history("user", other) == []
