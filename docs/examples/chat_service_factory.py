"""AgentHub's factory of agents, and a service without an event loop."""

from sessions import SessionRepositoryFactory
from sessions.services import AgentContext, AgentResponse, ChatService


class HubAgent:
    def __init__(self, repository):
        self.repository = repository

    async def execute(self, message: str, context: AgentContext) -> AgentResponse:
        # It may read the history itself, instead of using `context.history`.
        history = await self.repository.get_session_history(context.user_id, context.session_id)
        protocol = context.metadata["protocol"]
        return AgentResponse(f"{message} ({len(history)} before, {protocol})", tools_used=["search"])


class AgentFactory:
    async def create_agent(self, agent_type, framework, llm_provider, session_repository, verbose=False):
        print("created:", agent_type, framework, llm_provider)
        return HubAgent(session_repository)


with SessionRepositoryFactory.create_repository("sqlite", url="sqlite://") as repository:
    service = ChatService(
        repository=repository,
        agent_factory=AgentFactory(),
        agent_options={"agent_type": "assistant", "framework": "langgraph", "llm_provider": "openai"},
    )
    result = service.chat_sync("Hello.", "alice", protocol="websocket")
    print(result["message"], result["tools_used"])
    for item in service.stream_sync("And?", "alice", result["session_id"]):
        print(item if isinstance(item, str) else item["success"])
