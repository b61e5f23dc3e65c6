from assistant import greet

from sessions import Chats


def test_the_assistant_greets_the_user(chats: Chats) -> None:
    session_id = greet(chats, "alice")
    [message] = chats.get_session_history("alice", session_id)
    assert (message.role, message.content) == ("assistant", "Hello, alice!")


def test_nobody_else_sees_the_greeting(chats: Chats) -> None:
    session_id = greet(chats, "alice")
    assert chats.get_session_history("bob", session_id) == []
