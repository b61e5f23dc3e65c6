"""What an agent sees of a history, summaries of the rest, and titles."""

from __future__ import annotations

import asyncio
import unicodedata
from collections.abc import AsyncIterator
from typing import Any

import pytest

from sessions import ChatMessage, SessionRepositoryFactory
from sessions.core.titles import title_of
from sessions.services import AgentResponse, ChatService
from sessions.services.results import now
from sessions.services.windows import Window
from tests.services.agents import Echo, Gate, Pieces, texts


@pytest.fixture
async def sqlite(sqlite_url: str) -> AsyncIterator[Any]:
    async with SessionRepositoryFactory.create_repository("sqlite", url=sqlite_url) as repository:
        yield repository


def messages(*roles: str) -> list[ChatMessage]:
    return [ChatMessage(str(i), "s", role, role * i, now()) for i, role in enumerate(roles)]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("window", "start"),
    [
        (Window(None), 0),
        (Window(9), 0),
        (Window(5), 1),
        (Window(4), 4),  # 2 and 3 are the results of 1's call.
        (Window(3), 4),
        (Window(1), 5),
        (Window(0), 6),
        (Window(None, 40, lambda message: 10), 4),
        (Window(None, 50, lambda message: 10), 1),
        (Window(None, 25, lambda message: 10), 4),
        (Window(3, 50, lambda message: 10), 4),
        (Window(None, 5, lambda message: 10), 6),
        (Window(None, 0, lambda message: 0), 0),
    ],
)
def test_a_window_does_not_begin_with_a_result_whose_call_is_cut_off(window: Window, start: int) -> None:
    history = messages("user", "assistant", "tool", "tool", "assistant", "user")
    assert window.start(history) == start
    assert window.choose(history) == history[start:]


async def test_the_agent_sees_the_newest_messages(sqlite: Any) -> None:
    agent = Pieces("Yes", AgentResponse(tool_messages=[("assistant", "call"), ("tool", "result")]))
    service = ChatService(agent, repository=sqlite, history_limit=6)
    session_id = (await service.chat("1", "alice"))["session_id"]
    for number in ("2", "3"):
        await service.chat(number, "alice", session_id)
    seen = [[message.content for message in context.history] for context in agent.contexts]
    # The sixth newest of eight is the result of a tool.
    assert seen == [[], ["1", "call", "result", "Yes"], ["Yes", "2", "call", "result", "Yes"]]
    budget = ChatService(
        agent, repository=sqlite, history_tokens=9, count_tokens=lambda message: len(message.content)
    )
    await budget.chat("4", "alice", session_id)
    assert [message.content for message in agent.contexts[-1].history] == ["Yes"]
    none = ChatService(agent, repository=sqlite, history_limit=0)
    assert (await none.chat("5", "alice", session_id))["success"] is True
    assert agent.contexts[-1].history == []


async def test_what_falls_out_of_the_window_is_summarised(repository: Any) -> None:
    agent = Pieces("Yes")
    told: list[tuple[list[str], str | None]] = []

    async def summarize(fallen: list[ChatMessage], before: str | None) -> str:
        told.append(([message.content for message in fallen], before))
        return f"{before or ''}{''.join(message.content for message in fallen)}."

    service = ChatService(agent, repository=repository, history_limit=4, summarize=summarize)
    session_id = await service.create_session("alice", "Mine", metadata={"kept": 1})
    for number in ("1", "2", "3", "4"):
        await service.chat(number, "alice", session_id)
    assert told == [(["1", "Yes"], None), (["2", "Yes"], "1Yes.")]
    assert [context.summary for context in agent.contexts] == [None, None, None, "1Yes."]
    # Nothing is missing between the summary and what the agent sees.
    assert [message.content for message in agent.contexts[3].history] == ["2", "Yes", "3", "Yes"]
    found = await repository.get_session("alice", session_id)
    history = await repository.get_session_history("alice", session_id)
    assert found.metadata == {
        "kept": 1,
        "summary": {"text": "1Yes.2Yes.", "through": history[3].message_id},
    }
    # A summary of messages that are gone no longer holds.
    await service.edit("alice", session_id, history[2].message_id, "New")
    assert agent.contexts[-1].summary is None
    assert [message.content for message in agent.contexts[-1].history] == ["1", "Yes"]
    await service.chat("5", "alice", session_id)
    assert agent.contexts[-1].summary is None
    assert [message.content for message in agent.contexts[-1].history] == ["1", "Yes", "New", "Yes"]
    await service.regenerate("alice", session_id)
    assert agent.contexts[-1].summary == "1Yes."


async def test_a_summary_that_fails_or_hangs_costs_nothing_but_time(sqlite: Any) -> None:
    def fails(fallen: Any, before: Any) -> str:
        raise RuntimeError("secret words")

    async def hangs(fallen: Any, before: Any) -> str:
        await asyncio.sleep(3600)
        return ""

    for summarize in (fails, hangs):
        service = ChatService(
            Echo(), repository=sqlite, history_limit=1, summarize=summarize, hook_timeout=0.05
        )
        result = await service.chat("Hi", "alice")
        assert (result["success"], result["errors"]) == (True, [])
        assert (await sqlite.get_session("alice", result["session_id"])).metadata == {}


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("What should I see first?", "What should I see first?"),
        ("  Two\n\tlines \r\n", "Two lines"),
        ("word " * 30, "word " * 11 + "word…"),
        ("Explain this, " * 10, "Explain this, " * 3 + "Explain this…"),
        ("https://example.com/" + "x" * 100, "https://example.com/" + "x" * 39 + "…"),
        ("Why Donaudampfschifffahrtsgesellschaftskapitänsmützenabzeichenverordnung?", "Why…"),
        ("我想去罗马旅游" * 12, ("我想去罗马旅游" * 12)[:59] + "…"),
        ("한국어는 띄어쓰기가 있다 " * 6, ("한국어는 띄어쓰기가 있다 " * 6)[:55] + "…"),
        ("e\u0301" * 50, "e\u0301" * 29 + "…"),
        ("👩‍👩‍👧‍👦" * 20, "👩‍👩‍👧‍👦" * 8 + "…"),
        ("🇮🇹" * 40, "🇮🇹" * 29 + "…"),
        ("👍🏽" * 40, "👍🏽" * 29 + "…"),
        ("a\u202eb\x00\x1b[31mred", "ab [31mred"),
        ("\u200b\u202e \n", None),
        ("", None),
        ("?!", "?!"),
    ],
)
def test_a_title_is_cut_between_words_in_any_script(text: str, title: str | None) -> None:
    assert title_of(text) == title


