"""Sixteen writers, each of a user of its own, while slots move between nodes and while a node fails."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import redis
from redis.crc import key_slot

from sessions import AsyncChats, BackendUnavailableError, NewMessage, RetryConfig
from sessions.backends.redis.cluster import scope_of
from tests.faults.breakable import Valkey, running, wait_until
from tests.support.servers import free_port, meet

WRITERS = 16
USERS = [f"writer {number}" for number in range(WRITERS)]
RETRY = RetryConfig(max_elapsed=10.0)
# For a call with all its attempts, on a busy machine.
BOUND_SECONDS = RETRY.max_elapsed + 10.0


@dataclass
class Writer:
    """What one of them did."""

    user: str
    session_id: str
    acknowledged: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    longest: float = 0.0

    async def write(self, chats: AsyncChats, until: asyncio.Event) -> None:
        number = 0
        while not until.is_set():
            number += 1
            content = str(number)
            # One of four has an id that the caller gives, which is claimed first.
            given = f"{self.user} {number}" if number % 4 == 0 else None
            start = time.monotonic()
            try:
                await chats.add_messages(
                    self.user, self.session_id, [NewMessage("user", content, message_id=given)]
                )
            except BackendUnavailableError:
                self.failed.append(content)
            else:
                self.acknowledged.append(content)
            self.longest = max(self.longest, time.monotonic() - start)
            await asyncio.sleep(0.005)


@asynccontextmanager
async def writing(url: str, **options: Any) -> AsyncIterator[list[Writer]]:
    """Write until the block ends; then check what is stored."""
    async with AsyncChats(url, retry=RETRY, timeout=5.0, connect_timeout=2.0, **options) as chats:
        writers = [Writer(user, await chats.create_session(user)) for user in USERS]
        until = asyncio.Event()
        tasks = [asyncio.create_task(writer.write(chats, until)) for writer in writers]
        try:
            yield writers
        finally:
            until.set()
            await asyncio.gather(*tasks)
        for writer in writers:
            history = await chats.get_session_history(writer.user, writer.session_id)
            stored = Counter(message.content for message in history)
            assert max(stored.values()) == 1, "a message is doubled"
            assert stored.keys() >= set(writer.acknowledged), "an acknowledged message is lost"
            assert stored.keys() <= {*writer.acknowledged, *writer.failed}
            assert writer.longest < BOUND_SECONDS
            found = await chats.get_session(writer.user, writer.session_id)
            assert found is not None
            assert found.version == len(history)
        assert await count(chats) == WRITERS


async def count(chats: AsyncChats) -> int:
    return len([found async for found in chats.admin.iter_sessions()])


async def until_each_wrote(writers: list[Writer], more: int = 3) -> None:
    """Wait until each writer has written so many messages more."""
    goals = [len(writer.acknowledged) + more for writer in writers]
    async with asyncio.timeout(60):
        while any(len(writer.acknowledged) < goal for writer, goal in zip(writers, goals, strict=True)):
            await asyncio.sleep(0.02)


@contextmanager
def cluster(*, replicas: bool) -> Iterator[list[Valkey]]:
    """Yield the three primaries of a cluster, and with ``replicas`` one replica of each."""
    nodes = [
        Valkey(
            *("--cluster-enabled", "yes", "--databases", "1", "--cluster-port", str(free_port())),
            *("--cluster-node-timeout", "1500", "--cluster-replica-validity-factor", "0"),
        )
        for _ in range(6 if replicas else 3)
    ]
    with running(*nodes):
        meet([node.url for node in nodes[:3]], [node.url for node in nodes[3:]])
        yield nodes


def url_of(nodes: list[Valkey]) -> str:
    return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in nodes)


def slots_of_users() -> list[int]:
    """Return the slots of the writers' users."""
    return sorted({key_slot(scope_of("sessions", user.replace(" ", "%20")).encode()) for user in USERS})


