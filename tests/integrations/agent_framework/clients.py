"""A chat client of the Agent Framework that answers without a network."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from typing import Any

from agent_framework import (
    BaseChatClient,
    ChatResponse,
    ChatResponseUpdate,
    Content,
    Message,
    ResponseStream,
    UsageDetails,
)

USAGE: UsageDetails = {"input_token_count": 7, "output_token_count": 5, "total_token_count": 12}


class EchoClient(BaseChatClient[Any]):
    """Answers with what it was asked, in pieces if it is streamed; it keeps what it was sent."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[list[str]] = []

    def _inner_get_response(
        self, *, messages: Sequence[Message], stream: bool, options: Mapping[str, Any], **kwargs: Any
    ) -> Awaitable[ChatResponse] | ResponseStream[ChatResponseUpdate, ChatResponse]:
        self.sent.append([message.text for message in messages])
        words = f"You said: {messages[-1].text}".split(" ")
        if stream:
            return ResponseStream(self._stream(words), finalizer=ChatResponse.from_updates)

        async def answer() -> ChatResponse:
            message = Message("assistant", [" ".join(words)])
            return ChatResponse(messages=[message], model="echo-1", usage_details=USAGE)

        return answer()

    async def _stream(self, words: list[str]) -> AsyncIterator[ChatResponseUpdate]:
        for number, word in enumerate(words):
            text = word if not number else f" {word}"
            yield ChatResponseUpdate(
                role="assistant", contents=[Content.from_text(text)], message_id="1", model="echo-1"
            )
        yield ChatResponseUpdate(contents=[Content.from_usage(USAGE)], message_id="1")
