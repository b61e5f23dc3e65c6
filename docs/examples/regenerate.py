"""Answer the last question again: what follows it is deleted, then a new answer is appended."""

import asyncio

from sessions import AsyncChats


async def main() -> None:
    async with AsyncChats("sqlite://") as chats:
        session_id = await chats.create_session(
            "alice", messages=[("user", "Name a Roman dome."), ("assistant", "The Colosseum.")]
        )
        *_, question, _ = await chats.get_session_history("alice", session_id)
        found = await chats.get_session("alice", session_id)
        assert found is not None

        deleted = await chats.delete_messages_from("alice", session_id, question.message_id, inclusive=False)
        print("deleted:", deleted)
        # While the model answered, nobody else may have written: the version says so.
        await chats.add_message(
            "alice", session_id, "assistant", "The Pantheon.", expected_version=found.version + 1
        )

        for message in await chats.get_session_history("alice", session_id):
            print(f"{message.role}: {message.content}")


asyncio.run(main())
