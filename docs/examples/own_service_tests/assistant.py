from sessions import Chats


def greet(chats: Chats, user_id: str) -> str:
    """Begin a conversation with a greeting; return its id."""
    session_id = chats.create_session(user_id, title="Welcome")
    chats.add_message(user_id, session_id, "assistant", f"Hello, {user_id}!")
    return session_id
