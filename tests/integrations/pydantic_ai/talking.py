"""Messages of Pydantic AI, and turns of conversations, for the tests."""

from __future__ import annotations

from typing import Any

from pydantic_ai.conversation import Conversation
from pydantic_ai.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    SystemPromptPart,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.usage import RequestUsage


def asked(text: str) -> ModelMessage:
    return ModelRequest(parts=[UserPromptPart(text)])


def answered(text: str) -> ModelMessage:
    return ModelResponse(parts=[TextPart(text)], model_name="small-1")


def turn(number: int | str) -> list[ModelMessage]:
    return [asked(f"Question {number}"), answered(f"Answer {number}")]


def texts(conversation: Conversation | None) -> list[Any]:
    assert conversation is not None
    return [getattr(message.parts[0], "content", None) for message in conversation.messages]


USAGE = RequestUsage(input_tokens=5, output_tokens=2)
# Messages with the role, the content and the metadata that a reader sees.
MESSAGES: list[tuple[ModelMessage, str, str, dict[str, Any]]] = [
    (
        ModelRequest(
            parts=[SystemPromptPart("Be brief."), UserPromptPart("How is Rome?")], instructions="Help."
        ),
        "user",
        "How is Rome?",
        {},
    ),
    (
        ModelResponse(
            parts=[
                ThinkingPart("The user is in Rome.", signature="c2ln"),
                ToolCallPart("weather", {"city": "Rome"}, tool_call_id="1"),
            ],
            model_name="small-1",
            usage=USAGE,
        ),
        "assistant",
        "The user is in Rome.",
        {"model": "small-1", "usage.input_tokens": 5, "usage.output_tokens": 2, "tool.name": "weather"},
    ),
    (
        ModelRequest(parts=[ToolReturnPart("weather", {"sky": 1, "t": float("inf")}, tool_call_id="1")]),
        "tool",
        '{"sky": 1, "t": Infinity}',
        {"tool.name": "weather"},
    ),
    (
        ModelResponse(parts=[ToolCallPart("map", '{"n": 1}', tool_call_id="2")], model_name="small-1"),
        "assistant",
        'map({"n": 1})',
        {"model": "small-1", "tool.name": "map"},
    ),
    (
        ModelRequest(parts=[ToolReturnPart("map", "NUL \0, half \ud800", tool_call_id="2")]),
        "tool",
        "NUL \ufffd, half \ufffd",
        {"tool.name": "map"},
    ),
    (
        answered("Sunny, and 2**70 is 1180591620717411303424."),
        "assistant",
        "Sunny, and 2**70 is 1180591620717411303424.",
        {"model": "small-1"},
    ),
    (ModelRequest(parts=[SystemPromptPart("More.")]), "system", "More.", {}),
]
