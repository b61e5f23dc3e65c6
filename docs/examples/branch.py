"""Edit an earlier question in a branch: the first conversation stays as it is."""

import asyncio

from sessions import AsyncChats


async def main() -> None:
    async with AsyncChats("sqlite://") as chats:
        session_id = await chats.create_session("alice", title="Trip to Rome")
        await chats.add_messages(
            "alice",
            session_id,
            [
                ("user", "Where do I stay?"),
                ("assistant", "In Trastevere."),
                ("user", "And in May?"),
                ("assistant", "Book early."),
            ],
        )
        history = await chats.get_session_history("alice", session_id)

        # Everything up to the answer before the question that is edited.
        branch_id = await chats.fork_session(
            "alice",
            session_id,
            through=history[1].message_id,
            session_data={"title": "Trip to Rome (2)", "metadata": {"branch_of": session_id}},
        )
        await chats.add_message("alice", branch_id, "user", "And in November?")

        for name, one in (("first", session_id), ("branch", branch_id)):
            messages = await chats.get_session_history("alice", one)
            print(f"{name}:", " / ".join(message.content for message in messages))

        # Or correct a message in its place.
        await chats.update_message("alice", session_id, history[0].message_id, content="Where do we stay?")
        corrected = await chats.get_message("alice", session_id, history[0].message_id)
        assert corrected is not None
        print(corrected.content)


asyncio.run(main())
