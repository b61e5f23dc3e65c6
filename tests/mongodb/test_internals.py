"""The private parts of PyMongo and Beanie that `sessions.backends.mongodb` uses behave as it expects."""

from __future__ import annotations

import asyncio
from typing import Any

from bson import ObjectId

from sessions.backends.mongodb.internals import connections_idle, connections_in_use, parts_of
from sessions.models.documents import ChatMessageDocument, ChatSessionDocument
from tests.support.databases import mongodb_client


async def test_the_connection_of_a_command_under_way_counts_as_in_use(mongodb_url: str) -> None:
    async with mongodb_client(mongodb_url) as client:
        assert (connections_in_use(client), connections_idle(client)) == (0, 0)  # Never connected.
        collection = client.get_default_database("test").slow
        await collection.insert_one({})
        assert (connections_in_use(client), connections_idle(client)) == (0, 1)
        found: set[int] = set()
        async with asyncio.timeout(60):
            while 1 not in found:  # A busy machine may not look before the command is over.
                slow = asyncio.ensure_future(collection.find_one({"$where": "sleep(500) || true"}))
                while not slow.done():
                    await asyncio.sleep(0.01)
                    found.add(connections_in_use(client))
        assert found <= {0, 1}
        assert connections_in_use(client) == 0


async def test_a_client_consists_of_what_a_fork_must_leave_alone(mongodb_url: str) -> None:
    async with mongodb_client(mongodb_url) as client:
        await client.admin.command("ping")
        parts = parts_of(client)
        inner = getattr(client, "delegate", None) if type(client).__module__.startswith("motor") else client
        held = parts_of(inner)
        assert inner is client or inner in parts
        # The topology references the pools and the monitors of the servers.
        assert any(part is inner._topology for part in held)


async def test_a_client_tells_the_size_of_its_pool_and_how_long_a_checkout_waits(mongodb_url: str) -> None:
    joint = "&" if "?" in mongodb_url else "?"
    async with mongodb_client(f"{mongodb_url}{joint}maxPoolSize=7&waitQueueTimeoutMS=1500") as client:
        options = client.options.pool_options
        assert (options.max_pool_size, options.wait_queue_timeout) == (7, 1.5)
    async with mongodb_client(mongodb_url) as client:
        assert client.options.pool_options.wait_queue_timeout is None


async def descriptions(client: Any) -> list[Any]:
    await client.admin.command("ping")
    return list(client.topology_description.server_descriptions().values())


async def test_a_primary_has_an_election_and_a_process(mongodb_url: str) -> None:
    async with mongodb_client(mongodb_url) as client:
        [primary] = [found for found in await descriptions(client) if found.server_type_name == "RSPrimary"]
        assert isinstance(primary.election_id, ObjectId)
        assert isinstance(primary.topology_version["processId"], ObjectId)
        assert primary.error is None


async def test_a_standalone_server_has_a_process(mongodb_standalone_url: str) -> None:
    async with mongodb_client(mongodb_standalone_url) as client:
        [server] = await descriptions(client)
        assert server.server_type_name == "Standalone"
        assert server.election_id is None
        assert isinstance(server.topology_version["processId"], ObjectId)


def test_a_document_has_settings_without_a_service_s_init_beanie() -> None:
    for document in (ChatSessionDocument, ChatMessageDocument):
        settings = document.get_settings()
        assert settings.name == document.Settings.name
        assert settings is document.get_settings()
