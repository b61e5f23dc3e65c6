from sessions import Chats

with Chats("sqlite:///chat.db") as chats:
    rome = chats.create_session("alice", title="Trip to Rome")
    chats.add_message("alice", rome, "user", "What should I see in Rome first?")
    chats.add_message("alice", rome, "assistant", "The Forum Romanum, early in the morning.")
    berlin = chats.create_session("alice", title="Berlin")
    chats.add_message("alice", berlin, "user", "Is the Museumsstraße closed in the morning?")

    for hit in chats.search_messages("alice", "MORNING").hits:
        print(hit.session.title, "|", hit.message.content)

    print(len(chats.search_messages("alice", '"in the morning" forum').hits))
    print(len(chats.search_messages("alice", "rom", session_id=rome).hits))

    page = chats.search_messages("alice", "in", limit=2)
    print([hit.session.title for hit in page.hits])
    page = chats.search_messages("alice", "in", limit=2, cursor=page.next_cursor)
    print([hit.session.title for hit in page.hits], page.next_cursor)
