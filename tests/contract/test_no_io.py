"""Invalid input is rejected before any I/O."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest

from sessions import SessionRepositoryFactory
from sessions.testing import AsyncCaller, Caller, SessionRepositoryContract, SyncCaller
from sessions.testing.bad_calls import ADDED_CALLS, BASE_CALLS, bad_calls


@pytest.mark.parametrize("repository_type", ["sqlite", "postgres", "mongodb"])
@pytest.mark.parametrize("caller", [AsyncCaller, SyncCaller])
async def test_bad_input_is_refused_before_any_io(
    repository_type: str, caller: type[Caller], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    url = {
        "sqlite": f"sqlite:///{tmp_path}/no/such/folder.db",
        "postgres": "postgresql://127.0.0.1:1/none",
        "mongodb": "mongodb://127.0.0.1:1/none",
    }[repository_type]
    repository = SessionRepositoryFactory.create_repository(repository_type, url=url)

    async def connect() -> Any:
        pytest.fail("it connected")

    monkeypatch.setattr(repository._connection_manager, "connect", connect)
    contract, count = SessionRepositoryContract(), 0
    for calls in (BASE_CALLS, ADDED_CALLS):
        for operation in calls:
            for call in bad_calls(calls, operation, str(uuid.uuid4()), repository_type != "mongodb"):
                await contract.assert_refused(caller(repository), call)
                count += 1
    assert count > 400
