"""A backend with one fault fails the contract's test for this fault."""

from __future__ import annotations

import asyncio
import dataclasses
import subprocess
import sys
import textwrap
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pymongo import AsyncMongoClient

from sessions import (
    ChatMessage,
    ChatSession,
    InvalidInputError,
    NewMessage,
    SessionConflictError,
    SessionRepositoryFactory,
    VersionConflictError,
)
from sessions.repositories.sqlite_session_repository import SqliteSessionRepository
from sessions.testing import (
    AsyncCaller,
    BaseRepositoryContract,
    MixedCaller,
    SessionRepositoryContract,
    count_checked_out,
)
from tests.contract.dict_backends import DictSessionRepository

# Seconds in which concurrent callers have read, also on a busy machine, before one of them writes.
OTHERS_READ = 0.1
FAILURE = (AssertionError, pytest.fail.Exception, InvalidInputError)


# -- The six operations ----------------------------------------------------------------------------


class ShowsForeignHistories(DictSessionRepository):
    async def get_session_history(self, user_id: str, session_id: str) -> list[ChatMessage]:
        return list(self._connection["messages"].get(session_id, []))


class DeletesForeignSessions(DictSessionRepository):
    def delete_session(self, user_id: str, session_id: str) -> bool:
        return self._connection["sessions"].pop(session_id, None) is not None


class MergesMetadata(DictSessionRepository):
    def update_session(self, user_id: str, session_id: str, data: dict[str, Any]) -> bool:
        found = self._find(user_id, session_id)
        if found and data.get("metadata"):
            data = data | {"metadata": found.metadata | data["metadata"]}
        return super().update_session(user_id, session_id, data)


class TakesUnknownKeys(DictSessionRepository):
    def update_session(self, user_id: str, session_id: str, data: dict[str, Any]) -> bool:
        known = {key: data[key] for key in ("title", "metadata") if key in data}
        return super().update_session(user_id, session_id, known)


class StoresWhatIsPassed(DictSessionRepository):
    def create_session(self, user_id: str, session_data: dict[str, Any] | None) -> str:
        session_id = super().create_session(user_id, session_data)
        if session_data and session_data.get("metadata"):
            self._connection["sessions"][session_id].metadata = session_data["metadata"]
        return session_id


class ReturnsNaiveTimes(DictSessionRepository):
    def list_paginated_sessions(self, user_id: str, page: int = 0, limit: int = 10) -> list[ChatSession]:
        return [
            dataclasses.replace(
                item,
                created_at=item.created_at.replace(tzinfo=None),
                updated_at=item.updated_at.replace(tzinfo=None),
            )
            for item in super().list_paginated_sessions(user_id, page, limit)
        ]


class DoesNotBump(DictSessionRepository):
    async def add_message(self, session_id: str, role: str, content: str) -> str:
        found = self._connection["sessions"].get(session_id)
        before = found and found.updated_at
        message_id = await super().add_message(session_id, role, content)
        found.updated_at = before
        return message_id


class CountsPagesFromOne(DictSessionRepository):
    def list_paginated_sessions(self, user_id: str, page: int = 1, limit: int = 10) -> list[ChatSession]:
        return super().list_paginated_sessions(user_id, max(page - 1, 0), limit)


class ReadsNewestFirst(DictSessionRepository):
    async def get_session_history(self, user_id: str, session_id: str) -> list[ChatMessage]:
        return (await super().get_session_history(user_id, session_id))[::-1]


class UnifiesUnicode(DictSessionRepository):
    async def add_message(self, session_id: str, role: str, content: str) -> str:
        return await super().add_message(session_id, role, content.replace("e\u0301", "\xe9"))


class MakesOrphans(DictSessionRepository):
    async def add_message(self, session_id: str, role: str, content: str) -> str:
        if session_id not in self._connection["sessions"]:
            return str(uuid.uuid4())
        return await super().add_message(session_id, role, content)


