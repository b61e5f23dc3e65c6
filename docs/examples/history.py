from sessions import Chats

with Chats("sqlite:///chat.db") as chats:
    session_id = chats.create_session("alice")
    chats.add_messages("alice", session_id, [("user", str(number)) for number in range(1, 8)])

    newest = chats.get_session_history("alice", session_id, limit=3)
    print([message.content for message in newest])
    earlier = chats.get_session_history("alice", session_id, limit=3, before=newest[0].message_id)
    print([message.content for message in earlier])
