"""agent-framework-core: FileHistoryProvider, a file for each session, in the folder of the database."""

from __future__ import annotations

from pathlib import Path

from agent_framework import FileHistoryProvider
from frameworks.agent_framework import ProviderCalls


class Peer(ProviderCalls):
    def open(self, url: str) -> None:
        self.provider = FileHistoryProvider(Path(url.removeprefix("sqlite:///")).with_suffix(".histories"))

    def close(self) -> None:
        pass
