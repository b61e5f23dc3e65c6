"""Thumbs up: a key of the message's metadata; the others stay."""

import asyncio

from sessions import AsyncChats


async def main() -> None:
    async with AsyncChats("sqlite://") as chats:
        session_id = await chats.create_session("alice")
        message_id = await chats.add_message(
            "alice", session_id, "assistant", "The Pantheon.", metadata={"model": "small-1"}
        )

        rated = await chats.update_message("alice", session_id, message_id, merge_metadata={"feedback": "up"})
        print(rated)
        message = await chats.get_message("alice", session_id, message_id)
        assert message is not None
        print(message.metadata)


asyncio.run(main())
