from celery import Celery
from celery.signals import worker_process_shutdown

from sessions import Chats

app = Celery("tasks", broker="memory://", backend="cache+memory://")
chats = Chats("sqlite:///chat.db")


@app.task
def answer(user_id: str, session_id: str) -> int:
    question = chats.get_session_history(user_id, session_id, limit=1)[0]
    chats.add_message(user_id, session_id, "assistant", f"You said: {question.content}")
    return len(chats.get_session_history(user_id, session_id))


@worker_process_shutdown.connect
def release(**_: object) -> None:
    chats.close()


if __name__ == "__main__":
    # A worker in this process, to try it: `celery --app tasks worker` is what runs in production.
    from celery.contrib.testing.worker import start_worker

    with chats, start_worker(app, perform_ping_check=False):
        session_id = chats.create_session("alice")
        chats.add_message("alice", session_id, "user", "Hello")
        print(answer.delay("alice", session_id).get(timeout=30))
        print(chats.get_session_history("alice", session_id)[-1].content)
