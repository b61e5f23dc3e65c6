from __future__ import annotations

import asyncio
import logging
import socket
import time
import traceback
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import pytest
from bson import ObjectId
from pymongo import ASCENDING, MongoClient
from pymongo.errors import WriteError

from sessions import (
    BackendUnavailableError,
    ChatMessage,
    ChatSession,
    ConfigurationError,
    RetryConfig,
    SessionNotFoundError,
    SessionRepositoryFactory,
    SessionsError,
)
from tests.support.databases import in_database, mongodb_client
from tests.support.servers import free_port
from tests.support.timing import within

SECRET = "hunter2-Zq9"
CONTENT = "a-very-private-thing-to-say"
ONE_TRY = RetryConfig(max_attempts=1)


def repository(url: str | None = None, **options: Any) -> Any:
    return SessionRepositoryFactory.create_repository("mongodb", url=url, **options)


def database_name(url: str) -> str:
    return urlsplit(url).path.removeprefix("/")


async def close_calmly(repo: Any) -> None:
    """Close a repository whose server cannot be reached.

    PyMongo does not close a socket that is connecting when its client is closed, and Python's
    warning about it would fail another test. This is most likely right after a failure.
    """
    await asyncio.sleep(0.1)
    await repo.aclose()


def everything_shown(error: BaseException) -> str:
    chain = [error]
    while (linked := chain[-1].__cause__ or chain[-1].__context__) is not None:
        if chain[-1].__suppress_context__ and chain[-1].__cause__ is None:
            break
        chain.append(linked)
    texts = [text for link in chain for text in (str(link), repr(link))]
    return "\n".join([*texts, *traceback.format_exception(error)])


# --- which database --------------------------------------------------------------------------------


async def test_the_database_of_the_url_is_used(url: str, raw: Any) -> None:
    async with repository(url) as repo:
        session_id = await repo.create_session_async("u")

    assert raw.chat_sessions.find_one()["session_id"] == session_id


async def test_a_url_without_a_database_takes_the_one_given_beside_it(url: str, raw: Any) -> None:
    async with repository(in_database(url, ""), database=database_name(url)) as repo:
        await repo.create_session_async("u")

    assert raw.chat_sessions.count_documents({}) == 1


