"""What the stores for agent frameworks share; it needs none of them."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path
from typing import Any

import pytest

from sessions import InvalidInputError, SessionConflictError, VersionConflictError
from sessions.integrations.common import derived_id, new_message, session_id_for, title_for
from sessions.integrations.conversations import Conversation, Conversations

ROOT = Path(__file__).resolve().parents[2]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
FRAMEWORKS = re.findall(r"[\[,]([\w-]+)", EXTRAS["frameworks"][0])
MODULES = sorted(extra.replace("-", "_") for extra in FRAMEWORKS)
MODULES = [name for name in MODULES if importlib.util.find_spec(f"sessions.integrations.{name}")]
UUID = "0f8fad5b-d9cb-469f-a165-70867728950e"


def test_ids_are_these_for_ever() -> None:
    # Stored sessions have them.
    assert session_id_for("openai-agents", "alice", "1") == "9e92773d-925c-54fd-a3bb-ba81d1da340f"
    assert session_id_for("openai-agents", "bob", "1") == "45b8af1c-d5ae-5aeb-8b7d-f7b5b637ecda"
    assert session_id_for("langchain", "alice", "1") == "67c14669-95f5-513c-b7cc-1bfc63fe9339"
    assert derived_id("adk", "app", "alice", "é\ud800\0") == "d50b1c9b-c76c-55fe-b4ad-18d174181436"


def test_a_uuid_is_taken_as_it_is_and_any_other_text_gives_one() -> None:
    assert session_id_for("langchain", "alice", UUID) == UUID
    others = [
        UUID.upper(),
        f"{{{UUID}}}",
        UUID.replace("-", ""),
        f"urn:uuid:{UUID}",
        f" {UUID}",
        "",
        "x" * 999,
    ]
    ids = {session_id_for("langchain", "alice", each) for each in others}
    assert len(ids) == len(others)
    assert UUID not in ids


def test_no_two_scopes_have_the_same_id() -> None:
    assert derived_id("adk", "a", "bc") != derived_id("adk", "ab", "c") != derived_id("adk", "ab,c")
    assert derived_id("adk", 'a","b') != derived_id("adk", "a", "b")


def test_the_extras_of_the_frameworks_are_in_the_extra_of_all() -> None:
    assert len(FRAMEWORKS) == 6
    assert set(FRAMEWORKS) <= EXTRAS.keys()
    assert "frameworks" in EXTRAS["all"][0]


@pytest.mark.slow
def test_a_missing_framework_is_named_with_the_command_that_installs_it() -> None:
    program = f"""
        import importlib, sys
        for framework in ("agent_framework", "agents", "google.adk", "langchain_core", "llama_index.core",
                          "pydantic_ai"):
            sys.modules[framework] = None
        import sessions
        for name in {MODULES}:
            try:
                importlib.import_module("sessions.integrations." + name)
            except sessions.MissingDependencyError as error:
                assert isinstance(error.__cause__, ImportError), error.__cause__
                print(name, str(error).partition("; ")[2])
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [
        f"{name} install it with: pip install 'agenthub-sessions[{name.replace('_', '-')}]'"
        for name in MODULES
    ]


@pytest.fixture
def conversation(repository: Any) -> Conversation:
    return Conversation(repository, "alice", "langchain", "trip")


async def test_a_session_comes_into_being_with_its_first_messages(
    repository: Any, conversation: Conversation
) -> None:
    first = [new_message("system", "Be brief.", 1), new_message("user", "What is in Rome?", {"a": [1]})]
    ids = await conversation.append(first, merge_metadata={"more": 1})
    ids += await conversation.append([new_message("assistant", "The Pantheon.", None)])
    [stored] = (await repository.list_sessions("alice", where={"framework": "langchain"})).sessions
    assert stored.session_id == conversation.session_id
    assert stored.title == "What is in Rome?"
    assert stored.metadata == {"framework": "langchain", "framework_session_id": "trip", "more": 1}
    history = await repository.get_session_history("alice", stored.session_id)
    assert [message.message_id for message in history] == ids
    assert [(message.content, message.payload) for message in history] == [
        ("Be brief.", 1),
        ("What is in Rome?", {"a": [1]}),
        ("The Pantheon.", None),
    ]


