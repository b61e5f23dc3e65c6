from concurrent.futures import ThreadPoolExecutor

from sessions import Chats

chats = Chats("sqlite:///chat.db")


def task(user_id: str) -> int:
    session_id = chats.create_session(user_id, title="From a worker")
    chats.add_message(user_id, session_id, "assistant", "Done.")
    return len(chats.get_session_history(user_id, session_id))


with chats, ThreadPoolExecutor(4) as threads:
    print(list(threads.map(task, ["alice", "bob", "carol"])))
