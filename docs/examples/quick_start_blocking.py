from sessions import Chats

with Chats("sqlite:///chat.db") as chats:
    session_id = chats.create_session("alice", metadata={"channel": "web"})
    chats.add_messages("alice", session_id, [("user", "Hello"), ("assistant", "Hi!")])

    for chat_session in chats.list_sessions("alice").sessions:
        print(chat_session.title, chat_session.metadata)
    [newest] = chats.get_session_history("alice", session_id, limit=1)
    print(newest.role, newest.content)