@pytest.mark.parametrize(
    ("faulty", "test"),
    [
        (ShowsForeignHistories, "a_foreign_session_looks_like_an_absent_one"),
        (DeletesForeignSessions, "a_foreign_session_looks_like_an_absent_one"),
        (MergesMetadata, "update_replaces_metadata_and_keeps_what_is_none_or_absent"),
        (TakesUnknownKeys, "bad_input_is_refused_by_name_and_stores_nothing"),
        (StoresWhatIsPassed, "what_is_stored_is_a_copy"),
        (ReturnsNaiveTimes, "a_session_comes_back_as_a_plain_dataclass"),
        (DoesNotBump, "a_message_bumps_updated_at_but_never_created_at"),
        (CountsPagesFromOne, "pages_list_every_session_once_and_the_latest_changed_first"),
        (ReadsNewestFirst, "messages_written_one_after_another_read_back_in_that_order"),
        (UnifiesUnicode, "content_comes_back_as_it_was"),
        (MakesOrphans, "a_message_to_an_absent_session_is_an_error_and_leaves_no_trace"),
    ],
)
async def test_a_fault_in_one_of_the_six_operations_is_found(
    faulty: type[DictSessionRepository], test: str
) -> None:
    contract = BaseRepositoryContract()
    await getattr(contract, f"test_{test}")(MixedCaller(DictSessionRepository()))
    with pytest.raises(FAILURE):
        await getattr(contract, f"test_{test}")(MixedCaller(faulty()))


# -- The others ------------------------------------------------------------------------------------


class HidesConflicts(SqliteSessionRepository):
    async def ensure_session_exists(self, *args: Any, **kwargs: Any) -> bool:
        try:
            return await super().ensure_session_exists(*args, **kwargs)
        except SessionConflictError:
            return False


class ChecksThenCreates(SqliteSessionRepository):
    async def ensure_session_exists(self, session_id: str, user_id: str, session_data: Any = None) -> bool:
        existed = await self.get_session(user_id, session_id)
        await asyncio.sleep(OTHERS_READ)
        await super().ensure_session_exists(session_id, user_id, session_data)
        return existed is None


class IgnoresTheOwner(SqliteSessionRepository):
    async def add_message(self, *args: Any, user_id: str | None = None) -> str:
        return await super().add_message(*args)


class LimitsFromTheStart(SqliteSessionRepository):
    async def get_session_history(
        self, user_id: str, session_id: str, *, limit: int | None = None, before: str | None = None
    ) -> list[ChatMessage]:
        return (await super().get_session_history(user_id, session_id, before=before))[:limit]


class StoresBatchesOneByOne(SqliteSessionRepository):
    async def add_messages(
        self, session_id: str, messages: Any, *, user_id: str | None = None, **_: Any
    ) -> list[str]:
        return [
            await self.add_message(session_id, role, content, user_id=user_id) for role, content in messages
        ]


class KeepsTheOldest(SqliteSessionRepository):
    async def keep_latest_sessions(self, user_id: str, keep_last_n: int) -> int:
        deleted = 0
        for chat_session in (await self.list_paginated_sessions_async(user_id, 0, 1000))[
            : -keep_last_n or None
        ]:
            deleted += await self.delete_session_async(user_id, chat_session.session_id)
        return deleted


class ForgetsEverybody(SqliteSessionRepository):
    async def delete_sessions_older_than(self, cutoff: Any, *, user_id: str | None = None) -> int:
        return await super().delete_sessions_older_than(cutoff)


class ExportsWholeSessions(SqliteSessionRepository):
    async def export_user(self, user_id: str) -> AsyncIterator[Any]:
        for chat_session in reversed(await self.list_paginated_sessions_async(user_id, 0, 1000)):
            yield chat_session, await self.get_session_history(user_id, chat_session.session_id)


class StoresRepeatedMessages(SqliteSessionRepository):
    async def add_message(self, *args: Any, message_id: Any = None, **options: Any) -> str:
        await super().add_message(*args, **options)
        return str(message_id)


class ForgetsThePayload(SqliteSessionRepository):
    async def add_message(self, *args: Any, payload: Any = None, **options: Any) -> str:
        return await super().add_message(*args, **options)


