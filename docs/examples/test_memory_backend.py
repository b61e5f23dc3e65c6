import pytest
from memory_backend import MemoryConnectionManager, MemorySessionRepository

from sessions.testing import BaseRepositoryContract


class TestMemorySessionRepository(BaseRepositoryContract):
    @pytest.fixture
    def repository(self) -> MemorySessionRepository:
        return MemorySessionRepository(connection_manager=MemoryConnectionManager())
