"""Pinned and archived sessions: keys of the metadata, and conditions on them."""

import asyncio

from sessions import AsyncChats


async def main() -> None:
    async with AsyncChats("sqlite://") as chats:
        ids = {title: await chats.create_session("alice", title=title) for title in ("Rome", "Oslo", "Lima")}

        # Not `updated_at`: a session does not move in the list because it is pinned.
        await chats.update_session("alice", ids["Rome"], merge_metadata={"pinned": True}, touch=False)
        await chats.update_session("alice", ids["Oslo"], merge_metadata={"archived": True}, touch=False)

        conditions = {
            "pinned": {"pinned": True},
            "others": {"pinned": None, "archived": None},  # None: the key is absent, or null.
            "archived": {"archived": True},
        }
        for name, where in conditions.items():
            page = await chats.list_sessions("alice", where=where)
            print(f"{name}:", [chat_session.title for chat_session in page.sessions])

        await chats.update_session("alice", ids["Rome"], remove_metadata=["pinned"], touch=False)
        print("pinned:", await chats.count_sessions("alice", where={"pinned": True}))


asyncio.run(main())