class ReadsThenMerges(SqliteSessionRepository):
    async def update_session_async(
        self, user_id: str, session_id: Any, data: Any = None, *, merge_metadata: Any = None, **options: Any
    ) -> bool:
        found = await self.get_session(user_id, session_id)
        await asyncio.sleep(OTHERS_READ)
        if found is not None and merge_metadata:
            data = {"metadata": found.metadata | merge_metadata}
        return await super().update_session_async(user_id, session_id, data, **options)


class ComparesThenWrites(SqliteSessionRepository):
    async def add_message(self, session_id: Any, *args: Any, **options: Any) -> str:
        expected = options.pop("expected_version", None)
        found = await self.get_session(options["user_id"], session_id)
        await asyncio.sleep(OTHERS_READ)
        if expected is not None and found is not None and found.version != expected:
            raise VersionConflictError("the session has another version")
        return await super().add_message(session_id, *args, **options)


class ReadsThenPops(SqliteSessionRepository):
    async def pop_message(self, user_id: str, session_id: Any) -> ChatMessage | None:
        newest = await self.get_session_history(user_id, session_id, limit=1)
        await asyncio.sleep(OTHERS_READ)
        await self.delete_messages(user_id, session_id, [message.message_id for message in newest])
        return newest[0] if newest else None


class ForksBackwards(SqliteSessionRepository):
    async def fork_session(self, user_id: str, session_id: Any, **options: Any) -> str:
        fork_id = await super().fork_session(user_id, session_id, **options)
        copied = await self.get_session_history(user_id, fork_id)
        batch: list[Any] = [NewMessage(each.role, each.content) for each in reversed(copied)]  # type: ignore[arg-type]
        await self.replace_messages(user_id, fork_id, batch)
        return fork_id


class TakesTruthForOne(SqliteSessionRepository):
    async def list_sessions(self, user_id: str, *, where: Any = None, **options: Any) -> Any:
        page = await super().list_sessions(user_id, **options)
        kept = [
            item
            for item in page.sessions
            if all(item.metadata.get(key) == value for key, value in (where or {}).items())
        ]
        return dataclasses.replace(page, sessions=kept)


class PreviewsTheFirstMessage(SqliteSessionRepository):
    async def list_session_previews(self, user_id: str, **options: Any) -> Any:
        page = await super().list_session_previews(user_id, **options)
        previews = []
        for item in page.previews:
            history = await self.get_session_history(user_id, item.session.session_id)
            previews.append(dataclasses.replace(item, last_message=history[0] if history else None))
        return dataclasses.replace(page, previews=previews)


@pytest.mark.parametrize(
    ("faulty", "test", "arguments"),
    [
        (StoresRepeatedMessages, "a_repeated_message_is_stored_once_and_returns_the_same_id", ()),
        (ForgetsThePayload, "payloads_come_back_equal", ()),
        (ReadsThenMerges, "concurrent_merges_of_different_keys_are_all_kept", ()),
        (
            ComparesThenWrites,
            "of_concurrent_writers_that_expect_the_same_version_one_succeeds",
            ("add a message",),
        ),
        (ReadsThenPops, "no_two_concurrent_pops_return_the_same_message", ()),
        (ForksBackwards, "a_fork_has_the_messages_up_to_the_named_one_under_new_ids", ()),
        (TakesTruthForOne, "a_condition_accepts_equal_values_alone", ()),
        (PreviewsTheFirstMessage, "previews_are_the_list_with_the_newest_messages", ()),
        (HidesConflicts, "ensure_on_an_id_of_another_user_is_a_conflict", ()),
        (ChecksThenCreates, "exactly_one_of_many_concurrent_callers_creates", ()),
        (IgnoresTheOwner, "the_owner_is_checked_where_one_is_named", ()),
        (LimitsFromTheStart, "a_limit_gives_the_newest_messages_oldest_first", ()),
        (StoresBatchesOneByOne, "bad_input_to_other_operations_is_refused_by_name_and_stores_nothing", ()),
        (KeepsTheOldest, "keep_latest_keeps_the_head_of_the_list", ()),
        (ForgetsEverybody, "sessions_last_changed_before_the_cutoff_go", ("user-1",)),
        (ExportsWholeSessions, "a_long_session_is_exported_in_parts_of_at_most_1000_messages", ()),
    ],
)
async def test_a_fault_in_one_of_the_other_operations_is_found(
    faulty: type[SqliteSessionRepository], test: str, arguments: tuple[Any, ...], tmp_path: Path
) -> None:
    contract = SessionRepositoryContract()
    for number, repository_class in enumerate((SqliteSessionRepository, faulty)):
        async with repository_class(url=f"sqlite:///{tmp_path}/{number}.db") as repository:
            calling = getattr(contract, f"test_{test}")(AsyncCaller(repository), *arguments)
            if repository_class is faulty:
                with pytest.raises(FAILURE):
                    await calling
            else:
                await calling


