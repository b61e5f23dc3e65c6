# needs: REDIS_URL
import os
import time

from sessions import Chats

with Chats(os.environ["REDIS_URL"], expire_after=5) as chats:
    session_id = chats.create_session("alice", title="Trip to Rome")
    chats.add_message("alice", session_id, "user", "What should I see first?")
    print(chats.count_messages("alice", session_id), chats.count_sessions("alice"))

    time.sleep(5.5)
    print(chats.get_session("alice", session_id), chats.get_session_history("alice", session_id))
    print(chats.count_sessions("alice"), chats.search_messages("alice", "first").hits)