async def test_a_session_that_begins_without_the_user_has_the_title_of_the_users_first_message(
    repository: Any, conversation: Conversation
) -> None:
    await conversation.append([new_message("system", "Be brief.", None)])
    again = Conversation(repository, "alice", "langchain", "trip")
    await again.append([new_message("user", "What is in Rome?", None)])
    await again.append([new_message("user", "And in Paris?", None)])
    await Conversation(repository, "alice", "langchain", "trip").append([new_message("user", "Oslo?", None)])
    assert (await repository.get_session("alice", again.session_id)).title == "What is in Rome?"


async def test_a_title_that_was_changed_is_kept(repository: Any, conversation: Conversation) -> None:
    await conversation.append([new_message("user", "What is in Rome?", None)])
    await repository.update_session_async("alice", conversation.session_id, {"title": "Mine"})
    await Conversation(repository, "alice", "langchain", "trip").append([new_message("user", "Oslo?", None)])
    assert (await repository.get_session("alice", conversation.session_id)).title == "Mine"


async def test_a_history_that_was_read_tells_that_the_session_has_its_title(
    repository: Any, conversation: Conversation
) -> None:
    await conversation.append([new_message("user", "What is in Rome?", None)])
    again = Conversation(repository, "alice", "langchain", "trip")
    again.saw(await repository.get_session_history("alice", again.session_id))
    await again.append([new_message("user", "Oslo?", None)])
    assert (await repository.get_session("alice", again.session_id)).version == 1


async def test_messages_are_replaced_also_where_there_is_no_session(
    repository: Any, conversation: Conversation
) -> None:
    await conversation.replace([new_message("user", "Rome?", None)])
    ids = await conversation.replace([new_message("user", "Oslo?", None)], expected_version=0)
    history = await repository.get_session_history("alice", conversation.session_id)
    assert [(message.message_id, message.content) for message in history] == [(ids[0], "Oslo?")]
    with pytest.raises(VersionConflictError):
        await conversation.replace([], expected_version=0)


async def test_text_that_cannot_be_stored_is_replaced_and_the_payload_keeps_it(
    repository: Any, conversation: Conversation
) -> None:
    text = "a\0b\ud800c"
    metadata = {"model": text, "usage.input_tokens": 3, "none": None, "big": 2**63, "list": [1]}
    await conversation.append([new_message("user", text, {"text": text}, metadata=metadata)])
    [message] = await repository.get_session_history("alice", conversation.session_id)
    assert message.content == "a\ufffdb\ufffdc"
    assert message.payload == {"text": text}
    assert message.metadata == {"model": "a\ufffdb\ufffdc", "usage.input_tokens": 3}


async def test_a_payload_is_stored_as_json_text_has_it(repository: Any, conversation: Conversation) -> None:
    await conversation.append([new_message("user", "Hi", {"text": "\ud83d\ude00", 1: (2,)})])
    [message] = await repository.get_session_history("alice", conversation.session_id)
    assert message.payload == {"text": "\N{GRINNING FACE}", "1": [2]}
    with pytest.raises(InvalidInputError, match="payload"):
        await conversation.append([new_message("user", "Hi", object())])


async def test_another_users_session_is_a_conflict(repository: Any) -> None:
    await Conversation(repository, "alice", "langchain", UUID).append([new_message("user", "Hi", None)])
    with pytest.raises(SessionConflictError):
        await Conversation(repository, "bob", "langchain", UUID).append([new_message("user", "Hi", None)])
    assert await repository.count_messages("alice", UUID) == 1


def test_the_title_is_the_first_text_of_the_user_with_a_word() -> None:
    messages = [
        new_message("assistant", "Hello", 1),
        new_message("user", " \n", 1),
        new_message("user", "Rome", 1),
    ]
    assert title_for(messages) == "Rome"
    assert title_for(messages[:2]) is None


def test_conversations_are_remembered_up_to_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sessions.integrations.conversations.REMEMBERED", 2)
    conversations = Conversations(object(), "alice", "llama-index")  # type: ignore[arg-type]
    one = conversations.of("1")
    assert conversations.of("2").session_id == session_id_for("llama-index", "alice", "2")
    assert conversations.of("1") is one
    conversations.of("3")
    assert conversations.of("1") is one
    conversations.of("4")
    conversations.of("5")
    assert conversations.of("1") is not one
