"""A process that writes to SQLite is killed: acknowledged writes are stored, and none is partial."""

from __future__ import annotations

import asyncio
import json
import sys
import uuid
from pathlib import Path
from typing import Any

from sessions import SessionRepositoryFactory
from tests.support.programs import Programs

USER = "alice"
KILLS = 3
LINES = 40
BATCH = 80


async def _write(url: str, life: int) -> None:
    """Append to one session and create, fill and delete others; print each acknowledged write."""
    appended = str(uuid.UUID(int=0))

    def say(*what: Any) -> None:
        print(json.dumps(what), flush=True)

    async with SessionRepositoryFactory.create_repository("sqlite", url=url) as repository:
        await repository.ensure_session_exists(appended, USER)
        for number in range(10**6):
            name = f"{life} {number}"
            await repository.add_message(appended, "user", f"{name} one")
            say("added", f"{name} one")
            batch = [("user", f"{name} {index}") for index in range(BATCH)]
            await repository.add_messages(appended, batch)
            say("batch", name)
            session_id = await repository.create_session_async(USER)
            await repository.add_messages(session_id, batch)
            say("filled", session_id)
            await repository.delete_session_async(USER, session_id)
            say("deleted", session_id)


def test_acknowledged_writes_of_a_killed_process_are_stored_and_none_is_partial(
    tmp_path: Path, programs: Programs
) -> None:
    url = f"sqlite:///{tmp_path}/sessions.db"
    told: dict[str, list[str]] = {"added": [], "batch": [], "filled": [], "deleted": []}
    for life in range(KILLS):
        with programs.start(__file__, url, str(life)) as process:
            for _ in range(LINES + life):  # Each process is killed after another step.
                what, name = json.loads(process.stdout.readline())
                told[what].append(name)
            process.kill()
            # Output that was not read yet.
            for line in process.stdout.read().splitlines():
                what, name = json.loads(line)
                told[what].append(name)

    with SessionRepositoryFactory.create_repository("sqlite", url=url) as repository:
        history = repository.get_session_history_sync(USER, str(uuid.UUID(int=0)))
        contents = [message.content for message in history]
        assert len(set(contents)) == len(contents)
        acknowledged = set(told["added"])
        assert [content for content in contents if content in acknowledged] == told["added"]
        by_batch: dict[str, int] = {}
        for content in contents:
            name, _, index = content.rpartition(" ")
            by_batch[name] = by_batch.get(name, 0) + (index != "one")
        assert all(by_batch[name] == BATCH for name in told["batch"])
        # At most one write of each process was stored without being acknowledged.
        assert set(by_batch.values()) <= {0, BATCH}
        assert len(contents) <= len(told["added"]) + BATCH * len(told["batch"]) + KILLS * (BATCH + 1)

        there = {found.session_id for found in repository.list_paginated_sessions(USER, limit=1000)}
        assert there.isdisjoint(told["deleted"])
        unfinished = set(told["filled"]) - set(told["deleted"])
        for session_id in there - {str(uuid.UUID(int=0))}:
            messages = len(repository.get_session_history_sync(USER, session_id))
            assert messages == BATCH or (messages == 0 and session_id not in unfinished)
        for session_id in told["deleted"]:
            assert repository.get_session_history_sync(USER, session_id) == []


if __name__ == "__main__":
    asyncio.run(_write(sys.argv[1], int(sys.argv[2])))
