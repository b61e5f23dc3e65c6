"""A turn with a tool call: the payload keeps each message as the model's API has it."""

import asyncio

from sessions import AsyncChats, NewMessage

CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Rome"}'}}


async def main() -> None:
    async with AsyncChats("sqlite://") as chats:
        session_id = await chats.create_session("alice", messages=[("system", "You are a guide.")])

        # The whole turn is stored, or nothing of it.
        await chats.add_messages(
            "alice",
            session_id,
            [
                ("user", "Do I need an umbrella?"),
                NewMessage("assistant", payload={"role": "assistant", "tool_calls": [CALL]}),
                NewMessage("tool", "14 °C, rain", metadata={"tool_call_id": "call_1"}),
                ("assistant", "Yes, it rains."),
            ],
            merge_metadata={"last_tool": "weather"},
        )

        for message in await chats.get_session_history("alice", session_id):
            calls = [call["function"]["name"] for call in (message.payload or {}).get("tool_calls", [])]
            print(f"{message.role}: {message.content or calls}")


asyncio.run(main())
