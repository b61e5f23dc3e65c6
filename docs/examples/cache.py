import asyncio

from sessions import CachedSessionRepository, MemoryCache, SessionRepositoryFactory


async def main() -> None:
    behind = SessionRepositoryFactory.create_repository("sqlite", url="sqlite:///chat.db")
    async with CachedSessionRepository(behind, cache=MemoryCache(ttl=60)) as repository:
        session_id = await repository.create_session_async("alice", {"title": "Trip to Rome"})
        await repository.add_message(session_id, "user", "What should I see first?")
        for _ in range(3):
            history = await repository.get_session_history("alice", session_id, limit=50)
        print(len(history), "message;", repository.cache.statistics().hits, "reads from the cache")

        await repository.add_message(session_id, "assistant", "The Forum.")
        history = await repository.get_session_history("alice", session_id, limit=50)
        print(len(history), "messages;", repository.cache.statistics().hits, "reads from the cache")


asyncio.run(main())