class Mover:
    """Moves slots between the nodes of a cluster."""

    def __init__(self, nodes: list[Valkey]) -> None:
        self._stack = ExitStack()
        self.clients = [
            self._stack.enter_context(redis.Redis(port=node.port, decode_responses=True)) for node in nodes
        ]
        self.ids = [client.execute_command("CLUSTER", "MYID") for client in self.clients]
        self.ports = [node.port for node in nodes]

    def close(self) -> None:
        self._stack.close()

    def owner(self, slot: int) -> int:
        for first, last, (_, port, *_), *_ in self.clients[0].execute_command("CLUSTER", "SLOTS"):
            if first <= slot <= last:
                return self.ports.index(port)
        raise AssertionError("no node has the slot")

    def move_key_by_key(self, slot: int, to: int) -> None:
        """Move a slot as `redis-cli --cluster reshard` does, with a pause between two keys."""
        source, target = self.owner(slot), to
        if source == target:
            return
        self.clients[target].execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", self.ids[source])
        self.clients[source].execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", self.ids[target])
        while keys := self.clients[source].execute_command("CLUSTER", "GETKEYSINSLOT", slot, 1):
            self.clients[source].execute_command(
                "MIGRATE", "127.0.0.1", self.ports[target], "", 0, 5000, "KEYS", *keys
            )
            time.sleep(0.005)
        for place in (target, source, *({0, 1, 2} - {source, target})):
            self.clients[place].execute_command("CLUSTER", "SETSLOT", slot, "NODE", self.ids[target])

    def move_atomically(self, slot: int, to: int) -> None:
        """Move a slot with one command, which Valkey 9 has."""
        source = self.owner(slot)
        if source == to:
            return
        self.clients[source].execute_command(
            "CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", self.ids[to]
        )
        wait_until(lambda: self._has(to, slot), lambda: "the slot did not move")

    def _has(self, place: int, slot: int) -> bool:
        for first, last, (_, port, *_), *_ in self.clients[place].execute_command("CLUSTER", "SLOTS"):
            if first <= slot <= last:
                return bool(port == self.ports[place])
        return False


async def _move(
    nodes: list[Valkey], writers: list[Writer], how: Callable[[Mover, int, int], None], amount: int = WRITERS
) -> None:
    mover = Mover(nodes)
    try:
        for to in (0, 1):
            for slot in slots_of_users()[:amount]:
                await asyncio.to_thread(how, mover, slot, to)
            await until_each_wrote(writers)
    finally:
        mover.close()


@pytest.mark.parametrize("amount", [2, pytest.param(WRITERS, marks=pytest.mark.full_size)])
async def test_nothing_is_lost_or_doubled_while_slots_move_key_by_key(amount: int) -> None:
    with cluster(replicas=False) as nodes:
        async with writing(url_of(nodes)) as writers:
            await until_each_wrote(writers)
            await _move(nodes, writers, Mover.move_key_by_key, amount)
        assert not any(writer.failed for writer in writers)


@pytest.mark.full_size
async def test_nothing_is_lost_or_doubled_while_slots_move_at_once() -> None:
    with cluster(replicas=False) as nodes:
        async with writing(url_of(nodes)) as writers:
            await until_each_wrote(writers)
            await _move(nodes, writers, Mover.move_atomically)
        assert not any(writer.failed for writer in writers)


@pytest.mark.full_size
async def test_nothing_that_replicas_have_is_lost_when_one_is_promoted() -> None:
    with cluster(replicas=True) as nodes:
        async with writing(url_of(nodes[:3]), wait_replicas=1) as writers:
            await until_each_wrote(writers)
            nodes[0].kill()
            # Writers on other nodes go on. The promoted replica has none, so it acknowledges nothing.
            with redis.Redis(port=nodes[3].port, decode_responses=True) as replica:
                await asyncio.to_thread(
                    wait_until,
                    lambda: replica.info("replication")["role"] == "master",
                    lambda: "the replica was not promoted",
                )
            nodes[0].start()
            await until_each_wrote(writers)