@pytest.mark.parametrize(
    "words",
    [
        "مرحبا بالعالم ",
        "नमस्ते दुनिया ",
        "สวัสดีชาวโลก",
        "ភាសាខ្មែរ",
        "Привет, мир! ",
        "שלום עולם ",
        "こんにちは世界。",
    ],
)
def test_a_title_of_any_script_ends_with_a_whole_character(words: str) -> None:
    for shift in range(8):
        text = "x" * shift + " " + words * 20
        title = title_of(text)
        assert title is not None
        assert title.endswith("…")
        assert 30 < len(title) <= 60
        line = " ".join(text.split())
        cut = title.removesuffix("…")
        assert line.startswith(cut)
        following = line[len(cut)]
        assert unicodedata.category(following)[0] != "M"
        if " " in words:
            assert not following.isalpha()
    assert title_of("x" * 5_000_000) == "x" * 59 + "…"


async def test_the_first_message_gives_the_title_unless_there_is_one(sqlite: Any) -> None:
    service = ChatService(Echo(), repository=sqlite)
    fresh = await service.chat("Rome in three days", "alice")
    assert fresh["metadata"]["title"] == "Rome in three days"
    await service.chat("Other", "alice", fresh["session_id"])
    untitled = await service.create_session("alice")
    before = await sqlite.get_session("alice", untitled)
    assert (await service.chat("Paris", "alice", untitled))["metadata"]["title"] == "Paris"
    mine = await service.create_session("alice", "Mine")
    assert "title" not in (await service.chat("London", "alice", mine))["metadata"]
    none = ChatService(Echo(), repository=sqlite, title=False)
    plain = await none.chat("Berlin", "alice")
    titles = {item.session_id: item.title for item in (await service.list_sessions("alice")).sessions}
    assert titles == {
        fresh["session_id"]: "Rome in three days",
        untitled: "Paris",
        mine: "Mine",
        plain["session_id"]: "New Chat",
    }
    assert before.title == "New Chat"


async def test_a_callable_makes_the_title_after_the_answer(sqlite: Any) -> None:
    async def title(message: str, answer: str) -> str:
        return f" About\n{message}: {answer} "

    service = ChatService(Echo(), repository=sqlite, title=title)
    for session_id in (None, await service.create_session("alice")):
        result = await service.chat("Rome", "alice", session_id)
        assert result["metadata"]["title"] == "About Rome: Rome after 0"
        found = await sqlite.get_session("alice", result["session_id"])
        assert found.title == "About Rome: Rome after 0"
        assert (await service.chat("And?", "alice", result["session_id"]))["message"] == "And? after 2"
    short = ChatService(Echo(), repository=sqlite, title=str.upper)
    assert (await short.chat("Rome", "alice"))["metadata"]["title"] == "ROME"


async def test_a_title_that_somebody_sets_meanwhile_stays(repository: Any) -> None:
    gate = Gate()

    async def title(message: str) -> str:
        gate.started.set()
        await gate.open.wait()
        return "Late"

    service = ChatService(Echo(), repository=repository, title=title)
    session_id = await service.create_session("alice")
    turn = asyncio.create_task(service.chat("Rome", "alice", session_id))
    await gate.started.wait()
    assert len(await texts(repository, "alice", session_id)) == 2
    await service.rename_session("alice", session_id, "Mine")
    gate.open.set()
    assert "title" not in (await turn)["metadata"]
    assert (await repository.get_session("alice", session_id)).title == "Mine"


async def test_a_title_that_fails_or_hangs_is_the_first_message(sqlite: Any) -> None:
    def fails(message: str, answer: str) -> str:
        raise RuntimeError("secret words")

    async def hangs(message: str, answer: str) -> str:
        await asyncio.sleep(3600)
        return ""

    for title in (fails, hangs, lambda message: "", lambda message: 17):
        service = ChatService(Echo(), repository=sqlite, title=title, hook_timeout=0.05)  # type: ignore[arg-type]
        result = await service.chat("Rome", "alice")
        assert (result["success"], result["errors"], result["metadata"]["title"]) == (True, [], "Rome")
    long = ChatService(Echo(), repository=sqlite, title=lambda message: "long " * 100)
    assert len((await long.chat("Rome", "alice"))["metadata"]["title"]) == 254


async def test_an_interrupted_first_turn_has_its_title(sqlite: Any) -> None:
    service = ChatService(Pieces("Half", then="hang"), repository=sqlite)
    session_id = await service.create_session("alice")
    stream = service.stream("Rome", "alice", session_id)
    await anext(stream)
    await stream.aclose()
    assert (await sqlite.get_session("alice", session_id)).title == "Rome"
