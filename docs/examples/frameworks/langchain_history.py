"""A chain of LangChain with its history in a repository of this package."""

import warnings

from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import HumanMessage
from langchain_core.runnables import ConfigurableFieldSpec
from langchain_core.runnables.history import RunnableWithMessageHistory

from sessions import SessionRepositoryFactory
from sessions.integrations.langchain import ChatMessageHistory

# LangChain 1 recommends LangGraph for new applications.
warnings.filterwarnings("ignore", "RunnableWithMessageHistory is deprecated")

# LangChain's model for tests: it answers without a network.
model = FakeListChatModel(responses=["The Pantheon.", "Yes, since the year 609."])

with SessionRepositoryFactory.create_repository("sqlite", url="sqlite:///chats.db") as repository:

    def history_of(user_id: str, conversation_id: str) -> ChatMessageHistory:
        return ChatMessageHistory(conversation_id, repository=repository, user_id=user_id, history_size=50)

    chain = RunnableWithMessageHistory(
        model,
        history_of,
        history_factory_config=[
            ConfigurableFieldSpec(id=name, annotation=str) for name in ("user_id", "conversation_id")
        ],
    )
    for question in ("What should I see first?", "Is it a church?"):
        answer = chain.invoke(
            [HumanMessage(question)], {"configurable": {"user_id": "alice", "conversation_id": "trip"}}
        )
        print(question, answer.content)
    print(len(history_of("alice", "trip").messages), "messages")

    page = repository.list_sessions_sync("alice", where={"framework": "langchain"})
    for chat_session in page.sessions:
        print("listed as:", chat_session.title)