async def test_twins_that_differ_are_found(sqlite_url: str) -> None:
    with pytest.raises(AssertionError, match="takes other arguments"):
        await SessionRepositoryContract().test_async_and_blocking_operations_have_the_same_signatures(
            IgnoresTheOwner(url=sqlite_url)
        )


# -- What is left open -----------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["sqlite", "postgres"], indirect=True)
async def test_an_sql_connection_that_is_left_open_is_found(repository: Any) -> None:
    assert await repository.count_sessions("nobody") == 0
    assert count_checked_out(repository) == 0
    engine = await repository._connection_manager.connect()
    async with engine.connect():
        assert count_checked_out(repository) == 1
        with pytest.raises(AssertionError, match="checked out"):
            SessionRepositoryContract().assert_nothing_left_open(repository)
    assert count_checked_out(repository) == 0


async def test_a_mongodb_connection_that_is_left_open_is_found(mongodb_url: str) -> None:
    async with AsyncMongoClient(mongodb_url) as client:
        repository = SessionRepositoryFactory.create_repository("mongodb", client=client)
        assert await repository.count_sessions("nobody") == 0
        assert count_checked_out(repository) == 0
        [server] = client._topology._servers.values()
        async with server.pool.checkout():
            assert count_checked_out(repository) == 1
        assert count_checked_out(repository) == 0


# -- As another package uses it --------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["auto", "strict"])
def test_a_subclass_in_another_project_is_collected_and_runs(tmp_path: Path, mode: str) -> None:
    (tmp_path / "test_theirs.py").write_text(
        textwrap.dedent(
            """
            import pytest
            from tests.contract.dict_backends import DictSessionRepository
            from sessions.testing import BaseRepositoryContract, SessionRepositoryContract

            class TestTheirs(BaseRepositoryContract):
                @pytest.fixture
                def repository(self):
                    return DictSessionRepository()

            class TestFaulty(BaseRepositoryContract):
                @pytest.fixture
                def repository(self):
                    class Faulty(DictSessionRepository):
                        def delete_session(self, user_id, session_id):
                            return True
                    return Faulty()
            """
        )
    )
    command = [sys.executable, "-m", "pytest", "-q", "-o", f"asyncio_mode={mode}", "-W", "error"]
    command += ["-o", "asyncio_default_fixture_loop_scope=function", "--strict-markers", str(tmp_path)]
    finished = subprocess.run(
        command,
        cwd=tmp_path,
        env={"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    lines = finished.stdout.splitlines()
    failed = {line.partition("::")[2].split()[0] for line in lines if line.startswith("FAILED")}
    assert failed == {
        "TestFaulty::test_a_foreign_session_looks_like_an_absent_one",
        "TestFaulty::test_a_message_to_an_absent_session_is_an_error_and_leaves_no_trace",
        "TestFaulty::test_delete_takes_the_messages_and_nothing_else",
        "TestFaulty::test_bad_input_is_refused_by_name_and_stores_nothing",
    }, finished.stdout + finished.stderr
    # Asserts in the package show their values.
    assert "assert True is False" in finished.stdout
    tests = [name for name in dir(BaseRepositoryContract) if name.startswith("test_")]
    assert f"{len(failed)} failed, {2 * len(tests) - len(failed)} passed" in lines[-1]
