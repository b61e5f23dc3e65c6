from datetime import UTC, datetime, timedelta

from sessions import Chats

with Chats("sqlite:///chat.db") as chats:
    for number in range(1, 5):
        session_id = chats.create_session("alice", title=f"Chat {number}")
        chats.add_message("alice", session_id, "user", "Hello")

    for chat_session, messages in chats.export_user("alice"):
        print(chat_session.title, [message.content for message in messages])

    print(chats.keep_latest_sessions("alice", 3))
    print(chats.delete_sessions_older_than("alice", datetime.now(UTC) - timedelta(days=90)))
    print(chats.delete_user("alice"))
