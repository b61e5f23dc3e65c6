from sessions import Chats, InvalidInputError, SessionNotFoundError

with Chats("sqlite:///chat.db") as chats:
    session_id = chats.create_session("alice")

    try:
        chats.add_message("bob", session_id, "user", "Hello")
    except SessionNotFoundError as error:
        print(error)

    try:
        chats.create_session("alice", metadata={"tags": ["new", float("nan")]})
    except InvalidInputError as error:
        print(error.argument)

    print(len(chats.get_session_history("alice", session_id)))