async def test_a_url_without_a_database_takes_the_configured_one(
    url: str, raw: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MONGODB_DB", database_name(url))

    async with repository(in_database(url, "")) as repo:
        await repo.create_session_async("u")

    assert raw.chat_sessions.count_documents({}) == 1


async def test_the_database_of_the_url_wins_over_the_configured_one(
    url: str, raw: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MONGODB_DB", "never_written_to")

    async with repository(url) as repo:
        await repo.create_session_async("u")

    assert raw.chat_sessions.count_documents({}) == 1
    assert "never_written_to" not in raw.client.list_database_names()


async def test_the_parts_are_taken_from_the_environment(
    mongodb_standalone_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = urlsplit(mongodb_standalone_url)
    monkeypatch.setenv("MONGODB_HOST", split.hostname or "")
    monkeypatch.setenv("MONGODB_PORT", str(split.port))
    monkeypatch.setenv("MONGODB_DB", database_name(mongodb_standalone_url))

    async with repository() as repo:
        await repo.create_session_async("u")

    async with repository(mongodb_standalone_url) as repo:
        assert await repo.count_sessions("u") == 1


async def test_the_url_is_taken_from_the_environment_and_wins_over_the_parts(
    url: str, raw: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MONGODB_URL", url)
    monkeypatch.setenv("MONGODB_HOST", "192.0.2.1")

    async with repository() as repo:
        await repo.create_session_async("u")

    assert raw.chat_sessions.count_documents({}) == 1


async def test_two_databases_are_used_interleaved_and_kept_apart(url: str) -> None:
    urls = [in_database(url, f"{database_name(url)}_{number}") for number in range(2)]
    repos = [repository(one) for one in urls]
    session_id = str(uuid.uuid4())
    try:
        for number, repo in enumerate(repos):
            assert await repo.ensure_session_exists(session_id, f"u{number}", {"title": f"T{number}"})
        await asyncio.gather(
            *(
                repos[step % 2].add_message(session_id, "user", f"{step % 2}: {step}", user_id=f"u{step % 2}")
                for step in range(60)
            )
        )

        for number, repo in enumerate(repos):
            history = await repo.get_session_history(f"u{number}", session_id)
            assert len(history) == 30
            assert {item.content[0] for item in history} == {str(number)}
            assert await repo.get_session_history(f"u{1 - number}", session_id) == []
            assert (await repo.get_session(f"u{number}", session_id)).title == f"T{number}"
        assert await repos[0].delete_session_async("u0", session_id)
        assert len(await repos[1].get_session_history("u1", session_id)) == 30
    finally:
        for repo in repos:
            await repo.aclose()
        with MongoClient(url) as client:
            for one in urls:
                client.drop_database(database_name(one))


# --- invalid URLs, absent servers ------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad",
    [
        f"http://u:{SECRET}@h/d",
        f"u:{SECRET}@h/d",
        f"mongodb:/u:{SECRET}@h/d",
        f"mongodb://u:{SECRET}@h:port/d",
        f"mongodb://u:{SECRET}@h:99999/d",
        f"mongodb://u:{SECRET}/not-escaped@h/d",
        f"mongodb://u:not@escaped:{SECRET}@h/d",
        "mongodb://",
    ],
)
async def test_an_invalid_url_is_a_configuration_error_that_does_not_show_it(bad: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        await repository(bad, retry=ONE_TRY, connect_timeout=0.2).count_sessions("u")

    assert "db.mongodb" in str(caught.value)
    assert SECRET not in everything_shown(caught.value)


async def test_a_wrong_password_is_a_configuration_error_without_the_password(
    mongodb_standalone_url: str,
) -> None:
    split = urlsplit(mongodb_standalone_url)
    bad = f"mongodb://nobody:{SECRET}@{split.netloc}{split.path}?authSource=admin"

    repo = repository(bad)
    with pytest.raises(ConfigurationError, match="code 18") as caught:
        await repo.count_sessions("u")
    await close_calmly(repo)

    assert caught.value.__cause__ is not None
    assert SECRET not in everything_shown(caught.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "no-such-host.invalid"])
async def test_no_server_is_unavailable_after_connect_timeout(host: str) -> None:
    repo = repository(
        f"mongodb://u:{SECRET}@{host}:{free_port()}/d",
        connect_timeout=0.5,
        retry=RetryConfig(max_attempts=3, base_delay=0.01),
    )

    with within(1.5), pytest.raises(BackendUnavailableError) as caught:
        await repo.count_sessions("u")
    await close_calmly(repo)

    assert caught.value.__cause__ is not None
    assert SECRET not in everything_shown(caught.value)


async def test_a_server_that_never_responds_is_unavailable_after_connect_timeout() -> None:
    # The kernel accepts connections, and nothing reads from them.
    with socket.create_server(("127.0.0.1", 0), backlog=100) as server:
        repo = repository(f"mongodb://127.0.0.1:{server.getsockname()[1]}/d", connect_timeout=0.3)
        with within(1), pytest.raises(BackendUnavailableError):
            await repo.count_sessions("u")
        assert await repo.is_healthy() is False
    await close_calmly(repo)


async def test_health_is_true_if_the_server_accepts_writes_and_false_without_a_server(url: str) -> None:
    async with repository(url) as repo:
        assert await repo.is_healthy() is True
    repo = repository(f"mongodb://127.0.0.1:{free_port()}/d", connect_timeout=0.2)
    assert await repo.is_healthy() is False
    await close_calmly(repo)


async def test_an_exhausted_pool_is_unavailable_after_pool_timeout_and_recovers(url: str) -> None:
    async with repository(url, pool_size=1, pool_timeout=0.3) as repo:
        connection = await repo._connection_manager.connect()
        over = asyncio.Event()
        working = asyncio.create_task(connection.run(over.wait))
        started = time.monotonic()
        with within(0.3), pytest.raises(BackendUnavailableError, match="pool_timeout") as caught:
            await repo.count_sessions("u")
        took = time.monotonic() - started
        over.set()
        await working

        assert took >= 0.3
        assert caught.value.__cause__ is not None
        assert await repo.count_sessions("u") == 0


async def test_options_of_the_url_win_over_the_settings(url: str) -> None:
    separator = "&" if "?" in url else "?"
    async with repository(f"{url}{separator}maxPoolSize=3&APPNAME=mine", pool_size=7) as repo:
        options = (await repo._connection_manager.connect()).client.options.pool_options

        assert (options.max_pool_size, options.appname) == (3, "mine")


# --- what is never shown ---------------------------------------------------------------------------


async def test_no_error_and_no_log_shows_the_content_of_a_message(
    url: str, raw: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    logging.getLogger("pymongo").setLevel(logging.INFO)  # Its debug log contains every command.
    async with repository(url) as repo:
        session_id = await repo.create_session_async("u", {"title": CONTENT})
        await repo.add_message(session_id, "user", CONTENT)
        # The server's report of this error quotes the document.
        for name, key in (("chat_messages", "content"), ("chat_sessions", "title")):
            raw.command("collMod", name, validator={key: {"$not": {"$regex": "private"}}})
        errors: list[BaseException] = []
        for call in (
            repo.add_message(session_id, "user", CONTENT),
            repo.add_messages(session_id, [("user", "fine"), ("user", CONTENT)]),
            repo.create_session_async("u", {"title": CONTENT, "metadata": {"k": CONTENT}}),
        ):
            with pytest.raises(SessionsError) as caught:
                await call
            errors.append(caught.value)

    for error in errors:
        assert isinstance(error, BackendUnavailableError)
        assert error.__cause__ is not None
        assert CONTENT not in everything_shown(error)
    assert CONTENT not in caplog.text


# --- a service's own client ------------------------------------------------------------------------


async def test_a_services_own_client_is_used_and_not_closed(url: str, raw: Any) -> None:
    async with mongodb_client(url) as client:
        async with repository(client=client) as repo:
            session_id = await repo.create_session_async("u", {"title": "T"})
            assert (await repo._connection_manager.connect()).client is client

        assert raw.chat_sessions.find_one()["title"] == "T"
        assert (await client.admin.command("ping"))["ok"] == 1
        assert (await repo.get_session("u", session_id)).title == "T"


async def test_a_database_given_with_a_client_wins_over_that_of_its_url(url: str, raw: Any) -> None:
    async with mongodb_client(in_database(url, "never_written_to")) as client:
        repo = repository(client=client, database=database_name(url))
        await repo.create_session_async("u")

        assert raw.chat_sessions.count_documents({}) == 1
        assert "never_written_to" not in raw.client.list_database_names()


async def test_the_datetime_options_of_a_services_client_are_not_changed(url: str) -> None:
    async with mongodb_client(url, tz_aware=False) as client:
        repo = repository(client=client)
        session_id = await repo.create_session_async("u")

        assert (await repo.get_session("u", session_id)).created_at.tzinfo is not None
        found = await client.get_default_database().chat_sessions.find_one()
        assert found["created_at"].tzinfo is None


# --- data from before ------------------------------------------------------------------------------

MOMENT = datetime(2024, 5, 6, 7, 8, 9, 123000)


@pytest.fixture
def old_data(raw: Any) -> None:
    """Two sessions and their messages as an earlier service wrote them."""
    raw.chat_sessions.insert_many(
        [
            {
                "session_id": "chat:1",
                "title": "Old",
                "user_id": "ann@example.org",
                "created_at": MOMENT,
                "updated_at": MOMENT + timedelta(hours=1),
            },
            {
                "_id": ObjectId(),
                "session_id": "chat:2",
                "title": "Older",
                "user_id": "ann@example.org",
                "created_at": MOMENT,
                "updated_at": MOMENT,
                "metadata": None,
                "revision_id": None,
            },
        ]
    )
    raw.chat_messages.insert_many(
        [
            {
                "message_id": f"m-{number}",
                "session_id": "chat:1",
                "role": ("user", "assistant")[number % 2],
                "content": f"text {number}",
                "timestamp": MOMENT + timedelta(seconds=number),
            }
            for number in (2, 0, 1)
        ]
    )


@pytest.mark.usefixtures("old_data")
class TestExistingData:
    async def test_is_read_unchanged(self, url: str) -> None:
        moment = MOMENT.replace(tzinfo=UTC)
        async with repository(url) as repo:
            assert await repo.get_session("ann@example.org", "chat:1") == ChatSession(
                session_id="chat:1",
                title="Old",
                user_id="ann@example.org",
                created_at=moment,
                updated_at=moment + timedelta(hours=1),
                metadata={},
            )
            assert await repo.get_session_history("ann@example.org", "chat:1") == [
                ChatMessage(
                    f"m-{number}",
                    "chat:1",
                    ("user", "assistant")[number % 2],
                    f"text {number}",
                    moment + timedelta(seconds=number),
                )
                for number in range(3)
            ]

    async def test_without_metadata_has_an_empty_object_everywhere(self, url: str) -> None:
        async with repository(url) as repo:
            listed = await repo.list_paginated_sessions_async("ann@example.org")
            page = await repo.list_sessions("ann@example.org")
            exported = [chat_session async for chat_session, _ in repo.export_user("ann@example.org")]

        assert [item.session_id for item in listed] == ["chat:1", "chat:2"]
        assert page.sessions == listed
        assert exported == listed[::-1]
        assert [item.metadata for item in listed] == [{}, {}]

    async def test_can_be_paged_by_ids_that_are_no_uuids(self, url: str) -> None:
        async with repository(url) as repo:
            first = await repo.list_sessions("ann@example.org", limit=1)
            second = await repo.list_sessions("ann@example.org", limit=1, cursor=first.next_cursor)
            newest = await repo.get_session_history("ann@example.org", "chat:1", limit=1)
            before = await repo.get_session_history("ann@example.org", "chat:1", limit=5, before="m-2")

        assert [item.session_id for page in (first, second) for item in page.sessions] == ["chat:1", "chat:2"]
        assert second.next_cursor is None
        assert [item.message_id for item in newest] == ["m-2"]
        assert [item.message_id for item in before] == ["m-0", "m-1"]

    async def test_can_be_written_to(self, url: str, raw: Any) -> None:
        async with repository(url) as repo:
            assert await repo.ensure_session_exists("chat:2", "ann@example.org") is False
            message_id = await repo.add_message("chat:1", "user", "new", user_id="ann@example.org")
            assert await repo.update_session_async("ann@example.org", "chat:2", {"metadata": {"a": 1}})

            history = await repo.get_session_history("ann@example.org", "chat:1")
            assert [item.message_id for item in history] == ["m-0", "m-1", "m-2", message_id]
            assert (await repo.get_session("ann@example.org", "chat:2")).metadata == {"a": 1}
        assert "revision_id" in raw.chat_sessions.find_one({"session_id": "chat:2"})

    async def test_can_be_deleted_with_its_messages(self, url: str, raw: Any) -> None:
        async with repository(url) as repo:
            assert await repo.delete_session_async("ann@example.org", "chat:1")

        assert raw.chat_messages.count_documents({}) == 0
        assert [item["session_id"] for item in raw.chat_sessions.find()] == ["chat:2"]

    async def test_is_not_changed_by_connecting_and_reading(self, url: str, raw: Any) -> None:
        before = [list(raw[name].find().sort("_id")) for name in ("chat_sessions", "chat_messages")]

        async with repository(url) as repo:
            await repo.get_session_history("ann@example.org", "chat:1")
            await repo.list_sessions("ann@example.org")

        assert [list(raw[name].find().sort("_id")) for name in ("chat_sessions", "chat_messages")] == before


async def test_a_session_that_breaks_the_validator_can_still_be_changed_and_deleted(
    url: str, raw: Any
) -> None:
    raw.chat_sessions.insert_one(
        {
            "session_id": "old",
            "title": "",
            "user_id": "u",
            "created_at": MOMENT,
            "updated_at": MOMENT,
            "metadata": [],
        }
    )
    async with repository(url) as repo:
        assert (await repo.get_session("u", "old")).metadata in ({}, [])
        assert await repo.update_session_async("u", "old", {"metadata": {"a": 1}})
        await repo.add_message("old", "user", "hello")
        assert await repo.delete_session_async("u", "old")


# --- indexes ---------------------------------------------------------------------------------------


def make_old_indexes(raw: Any) -> None:
    raw.chat_sessions.create_index("user_id")
    raw.chat_sessions.create_index("session_id", unique=True)
    raw.chat_messages.create_index("session_id")
    raw.chat_messages.create_index([("session_id", ASCENDING), ("timestamp", ASCENDING)])


async def test_existing_single_field_indexes_do_not_prevent_startup(url: str, raw: Any) -> None:
    make_old_indexes(raw)

    async with repository(url) as repo:
        session_id = await repo.create_session_async("u")
        await repo.add_message(session_id, "user", "hello")
        assert await repo.count_sessions("u") == 1

    assert set(raw.chat_sessions.index_information()) == {
        "_id_",
        "user_id_1",
        "session_id_1",
        "user_id_1_updated_at_-1_session_id_1",
    }
    assert set(raw.chat_messages.index_information()) == {
        "_id_",
        "session_id_1",
        "session_id_1_timestamp_1",
        "session_id_1_timestamp_1_write_order_1_message_id_1",
    }


async def test_the_first_call_creates_the_indexes_and_validators_and_later_ones_create_nothing(
    url: str, raw: Any
) -> None:
    for _ in range(2):
        async with repository(url) as repo:
            await repo.count_sessions("u")
        indexes = {
            name: {tuple(index["key"]) for index in raw[name].index_information().values()}
            for name in ("chat_sessions", "chat_messages")
        }
        assert indexes == {
            "chat_sessions": {
                (("_id", 1),),
                (("session_id", 1),),
                (("user_id", 1), ("updated_at", -1), ("session_id", 1)),
            },
            "chat_messages": {
                (("_id", 1),),
                (("session_id", 1), ("timestamp", 1), ("write_order", 1), ("message_id", 1)),
            },
        }
        assert raw.chat_sessions.index_information()["session_id_1"]["unique"] is True
        for name in ("chat_sessions", "chat_messages"):
            assert "$jsonSchema" in raw[name].options()["validator"]


async def test_a_repository_of_one_database_ignores_its_other_collections(url: str, raw: Any) -> None:
    raw.users.insert_one({"name": "ann"})

    async with repository(url) as repo:
        await repo.create_session_async("u")

    assert sorted(raw.list_collection_names()) == ["chat_messages", "chat_sessions", "users"]
    assert raw.users.options() == {}


# --- the validator ---------------------------------------------------------------------------------


def message(**changes: Any) -> dict[str, Any]:
    return {
        "message_id": "m",
        "session_id": "s",
        "role": "user",
        "content": "c",
        "timestamp": MOMENT,
    } | changes


@pytest.mark.parametrize(
    "changes",
    [
        {"role": "critic"},
        {"role": None},
        {"content": 5},
        {"content": None},
        {"message_id": ""},
        {"session_id": {"$x": 1}},
        {"timestamp": "yesterday"},
    ],
)
async def test_the_server_refuses_a_bad_message_from_any_client(
    url: str, raw: Any, changes: dict[str, Any]
) -> None:
    async with repository(url) as repo:
        await repo.count_sessions("u")

    with pytest.raises(WriteError) as caught:
        raw.chat_messages.insert_one(message(**changes))

    assert caught.value.code == 121  # DocumentValidationFailure
    raw.chat_messages.insert_one(message())


@pytest.mark.parametrize(
    "changes",
    [
        {"title": ""},
        {"title": "x" * 256},
        {"user_id": 5},
        {"metadata": []},
        {"updated_at": "now"},
        {"session_id": ""},
    ],
)
async def test_the_server_refuses_a_bad_session_from_any_client(
    url: str, raw: Any, changes: dict[str, Any]
) -> None:
    good = {"session_id": "s", "title": "T", "user_id": "u", "created_at": MOMENT, "updated_at": MOMENT}
    async with repository(url) as repo:
        await repo.count_sessions("u")

    with pytest.raises(WriteError) as caught:
        raw.chat_sessions.insert_one(good | changes)

    assert caught.value.code == 121
    raw.chat_sessions.insert_one(good)


async def test_the_server_counts_characters_where_the_package_does(url: str) -> None:
    async with repository(url) as repo:
        title, user_id = "😀" * 255, "ü" * 255
        session_id = await repo.create_session_async(user_id, {"title": title})

        assert (await repo.get_session(user_id, session_id)).title == title


async def test_an_existing_database_gets_the_validator_too(url: str, raw: Any) -> None:
    raw.chat_messages.insert_one(message(role="critic"))

    async with repository(url) as repo:
        await repo.count_sessions("u")

    with pytest.raises(WriteError):
        raw.chat_messages.insert_one(message(role="critic"))
    assert raw.chat_messages.count_documents({}) == 1


# --- metadata that looks like BSON's own -----------------------------------------------------------


@pytest.mark.parametrize(
    "metadata",
    [
        {"$ref": "#/definitions/a"},
        {"$ref": "c", "$id": 5},
        {"$ref": "c", "$id": "x", "$db": "d"},
        {"$ref": "c", "$id": "x", "$db": "d", "more": [1, {"$ref": "c", "$id": None}]},
        {"schema": {"$id": "https://example.org/s.json", "$ref": "c", "type": "object"}},
        {"deep": [{"$ref": "a", "$id": {"$ref": "b", "$id": 1}}]},
        {"$oid": "507f1f77bcf86cd799439011", "$date": "2024", "$numberLong": "5"},
        {"$set": {"a.b": 1}, "a.b": {"c.d": 2}, "": {"": 1}},
        {"_id": "x", "big": 2**62, "small": 1, "float": 1.0},
    ],
)
async def test_any_keys_are_returned_unchanged(url: str, metadata: dict[str, Any]) -> None:
    async with repository(url) as repo:
        session_id = await repo.create_session_async("u", {"metadata": metadata})
        other_id = await repo.create_session_async("u")
        assert await repo.update_session_async("u", other_id, {"metadata": metadata})

        for one in (session_id, other_id):
            found = (await repo.get_session("u", one)).metadata
            assert found == metadata
            assert _types(found) == _types(metadata)


def _types(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _types(item) for key, item in value.items()}, type(value)
    if isinstance(value, list):
        return [_types(item) for item in value]
    return type(value)


@pytest.mark.parametrize("session_id", ["$ne", "a.b", "x" * 255, " ", "😀", "507f1f77bcf86cd799439011"])
async def test_any_text_of_1_to_255_characters_is_a_session_id(url: str, session_id: str) -> None:
    async with repository(url) as repo:
        with pytest.raises(SessionNotFoundError):
            await repo.add_message(session_id, "user", "hello")
        assert await repo.ensure_session_exists(session_id, "u") is True
        assert await repo.ensure_session_exists(session_id, "u") is False
        await repo.add_message(session_id, "user", "hello")

        assert (await repo.get_session("u", session_id)).session_id == session_id
        assert [item.content for item in await repo.get_session_history("u", session_id)] == ["hello"]
