"""A message of each class of LangChain, with each kind of content block."""

from __future__ import annotations

import datetime
import decimal
import uuid
from typing import Any

from langchain_core.documents import Document
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    ChatMessageChunk,
    FunctionMessage,
    FunctionMessageChunk,
    HumanMessage,
    HumanMessageChunk,
    RemoveMessage,
    SystemMessage,
    SystemMessageChunk,
    ToolMessage,
    ToolMessageChunk,
)

__all__ = ["BLOCKS", "CLASSES", "VALUES"]

CALL: Any = {"name": "weather", "args": {"city": "Rome", "days": [1, 2.5, None]}, "id": "call-1"}
USAGE: Any = {
    "input_tokens": 350,
    "output_tokens": 240,
    "total_tokens": 590,
    "input_token_details": {"cache_read": 100},
    "output_token_details": {"reasoning": 200},
}

CLASSES: list[BaseMessage] = [
    SystemMessage("Be brief.", id="system-1"),
    SystemMessage("Be polite.", additional_kwargs={"__openai_role__": "developer"}),
    HumanMessage("What is the weather in Rome?", name="alice", id="human-1", example=True),
    AIMessage(
        "",
        id="run-1",
        name="forecaster",
        tool_calls=[CALL],
        invalid_tool_calls=[{"name": "g", "args": '{"x": ', "id": "call-2", "error": "no JSON"}],
        usage_metadata=USAGE,
        response_metadata={"model_name": "gpt", "logprobs": None, "headers": {"x-a": "b"}},
        additional_kwargs={"reasoning_content": "Rome is in Italy.", "refusal": None},
    ),
    ToolMessage(
        "18 °C",
        tool_call_id="call-1",
        name="weather",
        id="tool-1",
        status="error",
        artifact={"rows": [{"t": 18, "nan": [1, 2]}], "page": "<html>"},
    ),
    ToolMessage(["18 °C", {"type": "text", "text": "sunny"}], tool_call_id="call-3"),
    FunctionMessage(content="18", name="old_weather"),
    ChatMessage(content="I object.", role="critic"),
    ChatMessage(content="Hello.", role="assistant", id="chat-1"),
    AIMessage("Sunny, 18 °C.", usage_metadata=USAGE, response_metadata={"model": "claude"}),
    RemoveMessage("human-1"),
    HumanMessageChunk(content="Hel", id="chunk-1"),
    AIMessageChunk(
        content="a",
        tool_call_chunks=[{"name": "f", "args": '{"a": 1', "id": "c", "index": 0}],
        usage_metadata=USAGE,
    ),
    AIMessageChunk(content="b", tool_calls=[CALL], chunk_position="last"),
    SystemMessageChunk(content="sys"),
    ToolMessageChunk(content="18", tool_call_id="call-1", artifact=[1, "two"]),
    FunctionMessageChunk(content="18", name="old_weather"),
    ChatMessageChunk(content="x", role="user"),
]

_V1: list[Any] = [
    {"type": "text", "text": "See https://example.org", "annotations": [{"type": "citation", "url": "u"}]},
    {"type": "reasoning", "reasoning": "Hm.", "extras": {"signature": "c2ln"}},
    {"type": "image", "base64": "aW1hZ2U=", "mime_type": "image/png"},
    {"type": "image", "url": "https://example.org/a.png"},
    {"type": "audio", "base64": "YXVkaW8=", "mime_type": "audio/wav"},
    {"type": "video", "file_id": "file-1"},
    {"type": "file", "base64": "JVBERg==", "mime_type": "application/pdf", "extras": {"filename": "a.pdf"}},
    {"type": "text-plain", "text": "a document", "mime_type": "text/plain", "title": "A"},
    {"type": "tool_call", **CALL},
    {"type": "invalid_tool_call", "name": "g", "args": "{", "id": "call-2", "error": "no JSON"},
    {"type": "server_tool_call", "name": "search", "args": {"q": "Rome"}, "id": "srv-1"},
    {"type": "server_tool_result", "tool_call_id": "srv-1", "status": "success", "output": [{"u": 1}]},
    {"type": "non_standard", "value": {"anything": [True, None, 1e300]}},
]
_PROVIDERS: list[Any] = [
    "plain text in a list",
    {"type": "image_url", "image_url": {"url": "data:image/png;base64,aW1hZ2U=", "detail": "low"}},
    {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"},
    {"type": "tool_use", "id": "toolu-1", "name": "weather", "input": {"city": "Rome"}},
    {"type": "input_audio", "input_audio": {"data": "YXVkaW8=", "format": "wav"}},
    {"type": "image", "source_type": "base64", "data": "aW1hZ2U=", "mime_type": "image/png"},
    {"type": "media", "mime_type": "image/png", "data": b"\x00\xff"},
    {"image": {"format": "png", "source": {"bytes": b"\x89PNG"}}},
]
BLOCKS: list[BaseMessage] = [
    AIMessage(content_blocks=_V1, response_metadata={"output_version": "v1"}),
    HumanMessage(content_blocks=_V1[:7]),
    HumanMessage(_PROVIDERS),
    AIMessage(_PROVIDERS),
    HumanMessage([]),
]

VALUES: list[BaseMessage] = [
    HumanMessage("a NUL \0 and the rest"),
    HumanMessage([{"type": "text", "text": "half of a pair \ud83d"}]),
    AIMessage(
        "", additional_kwargs={"logprobs": [float("inf"), -0.0, 10**30], "$type": "text", "a.b": {"$": 1}}
    ),
    AIMessage("", additional_kwargs={"by number": {1: "one", (2, 3): "pair"}}),
    ToolMessage(
        "two documents",
        tool_call_id="call-1",
        artifact=[
            Document("Rome", metadata={"page": 1}, id="doc-1"),
            Document("Milan", metadata={"read": datetime.datetime(2026, 11, 26, tzinfo=datetime.UTC)}),
        ],
    ),
    ToolMessage(
        "",
        tool_call_id="call-1",
        artifact=(
            {"a", "b"},
            frozenset({1}),
            uuid.UUID(int=7),
            decimal.Decimal("1.10"),
            datetime.date(2026, 11, 26),
            b"",
        ),
    ),
]
