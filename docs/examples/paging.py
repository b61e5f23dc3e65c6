from sessions import Chats

with Chats("sqlite:///chat.db") as chats:
    for number in range(1, 6):
        chats.create_session("alice", title=f"Chat {number}")

    cursor = None
    while True:
        page = chats.list_sessions("alice", limit=2, cursor=cursor)
        print([chat_session.title for chat_session in page.sessions])
        if page.next_cursor is None:
            break
        cursor = page.next_cursor
