"""`Memory` of LlamaIndex on the store, with its own model for tests, `MockLLM`."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.core.llms import ChatMessage, MockLLM
from llama_index.core.memory import BaseMemoryBlock, Memory
from pydantic import Field

from sessions.integrations.llama_index import ChatStore
from tests.integrations.llama_index.samples import MESSAGES


class Remembering(BaseMemoryBlock[str]):
    """Keeps what falls out of the queue."""

    kept: list[str] = Field(default_factory=list)

    async def _aget(self, messages: list[ChatMessage] | None = None, **block_kwargs: Any) -> str:
        return " ".join(self.kept)

    async def _aput(self, messages: list[ChatMessage]) -> None:
        self.kept += [str(each.content) for each in messages]


def memory_of(repository: Any, **options: Any) -> Memory:
    store = ChatStore(repository, user_id="alice")
    return Memory.from_defaults(session_id="trip", chat_store=store, tokenizer_fn=str.split, **options)


def texts(messages: list[ChatMessage]) -> list[str]:
    return [str(each.content) for each in messages]


async def test_a_memory_has_all_messages_again(repository: Any) -> None:
    await memory_of(repository).aput_messages(MESSAGES)
    await memory_of(repository).aput(ChatMessage(content="more"))
    memory = memory_of(repository)
    assert await memory.aget() == [*MESSAGES, ChatMessage(content="more")]
    assert await memory.aget_all() == await memory.aget()
    await memory.aset(MESSAGES[:2])
    assert await memory_of(repository).aget() == MESSAGES[:2]
    await memory.areset()
    assert await memory.aget_all() == []


async def test_what_exceeds_the_limit_is_archived(repository: Any) -> None:
    block = Remembering(name="past")
    memory = memory_of(
        repository, token_limit=10, chat_history_token_ratio=0.5, token_flush_size=2, memory_blocks=[block]
    )
    for number in range(6):
        await memory.aput(ChatMessage(role="user", content=f"question {number}"))
        await memory.aput(ChatMessage(role="assistant", content=f"answer {number}"))
    everything = [f"{what} {number}" for number in range(6) for what in ("question", "answer")]
    active = texts(await memory.sql_store.get_messages("trip"))
    assert active == everything[-len(active) :]
    assert len(active) == 2
    assert block.kept == everything[:-2]
    assert texts(await memory.aget_all()) == everything
    [system, *_] = await memory.aget()
    assert system.role == "system"
    assert "question 0" in str(system.content)


@pytest.mark.filterwarnings("ignore:There is no current event loop:DeprecationWarning")
async def test_blocking_calls_of_a_memory(repository: Any) -> None:
    def use() -> list[str]:
        memory = memory_of(repository)
        memory.put(ChatMessage(content="a"))
        memory.put_messages([ChatMessage(content="b"), ChatMessage(content="c")])
        found = texts(memory.get())
        memory.set(memory.get_all()[1:])
        return found + texts(memory.get())

    # While this thread's loop runs, and in a thread that has none.
    assert use() == ["a", "b", "c", "b", "c"]
    memory_of(repository).reset()
    assert await asyncio.to_thread(use) == ["a", "b", "c", "b", "c"]
    memory = memory_of(repository, chat_history=[ChatMessage(content="anew")])
    assert texts(await memory.aget()) == ["anew"]


async def test_a_chat_engine_stores_its_turns(repository: Any) -> None:
    for question in ("Hello", "And then?"):
        engine = SimpleChatEngine.from_defaults(llm=MockLLM(max_tokens=3), memory=memory_of(repository))
        await engine.achat(question)
    found = await memory_of(repository).aget()
    assert [each.role.value for each in found] == ["user", "assistant"] * 2
    assert [each.content for each in found[::2]] == ["Hello", "And then?"]
    [chat_session] = (await repository.list_sessions("alice")).sessions
    assert chat_session.title == "Hello"
