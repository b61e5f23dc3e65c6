"""Token counts in the messages' metadata, under the names of OpenTelemetry's GenAI conventions."""

import asyncio

from sessions import AsyncChats


async def main() -> None:
    async with AsyncChats("sqlite://") as chats:
        session_id = await chats.create_session("alice")
        for question, tokens in (("Where is the Pantheon?", (9, 12)), ("And its age?", (31, 8))):
            await chats.add_message("alice", session_id, "user", question)
            await chats.add_message(
                "alice",
                session_id,
                "assistant",
                "…",
                metadata={
                    "model": "small-1",
                    "usage.input_tokens": tokens[0],
                    "usage.output_tokens": tokens[1],
                },
            )

        history = await chats.get_session_history("alice", session_id)
        for key in ("usage.input_tokens", "usage.output_tokens"):
            print(key, sum(message.metadata.get(key, 0) for message in history))


asyncio.run(main())
