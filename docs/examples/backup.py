from sessions import Chats

with Chats("sqlite:///chat.db") as chats:
    session_id = chats.create_session("alice", title="Trip to Rome")
    chats.add_message("alice", session_id, "user", "What should I see first?")

    backup = list(chats.admin.export(user_id="alice"))
    chats.delete_session("alice", session_id)

    for chat_session, messages in backup:
        chats.admin.restore(chat_session, messages)
    print([message.content for message in chats.get_session_history("alice", session_id)])
    print(list(chats.admin.iter_users()))
