"""Where a service's agent comes from: it is given, or a factory creates it once."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from sessions.core.turns import Turns
from sessions.errors import ConfigurationError

__all__ = ["AgentSource"]

# The keywords of AgentHub's factories that come from the options of the service.
OPTIONS = ("agent_type", "framework", "llm_provider")
CREATE_SECONDS = 300.0


class AgentSource:
    """The agent of a service.

    Args:
        agent: The agent; None for one that the factory creates.
        factory: Has ``create_agent``.
        options: Keywords for ``create_agent``.
        repository: Passed to ``create_agent`` as ``session_repository``.
    """

    def __init__(self, agent: Any, factory: Any, options: Mapping[str, Any], repository: Any) -> None:
        self._agent = agent
        self._factory = factory
        self._options = dict(options)
        self._repository = repository
        self._creating = Turns()

    def check(self) -> None:
        """Check that there is an agent, or can be one.

        Raises:
            ConfigurationError: The service was given neither.
        """
        if self._agent is None and self._factory is None:
            raise ConfigurationError("ChatService: pass agent= or agent_factory= to answer messages")

    async def get(self) -> Any:
        """Return the agent; the first call creates it. If that fails, the next one does it again."""
        if self._agent is None:
            async with self._creating.turn(CREATE_SECONDS):
                if self._agent is None:
                    self._agent = await self._create()
        return self._agent

    async def _create(self) -> Any:
        create = self._factory.create_agent
        created = create(**self._arguments(create))
        return await created if inspect.isawaitable(created) else created

    def _arguments(self, create: Any) -> dict[str, Any]:
        """Return the keywords for ``create_agent``: None where its signature has no default for an option."""
        given: dict[str, Any] = {"session_repository": self._repository, "verbose": False}
        try:
            parameters = inspect.signature(create).parameters
        except (TypeError, ValueError):
            return given | dict.fromkeys(OPTIONS) | self._options
        if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
            return given | dict.fromkeys(OPTIONS) | self._options
        taken = {name: value for name, value in given.items() if name in parameters}
        for name in OPTIONS:
            if name in parameters and parameters[name].default is inspect.Parameter.empty:
                taken[name] = None
        return taken | self._options
