"""Users of MongoDB's built-in roles: a reader, a writer that may not set validators, and one that may."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from pymongo import IndexModel, MongoClient

from sessions import ConfigurationError, SessionRepositoryFactory
from tests.services.reading import assert_refused, converse, read_everything
from tests.support.mongodb_with_users import DATABASE, PASSWORD, mongodb_with_users


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with mongodb_with_users() as port:
        yield port


@pytest.fixture
def raw(port: int) -> Iterator[Any]:
    """The database; it is dropped, but its users are kept."""
    with MongoClient[dict[str, Any]](port=port, username="root", password=PASSWORD) as client:
        yield client[DATABASE]
        for name in client[DATABASE].list_collection_names():
            client[DATABASE].drop_collection(name)


def repository(port: int, role: str) -> Any:
    url = f"mongodb://{role}:{PASSWORD}@127.0.0.1:{port}/{DATABASE}"
    return SessionRepositoryFactory.create_repository("mongodb", url=url)


async def test_a_user_who_may_only_read_reads_and_is_refused_each_write(port: int, raw: Any) -> None:
    async with repository(port, "dbAdmin") as writer:
        session_id = await converse(writer)

    async with repository(port, "read") as reader:
        await read_everything(reader, session_id)
        await assert_refused(reader, session_id, r"the user may not do this \(code 13\)$")


async def test_a_reader_beside_a_writer_that_may_not_set_the_validator_reads(port: int, raw: Any) -> None:
    async with repository(port, "readWrite") as writer:
        session_id = await converse(writer)
    assert "validator" not in raw.chat_sessions.options()

    async with repository(port, "read") as reader:
        await read_everything(reader, session_id)


async def test_a_reader_where_an_index_is_missing_is_refused(port: int, raw: Any) -> None:
    raw.create_collection("chat_sessions")
    raw.create_collection("chat_messages")

    async with repository(port, "read") as reader:
        with pytest.raises(ConfigurationError, match="code 13"):
            await reader.count_sessions("ann")


async def test_a_writer_that_may_not_set_the_validator_is_warned_and_continues(
    port: int, raw: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="sessions"):
        async with repository(port, "readWrite") as repo:
            session_id = await converse(repo)
            assert await repo.delete_session_async("ann", session_id)

    assert [record.getMessage() for record in caplog.records] == [
        f"the user may not set the validator of {name} (collMod); it stays as it is"
        for name in ("chat_sessions", "chat_messages")
    ]
    assert raw.chat_sessions.index_information()["session_id_1"]["unique"]


async def test_an_index_that_is_there_and_not_unique_is_left_alone_and_ours_is_made(
    port: int, raw: Any
) -> None:
    raw.chat_sessions.create_indexes([IndexModel("session_id"), IndexModel("user_id")])

    for _ in range(2):
        async with repository(port, "readWrite") as repo:
            assert await repo.ensure_session_exists("one", "ann") in (True, False)
            assert await repo.count_sessions("ann") == 1

    indexes = raw.chat_sessions.index_information()
    assert set(indexes) == {
        "_id_",
        "session_id_1",
        "user_id_1",
        "sessions_session_id_1",
        "user_id_1_updated_at_-1_session_id_1",
    }
    assert indexes["sessions_session_id_1"]["unique"]
    assert "unique" not in indexes["session_id_1"]


async def test_sessions_that_share_an_id_are_an_error_that_says_so(port: int, raw: Any) -> None:
    raw.chat_sessions.create_index("session_id")
    raw.chat_sessions.insert_many([{"session_id": "twice", "user_id": user} for user in ("ann", "bob")])

    with pytest.raises(
        ConfigurationError, match="several documents of chat_sessions have the same"
    ) as caught:
        await repository(port, "readWrite").count_sessions("ann")

    assert "twice" not in str(caught.value)
    assert raw.chat_sessions.count_documents({}) == 2
