"""A service that converses, of whichever release `sessions` is imported from.

Takes its work as JSON in the first argument, reads commands from standard input, and prints JSON, a line for
each. Any error ends it. It uses only what every release has.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from typing import Any

import sessions
from sessions import BackendUnavailableError, SessionRepositoryFactory, migrations

USER = "ann"
PAUSE_SECONDS = 0.1
LISTED_WITHIN_SECONDS = 60
# The previous release does not retry it.
QUERY_PLAN_KILLED = 175


class Service:
    """Writes to some sessions, and reads each message back.

    Args:
        repository: Open.
        name: What its messages begin with.
        session_ids: Shared with other services.
    """

    def __init__(self, repository: Any, name: str, session_ids: list[str]) -> None:
        self._repository = repository
        self._name = name
        self._stopping = asyncio.Event()
        # By session, in the order of writing.
        self.written: dict[str, list[str]] = {session_id: [] for session_id in session_ids}

    def stop(self) -> None:
        """Let each conversation end after its turn."""
        self._stopping.set()

    async def converse(self, session_id: str) -> None:
        """Append one message, then a batch, read the newest ones, and begin again."""
        written = self.written[session_id]
        while not self._stopping.is_set():
            content = f"{self._name} {len(written)}"
            written.append(await self._repository.add_message(session_id, "user", content, user_id=USER))
            batch = [("assistant", f"{content} {number}") for number in range(3)]
            written += await self._repository.add_messages(session_id, batch, user_id=USER)
            newest = await self._newest(session_id)
            own = [message.message_id for message in newest if message.content.startswith(self._name)]
            assert own == written[len(written) - len(own) :], (
                "the messages of one writer are not in their order"
            )
            assert await self._repository.update_session_async(USER, session_id, {"title": content})
            await self._find(session_id)
            await asyncio.sleep(PAUSE_SECONDS)

    async def _find(self, session_id: str) -> None:
        """List sessions until one is among them: a list may miss one that is updated just then."""
        found: set[str] = set()
        async with asyncio.timeout(LISTED_WITHIN_SECONDS):
            while session_id not in found:
                listed = await self._repository.list_paginated_sessions_async(USER)
                found = {chat_session.session_id for chat_session in listed}

    async def _newest(self, session_id: str) -> list[Any]:
        """Read, again if MongoDB drops the index in use, as this release does with the former one."""
        while True:
            try:
                return await self._repository.get_session_history(USER, session_id, limit=100)
            except BackendUnavailableError as error:
                if getattr(error.__cause__, "code", None) != QUERY_PLAN_KILLED:
                    raise

    async def store(self, session_id: str, number: int) -> None:
        """Store messages from before, in batches."""
        for start in range(0, number, 500):
            batch = [("user", f"{self._name} {start + place}") for place in range(min(500, number - start))]
            self.written[session_id] += await self._repository.add_messages(session_id, batch)


async def histories(repository: Any, session_ids: list[str]) -> dict[str, list[list[str]]]:
    """Return by session what each message has in every release."""
    return {
        session_id: [
            [message.message_id, message.role, message.content, message.timestamp.isoformat()]
            for message in await repository.get_session_history(USER, session_id)
        ]
        for session_id in session_ids
    }


async def main(work: dict[str, Any]) -> None:
    """Store messages if asked to, then converse unless told not to, until told to stop.

    The command ``count`` answers how many messages were written, ``histories`` what the sessions hold.
    """
    logging.basicConfig(format="%(levelname)s %(message)s", level=logging.WARNING, stream=sys.stderr)
    session_ids = work["session_ids"]
    async with SessionRepositoryFactory.create_repository(
        work["type"], url=work["url"], **work["options"]
    ) as repository:
        service = Service(repository, work["name"], session_ids)
        for session_id in session_ids:
            await repository.ensure_session_exists(session_id, USER)
            await service.store(session_id, work["stored"])
        print(json.dumps({"file": sessions.__file__, "head": migrations.HEAD}), flush=True)
        async with asyncio.TaskGroup() as tasks:
            for session_id in session_ids if work["converses"] else ():
                tasks.create_task(service.converse(session_id))
            while command := (await asyncio.to_thread(sys.stdin.readline)).strip():
                if command == "stop":
                    service.stop()
                    break
                if command == "histories":
                    answer: Any = await histories(repository, session_ids)
                else:
                    answer = sum(map(len, service.written.values()))
                print(json.dumps(answer), flush=True)
        print(json.dumps(service.written), flush=True)


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
