"""A message of LlamaIndex with each kind of content block, and in each role."""

from __future__ import annotations

import io
import wave

from llama_index.core.base.llms.types import (
    AudioBlock,
    CacheControl,
    CachePoint,
    ChatMessage,
    CitableBlock,
    CitationBlock,
    DocumentBlock,
    ImageBlock,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
    VideoBlock,
)
from pydantic import AnyUrl

__all__ = ["MESSAGES", "PIXEL", "ROLES"]

PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010806000000"
    "1f15c4890000000d49444154789c6360000002000001e221bc330000000049454e44ae426082"
)


def _sound() -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(1)
        sound.setframerate(8000)
        sound.writeframes(b"\x80" * 80)
    return file.getvalue()


ROLES = [ChatMessage(role=role, content=f"I am {role.value}") for role in MessageRole]
MESSAGES = [
    ChatMessage(role="system", content="Be brief."),
    ChatMessage(role="user", content="What is it?", additional_kwargs={"seed": 1, "a": [None, 1.5]}),
    ChatMessage(role="user", content=""),
    ChatMessage(role="user", blocks=[]),
    ChatMessage(
        role="user",
        blocks=[
            TextBlock(text="Two lines\nof text \0"),
            ImageBlock(image=PIXEL, detail="low"),
            ImageBlock(url=AnyUrl("https://example.org/a.png")),
            AudioBlock(audio=_sound()),
            AudioBlock(url="https://example.org/a.mp3"),
            VideoBlock(video=b"\0\0\0\x18ftypmp42", fps=2, detail="high"),
            VideoBlock(url="https://example.org/a.mp4"),
            DocumentBlock(data=b"%PDF-1.7 a document", title="A", document_mimetype="application/pdf"),
            DocumentBlock(url="https://example.org/a.pdf"),
            CachePoint(cache_control=CacheControl(type="ephemeral", ttl="1h")),
            CitableBlock(
                title="Guide", source="shelf", content=[TextBlock(text="Rome"), ImageBlock(image=PIXEL)]
            ),
            TextBlock(text="and more"),
        ],
    ),
    ChatMessage(
        role="assistant",
        blocks=[
            ThinkingBlock(content="Hm.", num_tokens=2, additional_information={"signature": "c2ln"}),
            CitationBlock(
                cited_content=TextBlock(text="Rome"),
                source="shelf",
                title="Guide",
                additional_location_info={"page": 7},
            ),
            TextBlock(text="I look it up."),
            ToolCallBlock(tool_call_id="call-1", tool_name="weather", tool_kwargs={"city": "Rome", "n": [1]}),
            ToolCallBlock(tool_name="weather", tool_kwargs='{"city": "Rome"}'),
        ],
    ),
    ChatMessage(
        role="tool", content="18 °C", additional_kwargs={"tool_call_id": "call-1", "name": "weather"}
    ),
    ChatMessage(role="assistant", content="It is warm."),
]
