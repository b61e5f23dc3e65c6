"""The alternatives that the package is compared with."""

from __future__ import annotations

from benchmarks.workers import Peer

__all__ = ["CHOSEN"]

NO_OWNER = "no owner check"
CHOSEN = (
    Peer(
        "openai_agents_sqlalchemy",
        "SQLAlchemySession",
        "postgres",
        {"history": NO_OWNER},
        adapter="openai_agents",
    ),
    Peer("google_adk", "DatabaseSessionService", "postgres", {}, adapter="adk"),
    Peer(
        "langchain_postgres",
        "PostgresChatMessageHistory",
        "postgres",
        {
            "append": "no session to bump, one fixed connection",
            "history": f"{NO_OWNER}, one fixed connection",
        },
        adapter="langchain",
    ),
    Peer(
        "llama_index_postgres",
        "PostgresChatStore",
        "postgres",
        {"append": "no session to bump; one row holds all messages", "history": f"{NO_OWNER}; one row"},
    ),
    Peer(
        "llama_index_sqlalchemy",
        "SQLAlchemyChatStore",
        "postgres",
        {"history": NO_OWNER},
        adapter="llama_index",
    ),
    Peer(
        "pydantic_ai_memory",
        "InMemoryConversationStore",
        "postgres",
        {"append": "no server, nothing is kept", "history": "no server, nothing is kept"},
        adapter="pydantic_ai",
        alone=False,
        in_memory=True,
    ),
    Peer(
        "openai_agents_mongodb", "MongoDBSession", "mongodb", {"history": NO_OWNER}, adapter="openai_agents"
    ),
    Peer(
        "langchain_mongodb",
        "MongoDBChatMessageHistory",
        "mongodb",
        {"append": "no session to bump: one write of our two", "history": NO_OWNER},
        adapter="langchain_blocking",
        blocking=True,
    ),
    # Not langchain-redis: its history is an index of RediSearch, which neither Valkey nor Redis 7 has.
    Peer("openai_agents_redis", "RedisSession", "redis", {"history": NO_OWNER}, adapter="openai_agents"),
    Peer(
        "agent_framework_redis",
        "RedisHistoryProvider",
        "redis",
        {"append": "no session to bump", "history": NO_OWNER},
        adapter="agent_framework",
        alone=False,
    ),
    Peer(
        "agent_framework_file",
        "FileHistoryProvider",
        "sqlite",
        {"append": "not durable", "history": NO_OWNER},
        adapter="agent_framework",
        alone=False,
    ),
)
