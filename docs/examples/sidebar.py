"""A sidebar: the newest sessions, each with its last message, in one round trip."""

import asyncio

from sessions import AsyncChats


async def main() -> None:
    async with AsyncChats("sqlite://") as chats:
        for title, text in (("Rome", "Book early."), ("Oslo", "Bring a coat."), ("Lima", "")):
            session_id = await chats.create_session("alice", title=title)
            if text:
                await chats.add_message("alice", session_id, "assistant", text)

        page = await chats.list_session_previews("alice", limit=2)
        while True:
            for preview in page.previews:
                last = preview.last_message
                print(f"{preview.session.title}: {last.content if last else '(empty)'}")
            if page.next_cursor is None:
                break
            page = await chats.list_session_previews("alice", limit=2, cursor=page.next_cursor)


asyncio.run(main())
